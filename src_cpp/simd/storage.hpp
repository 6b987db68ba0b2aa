// Converts rows of the caller's arrays, in any storage type and at any stride, to rows of the
// compute type and back.
//
// Legend: S = storage type, T = compute type; column = bytes between values of a row.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vector.hpp"

namespace fastattn {
namespace {

// An element of a Boolean mask: one byte, True = visible.  Converts to the number that is added to
// a score.
struct Bool {
    uint8_t byte;
};

template <typename T>
inline constexpr T kInfinity = __builtin_inf();
template <typename T>
inline constexpr T kLargest = sizeof(T) == 4 ? __FLT_MAX__ : __DBL_MAX__;

template <typename T, typename S>
inline T to_compute(S value) {
    return static_cast<T>(value);
}
template <typename T>
inline T to_compute(Half value) {
    return static_cast<T>(half_to_float<float, uint32_t>(value.bits));
}
template <typename T>
inline T to_compute(BFloat value) {
    return static_cast<T>(bits<float>(static_cast<uint32_t>(value.bits) << 16));
}
template <typename T>
inline T to_compute(Bool value) {
    return value.byte ? T(0) : -kInfinity<T>;
}

template <typename S, typename T>
inline S to_storage(T value) {
    if constexpr (sizeof(S) == sizeof(T)) {
        return value;
    } else if constexpr (__is_same(S, Half)) {
        return {static_cast<uint16_t>(float_to_half<float, uint32_t>(value))};
    } else {
        return {static_cast<uint16_t>(float_to_bfloat<float, uint32_t>(value))};
    }
}

// Widens as many 16-bit values as a vector has lanes.
template <typename Simd, typename S>
inline typename Simd::Vec widen(typename Simd::Halves values) {
    if constexpr (__is_same(S, Half))
        return Simd::from_half(values);
    else
        return Simd::from_bfloat(values);
}

// Loads a vector's worth of adjacent values.
template <typename Simd, typename S>
inline typename Simd::Vec load_values(const char* from) {
    using Vec = typename Simd::Vec;
    using Bits = typename Simd::Bits;
    if constexpr (__is_same(S, typename Simd::Value)) {
        return load<Vec>(from);
    } else if constexpr (__is_same(S, Half) || __is_same(S, BFloat)) {
        return widen<Simd, S>(load<typename Simd::Halves>(from));
    } else if constexpr (__is_same(S, Bool)) {
        using Elements = VectorOf_t<uint8_t, Simd::lanes>;
        const Bits visible = __builtin_convertvector(load<Elements>(from), Bits);
        return visible != Bits{} ? Vec{} : broadcast<Simd>(-kInfinity<typename Simd::Value>);
    } else {  // a float mask over double scores
        using Elements = VectorOf_t<S, Simd::lanes>;
        return __builtin_convertvector(load<Elements>(from), Vec);
    }
}

template <typename Simd, typename S>
inline void store_values(char* to, typename Simd::Vec v) {
    if constexpr (__is_same(S, typename Simd::Value)) {
        store(to, v);
    } else if constexpr (__is_same(S, Half)) {
        Simd::to_half(to, v);
    } else {
        using Elements = VectorOf_t<uint16_t, Simd::lanes>;
        using Bits = typename Simd::Bits;
        store(to, __builtin_convertvector(float_to_bfloat<typename Simd::Vec, Bits>(v), Elements));
    }
}

// to[0..count) = the row's values.  Inlined because it is also called for just a line or two.
template <typename Simd, typename S>
[[gnu::always_inline]] inline void read_row(const char* from, int64_t column, int64_t count,
                                            typename Simd::Value* to) {
    using T = typename Simd::Value;
    int64_t i = 0;
    if (column == static_cast<int64_t>(sizeof(S)))
        for (; i + Simd::lanes <= count; i += Simd::lanes)
            store(to + i, load_values<Simd, S>(from + i * column));
    for (; i < count; ++i) to[i] = to_compute<T>(load<S>(from + i * column));
}

// The result of a sum of weighted values: -0 becomes 0.  A key that only other rows of a block see
// adds 0, so the sign of a sum that underflows would tell how the rows were divided into blocks.
template <typename X>
[[gnu::always_inline]] inline X result(X sum, X factor) {
    return (sum + X{}) * factor;
}

// The way back: the row's values are the results of the sums from[0..count).
template <typename Simd, typename S>
inline void write_row(char* to, int64_t column, int64_t count, const typename Simd::Value* from,
                      typename Simd::Value factor) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    int64_t i = 0;
    if (column == static_cast<int64_t>(sizeof(S)))
        for (; i + Simd::lanes <= count; i += Simd::lanes)
            store_values<Simd, S>(to + i * column,
                                  result(load<Vec>(from + i), broadcast<Simd>(factor)));
    for (; i < count; ++i) store(to + i * column, to_storage<S>(result<T>(from[i], factor)));
}

template <typename T>
inline bool is_finite(T value) {
    return value - value == 0;  // the difference is NaN for infinity and NaN
}

// Whether `count` adjacent values are finite.
template <typename Simd, typename S>
inline bool all_finite(const S* row, int64_t count) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    Vec sum{};  // stays 0 unless a value is not finite
    int64_t i = 0;
    for (; i + Simd::lanes <= count; i += Simd::lanes) {
        const Vec v = load_values<Simd, S>(reinterpret_cast<const char*>(row + i));
        sum += v - v;
    }
    bool finite = true;
    for (int lane = 0; lane < Simd::lanes; ++lane) finite &= sum[lane] == 0;
    for (; i < count; ++i) finite &= is_finite(to_compute<T>(row[i]));
    return finite;
}

}  // namespace
}  // namespace fastattn
