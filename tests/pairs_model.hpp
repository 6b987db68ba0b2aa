// An exact model of the products of pairs in src_cpp/simd/avx512.hpp, for any x86-64 processor with
// AVX2, FMA and F16C: the same bits, whatever MXCSR says of subnormal numbers, but for the payload of
// NaN.
//
// Checked against the instruction by tests/pairs_check.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "amx_model.hpp"

namespace fastattn {
namespace {

struct ModelPairs : TwoAvx2 {
    [[gnu::noinline]] static Vec add_pairs(Vec a, Vec b, Vec sum) {
        const Bits high = (Bits{} + 0xffff0000u), x = bits<Bits>(a), y = bits<Bits>(b);
        sum = add_product(bits<Vec>(x & high), bits<Vec>(y & high), sum);
        return add_product(bits<Vec>(x << 16), bits<Vec>(y << 16), sum);
    }

private:
    using Wide = VectorOf_t<double, lanes>;

    static Vec flush(Vec x) {
        const Bits magnitude = bits<Bits>(x) & 0x7fffffffu, sign = bits<Bits>(x) & 0x80000000u;
        return bits<Vec>(magnitude < 0x00800000u ? sign : bits<Bits>(x));
    }

    // a * b + c, rounded once: the product is exact in float64, where the sum has more than twice the
    // digits of float32, so that to round it twice is to round it once.
    static Vec add_product(Vec a, Vec b, Vec c) {
        const Wide product =
            __builtin_convertvector(flush(a), Wide) * __builtin_convertvector(flush(b), Wide);
        const Wide sum = product + __builtin_convertvector(flush(c), Wide);
        // What rounds to 2^-126 in 24 digits is not subnormal.
        const Wide size = sum < 0 ? -sum : sum, least = Wide{} + 0x1p-126 * (1 - 0x1p-25);
        const auto tiny = __builtin_convertvector(size < least, Int);
        const Vec rounded = __builtin_convertvector(sum, Vec);
        return tiny ? bits<Vec>(bits<Bits>(rounded) & 0x80000000u) : rounded;
    }
};

}  // namespace
}  // namespace fastattn
