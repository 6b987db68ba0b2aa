// The two matrix products of the decode kernel, for few queries: keys and values are read once, in
// the order in which they lie.
//
//   scores  S[row][key] = Q K^T   a vector holds the scores of a row for adjacent keys; a tile of
//                                 them is [row][key] of `keys` keys, and tiles lie side by side
//   values  O[row][feature] += P V   a vector holds features of one value: adjacent ones, or of
//                                    bfloat16 every other of twice as many (`pairs`)
//
// Lines are prefetched some 16 KiB before they are used.  If they were prefetched a whole block ahead,
// they would be evicted from L2 before their use when an SMT sibling shares the core.
//
// Legend: S, T = storage and compute type; sublane = adjacent columns of a key that are transposed
// together, in kSublaneLanes lanes of 32 or 64 bits; kUsed = rows computed, at most `rows`.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "order.hpp"
#include "prefetch.hpp"
#include "score_tiles.hpp"
#include "sublanes.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
struct DecodeTile {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int64_t kSize = sizeof(S);

    static constexpr int kSublaneLanes = fastattn::kSublaneLanes<Simd>;
    // Registers that the scores of `vectors` vectors of keys fill: accumulators, sublanes, a column
    // of a query and, where a lane holds two columns of a key, one of the two columns.
    static constexpr int registers_for(int vectors, int used) {
        return vectors * (used + kSublaneLanes + (kColumnsOfLane<S> > 1)) + 1;
    }

    // Keys of a tile: enough accumulators to hide the latency of their additions, but no more than
    // kMostKeys keys: the tile reads a line of every key before it reads the next line of the first,
    // so with more keys, lines would have to be prefetched earlier.
    static constexpr int kAccumulators = 8;
    static constexpr int kMostKeys = 16;
    static constexpr int kGroups =  // vectors of keys
        kAccumulators / kSublaneLanes * kLanes < kMostKeys ? kAccumulators / kSublaneLanes
                                                           : kMostKeys / kLanes;
    static constexpr int keys = kGroups * kLanes;
    // The most queries.  The tile for many rows (fma.hpp) has queries along the lanes: half as many
    // queries as lanes leave half of each vector empty.  It also converts each 16-bit number again
    // for each vector of queries.  So for 16-bit types this tile is faster up to as many queries as
    // lanes, if the registers hold them.
    static constexpr int kMostRows =
        kSize < sizeof(T) && 2 * keys <= Simd::registers ? kLanes : kLanes / 2;
    static constexpr int rows = kMostRows > kSublaneLanes ? kMostRows : kSublaneLanes;
    static constexpr int sublane_columns = kSublaneLanes * kColumnsOfLane<S>;
    // Bytes of each stream of rows that are prefetched side by side.
    static constexpr int64_t stream_bytes = 4096;

    // Where the score of a row for a key is, of kUsed rows.
    template <int kUsed>
    static int64_t index(int64_t row, int64_t key) {
        return score_index<kUsed, keys>(row, key);
    }

    // Tiles whose scores are computed side by side, if the registers hold them: few rows alone have
    // too few accumulators to hide the latency of additions.
    template <int kUsed>
    static constexpr int tiles = registers_for(2 * kGroups, kUsed) <= Simd::registers ? 2 : 1;

