// Columns of keys: a sublane is 16 bytes of adjacent columns of a key, a vector holds sublanes of
// several keys, and as many vectors as a sublane has lanes are transposed together.  After that, a
// vector holds a column, or two of a 16-bit type, of as many adjacent keys as it has lanes.
//
// Legend: S = storage type; kSublaneLanes = lanes of 32 or 64 bits of a sublane.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/storage.hpp"

namespace fastattn {
namespace {

template <typename Simd>
inline constexpr int kSublaneLanes = 16 / sizeof(typename Simd::Value);

// Columns that a lane holds.  The two columns of a 16-bit type are transposed at once, which takes
// half the instructions.  The first column of bfloat16 must be the low half: a shift and a bit mask then convert the two.
template <typename S>
inline constexpr int kColumnsOfLane =
    __is_same(S, Half) || (__is_same(S, BFloat) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__) ? 2
                                                                                              : 1;

// Whether columns are converted from memory.
template <typename S>
inline constexpr bool kConvertsFromMemory = __is_same(S, Half);

// Loads the sublanes of the keys at `from`, `from` + stride...
template <typename Simd, typename S>
inline typename Simd::Vec load_sublanes(const char* from, int64_t stride) {
    if constexpr (__is_same(S, BFloat) && kColumnsOfLane<S> == 1) {
        constexpr int kSublanes = Simd::lanes / 4;
        VectorOf_t<uint64_t, kSublanes> sublanes;
        for (int n = 0; n < kSublanes; ++n) sublanes[n] = load<uint64_t>(from + n * stride);
        return widen<Simd, S>(bits<typename Simd::Halves>(sublanes));
    } else {
        return Simd::sublanes(from, stride);
    }
}

// The first, then the second half of each sublane.
template <typename V, int... kHalf>
inline V separate(V v, Sequence<kHalf...>) {
    constexpr int kHalves = sizeof...(kHalf);
    const auto halves = bits<VectorOf_t<uint64_t, kHalves>>(v);
    return bits<V>(
        __builtin_shufflevector(halves, halves, (2 * kHalf % kHalves + 2 * kHalf / kHalves)...));
}

// Transposes the sublanes of as many vectors of keys as a sublane has lanes: vector i holds key
// i, and every kSublaneLanes-th after it.
template <typename Simd, typename S>
inline void transpose_keys(typename Simd::Vec (&x)[kSublaneLanes<Simd>]) {
    constexpr int kSize = kSublaneLanes<Simd>;
    if constexpr (__is_same(S, Half)) {
        using Numbers = VectorOf_t<uint16_t, 2 * Simd::lanes>;
        Numbers numbers[kSize];
#pragma GCC unroll 16
        for (int i = 0; i < kSize; ++i) numbers[i] = bits<Numbers>(x[i]);
        transpose_sublanes<Numbers, 2 * Simd::lanes, kSize, 2 * kSize>(numbers);
#pragma GCC unroll 16
        for (int i = 0; i < kSize; ++i)
            x[i] = bits<typename Simd::Vec>(
                separate(numbers[i], typename MakeSequence<Simd::lanes / 2>::type{}));
    } else {
        transpose_sublanes<typename Simd::Vec, Simd::lanes, kSize>(x);
    }
}

// Column number `column` of a transposed vector's.
template <typename Simd, typename S>
inline typename Simd::Vec column_of(const typename Simd::Vec& keys, int column) {
    if constexpr (kColumnsOfLane<S> == 1) {
        return keys;
    } else if constexpr (__is_same(S, Half)) {
        using Halves = typename Simd::Halves;
        return Simd::from_half(load<Halves>(reinterpret_cast<const Halves*>(&keys) + column));
    } else {
        const auto lanes = bits<typename Simd::Bits>(keys);
        return bits<typename Simd::Vec>(column ? lanes & 0xffff0000u : lanes << 16);
    }
}

}  // namespace
}  // namespace fastattn
