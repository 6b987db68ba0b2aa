// The online softmax of one tile of scores: weights, running maximum, running sum.
//
// Rows run along the lanes, so maximum and sum are plain vectors and nothing crosses lanes.  A
// row's sum is taken key after key within the tile, then tile after tile, so it does not depend on
// the row's neighbours.
//
// Legend: s = scores [key][lane], overwritten by the weights exp(s - m); m, l = running
// maximum and sum; alpha = exp(m_before - m), by which earlier weights are to be scaled.
// Source: Milakov and Gimelshein, arXiv:1805.02867, algorithm 3.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/exp.hpp"
#include "../simd/storage.hpp"

namespace fastattn {
namespace {

// Vectors whose exponentials are computed side by side.
inline constexpr int kExpVectors = 4;

template <int kCount>
struct Keys {
    static constexpr int count = kCount;
};

template <typename Simd, int kVectors>
inline void online_softmax(typename Simd::Value* s, int64_t keys, typename Simd::Value* m,
                           typename Simd::Value* l, typename Simd::Value* alpha) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    constexpr int kLanes = Simd::lanes;
    constexpr int kWidth = kVectors * kLanes;

    Vec m_now[kVectors], m_before[kVectors], sum[kVectors] = {};
#pragma GCC unroll 16
    for (int n = 0; n < kVectors; ++n) m_now[n] = m_before[n] = load<Vec>(m + n * kLanes);
    for (int64_t j = 0; j < keys; ++j)
#pragma GCC unroll 16
        for (int n = 0; n < kVectors; ++n)
            m_now[n] = Simd::max(load<Vec>(s + j * kWidth + n * kLanes), m_now[n]);

#pragma GCC unroll 16
    for (int n = 0; n < kVectors; ++n) {
        store(m + n * kLanes, m_now[n]);
        // Where no key was visible yet, -inf - (-inf) would be NaN: 0 gives exp(-inf) = 0.
        m_now[n] = m_now[n] == broadcast<Simd>(-kInfinity<T>) ? Vec{} : m_now[n];
        store(alpha + n * kLanes, exp_nonpositive<Simd>(m_before[n] - m_now[n]));
    }
    // Weights of kKeys keys are computed at a time, and summed one after another.
    constexpr int kKeys = kVectors < kExpVectors ? kExpVectors / kVectors : 1;
    const auto take = [&](int64_t j, auto some) {
        constexpr int kCount = decltype(some)::count * kVectors;
        Vec x[kCount];
#pragma GCC unroll 16
        for (int i = 0; i < kCount; ++i)
            x[i] = load<Vec>(s + j * kWidth + i * kLanes) - m_now[i % kVectors];
        exp_nonpositive<Simd>(x);
#pragma GCC unroll 16
        for (int i = 0; i < kCount; ++i) {
            store(s + j * kWidth + i * kLanes, x[i]);
            sum[i % kVectors] += x[i];
        }
    };
    int64_t j = 0;
    for (; j + kKeys <= keys; j += kKeys) take(j, Keys<kKeys>{});
    for (; j < keys; ++j) take(j, Keys<1>{});
#pragma GCC unroll 16
    for (int n = 0; n < kVectors; ++n) {
        const Vec earlier = load<Vec>(l + n * kLanes), factor = load<Vec>(alpha + n * kLanes);
        store(l + n * kLanes, Simd::fma(earlier, factor, sum[n]));
    }
}

// The factor for rows of maximum m and sum l: 1 / l, with sinks (or nullptr) included in the sum;
// 0 for a row to which no key is visible.
template <typename Simd>
inline typename Simd::Vec normaliser(typename Simd::Vec m, typename Simd::Vec l,
                                     const typename Simd::Value* sinks) {
    using Vec = typename Simd::Vec;
    Vec factor = broadcast<Simd>(typename Simd::Value(1)) / l;
    if (sinks) {
        const Vec sink = load<Vec>(sinks);
        const Vec m_all = Simd::max(m, sink);  // NaN in a sink passes
        const Vec alpha = exp_nonpositive<Simd>(m - m_all);
        factor = alpha / (l * alpha + exp_nonpositive<Simd>(sink - m_all));
    }
    return l == Vec{} ? Vec{} : factor;
}

}  // namespace
}  // namespace fastattn
