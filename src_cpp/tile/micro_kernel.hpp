// The micro-kernel of the two matrix products: C[rows][lanes] += A[rows][k] B[k][lanes].
//
// A is read a scalar at a time and broadcast, B is read a vector at a time, and C stays in
// registers over the whole of k.  Keys (or value features) run along the rows, queries along the
// lanes: neither product needs a sum across lanes, and keys are read where they lie.  A "scalar" of A
// may be a pair of bfloat16 numbers, and so are the lanes of B then: a column holds two.
//
// Legend: MR x NR = the register tile, rows of A by vectors of B: 6 x 2, with 32 registers 6 x 4;
// ld = values between rows of B and of C.
// Source: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
// ACM TOMS 34(3), 2008, section 4; the tile's shape is that of BLIS's Haswell kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/storage.hpp"
#include "order.hpp"
#include "prefetch.hpp"

namespace fastattn {
namespace {

// How a tile reads A: value(r, k, i) is row r, column k + i, in all lanes; k is even.
//
// An A whose tiles lie one after another, with their rows interleaved: a tile has `span` columns,
// of which the first `skip` are left out.
template <typename T>
struct Interleaved {
    using Number = T;
    static constexpr bool cut = true;  // already cut into the tiles of MicroKernel::Split
    static constexpr int64_t chunk = kUnlimited;  // columns that are summed separately
    const T* first;
    int64_t span;
    int64_t skip;

    template <int kRows>
    struct Tile {
        const T* start;
        template <typename Simd>
        typename Simd::Vec value(int r, int64_t k, int i) const {
            return broadcast<Simd>(start[(k + i) * kRows + r]);
        }
    };
    template <int kRows>
    Tile<kRows> tile(int64_t row) const {
        return {first + row * span + skip * kRows};
    }
};

// `count` rows of A, read in place.
template <typename T>
struct InPlace {
    using Number = T;
    static constexpr bool cut = false;
    static constexpr int64_t chunk = kScoreChunk / kNumbers<T>;
    StridedRows rows;
    int64_t count;

    template <int kRows>
    struct Tile {
        const T* row[kRows];
        template <typename Simd>
        typename Simd::Vec value(int r, int64_t k, int i) const {
            return broadcast<Simd>(row[r][k + i]);
        }
    };
    // Rows past the last repeat it: their products are computed but not used.
    template <int kRows>
    Tile<kRows> tile(int64_t row) const {
        Tile<kRows> tile;
        const int64_t left = count - row;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
            tile.row[r] = reinterpret_cast<const T*>(rows.row(row + (r < left ? r : left - 1)));
        return tile;
    }
};

// An A that is read in place and transposed: its columns are rows in memory.
template <typename T>
struct Transposed {
    using Number = T;
    static constexpr bool cut = false;
    static constexpr int64_t chunk = kUnlimited;
    StridedRows rows;

    template <int kRows>
    struct Tile {
        const char* start;
        int64_t stride;
        template <typename Simd>
        typename Simd::Vec value(int r, int64_t k, int i) const {
            return broadcast<Simd>(reinterpret_cast<const T*>(start + (k + i) * stride)[r]);
        }
    };
    template <int kRows>
    Tile<kRows> tile(int64_t row) const {
        return {rows.first + row * static_cast<int64_t>(sizeof(T)), rows.stride};
    }
};

template <typename Simd>
struct MicroKernel {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    static constexpr int kLanes = Simd::lanes;

    // MR, and as many vectors as then fit: accumulators, a row of B and a broadcast value.
    static constexpr int mr = 6;
    static constexpr int nr = (Simd::registers - 1 - mr / 2) / mr;
    static_assert(mr * nr + nr + 1 <= Simd::registers, "the tile spills");
    static constexpr int mr_low = 4;

    // A tile of one vector is taller, so that its accumulators hide one another's latency.
    static constexpr int mr_single = 8;
    static_assert(nr > 1 && mr_single + 2 <= Simd::registers, "the tile of one vector spills");

    // Splits `count` rows into tiles of kTall and then of `mr_low`, so that few rows are computed
    // for nothing: at most one if kTall is 6 (except for one or two rows in all), three if it is 8.
    template <int kTall>
    struct SplitBy {
        int64_t tall, low;

        constexpr explicit SplitBy(int64_t count) : tall(count / kTall), low(0) {
            static_assert(mr_low == 4 && (kTall == 6 || kTall == 8), "the remainders are theirs");
            const int64_t rest = count % kTall;
            if (rest > mr_low)
                ++tall;
            else if (rest > kTall - mr_low || (rest > 0 && (kTall == 8 || tall == 0)))
                low = 1;
            else if (rest > 0)
                --tall, low = 2;  // 6 + 1 and 6 + 2 are 4 + 4
        }
        constexpr int64_t count() const { return tall * kTall + low * mr_low; }
    };
    using Split = SplitBy<mr>;

    // Rows that C must have room for, however `count` rows are split.
    static constexpr int64_t room(int64_t count) {
        return (count + mr_single - 1) / mr_single * mr_single;
    }
    static constexpr bool suffices() {
        for (int64_t count = 1; count <= mr * mr_single; ++count)
            if (SplitBy<mr>(count).count() > room(count) ||
                SplitBy<mr_single>(count).count() > room(count))
                return false;
        return true;
    }

