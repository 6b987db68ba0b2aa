// An exact model of the matrix unit in src_cpp/tile/amx.hpp, for any x86-64 processor with AVX2, FMA
// and F16C: the same bits, but for the payload of NaN.  It is to run under FlushSubnormals.
//
// Checked against the instructions by tests/tile_check.cpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

#include "../src_cpp/simd/vector.hpp"

namespace fastattn {
namespace {

// Vectors of 64 bytes, each in two registers.
struct TwoAvx2 : Portable<float, 64, 32> {
    struct Pair {
        __m256 low, high;
    };
    template <typename Half>
    [[gnu::always_inline]] static Vec each(Half half, Vec a, Vec b = Vec(), Vec c = Vec()) {
        const Pair x = bits<Pair>(a), y = bits<Pair>(b), z = bits<Pair>(c);
        return bits<Vec>(Pair{half(x.low, y.low, z.low), half(x.high, y.high, z.high)});
    }
    static Vec fma(Vec a, Vec b, Vec c) {
        return each([](auto x, auto y, auto z) { return _mm256_fmadd_ps(x, y, z); }, a, b, c);
    }
    static Vec max(Vec a, Vec b) {
        return each([](auto x, auto y, auto) { return _mm256_max_ps(x, y); }, a, b);
    }
    static Vec from_half(Halves halves) {
        struct {
            __m128i low, high;
        } x;
        __builtin_memcpy(&x, &halves, sizeof(x));
        return bits<Vec>(Pair{_mm256_cvtph_ps(x.low), _mm256_cvtph_ps(x.high)});
    }
    static void to_half(void* to, Vec v) {
        const Pair x = bits<Pair>(v);
        store(to, _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
        store(static_cast<char*>(to) + 16, _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
    }
};

thread_local unsigned char model_tiles[8][16][64];

struct ModelUnit {
    using Simd = TwoAvx2;
    using Vec = Simd::Vec;
    using Bits = Simd::Bits;

    template <int kTile>
    static void load(const void* from, int64_t stride) {
        for (int64_t row = 0; row < 16; ++row)
            __builtin_memcpy(model_tiles[kTile][row], static_cast<const char*>(from) + row * stride,
                             64);
    }
    template <int kTile>
    static void stream(const void* from, int64_t stride) {
        load<kTile>(from, stride);
    }
    template <int kTile>
    static void store(void* to, int64_t stride) {
        for (int64_t row = 0; row < 16; ++row)
            __builtin_memcpy(static_cast<char*>(to) + row * stride, model_tiles[kTile][row], 64);
    }
    template <int kTile>
    static void zero() {
        __builtin_memset(model_tiles[kTile], 0, sizeof(model_tiles[kTile]));
    }
    template <int kC, int kA, int kB>
    [[gnu::noinline]] static void multiply() {
        for (int row = 0; row < 16; ++row) {
            Vec even{}, odd{};
            for (int pair = 0; pair < 16; ++pair) {
                const uint32_t a = fastattn::load<uint32_t>(model_tiles[kA][row] + 4 * pair);
                const Bits b = fastattn::load<Bits>(model_tiles[kB][pair]);
                even = Simd::fma(broadcast<Simd>(bits<float>(a << 16)), bits<Vec>(b << 16), even);
                odd = Simd::fma(broadcast<Simd>(bits<float>(a & 0xffff0000u)),
                                bits<Vec>(b & 0xffff0000u), odd);
            }
            unsigned char* c = model_tiles[kC][row];
            fastattn::store(c, fastattn::load<Vec>(c) + (even + odd));
        }
    }

    // x - floor(32 x) / 32, rounded down; -0 where it is 0.
    static Vec fraction(Vec x) {
        const Vec steps = broadcast<Simd>(32), size = broadcast<Simd>(1.0f / 32);
        const Vec large = broadcast<Simd>(0x1p24f);
        const auto small = (x < large) & (x > -large);
        const Vec whole = small ? floor(x * steps) * size : x, nearest = x - whole,
                  back = nearest - x;
        const Vec error = (x - (nearest - back)) - (whole + back);
        const Vec component = bits<Vec>(bits<Bits>(nearest) + bits<Bits>(error < Vec{}));
        const Vec infinity = broadcast<Simd>(__builtin_inff());
        return ((x == infinity) | (x == -infinity)) ? Vec{} : nearest == Vec{} ? -Vec{} : component;
    }
    static Vec entry(Vec low, Vec high, Vec x) {
        const Vec step = floor(x * broadcast<Simd>(32));
        Vec found{};
        for (int lane = 0; lane < Simd::lanes; ++lane) {
            const bool valid = step[lane] > -0x1p22f && step[lane] < 0x1p22f;
            const int index = valid ? static_cast<int>(step[lane]) & 31 : 0;
            found[lane] = index < 16 ? low[index] : high[index - 16];
        }
        return found;
    }
    // In two steps, the first of which is exact.
    static Vec scale(Vec y, Vec x) {
        const Vec most = broadcast<Simd>(252), n = floor(x);
        const Vec power = n > most ? most : n < -most ? -most : n;
        const Vec first = floor(power * broadcast<Simd>(0.5f));
        return x == x ? y * power_of_two(first) * power_of_two(power - first) : x;
    }
    static Vec ceil(Vec x) {
        return Simd::each([](auto a, auto, auto) { return _mm256_ceil_ps(a); }, x);
    }
    static Bits pairs(Vec a, Vec b) { return bits<Bits>(a) >> 16 | (bits<Bits>(b) & 0xffff0000u); }

private:
    static Vec floor(Vec x) {
        return Simd::each([](auto a, auto, auto) { return _mm256_floor_ps(a); }, x);
    }
    static Vec power_of_two(Vec n) {
        return bits<Vec>((__builtin_convertvector(n, Simd::Int) + 127) << 23);
    }
};

}  // namespace
}  // namespace fastattn
