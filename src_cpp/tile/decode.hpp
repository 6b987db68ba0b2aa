// The two matrix products of the decode kernel, for few queries: keys and values are read once, in
// the order in which they lie.
//
//   scores  S[row][key] = Q K^T   a vector holds the scores of a row for adjacent keys
//   values  O[row][feature] += P V   a vector holds features of one value
//
// Lines are prefetched a few KiB before they are used: a whole block ahead, they would have left L2
// again before their use where an SMT sibling shares the core.
//
// Legend: S, T = storage and compute type; sublane = adjacent columns of a key that are transposed
// together, in kSublaneLanes lanes of 32 or 64 bits; kUsed = rows computed, at most `rows`.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/storage.hpp"
#include "order.hpp"
#include "prefetch.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
struct DecodeTile {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int64_t kSize = sizeof(S);

    static constexpr int kSublaneLanes = 16 / sizeof(T);
    // The most queries.  With queries along the lanes, half as many queries as lanes would leave
    // half of each vector empty.
    static constexpr int rows = kLanes / 2 > kSublaneLanes ? kLanes / 2 : kSublaneLanes;
    // Enough accumulators to hide the latency of their additions, but no more than kMostKeys keys:
    // all are touched before the first is finished, so lines would have to be prefetched further
    // ahead.
    static constexpr int kAccumulators = 8;
    static constexpr int kMostKeys = 16;
    static constexpr int kGroups =  // vectors of keys
        kAccumulators / kSublaneLanes * kLanes < kMostKeys ? kAccumulators / kSublaneLanes
                                                           : kMostKeys / kLanes;
    static constexpr int keys = kGroups * kLanes;
    static constexpr int sublane_columns = kSublaneLanes * kColumnsOfLane<S>;
    // How far ahead of their use rows are prefetched.
    static constexpr int64_t prefetch_bytes = 12288;
    // How many values are added to the results at a time.
    static constexpr int kValues = 8;

    // Scores of `keys` keys: s[row * ld + key] = the sum of products of `columns` columns, in whole
    // sublanes.  Queries are q[column][kUsed].
    template <int kUsed, typename Prefetch>
    [[gnu::noinline]] static void scores(const StridedRows& k, const T* q, int64_t columns, T* s,
                                         int64_t ld, const Prefetch& position) {
        static_assert(kScoreChunk % sublane_columns == 0, "a chunk has whole sublanes");
        Prefetch prefetcher =
            position;  // stays in registers; an argument by value is passed in memory
        bool accumulate = false;
        int64_t c = 0;
        do {
            const int64_t end = columns - c > kScoreChunk ? c + kScoreChunk : columns;
            Vec sum[kGroups][kUsed] = {};
            for (; c + kLineColumns <= end; c += kLineColumns) {
#pragma GCC unroll 16
                for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
                    for (int n = 0; n < keys / kSteps; ++n) prefetcher.next();
                    add_sublanes<kUsed>(k, q, c + step * sublane_columns, sum);
                }
            }
            for (; c < end; c += sublane_columns) add_sublanes<kUsed>(k, q, c, sum);
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r)
#pragma GCC unroll 16
                for (int g = 0; g < kGroups; ++g) {
                    T* at = s + r * ld + g * kLanes;
                    store(at, accumulate ? load<Vec>(at) + sum[g][r] : sum[g][r]);
                }
            accumulate = true;
        } while (c < columns);
    }

    // Adds `count` values, with weights p[row * ld_p + key], to accumulators[row * ld + feature]
    // or, unless `accumulate`, to 0.  `features` is a number of whole vectors.
    template <int kUsed, typename Prefetch>
    [[gnu::noinline]] static void add_values(const StridedRows& v, int64_t count, const T* p,
                                             int64_t ld_p, int64_t features, T* accumulators,
                                             int64_t ld, bool accumulate, Prefetch prefetcher) {
        // Vectors of a row's accumulators: at least two, so that each broadcast weight is used
        // twice.
        constexpr int kWidth = kAccumulators / kUsed > 2 ? kAccumulators / kUsed : 2;
        constexpr int kValuesHeld = kUsed > 1 ? kWidth : 1;
        static_assert(kUsed * kWidth + kValuesHeld + 1 <= Simd::registers,
                      "the accumulators spill");
        StridedRows at = v;
        const auto add = [&](auto some) {
            constexpr int kCount = decltype(some)::value;
            add_widths<kUsed, kCount, kWidth>(at, p, ld_p, 0, features, accumulators, ld,
                                              accumulate, prefetcher);
            at.first = at.row(kCount);
            p += kCount;
            count -= kCount;
            accumulate = true;
        };
        while (count >= kValues) add(Count<kValues>{});
        while (count > 0) add(Count<1>{});
    }

