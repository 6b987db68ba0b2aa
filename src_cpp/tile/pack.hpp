// Converts between rows as the caller holds them and the layouts that the register tile reads:
//
//   panel of rows   [column][lanes]  queries (and a dense mask's tile) along the lanes
//   panel of values [key][MR]        value features along the tile's rows
//
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/storage.hpp"
#include "micro_kernel.hpp"

namespace fastattn {
namespace {

// Columns [0, columns) of `count` rows, transposed: to[c * ld + lane], scaled by `factor`.
// `rows` holds the addresses of `count` rows, a multiple of the vector's lanes.
template <typename Simd, typename S>
inline void pack_rows(char* const* rows, int64_t count, int64_t column, int64_t columns,
                      typename Simd::Value factor, typename Simd::Value* to, int64_t ld) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    constexpr int kLanes = Simd::lanes;
    for (int64_t lane = 0; lane < count; lane += kLanes, rows += kLanes) {
        int64_t c = 0;
        if (column == static_cast<int64_t>(sizeof(S))) {
            for (; c + kLanes <= columns; c += kLanes) {
                Vec square[kLanes];
#pragma GCC unroll 16
                for (int r = 0; r < kLanes; ++r)
                    square[r] = load_values<Simd, S>(rows[r] + c * column);
                transpose<Vec, kLanes>(square);
#pragma GCC unroll 16
                for (int r = 0; r < kLanes; ++r)
                    store(to + (c + r) * ld + lane, square[r] * broadcast<Simd>(factor));
            }
        }
        for (; c < columns; ++c)
            for (int r = 0; r < kLanes; ++r)
                to[c * ld + lane + r] = to_compute<T>(load<S>(rows[r] + c * column)) * factor;
    }
}

// The way back of two vectors of adjacent columns, from `c` on, for up to a vector of rows: numbers
// are rounded first, so that there are half as many vectors to transpose.
template <typename Simd>
inline void unpack_bfloats(const float* from, int64_t ld, typename Simd::Vec factor, int64_t count,
                           char* const* rows, int64_t c) {
    using Vec = typename Simd::Vec;
    Vec pairs[Simd::lanes];
#pragma GCC unroll 16
    for (int i = 0; i < Simd::lanes; ++i, from += 2 * ld)
        pairs[i] = bits<Vec>(Simd::to_bfloats(result(load<Vec>(from), factor),
                                              result(load<Vec>(from + ld), factor)));
    transpose<Vec, Simd::lanes>(pairs);
#pragma GCC unroll 16
    for (int r = 0; r < Simd::lanes; ++r)
        if (r < count) store(rows[r] + c * static_cast<int64_t>(sizeof(BFloat)), pairs[r]);
}

// The way back for `count` rows, any number: rows[lane][c] is the result of from[c * ld + lane].
template <typename Simd, typename S>
inline void unpack_rows(const typename Simd::Value* from, int64_t ld,
                        const typename Simd::Value* factor, int64_t count, int64_t columns,
                        char* const* rows, int64_t column) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    constexpr int kLanes = Simd::lanes;
    for (int64_t lane = 0; lane < count; lane += kLanes, rows += kLanes) {
        const int64_t filled = count - lane < kLanes ? count - lane : kLanes;
        const Vec scale = load<Vec>(factor + lane);
        int64_t c = 0;
        if (column == static_cast<int64_t>(sizeof(S))) {
            if constexpr (__is_same(S, BFloat))
                for (; c + 2 * kLanes <= columns; c += 2 * kLanes)
                    unpack_bfloats<Simd>(from + c * ld + lane, ld, scale, filled, rows, c);
            for (; c + kLanes <= columns; c += kLanes) {
                Vec square[kLanes];
#pragma GCC unroll 16
                for (int r = 0; r < kLanes; ++r)
                    square[r] = result(load<Vec>(from + (c + r) * ld + lane), scale);
                transpose<Vec, kLanes>(square);
#pragma GCC unroll 16
                for (int r = 0; r < kLanes; ++r)
                    if (r < filled) store_values<Simd, S>(rows[r] + c * column, square[r]);
            }
        }
        for (; c < columns; ++c)
            for (int64_t r = 0; r < filled; ++r)
                store(rows[r] + c * column,
                      to_storage<S>(result<T>(from[c * ld + lane + r], factor[lane + r])));
    }
}

// Features that are copied at once where a row has that many, and the spare keys of each panel of
// values that take the excess.  They also keep panels from lying a multiple of some KiB apart.
inline constexpr int64_t kCopyWidth = 8;
inline constexpr int64_t kSlackKeys = 1;

template <int kRows, typename T>
inline void pack_panel(const T* from, int64_t left, T* to) {
    if (left >= kRows)
        __builtin_memcpy(to, from, kRows * sizeof(T));
    else
        for (int r = 0; r < kRows; ++r) to[r] = r < left ? from[r] : T(0);
}

// Packs a row of values into the panels of `tiles`, which lie one after another: a panel of r
// features that starts at feature f has value (j, f + i) at to[f * span + j * r + i].  Features
// past `features` are 0.
//
// A copy is wider than a tall panel, but takes fewer instructions: the next key's copy overwrites
// the excess, and that of the last key stays in the slack.
template <typename Simd, typename Tiles>
inline void pack_values(const typename Simd::Value* row, int64_t j, int64_t span, int64_t features,
                        Tiles tiles, typename Simd::Value* to) {
    using Micro = MicroKernel<Simd>;
    constexpr int kRows = Micro::mr;
    static_assert(kRows <= kCopyWidth && kCopyWidth <= (1 + kSlackKeys) * kRows,
                  "a copy is of one key and its slack");
    int64_t f = 0;
    for (auto* at = to + j * kRows; f < tiles.tall * kRows && f + kCopyWidth <= features;
         f += kRows, at += kRows * span)
        __builtin_memcpy(at, row + f, kCopyWidth * sizeof(*row));
    for (; f < tiles.tall * kRows; f += kRows)
        pack_panel<kRows>(row + f, features - f, to + f * span + j * kRows);
    for (; f < tiles.count(); f += Micro::mr_low)
        pack_panel<Micro::mr_low>(row + f, features - f, to + f * span + j * Micro::mr_low);
}

}  // namespace
}  // namespace fastattn