    // Scores of some tiles of keys: the sums of products of `columns` columns, in whole sublanes.
    // Queries are q[column][kUsed].
    template <int kUsed, int kTiles, typename Prefetch>
    [[gnu::noinline]] static void scores(const StridedRows& k, const T* q, int64_t columns, T* s,
                                         const Prefetch& position) {
        static_assert(kScoreChunk % sublane_columns == 0, "a chunk has whole sublanes");
        constexpr int kVectors = kTiles * kGroups;
        Prefetch prefetcher =
            position;  // stays in registers; an argument by value is passed in memory
        bool accumulate = false;
        int64_t c = 0;
        do {
            const int64_t end = columns - c > kScoreChunk ? c + kScoreChunk : columns;
            Vec sum[kVectors][kUsed] = {};
            for (; c + kLineColumns <= end; c += kLineColumns) {
#pragma GCC unroll 16
                for (int step = 0; step < kSteps; ++step) {
                    prefetcher.template used<kTiles * keys * kLineBytes / kSteps>();
                    add_sublanes<kUsed>(k, q, c + step * sublane_columns, sum);
                }
            }
            for (; c < end; c += sublane_columns) add_sublanes<kUsed>(k, q, c, sum);
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r)
#pragma GCC unroll 16
                for (int g = 0; g < kVectors; ++g) {
                    T* at = s + index<kUsed>(r, g * kLanes);
                    store(at, accumulate ? load<Vec>(at) + sum[g][r] : sum[g][r]);
                }
            accumulate = true;
        } while (c < columns);
    }

    // Adds `count` values, at most a tile, with weights p[row][key], to accumulators[row * ld + ...],
    // see `accumulated`, or, unless `accumulate`, to 0.  `features` is a number of whole vectors.
    template <int kUsed, typename Prefetch>
    [[gnu::noinline]] static void add_values(const StridedRows& v, int64_t count, const T* p,
                                             int64_t features, T* accumulators, int64_t ld,
                                             bool accumulate, Prefetch prefetcher) {
        constexpr int kWidth = width<kUsed>;
        constexpr int kValuesHeld = kUsed > 1 ? kWidth : 1;
        static_assert(kUsed * kWidth + kValuesHeld + 1 <= Simd::registers,
                      "the accumulators spill");
        add_widths<kUsed, kWidth>(v, count, p, 0, features, accumulators, ld, accumulate,
                                  prefetcher);
    }

    // What a row's accumulators hold of features f, f + 1...; f is a number of whole vectors.
    template <int kUsed>
    [[gnu::always_inline]] static Vec accumulated(const T* accumulators, int64_t f,
                                                  int64_t features) {
        if constexpr (pairs<width<kUsed>>) {
            const int64_t odd = f / kLanes % 2;
            const T* both = accumulators + f - odd * kLanes;
            if (f - odd * kLanes + 2 * kLanes <= features) {
                const Vec a = load<Vec>(both), b = load<Vec>(both + kLanes);
                using Lanes = typename MakeSequence<kLanes>::type;
                return odd ? side_by_side<kLanes / 2>(a, b, Lanes{})
                           : side_by_side<0>(a, b, Lanes{});
            }
        }
        return load<Vec>(accumulators + f);
    }

