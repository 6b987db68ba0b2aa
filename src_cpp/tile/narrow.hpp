// The two matrix products for few queries, as in decoding: keys and values are read once, in the
// order in which they lie.
//
//   scores  S[row][key] = Q K^T   a vector holds the scores of a row for adjacent keys
//   values  O[row][feature] += P V   a vector holds features of one value
//
// Lines are asked for (ahead.hpp) a few KiB before they are used: a whole block ahead, where a
// neighbour shares the core, they have left L2 again before their use.
//
// Legend: S, T = storage and compute type; piece = adjacent columns of a key that are transposed
// together, in as many lanes of 32 or 64 bits as there are rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/storage.hpp"
#include "ahead.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
struct NarrowTile {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int64_t kSize = sizeof(S);

    // Queries; where there are fewer, but not one, the last are repetitions.
    static constexpr int rows = 16 / sizeof(T);
    // As many sums as hide the latency of their additions, but no more keys than this: all are
    // touched before the first is done with, so what is asked for has to be further ahead.
    static constexpr int kSums = 8;
    static constexpr int kMostKeys = 16;
    static constexpr int kGroups =  // vectors of keys
        kSums / rows * kLanes < kMostKeys ? kSums / rows : kMostKeys / kLanes;
    static constexpr int keys = kGroups * kLanes;
    // Columns of a piece.
    static constexpr int piece = rows * kColumnsOfLane<S>;
    // Values that are added to the results at a time.
    static constexpr int kValues = 8;

    // Scores of `keys` keys for kUsed rows, 1 or all: s[row * ld + key] = the products of `columns`
    // columns, whole pieces, added to what is there unless `fresh`.  q[column][row].
    template <int kUsed, typename Asking>
    [[gnu::noinline]] static void scores(const Stream& k, const T* q, int64_t columns, T* s,
                                         int64_t ld, bool fresh, Asking& position) {
        Asking ahead = position;
        Vec sum[kGroups][kUsed] = {};
        int64_t c = 0;
        for (; c + kLineColumns <= columns; c += kLineColumns) {
#pragma GCC unroll 16
            for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
                for (int n = 0; n < keys / kSteps; ++n) ahead.ask();
                add_pieces<kUsed>(k, q, c + step * piece, sum);
            }
        }
        for (; c < columns; c += piece) add_pieces<kUsed>(k, q, c, sum);
        position = ahead;
#pragma GCC unroll 16
        for (int r = 0; r < kUsed; ++r)
#pragma GCC unroll 16
            for (int g = 0; g < kGroups; ++g) {
                T* at = s + r * ld + g * kLanes;
                store(at, fresh ? sum[g][r] : load<Vec>(at) + sum[g][r]);
            }
    }

    // sums[row * ld + feature] = what `count` values, of weights p[row * ld_p + key], add to them,
    // or, if `fresh`, to 0.  `features`: whole vectors.
    template <int kUsed, typename Asking>
    [[gnu::noinline]] static void add_values(const Stream& v, int64_t count, const T* p,
                                             int64_t ld_p, int64_t features, T* sums, int64_t ld,
                                             bool fresh, Asking ahead) {
        constexpr int kFeatures = kSums / kUsed;
        Stream at = v;
        const auto add = [&](auto some) {
            constexpr int kCount = decltype(some)::value;
            int64_t f = 0;
            for (; f + kFeatures * kLanes <= features; f += kFeatures * kLanes)
                add_features<kUsed, kCount, kFeatures>(at, p, ld_p, f, sums, ld, fresh, ahead);
            for (; f < features; f += kLanes)
                add_features<kUsed, kCount, 1>(at, p, ld_p, f, sums, ld, fresh, ahead);
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
    static constexpr int kSteps = kLineColumns / piece;  // pieces of a line

    template <int kNumber>
    struct Count {
        static constexpr int value = kNumber;
    };

    // The products of a piece of each key.
    template <int kUsed>
    [[gnu::always_inline]] static void add_pieces(const Stream& k, const T* q, int64_t c,
                                                  Vec (&sum)[kGroups][kUsed]) {
        // Beside sums and pieces registers hold a query's column and, where lanes hold two, those
        // of the keys.
        constexpr int kParts = kColumnsOfLane<S>;
        constexpr bool kParted = kParts > 1;
        constexpr bool kFit = kGroups * (kUsed + rows + kParted) + 1 <= Simd::registers;
        Vec x[kGroups][rows];  // [lane of a piece]: of adjacent keys
        Vec held[kGroups][rows];
#pragma GCC unroll 16
        for (int g = 0; g < kGroups; ++g) {
#pragma GCC unroll 16
            for (int i = 0; i < rows; ++i)
                x[g][i] = load_pieces<Simd, S>(k.rows + (g * kLanes + i) * k.stride + c * kSize,
                                               rows * k.stride);
            transpose_pieces<Vec, kLanes, rows>(x[g]);
            if constexpr (!kFit) {
                // Half of them wait in memory: left to the compiler, sums would go there too.
#pragma GCC unroll 16
                for (int i = rows / 2; i < rows; ++i) held[g][i] = x[g][i];
            }
        }
        if constexpr (!kFit) asm("" : "+m"(held));
#pragma GCC unroll 16
        for (int column = 0; column < piece; ++column)
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r) {
                const Vec query = broadcast<Simd>(q[(c + column) * rows + r]);
                const int i = column / kParts;
#pragma GCC unroll 16
                for (int g = 0; g < kGroups; ++g) {
                    const bool waits = !kFit && i >= rows / 2 && (kParted || g + 1 < kGroups);
                    sum[g][r] = Simd::fma(
                        column_of<Simd, S>(waits ? held[g][i] : x[g][i], column % kParts), query,
                        sum[g][r]);
                }
            }
    }

    template <int kUsed, int kCount, int kWidth, typename Asking>
    [[gnu::always_inline]] static void add_features(const Stream& v, const T* p,
                                                    int64_t ld_p, int64_t f, T* sums, int64_t ld,
                                                    bool fresh, Asking& ahead) {
        constexpr int64_t kBytes = kWidth * kLanes * kSize;  // of a value
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
