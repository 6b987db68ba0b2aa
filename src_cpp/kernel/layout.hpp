// The scratch of one block of rows: its parts, and the sizes that the kernel works in.
//
// Legend: T = compute type; panel = a register tile's lanes of rows; chunk = kDepth columns.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "../tile/fma.hpp"

namespace fastattn {
namespace {

template <typename Simd>
struct BlockLayout {
    using T = typename Simd::Value;
    static constexpr int kRows = FmaTile<Simd>::rows;
    static constexpr int kPanel = FmaTile<Simd>::vectors * Simd::lanes;
    // Features of a key per pass over a panel: the panel's part of Q stays in L1.
    static constexpr int64_t kDepth = 256;
    // Features of the values likewise, in whole tiles.
    static constexpr int64_t kFeatures = kDepth / kRows * kRows;
    static constexpr int64_t kLine = kScratchAlignment / static_cast<int64_t>(sizeof(T));

    // Each part's first value, at a multiple of the alignment, and the number of values.
    int64_t rows, features, tiled_keys;
    int64_t q, o, scores, values, keys, line, mask, m, l, alpha, begin, end, unsafe, total;

    BlockLayout(int64_t block_rows, int64_t block_k, int64_t dim, int64_t dim_v)
        : rows(round_up(block_rows, Simd::lanes)),
          features(round_up(dim_v, kRows)),
          tiled_keys(round_up(block_k, kRows)),
          total(0) {
        constexpr int64_t kBound = sizeof(int64_t) / sizeof(T);  // values that an int64 takes
        q = part(rows * dim);
        o = part(rows * features);
        scores = part(tiled_keys * (wide(dim, dim_v) && rows > kPanel ? rows : kPanel));
        values = part(block_k * features);
        keys = part(block_k * key_stride(dim) * ((dim + kDepth - 1) / kDepth));
        line = part(dim_v);
        mask = part(block_k * kPanel);
        m = part(rows);
        l = part(rows);
        alpha = part(rows);
        begin = part(rows * kBound);
        end = part(rows * kBound);
        unsafe = part(block_k * kBound);
    }

    // Bytes, or -1 if they overflow.
    static int64_t bytes(int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v) {
        const double extents = static_cast<double>(rows) + static_cast<double>(block_k) + 128;
        const double widths = static_cast<double>(dim) + static_cast<double>(dim_v) + extents;
        if (extents * widths > 0x1p52) return -1;  // 16 such areas of 8 bytes are below 2^63
        return BlockLayout(rows, block_k, dim, dim_v).total * static_cast<int64_t>(sizeof(T));
    }

    // Whether heads are wider than a chunk, so that all panels' scores are held at once.
    static bool wide(int64_t dim, int64_t dim_v) { return dim > kDepth || dim_v > kDepth; }

    // Copied keys lie a chunk at a time, a cache line between rows.
    static int64_t key_stride(int64_t dim) {
        return round_up(dim < kDepth ? dim : kDepth, kLine) + kLine;
    }

private:
    static int64_t round_up(int64_t value, int64_t step) {
        return (value + step - 1) / step * step;
    }

    int64_t part(int64_t count) {
        const int64_t at = total;
        total += round_up(count, kLine);
        return at;
    }
};

}  // namespace
}  // namespace fastattn
