// exp(x) for x <= 0, and tanh, on vectors.
//
// exp_nonpositive: x = n ln 2 + r with n = round(x / ln 2).  n ln 2 is subtracted in two parts, the
// first of which is exact (Cody and Waite); e^r is taken from a polynomial with p(0) = 1, so that
// e^0 is exactly 1.  Where 2^n would be subnormal, the result is 0, so that neither a masked key's
// -inf nor a weight too small to count makes a subnormal number, which would slow every later
// product.  NaN in gives NaN out.
//   float:  degree 6, |p(r) / e^r - 1| < 2.6e-9 for |r| <= ln 2 / 2
//   double: degree 11, < 1.8e-17
// Minimax (Remez) fits of the relative error with the constant term held at 1.  The worst measured
// error, rounding included, is stated and tested in tests/test_kernels.py.
//
// tanh: below 0.625 an odd polynomial or rational function, so that small arguments keep
// their relative accuracy; above, (1 - e) / (1 + e) with e = exp(-2 |x|).
// Source of its coefficients: Cephes, tanhf.c and tanh.c (S. L. Moshier).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vector.hpp"

namespace fastattn {
namespace {

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
    // 1.5 * 2^23 puts the rounded integer into a sum's lowest bits; 127 is the bias of the
    // exponent field that they are shifted into.
    static constexpr float round = 12582912.0f + 127.0f;
    static constexpr int mantissa_bits = 23;
    static constexpr float lowest = -88.0f;  // n = -127: the field is 0, and so is the result
    static constexpr float log2e = 1.44269504f;
    static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f;
    static constexpr float polynomial[] = {0x1.709b64p-10f,
                                           0x1.12903ep-7f,
                                           0x1.55515ep-5f,
                                           0x1.5553c2p-3f,
                                           0x1.000002p-1f,
                                           1.0f,
                                           1.0f};
};

template <>
struct ExpConstants<double> {
    static constexpr double round = 6755399441055744.0 + 1023.0;
    static constexpr int mantissa_bits = 52;
    static constexpr double lowest = -709.1;  // n = -1023
    static constexpr double log2e = 1.4426950408889634074;
    static constexpr double ln2_high = 6.93147180369123816490e-1;
    static constexpr double ln2_low = 1.90821492927058770002e-10;
    static constexpr double polynomial[] = {
        0x1.8ad0e0854c435p-26, 0x1.28a295f2b01edp-22, 0x1.71f60f0b72c71p-19, 0x1.a019a698a225fp-16,
        0x1.a019f6263ff19p-13, 0x1.6c16c17f33016p-10, 0x1.1111111379cbdp-7,  0x1.55555555520f6p-5,
        0x1.5555555554827p-3,  0x1.0000000000005p-1,  0x1.0000000000003p+0,  1.0};
};

// Takes several vectors through each step side by side.  One vector after another, the steps of the
// first, each of which waits for the one before, would fill the processor's queue.
template <typename Simd, int kCount>
[[gnu::always_inline]] inline void exp_nonpositive(typename Simd::Vec (&x)[kCount]) {
    using Vec = typename Simd::Vec;
    using Bits = typename Simd::Bits;
    using K = ExpConstants<typename Simd::Value>;
    const auto each = [](auto step) {
#pragma GCC unroll 16
        for (int i = 0; i < kCount; ++i) step(i);
    };
    Vec shifted[kCount], n[kCount], p[kCount];
    each([&](int i) { x[i] = Simd::max(broadcast<Simd>(K::lowest), x[i]); });  // NaN passes
    each([&](int i) {
        shifted[i] = Simd::fma(x[i], broadcast<Simd>(K::log2e), broadcast<Simd>(K::round));
    });
    each([&](int i) { n[i] = shifted[i] - broadcast<Simd>(K::round); });
    each([&](int i) { x[i] = Simd::fma(n[i], broadcast<Simd>(-K::ln2_high), x[i]); });
    each([&](int i) { x[i] = Simd::fma(n[i], broadcast<Simd>(-K::ln2_low), x[i]); });
    each([&](int i) { p[i] = broadcast<Simd>(K::polynomial[0]); });
    constexpr int kTerms = sizeof(K::polynomial) / sizeof(K::polynomial[0]);
#pragma GCC unroll 16
    for (int term = 1; term < kTerms; ++term)
        each([&](int i) { p[i] = Simd::fma(p[i], x[i], broadcast<Simd>(K::polynomial[term])); });
    each([&](int i) { x[i] = p[i] * bits<Vec>(bits<Bits>(shifted[i]) << K::mantissa_bits); });
}

template <typename Simd>
inline typename Simd::Vec exp_nonpositive(typename Simd::Vec x) {
    typename Simd::Vec one[1] = {x};
    exp_nonpositive<Simd>(one);
    return one[0];
}

template <typename Simd>
inline typename Simd::Vec small_tanh(typename Simd::Vec x) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    const Vec z = x * x;
    if constexpr (sizeof(T) == 4) {
        constexpr float c[] = {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f,
                               1.33314422036e-1f, -3.33332819422e-1f};
        Vec p = broadcast<Simd>(c[0]);
        for (int i = 1; i < 5; ++i) p = Simd::fma(p, z, broadcast<Simd>(c[i]));
        return Simd::fma(p * z, x, x);
    } else {
        constexpr double p[] = {-9.64399179425052238628e-1, -9.92877231001918586564e1,
                                -1.61468768441708447952e3};
        constexpr double q[] = {1.12811678491632931402e2, 2.23548839060100448583e3,
                                4.84406305325125486048e3};
        const Vec numerator = Simd::fma(Simd::fma(broadcast<Simd>(p[0]), z, broadcast<Simd>(p[1])),
                                        z, broadcast<Simd>(p[2]));
        const Vec denominator =
            Simd::fma(Simd::fma(z + broadcast<Simd>(q[0]), z, broadcast<Simd>(q[1])), z,
                      broadcast<Simd>(q[2]));
        return Simd::fma(numerator / denominator * z, x, x);
    }
}

template <typename Simd>
inline typename Simd::Vec tanh(typename Simd::Vec x) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    using Bits = typename Simd::Bits;
    const Bits sign = bits<Bits>(x) & bits<Bits>(broadcast<Simd>(T(-0.0)));
    const Vec size = bits<Vec>(bits<Bits>(x) ^ sign);
    const Vec e = exp_nonpositive<Simd>(size * broadcast<Simd>(T(-2)));
    const Vec large = (broadcast<Simd>(T(1)) - e) / (broadcast<Simd>(T(1)) + e);
    const Vec small = small_tanh<Simd>(size);
    const Vec value = size < broadcast<Simd>(T(0.625)) ? small : large;
    return bits<Vec>(bits<Bits>(value) | sign);
}

}  // namespace
}  // namespace fastattn
