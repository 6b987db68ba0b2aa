// Intel AMX: eight tile registers of 16 rows of 64 bytes, and the product of bfloat16 tiles.
//
//   C[16][16] += A[16][32] B[32][16]     float32 += bfloat16 * bfloat16; B holds pairs of rows
//
// An element of C is the sum of two chains of 16 fused multiply-adds that start at 0, one over the
// even and one over the odd columns of A, added to C last; rounding is to nearest even, and
// subnormal inputs and results count as 0, whatever MXCSR says.  tests/amx_model.hpp computes the
// same bits without the instructions.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, TDPBF16PS.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include "../simd/avx512.hpp"

namespace fastattn {
namespace {

struct AmxUnit {
    using Simd = Avx512<float>;
    using Vec = Simd::Vec;

    // Configures all tiles as 16 rows of 64 bytes and sets them to 0; the state lasts until
    // `release`.
    static void configure() {
        struct alignas(64) Config {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        };
        static constexpr Config config;
        asm volatile("ldtilecfg %0" ::"m"(config));
    }
    static void release() { asm volatile("tilerelease"); }

    template <int kTile>
    [[gnu::always_inline]] static void load(const void* from, int64_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile)
                     : "memory");
    }
    // The same for what is not used again soon: it takes less of the L1 cache.
    template <int kTile>
    [[gnu::always_inline]] static void stream(const void* from, int64_t stride) {
        asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(kTile)
                     : "memory");
    }
    template <int kTile>
    [[gnu::always_inline]] static void store(void* to, int64_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(kTile)
                     : "memory");
    }
    template <int kTile>
    [[gnu::always_inline]] static void zero() {
        asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
    }
    template <int kC, int kA, int kB>
    [[gnu::always_inline]] static void multiply() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
    }

    // x - floor(32 x) / 32; 0 for an infinity.
    [[gnu::always_inline]] static Vec fraction(Vec x) {
        return _mm512_reduce_ps(x, 5 << 4 | _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    }
    // Entry floor(32 x) modulo 32 of a table of 32; any entry unless |x| < 2^17.
    [[gnu::always_inline]] static Vec entry(Vec low, Vec high, Vec x) {
        constexpr float kShift = 0x1.8p18f;  // the last bit of a sum is worth 1 / 32
        const __m512 sum = _mm512_add_round_ps(x, _mm512_set1_ps(kShift),
                                               _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
        return _mm512_permutex2var_ps(low, _mm512_castps_si512(sum), high);
    }
    // y * 2^floor(x).
    [[gnu::always_inline]] static Vec scale(Vec y, Vec x) { return _mm512_scalef_ps(y, x); }
    [[gnu::always_inline]] static Vec ceil(Vec x) {
        return _mm512_roundscale_ps(x, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC);
    }
    // The upper halves of a's and b's lanes, as pairs: a's in the low half of each lane.
    [[gnu::always_inline]] static __m512i pairs(Vec a, Vec b) {
        const __m512i low = _mm512_castps_si512(a);
        constexpr __mmask64 kLowHalves = 0x3333333333333333;
        return _mm512_mask_alignr_epi8(_mm512_castps_si512(b), kLowHalves, low, low, 2);
    }
};

}  // namespace
}  // namespace fastattn
