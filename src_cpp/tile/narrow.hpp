// The two matrix products for few queries, as in decoding: keys and values are read once, in the
// order in which they lie, and the queries fill up what a vector has room for.
//
//   scores  S[key][row] = K Q^T   a vector holds the scores of all rows for some keys
//   values  O[row][feature] += P V   a vector holds features of one value
//
// Far too little is computed for a byte to keep the processor busy: what counts is that memory is.
// Lines are asked for a few KiB before they are used, in the order of their addresses, so that the
// hardware's own prefetching joins in, and one at a time between the products: asked for in bursts
// they are dropped.  Left to itself the hardware does not see a stream in rows read side by side.
//
// Legend: piece = 16 bytes, as many adjacent columns of a key as there are rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/vector.hpp"

namespace fastattn {
namespace {

// Rows in memory, `stride` bytes apart.
struct Stream {
    const char* rows;
    int64_t stride;
};

// Rows to be asked for, line by line.
class Ahead {
public:
    static constexpr int64_t kLineBytes = 64;

    Ahead(const Stream& rows, int64_t row_bytes)
        : at_(rows.rows),
          lines_((row_bytes + kLineBytes - 1) / kLineBytes),
          left_(lines_),
          skip_(rows.stride - lines_ * kLineBytes) {}

    [[gnu::always_inline]] void ask() {
        __builtin_prefetch(at_);
        at_ += kLineBytes;
        if (--left_ == 0) {
            at_ += skip_;
            left_ = lines_;
        }
    }

private:
    const char* at_;
    int64_t lines_, left_, skip_;
};

template <typename Simd>
struct NarrowTile {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int64_t kSize = sizeof(T);
    static constexpr int64_t kLineBytes = Ahead::kLineBytes;

    // Queries, of which the last are repetitions where there are fewer.
    static constexpr int rows = 16 / sizeof(T);
    using Piece = VectorOf_t<T, rows>;
    static constexpr int kKeys = kLanes / rows;  // of a vector of scores
    // As many sums as hide the latency of their additions; a row of queries is kept beside them.
    static constexpr int kSums = 8;
    static_assert(kSums + rows + 2 <= Simd::registers, "the tile spills");
    static constexpr int keys = kSums * kKeys;
    // Values that are added to the results at a time, and vectors of features.
    static constexpr int kValues = 4;
    static constexpr int kFeatures = kSums / rows;
    static_assert(kSums + kFeatures + 1 <= Simd::registers, "the tile spills");

    // Scores of `keys` keys: s[key][row] = the products of `columns` columns, whole pieces, added
    // to what is there unless `fresh`.  q[column][lane] holds the rows kKeys times.
    [[gnu::noinline]] static void scores(const Stream& k, const T* q, int64_t columns, T* s,
                                         bool fresh, Ahead& position) {
        Ahead ahead = position;
        Vec sum[kSums] = {};
        int64_t c = 0;
        for (; c + kLineColumns <= columns; c += kLineColumns) {
#pragma GCC unroll 16
            for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
                for (int n = 0; n < keys / kSteps; ++n) ahead.ask();
                add_pieces(k, q, c + step * rows, sum);
            }
        }
        for (; c < columns; c += rows) add_pieces(k, q, c, sum);
        position = ahead;
#pragma GCC unroll 16
        for (int n = 0; n < kSums; ++n) {
            T* at = s + n * kLanes;
            store(at, fresh ? sum[n] : load<Vec>(at) + sum[n]);
        }
    }

    // sums[row][feature] = what `count` values, of weights p[key][row], add to them, or, if
    // `fresh`, to 0.  `features`: whole vectors; ld values between rows of sums.
    [[gnu::noinline]] static void add_values(const Stream& v, int64_t count, const T* p,
                                             int64_t features, T* sums, int64_t ld, bool fresh,
                                             Ahead ahead) {
        Stream at = v;
        const auto add = [&](auto some) {
            constexpr int kCount = decltype(some)::value;
            int64_t f = 0;
            for (; f + kFeatures * kLanes <= features; f += kFeatures * kLanes)
                add_features<kCount, kFeatures>(at, p, f, sums, ld, fresh, ahead);
            for (; f < features; f += kLanes)
                add_features<kCount, 1>(at, p, f, sums, ld, fresh, ahead);
            at.rows += kCount * at.stride;
            p += kCount * rows;
            count -= kCount;
            fresh = false;
        };
        while (count >= kValues) add(Count<kValues>{});
        while (count > 0) add(Count<1>{});
    }

private:
    static constexpr int kLineColumns = kLineBytes / kSize;
    static constexpr int kSteps = kLineColumns / rows;  // pieces of a line

    template <int kNumber>
    struct Count {
        static constexpr int value = kNumber;
    };

    // The products of a piece of each key.
    [[gnu::always_inline]] static void add_pieces(const Stream& k, const T* q, int64_t c,
                                                  Vec (&sum)[kSums]) {
        Vec query[rows];
#pragma GCC unroll 16
        for (int i = 0; i < rows; ++i) query[i] = load<Vec>(q + (c + i) * kLanes);
#pragma GCC unroll 16
        for (int n = 0; n < kSums; ++n) {
            const Vec x = Simd::pieces(k.rows + n * kKeys * k.stride + c * kSize, k.stride);
#pragma GCC unroll 16
            for (int i = 0; i < rows; ++i)
                sum[n] = Simd::fma(splat(x, i, typename MakeSequence<kLanes>::type{}), query[i],
                                   sum[n]);
        }
    }

    template <int kCount, int kWidth>
    [[gnu::always_inline]] static void add_features(const Stream& v, const T* p, int64_t f, T* sums,
                                                    int64_t ld, bool fresh, Ahead& ahead) {
        Vec sum[rows][kWidth];
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n)
                sum[r][n] = fresh ? Vec{} : load<Vec>(sums + r * ld + f + n * kLanes);
#pragma GCC unroll 16
        for (int j = 0; j < kCount; ++j) {
#pragma GCC unroll 16
            for (int64_t line = 0; line < kWidth * kLanes * kSize; line += kLineBytes) ahead.ask();
            Vec value[kWidth];
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n)
                value[n] = load<Vec>(v.rows + j * v.stride + (f + n * kLanes) * kSize);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const Vec weight = broadcast<Simd>(p[j * rows + r]);
#pragma GCC unroll 16
                for (int n = 0; n < kWidth; ++n)
                    sum[r][n] = Simd::fma(value[n], weight, sum[r][n]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 16
            for (int n = 0; n < kWidth; ++n) store(sums + r * ld + f + n * kLanes, sum[r][n]);
    }

    // Lane i of each piece in all lanes of the piece.
    template <int... kLane>
    [[gnu::always_inline]] static Vec splat(Vec x, int i, Sequence<kLane...> lanes) {
        if constexpr (rows == 2)
            return i == 0 ? splat_lane<0>(x, lanes) : splat_lane<1>(x, lanes);
        else
            return i == 0   ? splat_lane<0>(x, lanes)
                   : i == 1 ? splat_lane<1>(x, lanes)
                   : i == 2 ? splat_lane<2>(x, lanes)
                            : splat_lane<3>(x, lanes);
    }
    template <int kFrom, int... kLane>
    [[gnu::always_inline]] static Vec splat_lane(Vec x, Sequence<kLane...>) {
        return __builtin_shufflevector(x, x, (kLane / rows * rows + kFrom)...);
    }
};

}  // namespace
}  // namespace fastattn
