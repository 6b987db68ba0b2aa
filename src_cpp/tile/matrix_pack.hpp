// Packs keys, values and queries, 32 at a time, into the bfloat16 components that the tiles
// multiply.
//
// Legend: step = 32 columns of a product: features of a key, or keys of a feature; component 0 is
// the highest.  A tile pairs column i with column i + 16, but a bfloat16 feature, which is packed as
// it lies in memory, with the next one.
//
//   keys      [step of features][component][2][16 keys][16 pairs of features]
//   values    [step of features][component][2][16 features][16 pairs of keys]
//   queries   [step of features][component][2][16 pairs of features][16 queries]
//
// `stage` holds 32 rows (of queries: columns) of the compute type in whole steps.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "components.hpp"
#include "magnitudes.hpp"

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

// The magnitudes of float32 numbers.
template <typename Unit, bool kSmallest>
using FloatMagnitudes = Magnitudes<uint32_t, Unit::Simd::lanes, kSmallest>;

// Packs 32 rows of keys of storage type S, in whole steps; returns their magnitudes.
template <typename Unit, typename S, int kComponents>
[[gnu::noinline]] FloatMagnitudes<Unit, false> pack_keys(const char* const* rows, int64_t steps,
                                                         char* to) {
    using Simd = typename Unit::Simd;
    constexpr int64_t kBytes = kTileRows * static_cast<int64_t>(sizeof(S));
    FloatMagnitudes<Unit, false> found;
    for (int64_t s = 0; s < steps; ++s, to += kComponents * kComponentBytes)
        for (int64_t i = 0; i < kStepColumns; ++i) {
            const char* const from = rows[i] + 2 * s * kBytes;
            const auto low = load_values<Simd, S>(from), high = load_values<Simd, S>(from + kBytes);
            found.note(bits<typename Simd::Bits>(low));
            found.note(bits<typename Simd::Bits>(high));
            store_components<Unit, kComponents>(low, high, to + i * 64);
        }
    return found;
}

// The same for values.
template <typename Unit, typename S, int kComponents>
[[gnu::noinline]] FloatMagnitudes<Unit, true> pack_values(const char* const* rows, int64_t steps,
                                                          char* to) {
    using Simd = typename Unit::Simd;
    using Vec = typename Unit::Vec;
    constexpr int64_t kBytes = kTileRows * static_cast<int64_t>(sizeof(S));
    FloatMagnitudes<Unit, true> found;
    const auto square = [&](int64_t first, int64_t bytes, Vec* x) __attribute__((always_inline)) {
#pragma GCC unroll 16
        for (int64_t i = 0; i < kTileRows; ++i) {
            x[i] = load_values<Simd, S>(rows[first + i] + bytes);
            found.note(bits<typename Simd::Bits>(x[i]));
        }
        transpose<Vec, kTileRows>(x);
    };
    for (int64_t t = 0; t < 2 * steps; ++t) {
        Vec low[kTileRows], high[kTileRows];
        square(0, t * kBytes, low);
        square(kTileRows, t * kBytes, high);
        char* tile = to + t / 2 * kComponents * kComponentBytes + t % 2 * kTileBytes;
#pragma GCC unroll 16
        for (int64_t i = 0; i < kTileRows; ++i)
            store_components<Unit, kComponents>(low[i], high[i], tile + i * 64);
    }
    return found;
}

// Queries, as columns of the stage: [feature][query], kVectors vectors of queries.  `kNeighbours`:
// which features make a pair, see above.
template <typename Unit, int kComponents, bool kNeighbours, int kVectors>
inline void pack_queries(const float* stage, int64_t steps, char* to) {
    using Vec = typename Unit::Vec;
    constexpr int64_t kRows = kVectors * kTileRows;
    constexpr int64_t kNext = kNeighbours ? 2 : 1, kOther = kNeighbours ? 1 : kTileRows;
    for (int64_t s = 0; s < steps;
         ++s, stage += kStepColumns * kRows, to += kComponents * kComponentBytes)
        for (int64_t n = 0; n < kVectors; ++n)
            for (int64_t i = 0; i < kTileRows; ++i) {
                const float* first = stage + i * kNext * kRows + n * kTileRows;
                store_components<Unit, kComponents>(load<Vec>(first),
                                                    load<Vec>(first + kOther * kRows),
                                                    to + n * kTileBytes + i * 64);
            }
}

}  // namespace
}  // namespace fastattn
