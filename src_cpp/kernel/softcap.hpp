// Limits scores smoothly: s = softcap * tanh(s / softcap).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/exp.hpp"

namespace fastattn {
namespace {

template <typename Simd>
inline void cap(typename Simd::Value* s, int64_t count, typename Simd::Value softcap) {
    using Vec = typename Simd::Vec;
    const Vec factor = broadcast<Simd>(softcap);
    for (int64_t i = 0; i < count; i += Simd::lanes)
        store(s + i, factor * tanh<Simd>(load<Vec>(s + i) / factor));
}

}  // namespace
}  // namespace fastattn
