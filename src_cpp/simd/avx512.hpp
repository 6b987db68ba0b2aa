// AVX-512 F, BW, DQ and VL: 32 registers of 64 bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include "vector.hpp"

namespace fastattn {
namespace {

template <typename T>
struct Avx512;

template <>
struct Avx512<float> : Portable<float, 64, 32> {
    static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
    static Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
    // AVX512_BF16: two multiply-adds, each rounded to nearest; subnormal factors and results count
    // as 0, whatever MXCSR says.  tests/pairs_model.hpp computes the same bits.
    // Source: Intel 64 and IA-32 Architectures Software Developer's Manual, VDPBF16PS.
    [[gnu::always_inline]] static Vec add_pairs(Vec a, Vec b, Vec sum) {
        asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
        return sum;
    }
    // No shuffle: the sublanes after the first are broadcast and blended in.
    static Vec sublanes(const char* from, int64_t stride) {
        Vec v = _mm512_broadcast_f32x4(load<__m128>(from));
        v = _mm512_mask_broadcast_f32x4(v, 0x00f0, load<__m128>(from + stride));
        v = _mm512_mask_broadcast_f32x4(v, 0x0f00, load<__m128>(from + 2 * stride));
        return _mm512_mask_broadcast_f32x4(v, 0xf000, load<__m128>(from + 3 * stride));
    }
    static Vec from_half(Halves halves) { return _mm512_cvtph_ps(bits<__m256i>(halves)); }
    // One instruction widens: the compiler's own conversion takes four.
    static Vec from_bfloat(Halves halves) {
        const __m512i lanes = _mm512_cvtepu16_epi32(bits<__m256i>(halves));
        return _mm512_castsi512_ps(_mm512_slli_epi32(lanes, 16));
    }
    static void to_half(void* to, Vec v) {
        store(to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
#if defined(__AVX512BF16__)
    static Bits to_bfloats(Vec low, Vec high) {
        constexpr int kSubnormal = 0x20;  // the instruction takes these for 0
        if (_mm512_fpclass_ps_mask(low, kSubnormal) | _mm512_fpclass_ps_mask(high, kSubnormal))
            return Portable::to_bfloats(low, high);
        alignas(64) static constexpr uint16_t kSideBySide[] = {
            0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
        const auto both = bits<__m512i>(_mm512_cvtne2ps_pbh(high, low));
        return bits<Bits>(_mm512_permutexvar_epi16(load<__m512i>(kSideBySide), both));
    }
#endif
};

template <>
struct Avx512<double> : Portable<double, 64, 32> {
    static Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a, b, c); }
    static Vec max(Vec a, Vec b) { return _mm512_max_pd(a, b); }
    static Vec sublanes(const char* from, int64_t stride) {
        Vec v = _mm512_broadcast_f64x2(load<__m128d>(from));
        v = _mm512_mask_broadcast_f64x2(v, 0x0c, load<__m128d>(from + stride));
        v = _mm512_mask_broadcast_f64x2(v, 0x30, load<__m128d>(from + 2 * stride));
        return _mm512_mask_broadcast_f64x2(v, 0xc0, load<__m128d>(from + 3 * stride));
    }
};

}  // namespace
}  // namespace fastattn
