// What the SIMD traits of every instruction set share, on the compilers' vector extension: types,
// loads, stores, broadcasts, bit casts, transposition, 16-bit types.
//
// SIMD traits are a class template over the compute type (float or double) with
//   Value, Vec, Int, Bits   the type, its vector, and integer vectors of the same lanes
//   Halves                  a vector of as many 16-bit integers
//   lanes, registers        values in a vector, vector registers that a tile may fill
//   fma(a, b, c), max(a, b) a * b + c; a > b ? a : b (b where either is NaN, as MAXPS)
//   sublanes(from, stride)  as many sublanes (16 bytes) as fill a vector, from addresses that are
//                           `stride` bytes apart
//   from_half, to_half      float only: float16 from Halves to a Vec, and from a Vec to memory
//   from_bfloat             float only: bfloat16 from Halves to a Vec
//   to_bfloats              float only: two vectors to bfloat16, side by side in each lane
//   add_pairs(a, b, sum)    float with AVX512_BF16 only: sum + a[1] * b[1] + a[0] * b[0] of the pairs
//                           of bfloat16 numbers in each lane
// `Portable` gives all of it for vectors of any width; avx2.hpp and avx512.hpp replace
// what their instructions do better.
//
// No standard library: these headers are compiled under ISA flags (see README.md).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

namespace fastattn {
namespace {

// Storage-only 16-bit types.
struct Half {
    uint16_t bits;
};
struct BFloat {
    uint16_t bits;
};
// Two numbers side by side, as a factor of add_pairs.
struct BFloatPair {
    BFloat numbers[2];
};
// Numbers that a factor holds.
template <typename T>
inline constexpr int kNumbers = __is_same(T, BFloatPair) ? 2 : 1;

template <typename T>
struct SameWidth;
template <>
struct SameWidth<float> {
    using Signed = int32_t;
    using Unsigned = uint32_t;
};
template <>
struct SameWidth<double> {
    using Signed = int64_t;
    using Unsigned = uint64_t;
};

template <typename T, int kLanes>
struct VectorOf {
    typedef T type __attribute__((vector_size(kLanes * sizeof(T))));
};
template <typename T, int kLanes>
using VectorOf_t = typename VectorOf<T, kLanes>::type;

// The first of two types if `kFirst`, else the second.
template <bool kFirst, typename A, typename B>
struct Either {
    using type = A;
};
template <typename A, typename B>
struct Either<false, A, B> {
    using type = B;
};

template <typename V>
inline V load(const void* from) {
    V v;
    __builtin_memcpy(&v, from, sizeof(V));
    return v;
}

template <typename V>
inline void store(void* to, V v) {
    __builtin_memcpy(to, &v, sizeof(V));
}

template <typename To, typename From>
inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To to;
    __builtin_memcpy(&to, &from, sizeof(To));
    return to;
}

// Whether any lane of a comparison is true.
template <typename V>
inline bool any_yes(V lanes) {
    uint64_t chunks[sizeof(V) / sizeof(uint64_t)], all = 0;
    __builtin_memcpy(chunks, &lanes, sizeof(V));
    for (uint64_t chunk : chunks) all |= chunk;
    return all != 0;
}

// A number as a type, and a sequence of numbers as a type.
template <int kNumber>
struct Count {
    static constexpr int value = kNumber;
};
template <int... kIndex>
struct Sequence {};
template <int kCount, int... kIndex>
struct MakeSequence : MakeSequence<kCount - 1, kCount - 1, kIndex...> {};
template <int... kIndex>
struct MakeSequence<0, kIndex...> {
    using type = Sequence<kIndex...>;
};

// Transposes the square of kLanes vectors: log2(kLanes) rounds, in each of which every
// pair of vectors that are kStep apart swaps its off-diagonal blocks of kStep lanes.
template <typename V, int kLanes, int kStep, int... kLane>
inline void transpose_round(V* x, Sequence<kLane...>) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
        if (i & kStep) continue;
        const V a = x[i], b = x[i + kStep];
        x[i] = __builtin_shufflevector(a, b, (kLane & kStep ? kLanes + kLane - kStep : kLane)...);
        x[i + kStep] =
            __builtin_shufflevector(a, b, (kLane & kStep ? kLanes + kLane : kLane + kStep)...);
    }
}

template <typename V, int kLanes, int kStep = 1>
inline void transpose(V* x) {
    if constexpr (kStep < kLanes) {
        transpose_round<V, kLanes, kStep>(x, typename MakeSequence<kLanes>::type{});
        transpose<V, kLanes, 2 * kStep>(x);
    }
}

// Transposes the blocks of kSize lanes that kVectors vectors hold side by side: log2(kVectors)
// rounds, in each of which the first half of the vectors is merged with the second, lane by lane.
// Of blocks wider than they are high, vector i holds columns i * kSize / kVectors and on.
template <int kLanes, int kSize, int kFrom, typename V, int... kLane>
inline V merge_lanes(V a, V b, Sequence<kLane...>) {
    return __builtin_shufflevector(
        a, b, (kLane / kSize * kSize + kLane % kSize / 2 + kFrom + kLane % 2 * kLanes)...);
}

