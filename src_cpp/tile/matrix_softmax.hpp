// Softmax of a panel's scores, in powers of two, a few keys at a time between tile products.
//
//   p = 2^24 2^(s - m)       s = score * log2(e), m = the reference
//
// The reference m is the maximum of the first keys that are visible to a row, rounded up.  It changes
// only if the weights of a job sum to 2^33 or more: factors are powers of two, hence exact, and
// mostly 1.  Weights are kept times 2^24 so that the low components of small weights are not
// flushed; the factor is in the sum l as well and cancels.
//
// Source: the polynomials are minimax for 2^x on [0, 1) among those that are 1 at 0, found by Remez
// exchange; relative error in float32 below 2^-23.9 (degree 6) and 2^-22.7 (degree 5).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "matrix_pack.hpp"

namespace fastattn {
namespace {

inline constexpr float kWeightScale = 0x1p24f;
inline constexpr float kLateSum = 0x1p33f;
// |m| stays below this, so that s - m is exact enough; rows beyond are left to the FMA kernel.
inline constexpr float kLargestReference = 0x1p22f;

// kVectors: vectors of a panel's rows.
template <typename Unit, typename S, int kVectors>
struct MatrixSoftmax {
    using Simd = typename Unit::Simd;
    using Vec = typename Unit::Vec;
    using Components = ComponentsOf<S>;

    static constexpr int64_t row = kVectors * kTileRows;  // scores of a key
    static constexpr int64_t step_bytes = 4 * row * kStepColumns;

    // [key][row].  The weights take their place: component 0 in the rows of a step's keys 0 to 15,
    // component 1 in those of the others.
    float* scores;
    char* third;          // the lowest of three components, as far apart
    Vec factor;           // of scores in the exponent
    Vec shift[kVectors];  // -m
    Vec low[kVectors],
        high[kVectors];  // sums of the weights of the first and the last 16 keys of each 32

    // Row i of pairs: the weights of keys i and i + 16 of 32, and their share of the sums.
    [[gnu::always_inline]] void pair(int64_t index) {
        const int64_t step = index / kTileRows, i = index % kTileRows;
        float* const first = scores + (step * kStepColumns + i) * row;
        float* const second = first + kTileRows * row;
#pragma GCC unroll 2
        for (int n = 0; n < kVectors; ++n) {
            constexpr int kLanes = kTileRows;
            Vec a = weight(load<Vec>(first + n * kLanes), shift[n]);
            Vec b = weight(load<Vec>(second + n * kLanes), shift[n]);
            low[n] += a;
            high[n] += b;
            fastattn::store(first + n * kLanes, Unit::pairs(a, b));
            a -= upper(a);
            b -= upper(b);
            fastattn::store(second + n * kLanes, Unit::pairs(a, b));
            if constexpr (Components::p == 3)
                fastattn::store(third + step * step_bytes + i * 4 * row + n * 64,
                                Unit::pairs(a - upper(a), b - upper(b)));
        }
    }

    // kPairs rows of pairs, of one step.
    template <int kPairs>
    [[gnu::always_inline]] void pairs(int64_t index) {
        MatrixSoftmax copy = *this;  // can stay in registers
#pragma GCC unroll 1
        for (int i = 0; i < kPairs; ++i) copy.pair(index + i);
#pragma GCC unroll 2
        for (int n = 0; n < kVectors; ++n) low[n] = copy.low[n], high[n] = copy.high[n];
    }

    [[gnu::always_inline]] void add_up(Vec* totals) const {
#pragma GCC unroll 2
        for (int n = 0; n < kVectors; ++n) totals[n] = low[n] + high[n];
    }

private:
    [[gnu::always_inline]] static Vec upper(Vec x) {
        return bits<Vec>(bits<typename Simd::Bits>(x) & 0xffff0000u);
    }
    [[gnu::always_inline]] static Vec constant(float x) {
        return broadcast<Simd>(x * kWeightScale);
    }
    [[gnu::always_inline]] Vec weight(Vec score, Vec c) const {
        const Vec t = Simd::fma(score, factor, c), g = Unit::fraction(t);
        Vec y;
        if constexpr (Components::p == 3) {
            y = constant(0x1.c7211ap-13f);
            y = Simd::fma(y, g, constant(0x1.461954p-10f));
            y = Simd::fma(y, g, constant(0x1.3d28p-7f));
            y = Simd::fma(y, g, constant(0x1.c685p-5f));
            y = Simd::fma(y, g, constant(0x1.ebfd9ep-3f));
            y = Simd::fma(y, g, constant(0x1.62e42ap-1f));
            y = Simd::fma(y, g, constant(1.0f));
        } else {
            y = constant(0x1.e974fap-10f);
            y = Simd::fma(y, g, constant(0x1.277856p-7f));
            y = Simd::fma(y, g, constant(0x1.c91ce6p-5f));
            y = Simd::fma(y, g, constant(0x1.ebdb56p-3f));
            y = Simd::fma(y, g, constant(0x1.62e4bap-1f));
            y = Simd::fma(y, g, constant(1.0f));
        }
        return Unit::scale(y, t);
    }
};

}  // namespace
}  // namespace fastattn
