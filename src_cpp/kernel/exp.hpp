// 2^x for x <= 0, and tanh, on vectors.
//
// exp2_nonpositive: x = n + f with n = round(x), 2^f by a polynomial with p(0) = 1, so that
// 2^0 is exactly 1.  Below -126.5 the result is 0: neither a hidden key's -inf nor a weight
// too small to count makes a subnormal number, which would slow every later product.  NaN in
// gives NaN out.
//   float:  degree 6, |p(f) / 2^f - 1| < 2.6e-9 on [-1/2, 1/2]
//   double: degree 11, < 1.8e-17
// Minimax (Remez) fits of the relative error with the constant term held at 1.
//
// tanh: below 0.625 an odd polynomial or rational function, so that small arguments keep
// their relative accuracy; above, (1 - e) / (1 + e) with e = exp(-2 |x|).
// Source of its coefficients: Cephes, tanhf.c and tanh.c (S. L. Moshier).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/vector.hpp"

namespace fastattn {
namespace {

inline constexpr double kLog2E = 1.4426950408889634074;

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
    // 1.5 * 2^23 puts the rounded integer into a sum's lowest bits; 127 is the bias of the
    // exponent that they are shifted into.
    static constexpr float round = 12582912.0f + 127.0f;
    static constexpr float lowest = -127.0f;  // its exponent field is 0: the result too
    static constexpr int mantissa_bits = 23;
    static constexpr float polynomial[] = {0x1.470b4ap-13f, 0x1.5f7276p-10f, 0x1.3b270ep-7f,
                                           0x1.c6ae72p-5f,  0x1.ebfbe2p-3f,  0x1.62e432p-1f,
                                           1.0f};
};

template <>
struct ExpConstants<double> {
    static constexpr double round = 6755399441055744.0 + 1023.0;
    static constexpr double lowest = -1023.0;
    static constexpr int mantissa_bits = 52;
    static constexpr double polynomial[] = {
        0x1.c0638527edf34p-32, 0x1.e605f979c7a5dp-28, 0x1.b54167a0b9061p-24, 0x1.62bfd49ed0adfp-20,
        0x1.ffcbee3b0af8cp-17, 0x1.4309130961163p-13, 0x1.5d87fe7bbbe07p-10, 0x1.3b2ab6fba1e1cp-7,
        0x1.c6b08d7048f31p-5,  0x1.ebfbdff82c598p-3,  0x1.62e42fefa39f3p-1,  1.0};
};

template <typename Simd>
inline typename Simd::Vec exp2_nonpositive(typename Simd::Vec x) {
    using Vec = typename Simd::Vec;
    using Bits = typename Simd::Bits;
    using K = ExpConstants<typename Simd::Value>;
    x = Simd::max(broadcast<Simd>(K::lowest), x);  // in this order NaN passes
    const Vec shifted = x + broadcast<Simd>(K::round);
    const Vec f = x - (shifted - broadcast<Simd>(K::round));
    Vec p = broadcast<Simd>(K::polynomial[0]);
    constexpr int kTerms = sizeof(K::polynomial) / sizeof(K::polynomial[0]);
#pragma GCC unroll 16
    for (int i = 1; i < kTerms; ++i) p = Simd::fma(p, f, broadcast<Simd>(K::polynomial[i]));
    return p * bits<Vec>(bits<Bits>(shifted) << K::mantissa_bits);
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
        const Vec top = Simd::fma(Simd::fma(broadcast<Simd>(p[0]), z, broadcast<Simd>(p[1])), z,
                                  broadcast<Simd>(p[2]));
        const Vec bottom = Simd::fma(
            Simd::fma(z + broadcast<Simd>(q[0]), z, broadcast<Simd>(q[1])), z,
            broadcast<Simd>(q[2]));
        return Simd::fma(top / bottom * z, x, x);
    }
}

template <typename Simd>
inline typename Simd::Vec tanh(typename Simd::Vec x) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    using Bits = typename Simd::Bits;
    const Bits sign = bits<Bits>(x) & bits<Bits>(broadcast<Simd>(T(-0.0)));
    const Vec size = bits<Vec>(bits<Bits>(x) ^ sign);
    const Vec e = exp2_nonpositive<Simd>(size * broadcast<Simd>(T(-2 * kLog2E)));
    const Vec large = (broadcast<Simd>(T(1)) - e) / (broadcast<Simd>(T(1)) + e);
    const Vec small = small_tanh<Simd>(size);
    const Vec value = size < broadcast<Simd>(T(0.625)) ? small : large;
    return bits<Vec>(bits<Bits>(value) | sign);
}

}  // namespace
}  // namespace fastattn