private:
    // Vectors of features that are added at a time.
    template <int kUsed>
    static constexpr int width = Simd::registers / 2 / kUsed;

    // Whether a pair of vectors holds the even and the odd features of twice as many values.  A
    // lane of bfloat16 has two values, and each takes one instruction to convert.
    template <int kWidth>
    static constexpr bool pairs = __is_same(S, BFloat) && kColumnsOfLane<S> == 2 && kWidth > 1;

    template <int kFrom, int... kLane>
    static Vec side_by_side(Vec even, Vec odd, Sequence<kLane...>) {
        return __builtin_shufflevector(even, odd, (kFrom + kLane / 2 + kLane % 2 * kLanes)...);
    }

    // Features n * kLanes..., or of a pair of vectors the even (n even) or odd ones.
    template <int kWidth>
    [[gnu::always_inline]] static Vec features_of(const char* from, int n) {
        if constexpr (pairs<kWidth>)
            return column_of<Simd, S>(load<Vec>(from + n / 2 * int64_t{sizeof(Vec)}), n % 2);
        else
            return load_values<Simd, S>(from + n * kLanes * kSize);
    }

    static constexpr int kLineColumns = kLineBytes / kSize;
    static constexpr int kSteps = kLineColumns / sublane_columns;  // sublanes in a line

    // Adds the products of a sublane of each key to `sum`.
    template <int kUsed, int kVectors>
    [[gnu::always_inline]] static void add_sublanes(const StridedRows& k, const T* q, int64_t c,
                                                    Vec (&sum)[kVectors][kUsed]) {
        constexpr int kColumns = kColumnsOfLane<S>;
        constexpr bool kFit = registers_for(kVectors, kUsed) <= Simd::registers;
        // The transposed sublanes from this one on are kept in memory until they are used.  If the
        // registers do not hold all, half of them are kept there: otherwise the compiler would spill
        // accumulators, too.
        constexpr int kHeldFrom = kConvertsFromMemory<S> ? 0
                                  : kFit                 ? kSublaneLanes
                                                         : kSublaneLanes / 2;
        Vec x[kVectors][kSublaneLanes];  // [][lane of a sublane]: values of adjacent keys
        Vec held[kVectors][kSublaneLanes];
#pragma GCC unroll 16
        for (int g = 0; g < kVectors; ++g) {
#pragma GCC unroll 16
            for (int i = 0; i < kSublaneLanes; ++i)
                x[g][i] = load_sublanes<Simd, S>(k.row(g * kLanes + i) + c * kSize,
                                                 kSublaneLanes * k.stride);
            transpose_keys<Simd, S>(x[g]);
#pragma GCC unroll 16
            for (int i = kHeldFrom; i < kSublaneLanes; ++i) held[g][i] = x[g][i];
        }
        if constexpr (kHeldFrom < kSublaneLanes) asm("" : "+m"(held));
#pragma GCC unroll 16
        for (int column = 0; column < sublane_columns; ++column)
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r) {
                const Vec query = broadcast<Simd>(q[(c + column) * kUsed + r]);
                const int i = column / kColumns;
#pragma GCC unroll 16
                for (int g = 0; g < kVectors; ++g) {
                    const bool waits = i >= kHeldFrom && (kColumns > 1 || g + 1 < kVectors);
                    sum[g][r] = Simd::fma(
                        column_of<Simd, S>(waits ? held[g][i] : x[g][i], column % kColumns), query,
                        sum[g][r]);
                }
            }
    }

    // Adds features from f on, kWidth vectors at a time, and then what is left in halves of that.
    template <int kUsed, int kWidth, typename Prefetch>
    [[gnu::always_inline]] static void add_widths(const StridedRows& v, int64_t count, const T* p,
                                                  int64_t f, int64_t features, T* accumulators,
                                                  int64_t ld, bool accumulate,
                                                  Prefetch& prefetcher) {
        for (; f + kWidth * kLanes <= features; f += kWidth * kLanes)
            add_features<kUsed, kWidth>(v, count, p, f, accumulators, ld, accumulate, prefetcher);
        if constexpr (kWidth > 1)
            add_widths<kUsed, kWidth / 2>(v, count, p, f, features, accumulators, ld, accumulate,
                                          prefetcher);
    }

    template <int kUsed, int kWidth, typename Prefetch>
    [[gnu::always_inline]] static void add_features(const StridedRows& v, int64_t count, const T* p,
                                                    int64_t f, T* accumulators, int64_t ld,
                                                    bool accumulate, Prefetch& prefetcher) {
        Vec sum[kUsed][kWidth];
#pragma GCC unroll 16
        for (int r = 0; r < kUsed; ++r)
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n)
                sum[r][n] = accumulate ? load<Vec>(accumulators + r * ld + f + n * kLanes) : Vec{};
        const char* from = v.first + f * kSize;
        for (int64_t j = 0; j < count; ++j) {
            prefetcher.template used<kWidth * kLanes * kSize>();
            Vec value[kWidth];
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n) value[n] = features_of<kWidth>(from, n);
#pragma GCC unroll 16
            for (int r = 0; r < kUsed; ++r) {
                const Vec weight = broadcast<Simd>(p[r * keys + j]);
#pragma GCC unroll 16
                for (int n = 0; n < kWidth; ++n) sum[r][n] = Simd::fma(value[n], weight, sum[r][n]);
            }
            from += v.stride;
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
