// AVX2, FMA and F16C: 16 registers of 32 bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include "vector.hpp"

namespace fastattn {
namespace {

template <typename T>
struct Avx2;

template <>
struct Avx2<float> : Portable<float, 32, 16> {
    static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
    static Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
    static Vec sublanes(const char* from, int64_t stride) {
        return _mm256_blend_ps(_mm256_castps128_ps256(load<__m128>(from)),
                               _mm256_broadcast_ps(reinterpret_cast<const __m128*>(from + stride)),
                               0xf0);
    }
    static Vec from_half(Halves halves) { return _mm256_cvtph_ps(bits<__m128i>(halves)); }
    // One instruction widens: the compiler's own conversion takes four.
    static Vec from_bfloat(Halves halves) {
        const __m256i lanes = _mm256_cvtepu16_epi32(bits<__m128i>(halves));
        return _mm256_castsi256_ps(_mm256_slli_epi32(lanes, 16));
    }
    static void to_half(void* to, Vec v) {
        store(to, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
    }
};

template <>
struct Avx2<double> : Portable<double, 32, 16> {
    static Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a, b, c); }
    static Vec max(Vec a, Vec b) { return _mm256_max_pd(a, b); }
    static Vec sublanes(const char* from, int64_t stride) {
        return _mm256_blend_pd(_mm256_castpd128_pd256(load<__m128d>(from)),
                               _mm256_broadcast_pd(reinterpret_cast<const __m128d*>(from + stride)),
                               0xc);
    }
};

}  // namespace
}  // namespace fastattn
