// Scores before they are masked: their part of the scale, and s = softcap * tanh(s / softcap).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "../simd/exp.hpp"

namespace fastattn {
namespace {

// `s` has room for whole vectors.
template <typename Simd>
inline void scale_and_cap(const Task& task, typename Simd::Value* s, int64_t count) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    if (task.score_factor != 1) {
        const Vec factor = broadcast<Simd>(static_cast<T>(task.score_factor));
        for (int64_t i = 0; i < count; i += Simd::lanes) store(s + i, factor * load<Vec>(s + i));
    }
    if (task.softcap == 0) return;
    const Vec factor = broadcast<Simd>(static_cast<T>(task.softcap));
    for (int64_t i = 0; i < count; i += Simd::lanes)
        store(s + i, factor * tanh<Simd>(load<Vec>(s + i) / factor));
}

}  // namespace
}  // namespace fastattn
