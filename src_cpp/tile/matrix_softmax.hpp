// Softmax of a panel's scores, in powers of two, a few keys at a time between tile products.
//
//   p = 2^24 2^(s - m)       s = score * log2(e), m = the reference
//
// The reference m is the maximum of the first keys that are visible to a row, rounded up.  It changes
// only if the weights of a job sum to 2^33 or more: factors are powers of two, hence exact, and
// mostly 1.  Weights are kept times 2^24 so that the low components of small weights are not
// flushed; the factor is in the sum l as well and cancels.
//
// 2^x = 2^floor(x) * one of 32 powers from a table * a polynomial of the rest, which is below 1/32.
// While the matrix unit works, only one of the two ports for 512-bit instructions multiplies.  A
// weight takes six instructions that need this port and six that do not.
// Source: the polynomial is minimax for 2^x on [0, 1/32), found by Remez exchange; its relative error
// is below 2^-24.1 before rounding.  Its constant term is a factor of the table.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "matrix_pack.hpp"

namespace fastattn {
namespace {

inline constexpr float kWeightScale = 0x1p24f;
inline constexpr float kLateSum = 0x1p33f;
inline constexpr float kPowerLinear = 0x1.62e02cp-1f, kPowerQuadratic = 0x1.f1566cp-3f;
alignas(64) inline constexpr float kPowers[32] = {
    0x1p+24f,        0x1.059b0ep+24f, 0x1.0b5588p+24f, 0x1.11301ep+24f, 0x1.172b84p+24f,
    0x1.1d4874p+24f, 0x1.2387a8p+24f, 0x1.29e9ep+24f,  0x1.306fe2p+24f, 0x1.371a74p+24f,
    0x1.3dea66p+24f, 0x1.44e088p+24f, 0x1.4bfdaep+24f, 0x1.5342b6p+24f, 0x1.5ab08p+24f,
    0x1.6247ecp+24f, 0x1.6a09e8p+24f, 0x1.71f76p+24f,  0x1.7a1148p+24f, 0x1.82589ap+24f,
    0x1.8ace56p+24f, 0x1.93737cp+24f, 0x1.9c491ap+24f, 0x1.a5503cp+24f, 0x1.ae89fcp+24f,
    0x1.b7f77p+24f,  0x1.c199cp+24f,  0x1.cb721p+24f,  0x1.d5819p+24f,  0x1.dfc974p+24f,
    0x1.ea4afcp+24f, 0x1.f50768p+24f,
};
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
    char* third;  // the lowest of three components, as far apart
    Vec powers[2] = {load<Vec>(kPowers), load<Vec>(kPowers + kTileRows)};
    Vec factor;           // of scores in the exponent
    Vec shift[kVectors];  // -m
    Vec low[kVectors],
        high[kVectors];  // sums of the weights of the first and the last 16 keys of each 32

    // Row i of pairs: the weights of keys i and i + 16 of 32, and their share of the sums.
    [[gnu::always_inline]] void pair(int64_t index) {
        const int64_t earlier = index & -int64_t{kTileRows};  // pairs of the steps before
        float* const first = scores + (index + earlier) * row;
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
                fastattn::store(
                    third + earlier / kTileRows * step_bytes + (index - earlier) * 4 * row + n * 64,
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
    [[gnu::always_inline]] Vec weight(Vec score, Vec c) const {
        const Vec t = Simd::fma(score, factor, c), g = Unit::fraction(t);
        const Vec power = Unit::entry(powers[0], powers[1], t);
        const Vec slope =
            Simd::fma(g, broadcast<Simd>(kPowerQuadratic), broadcast<Simd>(kPowerLinear));
        return Unit::scale(Simd::fma(power * g, slope, power), t);
    }
};

}  // namespace
}  // namespace fastattn
