// The two matrix products for few queries, as in decoding: keys and values are read once, in the
// order in which they lie.
//
//   scores  S[row][key] = Q K^T   a vector holds the scores of a row for adjacent keys
//   values  O[row][feature] += P V   a vector holds features of one value
//
// Lines are asked for (ahead.hpp) a few KiB before they are used: if asked for a whole block ahead,
// they would have left L2 again before their use where a neighbour shares the core.
//
// Legend: S, T = storage and compute type; piece = adjacent columns of a key that are transposed
// together, in kPieceLanes lanes of 32 or 64 bits; kUsed = number of rows computed, at most `rows`.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/storage.hpp"
#include "ahead.hpp"
#include "order.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
struct NarrowTile {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int64_t kSize = sizeof(S);

    static constexpr int kPieceLanes = 16 / sizeof(T);
    // The most queries.  With queries along the lanes, half as many queries as lanes would leave
    // half of each vector empty.
    static constexpr int rows = kLanes / 2 > kPieceLanes ? kLanes / 2 : kPieceLanes;
    // Enough sums to hide the latency of their additions, but no more than kMostKeys keys: all are
    // touched before the first is finished, so lines would have to be asked for further ahead.
    static constexpr int kSums = 8;
    static constexpr int kMostKeys = 16;
    static constexpr int kGroups =  // vectors of keys
        kSums / kPieceLanes * kLanes < kMostKeys ? kSums / kPieceLanes : kMostKeys / kLanes;
    static constexpr int keys = kGroups * kLanes;
    // Columns of a piece.
    static constexpr int piece = kPieceLanes * kColumnsOfLane<S>;
    // How many values are added to the results at a time.
    static constexpr int kValues = 8;

    // Scores of `keys` keys: s[row * ld + key] = the sum of products of `columns` columns, in whole
    // pieces.  Queries are q[column][kUsed].
    template <int kUsed, typename Asking>
    [[gnu::noinline]] static void scores(const Stream& k, const T* q, int64_t columns, T* s,
                                         int64_t ld, const Asking& position) {
        static_assert(kScoreRun % piece == 0, "a run has whole pieces");
        Asking ahead = position;  // stays in registers; an argument by value is passed in memory
        bool fresh = true;
        int64_t c = 0;
        do {
            const int64_t end = columns - c > kScoreRun ? c + kScoreRun : columns;
            Vec sum[kGroups][kUsed] = {};
            for (; c + kLineColumns <= end; c += kLineColumns) {
#pragma GCC unroll 16
                for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
                    for (int n = 0; n < keys / kSteps; ++n) ahead.ask();
                    add_pieces<kUsed>(k, q, c + step * piece, sum);
                }
            }
            for (; c < end; c += piece) add_pieces<kUsed>(k, q, c, sum);
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r)
#pragma GCC unroll 16
                for (int g = 0; g < kGroups; ++g) {
                    T* at = s + r * ld + g * kLanes;
                    store(at, fresh ? sum[g][r] : load<Vec>(at) + sum[g][r]);
                }
            fresh = false;
        } while (c < columns);
    }

    // Adds `count` values, with weights p[row * ld_p + key], to sums[row * ld + feature] or, if
    // `fresh`, to 0.  `features` is a number of whole vectors.
    template <int kUsed, typename Asking>
    [[gnu::noinline]] static void add_values(const Stream& v, int64_t count, const T* p,
                                             int64_t ld_p, int64_t features, T* sums, int64_t ld,
                                             bool fresh, Asking ahead) {
        // Vectors of a row's sums: at least two, so that each broadcast weight is used twice.
        constexpr int kWidth = kSums / kUsed > 2 ? kSums / kUsed : 2;
        constexpr int kValuesHeld = kUsed > 1 ? kWidth : 1;
        static_assert(kUsed * kWidth + kValuesHeld + 1 <= Simd::registers, "the sums spill");
        Stream at = v;
        const auto add = [&](auto some) {
            constexpr int kCount = decltype(some)::value;
            add_widths<kUsed, kCount, kWidth>(at, p, ld_p, 0, features, sums, ld, fresh, ahead);
            at.rows += kCount * at.stride;
            p += kCount;
            count -= kCount;
            fresh = false;
        };
        while (count >= kValues) add(Count<kValues>{});
        while (count > 0) add(Count<1>{});
    }

