// Values as sums of bfloat16 components, and the products of components that stand for a product of
// values.
//
//   float32   x = h + m + l exactly     six products:   l h + m h + m m + h m + h l + h h
//   float16   x = h + l exactly         scores: all four products; values: l h + h h + h l
//   bfloat16  x = h                     one product; weights have two components: h l + h h
//
// What is dropped is at most 2^-24 of a product in float32; of a weighted value, 2^-14 in float16 and
// 2^-15 in bfloat16.
// Source: Henry, Tang and Heinecke, arXiv:1904.06376; Fasi, Higham et al., "Matrix multiplication
// in multiword arithmetic", SIAM J. Sci. Comput. 45(1), 2023.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/storage.hpp"

namespace fastattn {
namespace {

// A product of component `a` of the tile A with component `b` of the tile B; 0 is the highest.
struct ComponentProduct {
    int a, b;
};

// Components of keys and values (`a`), of queries (`q`) and of weights (`p`); `low`: how many
// products are summed over all steps before the others.
template <typename S>
struct ComponentsOf;

template <>
struct ComponentsOf<float> {
    static constexpr int a = 3, q = 3, p = 3, low = 5;
    static constexpr ComponentProduct scores[] = {{2, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 2}, {0, 0}};
    static constexpr ComponentProduct values[] = {{2, 0}, {1, 0}, {1, 1}, {0, 1}, {0, 2}, {0, 0}};
};
template <>
struct ComponentsOf<Half> {
    static constexpr int a = 2, q = 2, p = 2, low = 0;
    static constexpr ComponentProduct scores[] = {{1, 1}, {1, 0}, {0, 0}, {0, 1}};
    static constexpr ComponentProduct values[] = {{1, 0}, {0, 0}, {0, 1}};
};
template <>
struct ComponentsOf<BFloat> {
    static constexpr int a = 1, q = 1, p = 2, low = 0;
    static constexpr ComponentProduct scores[] = {{0, 0}};
    static constexpr ComponentProduct values[] = {{0, 1}, {0, 0}};
};

// Splits x into components, each rounded to nearest from what those before it left.
template <typename Simd, int kComponents>
[[gnu::always_inline]] inline void split(typename Simd::Vec x, typename Simd::Vec* components) {
    using Vec = typename Simd::Vec;
    using Bits = typename Simd::Bits;
#pragma GCC unroll 4
    for (int i = 0; i + 1 < kComponents; ++i) {
        components[i] = bits<Vec>((bits<Bits>(x) + 0x8000u) & 0xffff0000u);
        x -= components[i];
    }
    components[kComponents - 1] = x;
}

}  // namespace
}  // namespace fastattn