    // For each tile of A's `rows` rows: C = A B or, if `accumulate`, C + A B; for an A that is
    // summed whole scale * C + A B, where `scale` has kVectors vectors; for pairs scale * A B is
    // added, with one `scale`.  The product is summed separately: a sum over many blocks is then
    // rounded once per block, not once per product.
    //
    // Meanwhile `prefetcher` prefetches as many values as A has; returns the position it has
    // reached.
    //
    // Never inlined: in a caller with many variables, the compiler spills the addresses of A's rows.
    template <int kVectors, typename A, typename Prefetch = NoPrefetch>
    [[gnu::noinline]] static Prefetch multiply(const A a, int64_t rows, const T* b, int64_t count,
                                               T* c, bool accumulate, const T* scale,
                                               Prefetch prefetcher = {}) {
        constexpr int64_t ld = kVectors * kLanes;
        constexpr int kTall = kVectors == 1 && !A::cut ? mr_single : mr;
        const SplitBy<kTall> tiles(rows);
        int64_t row = 0;
        for (; row < tiles.tall * kTall; row += kTall)
            one<kVectors, kTall, A>(a.template tile<kTall>(row), b, count, c + row * ld, accumulate,
                                    scale, prefetcher);
        for (; row < tiles.count(); row += mr_low)
            one<kVectors, mr_low, A>(a.template tile<mr_low>(row), b, count, c + row * ld,
                                     accumulate, scale, prefetcher);
        return prefetcher;
    }

private:
    template <int kVectors, int kRows, typename A, typename Tile, typename Prefetch>
    [[gnu::always_inline]] static void one(const Tile a, const T* b, int64_t count, T* c,
                                           bool accumulate, const T* scale, Prefetch& prefetcher) {
        constexpr int64_t ld = kVectors * kLanes, kChunk = A::chunk;
        constexpr bool kScaled = kChunk == kUnlimited, kPairs = kNumbers<typename A::Number> > 1;
        int64_t k = 0;
        do {
            const int64_t end = count - k > kChunk ? k + kChunk : count;
            Vec sum[kRows][kVectors] = {};
            add_columns<kNumbers<typename A::Number>>(a, b, k, end, sum, prefetcher);
#pragma GCC unroll 16
            for (int n = 0; n < kVectors; ++n) {
                Vec factor;
                if constexpr (kScaled) factor = load<Vec>(scale + n * kLanes);
                if constexpr (kPairs) factor = broadcast<Simd>(*scale);
#pragma GCC unroll 16
                for (int r = 0; r < kRows; ++r) {
                    T* at = c + r * ld + n * kLanes;
                    if constexpr (kPairs)
                        store(at, accumulate ? Simd::fma(sum[r][n], factor, load<Vec>(at))
                                             : sum[r][n] * factor);
                    else if (!accumulate)
                        store(at, sum[r][n]);
                    else if constexpr (kScaled)
                        store(at, Simd::fma(load<Vec>(at), factor, sum[r][n]));
                    else
                        store(at, load<Vec>(at) + sum[r][n]);
                }
            }
            accumulate = true;
            k = end;
        } while (k < count);
    }

    // Adds the products of columns [k, end), which hold kEach numbers each, to `sum`.
    template <int kEach, int kVectors, int kRows, typename Tile, typename Prefetch>
    [[gnu::always_inline]] static void add_columns(const Tile& a, const T* b, int64_t k,
                                                   int64_t end, Vec (&sum)[kRows][kVectors],
                                                   Prefetch& prefetcher) {
        constexpr int64_t ld = kVectors * kLanes;
        // Columns are taken in pairs, for fewer instructions per product where a neighbour on the
        // core shares the front end.  With 16-bit values, only two pairs take a whole cache line.
        constexpr int kPair = 2;
        constexpr int kColumnBytes = kEach * Prefetch::value_bytes;
        constexpr int kTogether = kColumnBytes < static_cast<int>(sizeof(T)) ? 2 * kPair : kPair;
        constexpr int kBytes = kTogether * kRows * kColumnBytes;
        constexpr int kLines = (kBytes + kLineBytes - 1) / kLineBytes;
        const auto add = [&](int64_t k, int i) __attribute__((always_inline)) {
            Vec row[kVectors];
#pragma GCC unroll 16
            for (int n = 0; n < kVectors; ++n) row[n] = load<Vec>(b + (k + i) * ld + n * kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
                const Vec value = a.template value<Simd>(r, k, i);
#pragma GCC unroll 16
                for (int n = 0; n < kVectors; ++n)
                    if constexpr (kEach > 1)
                        sum[r][n] = Simd::add_pairs(value, row[n], sum[r][n]);
                    else
                        sum[r][n] = Simd::fma(value, row[n], sum[r][n]);
            }
        };
        for (; k + kTogether <= end; k += kTogether) {
#pragma GCC unroll 16
            for (int i = 0; i < kLines; ++i) prefetcher.next();
#pragma GCC unroll 16
            for (int i = 0; i < kTogether; ++i) add(k, i);
        }
        if constexpr (kTogether > kPair)
            for (; k + kPair <= end; k += kPair) add(k, 0), add(k, 1);
        if (k < end) add(k, 0);
    }
};

}  // namespace
}  // namespace fastattn