private:
    static constexpr int kLineColumns = kLineBytes / kSize;
    static constexpr int kSteps = kLineColumns / piece;  // pieces in a line

    // Adds the products of a piece of each key to `sum`.
    template <int kUsed>
    [[gnu::always_inline]] static void add_pieces(const Stream& k, const T* q, int64_t c,
                                                  Vec (&sum)[kGroups][kUsed]) {
        // Besides sums and pieces, registers hold a column of a query and, where lanes hold two
        // columns, those separated from the keys' lanes.
        constexpr int kParts = kColumnsOfLane<S>;
        constexpr bool kParted = kParts > 1;
        constexpr bool kFit = kGroups * (kUsed + kPieceLanes + kParted) + 1 <= Simd::registers;
        Vec x[kGroups][kPieceLanes];  // [][lane of a piece]: values of adjacent keys
        Vec held[kGroups][kPieceLanes];
#pragma GCC unroll 16
        for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
            for (int i = 0; i < kPieceLanes; ++i)
                x[g][i] = load_pieces<Simd, S>(k.rows + (g * kLanes + i) * k.stride + c * kSize,
                                               kPieceLanes * k.stride);
            transpose_pieces<Vec, kLanes, kPieceLanes>(x[g]);
            if constexpr (!kFit) {
                // Half of them wait in memory: without this, the compiler would spill sums, too.
#pragma GCC unroll 16
                for (int i = kPieceLanes / 2; i < kPieceLanes; ++i) held[g][i] = x[g][i];
            }
        }
        if constexpr (!kFit) asm("" : "+m"(held));
#pragma GCC unroll 16
        for (int column = 0; column < piece; ++column)
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r) {
                const Vec query = broadcast<Simd>(q[(c + column) * kUsed + r]);
                const int i = column / kParts;
#pragma GCC unroll 16
                for (int g = 0; g < kGroups; ++g) {
                    const bool waits = !kFit && i >= kPieceLanes / 2 && (kParted || g + 1 < kGroups);
                    sum[g][r] = Simd::fma(
                        column_of<Simd, S>(waits ? held[g][i] : x[g][i], column % kParts), query,
                        sum[g][r]);
                }
            }
    }

    // Adds features from f on, kWidth vectors at a time, and then what is left in halves of that.
    template <int kUsed, int kCount, int kWidth, typename Asking>
    [[gnu::always_inline]] static void add_widths(const Stream& v, const T* p, int64_t ld_p,
                                                  int64_t f, int64_t features, T* sums, int64_t ld,
                                                  bool fresh, Asking& ahead) {
        for (; f + kWidth * kLanes <= features; f += kWidth * kLanes)
            add_features<kUsed, kCount, kWidth>(v, p, ld_p, f, sums, ld, fresh, ahead);
        if constexpr (kWidth > 1)
            add_widths<kUsed, kCount, kWidth / 2>(v, p, ld_p, f, features, sums, ld, fresh, ahead);
    }

    template <int kUsed, int kCount, int kWidth, typename Asking>
    [[gnu::always_inline]] static void add_features(const Stream& v, const T* p,
                                                    int64_t ld_p, int64_t f, T* sums, int64_t ld,
                                                    bool fresh, Asking& ahead) {
        constexpr int64_t kBytes = kWidth * kLanes * kSize;  // read of each value
        constexpr int64_t kKeysOfLine = kBytes < kLineBytes ? kLineBytes / kBytes : 1;
        Vec sum[kUsed][kWidth];
#pragma GCC unroll 16
        for (int r = 0; r < kUsed; ++r)
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n)
                sum[r][n] = fresh ? Vec{} : load<Vec>(sums + r * ld + f + n * kLanes);
#pragma GCC unroll 16
        for (int j = 0; j < kCount; ++j) {
            if (j % kKeysOfLine == 0) {
#pragma GCC unroll 16
                for (int64_t byte = 0; byte < kBytes; byte += kLineBytes) ahead.ask();
            }
            Vec value[kWidth];
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n)
                value[n] = load_values<Simd, S>(v.rows + j * v.stride + (f + n * kLanes) * kSize);
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r) {
                const Vec weight = broadcast<Simd>(p[r * ld_p + j]);
#pragma GCC unroll 16
                for (int n = 0; n < kWidth; ++n)
                    sum[r][n] = Simd::fma(value[n], weight, sum[r][n]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < kUsed; ++r)
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n) store(sums + r * ld + f + n * kLanes, sum[r][n]);
    }
};

}  // namespace
}  // namespace fastattn