template <typename V, int kLanes, int kVectors, int kSize = kVectors, int kRound = 1>
inline void transpose_sublanes(V* x) {
    if constexpr (kRound < kVectors) {
        constexpr int kHalf = kVectors / 2;
        using Lanes = typename MakeSequence<kLanes>::type;
        V merged[kVectors];
#pragma GCC unroll 16
        for (int i = 0; i < kHalf; ++i) {
            merged[2 * i] = merge_lanes<kLanes, kSize, 0>(x[i], x[i + kHalf], Lanes{});
            merged[2 * i + 1] = merge_lanes<kLanes, kSize, kSize / 2>(x[i], x[i + kHalf], Lanes{});
        }
#pragma GCC unroll 16
        for (int i = 0; i < kVectors; ++i) x[i] = merged[i];
        transpose_sublanes<V, kLanes, kVectors, kSize, 2 * kRound>(x);
    }
}

// float16 <-> float32 without conversion instructions: exact to float32, rounded to nearest even to
// float16.  `Float` and `Bits` are scalars or vectors.
template <typename Float, typename Bits>
inline Float half_to_float(Bits half) {
    const Bits magnitude = (half & 0x7fffu) << 13;
    // 2^112 moves the exponent from float16's bias to float32's, subnormals included.
    const Float shifted = bits<Float>(magnitude) * 0x1p112f;
    const Bits special = magnitude | 0x7f800000u;  // infinity and NaN keep their mantissa
    const Bits value = (half & 0x7c00u) == 0x7c00u ? special : bits<Bits>(shifted);
    return bits<Float>(value | (half & 0x8000u) << 16);
}

template <typename Float, typename Bits>
inline Bits float_to_half(Float number) {
    const Bits all = bits<Bits>(number);
    const Bits sign = (all & 0x80000000u) >> 16;
    const Bits magnitude = all & 0x7fffffffu;
    // Below 2^-14, adding 1/2 rounds to a multiple of float16's 2^-24.
    const Bits subnormal = bits<Bits>(bits<Float>(magnitude) + 0.5f) - 0x3f000000u;
    const Bits odd = magnitude >> 13 & 1u;
    const Bits normal = (magnitude - 0x38000000u + 0xfffu + odd) >> 13;
    const Bits finite = magnitude < 0x38800000u ? subnormal : normal;
    const Bits special =
        magnitude > 0x7f800000u ? (magnitude & 0u) + 0x7e00u : (magnitude & 0u) + 0x7c00u;
    return sign | (magnitude >= 0x47800000u ? special : finite);
}

template <typename Float, typename Bits>
inline Bits float_to_bfloat(Float number) {
    const Bits all = bits<Bits>(number);
    const Bits rounded = all + 0x7fffu + (all >> 16 & 1u);
    const Bits nan = all | 0x400000u;
    return ((all & 0x7fffffffu) > 0x7f800000u ? nan : rounded) >> 16;
}

template <typename T, int kBytes, int kRegisters>
struct Portable {
    using Value = T;
    static constexpr int lanes = kBytes / static_cast<int>(sizeof(T));
    static constexpr int registers = kRegisters;
    using Vec = VectorOf_t<T, lanes>;
    using Int = VectorOf_t<typename SameWidth<T>::Signed, lanes>;
    using Bits = VectorOf_t<typename SameWidth<T>::Unsigned, lanes>;
    using Halves = VectorOf_t<uint16_t, lanes>;

    static Vec fma(Vec a, Vec b, Vec c) { return a * b + c; }
    static Vec max(Vec a, Vec b) { return a > b ? a : b; }

    static Vec sublanes(const char* from, int64_t stride) { return join<lanes>(from, stride); }

    static Vec from_half(Halves halves) {
        return half_to_float<Vec>(__builtin_convertvector(halves, Bits));
    }
    static void to_half(void* to, Vec v) {
        store(to, __builtin_convertvector(float_to_half<Vec, Bits>(v), Halves));
    }
    static Vec from_bfloat(Halves halves) {
        return bits<Vec>(__builtin_convertvector(halves, Bits) << 16);
    }
    static Bits to_bfloats(Vec low, Vec high) {
        return float_to_bfloat<Vec, Bits>(low) | float_to_bfloat<Vec, Bits>(high) << 16;
    }

private:
    template <int kValues>
    static VectorOf_t<T, kValues> join(const char* from, int64_t stride) {
        constexpr int kHalf = kValues / 2, kSublanes = kHalf * static_cast<int>(sizeof(T)) / 16;
        if constexpr (kSublanes == 0)
            return load<VectorOf_t<T, kValues>>(from);
        else
            return join(join<kHalf>(from, stride), join<kHalf>(from + kSublanes * stride, stride),
                        typename MakeSequence<kValues>::type{});
    }
    template <typename V, int... kLane>
    static auto join(V a, V b, Sequence<kLane...>) {
        return __builtin_shufflevector(a, b, kLane...);
    }
};

// A vector of one value.
template <typename Simd>
inline typename Simd::Vec broadcast(typename Simd::Value value) {
    return value - typename Simd::Vec{};  // x - 0 is x, -0 and NaN included
}
template <typename Simd>
inline typename Simd::Vec broadcast(BFloatPair pair) {
    return bits<typename Simd::Vec>(bits<uint32_t>(pair) - typename Simd::Bits{});
}

}  // namespace
}  // namespace fastattn
