// Packs keys, values and queries, 32 at a time, into the bfloat16 components that the tiles
// multiply.
//
// Legend: step = 32 columns of a product: features of a key, or keys of a feature; a tile pairs
// column i with column i + 16; component 0 is the highest.
//
//   keys      [step of features][component][2][16 keys][16 pairs of features]
//   values    [step of features][component][2][16 features][16 pairs of keys]
//   queries   [step of features][component][2][16 pairs of features][16 queries]
//
// `stage` holds 32 rows (of queries: columns) of the compute type in whole steps.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "components.hpp"

namespace fastattn {
namespace {

inline constexpr int64_t kPanelRows = 32;
inline constexpr int64_t kTileRows = 16;
inline constexpr int64_t kStepColumns = 32;
inline constexpr int64_t kTileBytes = 1024;
inline constexpr int64_t kComponentBytes = 2 * kTileBytes;  // of one step: two tiles

// Where queries of kComponents components lie, as operands of MatrixAccumulators.
template <int kComponents>
struct QueryLayout {
    static constexpr int64_t step = kComponents * kComponentBytes, row = 64, half = kTileBytes;
    const char* queries;
    const char* component(int index) const { return queries + index * kComponentBytes; }
};

inline int64_t steps_of(int64_t columns) { return (columns + kStepColumns - 1) / kStepColumns; }

// Writes the components of the columns (low lanes: column i, high: column i + 16) as pairs.
template <typename Unit, int kComponents, typename Vec>
[[gnu::always_inline]] inline void store_components(Vec low, Vec high, char* to) {
    using Simd = typename Unit::Simd;
    Vec lows[kComponents], highs[kComponents];
    split<Simd, kComponents>(low, lows);
    split<Simd, kComponents>(high, highs);
#pragma GCC unroll 4
    for (int p = 0; p < kComponents; ++p)
        fastattn::store(to + p * kComponentBytes, Unit::pairs(lows[p], highs[p]));
}

// Keys, as rows of the stage that are `ld` values apart.
template <typename Unit, int kComponents>
inline void pack_keys(const float* stage, int64_t ld, int64_t steps, char* to) {
    using Vec = typename Unit::Vec;
    for (int64_t s = 0; s < steps; ++s, to += kComponents * kComponentBytes)
        for (int64_t i = 0; i < kStepColumns; ++i) {
            const float* row = stage + i * ld + s * kStepColumns;
            store_components<Unit, kComponents>(load<Vec>(row), load<Vec>(row + kTileRows),
                                                to + i * 64);
        }
}

// Values, as rows of the stage that are `ld` values apart.
template <typename Unit, int kComponents>
inline void pack_values(const float* stage, int64_t ld, int64_t steps, char* to) {
    using Vec = typename Unit::Vec;
    for (int64_t t = 0; t < 2 * steps; ++t) {
        Vec low[kTileRows], high[kTileRows];
#pragma GCC unroll 16
        for (int64_t i = 0; i < kTileRows; ++i) {
            low[i] = load<Vec>(stage + i * ld + t * kTileRows);
            high[i] = load<Vec>(stage + (i + kTileRows) * ld + t * kTileRows);
        }
        transpose<Vec, kTileRows>(low);
        transpose<Vec, kTileRows>(high);
        char* tile = to + t / 2 * kComponents * kComponentBytes + t % 2 * kTileBytes;
#pragma GCC unroll 16
        for (int64_t i = 0; i < kTileRows; ++i)
            store_components<Unit, kComponents>(low[i], high[i], tile + i * 64);
    }
}

// Queries, as columns of the stage: [feature][query].
template <typename Unit, int kComponents>
inline void pack_queries(const float* stage, int64_t steps, char* to) {
    using Vec = typename Unit::Vec;
    for (int64_t s = 0; s < steps;
         ++s, stage += kStepColumns * kPanelRows, to += kComponents * kComponentBytes)
        for (int64_t half = 0; half < 2; ++half)
            for (int64_t i = 0; i < kTileRows; ++i)
                store_components<Unit, kComponents>(
                    load<Vec>(stage + i * kPanelRows + half * kTileRows),
                    load<Vec>(stage + (i + kTileRows) * kPanelRows + half * kTileRows),
                    to + half * kTileBytes + i * 64);
}

}  // namespace
}  // namespace fastattn
