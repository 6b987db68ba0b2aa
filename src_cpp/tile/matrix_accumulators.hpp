// The 32 x 32 accumulators of the matrix unit: sums of products of components, four tiles at a
// time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "matrix_softmax.hpp"

namespace fastattn {
namespace {

// Where a job's weights lie.
template <typename Softmax>
struct WeightLayout {
    static constexpr int64_t step = Softmax::step_bytes, row = 4 * Softmax::row, half = 64;
    const char* scores;
    const char* third;
    const char* component(int index) const {
        return index == 2 ? third : scores + index * kTileRows * row;
    }
};

template <typename Unit>
class MatrixAccumulators {
    static constexpr int64_t kRowBytes = 4 * kPanelRows;  // of scores and of results
    static constexpr int64_t kHalf = kTileRows;           // rows of half a panel

public:
    // Starts sums of the products of `steps` steps; those of A are `stride` bytes apart.  They
    // start from `start`, or 0, and are stored by the next `multiply` or by `flush`: a store right
    // after the last product would wait for it.  The first kLow products of all steps come before
    // the others, so that they are added to a small sum.  `between` is called after each
    // product of tiles.
    //
    // Layout tells where the tiles of B are: component(index), `step` bytes from one step to the
    // next, `half` to the tile of the other rows, `row` from one row of a tile to the next.
    template <const auto& kProducts, int kLow, typename Layout, typename Between>
    [[gnu::always_inline]] void multiply(const char* a, int64_t stride, const Layout& b,
                                         int64_t steps, const float* start, float* result,
                                         Between between) {
        constexpr int kCount = sizeof(kProducts) / sizeof(kProducts[0]);
        float* const pending = pending_;  // a member would be read again after each store
        if constexpr (kLow > 0)
            for (int64_t k = 0; k < steps; ++k)
                step<kProducts, 0>(a + k * stride, b, k, k == 0, start, pending, between,
                                   typename MakeSequence<kLow>::type{});
        for (int64_t k = 0; k < steps; ++k)
            step<kProducts, kLow>(a + k * stride, b, k, kLow == 0 && k == 0, start, pending,
                                  between, typename MakeSequence<kCount - kLow>::type{});
        pending_ = result;
    }

    void clear() { pending_ = nullptr; }
    void flush() {
        if (!pending_) return;
        Unit::template store<0>(pending_, kRowBytes);
        Unit::template store<1>(pending_ + kHalf, kRowBytes);
        Unit::template store<2>(pending_ + kHalf * kPanelRows, kRowBytes);
        Unit::template store<3>(pending_ + kHalf * kPanelRows + kHalf, kRowBytes);
        pending_ = nullptr;
    }

private:
    template <const auto& kProducts, int kFirst, typename Layout, typename Between, int... kIndex>
    [[gnu::always_inline]] static void step(const char* a, const Layout& b, int64_t k, bool begins,
                                            const float* start, float* pending, Between between,
                                            Sequence<kIndex...>) {
        (product<kProducts, kFirst, kFirst + kIndex>(a, b, k, begins, start, pending, between),
         ...);
    }
    // Loads the tiles of a product that the one before it has not loaded, each right before its use
    // (loads in a row would hold up those of the softmax), and multiplies.
    template <const auto& kProducts, int kFirst, int kIndex, typename Layout, typename Between>
    [[gnu::always_inline]] static void product(const char* a, const Layout& b, int64_t k,
                                               bool begins, const float* start, float* pending,
                                               Between between) {
        constexpr bool kLoads = kIndex == kFirst;
        constexpr ComponentProduct now = kProducts[kIndex],
                                   before = kProducts[kIndex ? kIndex - 1 : 0];
        constexpr bool kLoadA = kLoads || now.a != before.a, kLoadB = kLoads || now.b != before.b;
        const char* const from_a = a + now.a * kComponentBytes;
        const char* const from_b = b.component(now.b) + k * Layout::step;
        const bool first = kLoads && begins;
        if constexpr (kLoadA) Unit::template stream<4>(from_a, 64);
        if constexpr (kLoadB) Unit::template load<6>(from_b, Layout::row);
        if (first) begin_tile<0>(start, pending);
        Unit::template multiply<0, 4, 6>();
        between();
        if constexpr (kLoadB) Unit::template load<7>(from_b + Layout::half, Layout::row);
        if (first) begin_tile<1>(start, pending);
        Unit::template multiply<1, 4, 7>();
        between();
        if constexpr (kLoadA) Unit::template stream<5>(from_a + kTileBytes, 64);
        if (first) begin_tile<2>(start, pending);
        Unit::template multiply<2, 5, 6>();
        between();
        if (first) begin_tile<3>(start, pending);
        Unit::template multiply<3, 5, 7>();
        between();
    }
    // Stores a tile of the sums before, and starts it anew.
    template <int kTile>
    [[gnu::always_inline]] static void begin_tile(const float* start, float* pending) {
        constexpr int64_t kAt = kTile / 2 * kHalf * kPanelRows + kTile % 2 * kHalf;
        if (pending) Unit::template store<kTile>(pending + kAt, kRowBytes);
        if (start)
            Unit::template load<kTile>(start + kAt, kRowBytes);
        else
            Unit::template zero<kTile>();
    }

    float* pending_ = nullptr;  // where the accumulators are to be stored
};

}  // namespace
}  // namespace fastattn
