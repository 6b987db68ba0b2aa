// Accumulators of the matrix unit in a line: two or four tiles that share one operand.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "matrix_accumulators.hpp"

namespace fastattn {
namespace {

// Where the tiles of keys or values lie, which come in pairs.
struct PairLayout {
    const char* first;
    int64_t step, pair, tile, row;  // bytes between steps, pairs, the tiles of a pair, and rows
    const char* at(int index) const { return first + index / 2 * pair + index % 2 * tile; }
};

template <typename Unit>
class LineAccumulators {
public:
    // As in MatrixAccumulators.  `kOwnA`: whether the tiles differ in A, and share B.
    template <const auto& kProducts, int kTiles, bool kOwnA, typename Shared, typename Between>
    [[gnu::always_inline]] void multiply(const PairLayout& own, const Shared& shared, int64_t steps,
                                         const float* start, float* result, int64_t ld,
                                         int64_t offset, Between between) {
        constexpr int kCount = sizeof(kProducts) / sizeof(kProducts[0]);
        if (tiles_ > kTiles) flush();
        for (int64_t k = 0; k < steps; ++k)
            step<kProducts, kTiles, kOwnA>(own, shared, k, k == 0, start, ld, offset, between,
                                           typename MakeSequence<kCount>::type{});
        pending_ = result;
        ld_ = ld;
        offset_ = offset;
        tiles_ = kTiles;
    }

    void flush() {
        if (tiles_ > 0) {
            Unit::template store<0>(pending_, ld_);
            Unit::template store<1>(pending_ + offset_, ld_);
        }
        if (tiles_ > 2) {
            Unit::template store<2>(pending_ + 2 * offset_, ld_);
            Unit::template store<3>(pending_ + 3 * offset_, ld_);
        }
        tiles_ = 0;
    }

private:
    template <const auto& kProducts, int kTiles, bool kOwnA, typename Shared, typename Between,
              int... kIndex>
    [[gnu::always_inline]] void step(const PairLayout& own, const Shared& shared, int64_t k,
                                     bool begins, const float* start, int64_t ld, int64_t offset,
                                     Between between, Sequence<kIndex...>) {
        (product<kProducts[kIndex], kTiles, kOwnA>(own, shared, k, begins && kIndex == 0, start, ld,
                                                   offset, between),
         ...);
    }
    template <ComponentProduct kNow, int kTiles, bool kOwnA, typename Shared, typename Between>
    [[gnu::always_inline]] void product(const PairLayout& own, const Shared& shared, int64_t k,
                                        bool first, const float* start, int64_t ld, int64_t offset,
                                        Between between) {
        Unit::template load<7>(shared.component(kNow.b) + k * Shared::step, Shared::row);
        one<0, 4, kOwnA>(own.at(0) + k * own.step, own.row, first, start, ld, offset);
        one<1, 5, kOwnA>(own.at(1) + k * own.step, own.row, first, start, ld, offset);
        between();
        if constexpr (kTiles > 2) {
            one<2, 6, kOwnA>(own.at(2) + k * own.step, own.row, first, start, ld, offset);
            one<3, 4, kOwnA>(own.at(3) + k * own.step, own.row, first, start, ld, offset);
            between();
        }
    }
    template <int kTile, int kOwn, bool kOwnA>
    [[gnu::always_inline]] void one(const char* own, int64_t row, bool first, const float* start,
                                    int64_t ld, int64_t offset) {
        Unit::template load<kOwn>(own, row);
        if (first) {
            if (kTile < tiles_) Unit::template store<kTile>(pending_ + kTile * offset_, ld_);
            if (start)
                Unit::template load<kTile>(start + kTile * offset, ld);
            else
                Unit::template zero<kTile>();
        }
        Unit::template multiply<kTile, kOwnA ? kOwn : 7, kOwnA ? 7 : kOwn>();
    }

    float* pending_ = nullptr;  // where the accumulators are to be stored
    int64_t ld_ = 0, offset_ = 0;
    int tiles_ = 0;
};

}  // namespace
}  // namespace fastattn