private:
    static constexpr int kLineColumns = kLineBytes / kSize;
    static constexpr int kSteps = kLineColumns / sublane_columns;  // sublanes in a line

    // Adds the products of a sublane of each key to `sum`.
    template <int kUsed>
    [[gnu::always_inline]] static void add_sublanes(const StridedRows& k, const T* q, int64_t c,
                                                    Vec (&sum)[kGroups][kUsed]) {
        // Besides accumulators and sublanes, registers hold a column of a query and, where lanes
        // hold two columns, those separated from the keys' lanes.
        constexpr int kColumns = kColumnsOfLane<S>;
        constexpr bool kSeparated = kColumns > 1;
        constexpr bool kFit = kGroups * (kUsed + kSublaneLanes + kSeparated) + 1 <= Simd::registers;
        Vec x[kGroups][kSublaneLanes];  // [][lane of a sublane]: values of adjacent keys
        Vec held[kGroups][kSublaneLanes];
#pragma GCC unroll 16
        for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
            for (int i = 0; i < kSublaneLanes; ++i)
                x[g][i] = load_sublanes<Simd, S>(k.row(g * kLanes + i) + c * kSize,
                                                 kSublaneLanes * k.stride);
            transpose_sublanes<Vec, kLanes, kSublaneLanes>(x[g]);
            if constexpr (!kFit) {
                // Half of them wait in memory: without this, the compiler would spill accumulators,
                // too.
#pragma GCC unroll 16
                for (int i = kSublaneLanes / 2; i < kSublaneLanes; ++i) held[g][i] = x[g][i];
            }
        }
        if constexpr (!kFit) asm("" : "+m"(held));
#pragma GCC unroll 16
        for (int column = 0; column < sublane_columns; ++column)
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r) {
                const Vec query = broadcast<Simd>(q[(c + column) * kUsed + r]);
                const int i = column / kColumns;
#pragma GCC unroll 16
                for (int g = 0; g < kGroups; ++g) {
                    const bool waits =
                        !kFit && i >= kSublaneLanes / 2 && (kSeparated || g + 1 < kGroups);
                    sum[g][r] = Simd::fma(
                        column_of<Simd, S>(waits ? held[g][i] : x[g][i], column % kColumns), query,
                        sum[g][r]);
                }
            }
    }

    // Adds features from f on, kWidth vectors at a time, and then what is left in halves of that.
    template <int kUsed, int kCount, int kWidth, typename Prefetch>
    [[gnu::always_inline]] static void add_widths(const StridedRows& v, const T* p, int64_t ld_p,
                                                  int64_t f, int64_t features, T* accumulators,
                                                  int64_t ld, bool accumulate,
                                                  Prefetch& prefetcher) {
        for (; f + kWidth * kLanes <= features; f += kWidth * kLanes)
            add_features<kUsed, kCount, kWidth>(v, p, ld_p, f, accumulators, ld, accumulate,
                                                prefetcher);
        if constexpr (kWidth > 1)
            add_widths<kUsed, kCount, kWidth / 2>(v, p, ld_p, f, features, accumulators, ld,
                                                  accumulate, prefetcher);
    }

    template <int kUsed, int kCount, int kWidth, typename Prefetch>
    [[gnu::always_inline]] static void add_features(const StridedRows& v, const T* p, int64_t ld_p,
                                                    int64_t f, T* accumulators, int64_t ld,
                                                    bool accumulate, Prefetch& prefetcher) {
        constexpr int64_t kBytes = kWidth * kLanes * kSize;  // read of each value
        constexpr int64_t kKeysOfLine = kBytes < kLineBytes ? kLineBytes / kBytes : 1;
        Vec sum[kUsed][kWidth];
#pragma GCC unroll 16
        for (int r = 0; r < kUsed; ++r)
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n)
                sum[r][n] = accumulate ? load<Vec>(accumulators + r * ld + f + n * kLanes) : Vec{};
#pragma GCC unroll 16
        for (int j = 0; j < kCount; ++j) {
            if (j % kKeysOfLine == 0) {
#pragma GCC unroll 16
                for (int64_t byte = 0; byte < kBytes; byte += kLineBytes) prefetcher.next();
            }
            Vec value[kWidth];
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n)
                value[n] = load_values<Simd, S>(v.row(j) + (f + n * kLanes) * kSize);
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r) {
                const Vec weight = broadcast<Simd>(p[r * ld_p + j]);
#pragma GCC unroll 16
                for (int n = 0; n < kWidth; ++n) sum[r][n] = Simd::fma(value[n], weight, sum[r][n]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < kUsed; ++r)
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n)
                store(accumulators + r * ld + f + n * kLanes, sum[r][n]);
    }
};

}  // namespace
}  // namespace fastattn
