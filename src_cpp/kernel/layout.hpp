// The scratch of one block of rows: its parts, and the sizes that the kernel works in.
//
// Legend: T = compute type; panel = a register tile's lanes of rows; chunk = kDepth columns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "../tile/fma.hpp"
#include "pack.hpp"

namespace fastattn {
namespace {

// Parts of a scratch area, laid one after another at multiples of the alignment.  The members of a
// layout are the places of their first values.
template <typename T>
struct Parts {
    static constexpr int64_t kLine = kScratchAlignment / static_cast<int64_t>(sizeof(T));
    static constexpr int64_t kPerInt64 = sizeof(int64_t) / sizeof(T);  // values per int64_t
    int64_t next = 0;

    // Appends a part of `count` values, and returns the place of its first value.
    int64_t part(int64_t count) {
        const int64_t at = next;
        next += round_up(count, kLine);
        return at;
    }

    int64_t bytes() const { return next * static_cast<int64_t>(sizeof(T)); }

    static int64_t round_up(int64_t value, int64_t step) {
        return (value + step - 1) / step * step;
    }
};

template <typename Simd>
struct BlockLayout : Parts<typename Simd::Value> {
    using T = typename Simd::Value;
    static constexpr int kRows = FmaTile<Simd>::rows;
    static constexpr int kPanel = FmaTile<Simd>::vectors * Simd::lanes;
    // Features of a key per pass over a panel, so that the panel's part of Q stays in L1.
    static constexpr int64_t kDepth = 128;
    static_assert(kDepth % kScoreRun == 0, "a chunk of columns has whole runs");
    // The same for features of the values, in whole tiles.
    static constexpr int64_t kFeatures = kDepth / kRows * kRows;
    static constexpr int64_t kViewBytes = 32;  // of a panel's view of the keys

    int64_t rows, features, tiled_keys;
    int64_t q, o, scores, values, keys, line, mask, m, l, alpha, begin, end, unsafe, views;

    BlockLayout(int64_t block_rows, int64_t block_k, int64_t dim, int64_t dim_v)
        : rows(this->round_up(block_rows, Simd::lanes)),
          features(typename FmaTile<Simd>::Split(dim_v).count()),
          tiled_keys(FmaTile<Simd>::room(block_k)) {
        static_assert(FmaTile<Simd>::suffices(), "scores have their place");
        q = this->part(rows * dim);
        o = this->part(rows * features);
        scores = this->part(tiled_keys * (wide(dim, dim_v) && rows > kPanel ? rows : kPanel));
        values = this->part((block_k + kSlackKeys) * features);
        keys = this->part(block_k * key_stride(dim) * ((dim + kDepth - 1) / kDepth));
        line = this->part(dim_v);
        mask = this->part(block_k * kPanel);
        m = this->part(rows);
        l = this->part(rows);
        alpha = this->part(rows);
        begin = this->part(rows * this->kPerInt64);
        end = this->part(rows * this->kPerInt64);
        unsafe = this->part(block_k * this->kPerInt64);
        views = this->part((rows + kPanel - 1) / kPanel * (kViewBytes / static_cast<int64_t>(sizeof(T))));
    }

    // Whether heads are wider than a chunk, so that all panels' scores are held at once.
    static bool wide(int64_t dim, int64_t dim_v) { return dim > kDepth || dim_v > kDepth; }

    // Copied keys lie chunk by chunk, with an unused cache line between rows.
    static int64_t key_stride(int64_t dim) {
        return BlockLayout::round_up(dim < kDepth ? dim : kDepth, BlockLayout::kLine) +
               BlockLayout::kLine;
    }
};

}  // namespace
}  // namespace fastattn
