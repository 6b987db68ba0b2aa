// The online softmax of few rows: as in softmax.hpp, but a vector holds adjacent keys of one row.
//
// Maxima are taken across lanes.  Accumulators are not: the weights of several rows are transposed,
// and those of a key are added at once, key after key as in softmax.hpp, so a row has the same bits
// in both.
//
// Legend: s = scores in tiles [row][key] of kTileKeys keys, overwritten by the weights exp(s - m);
// m, l = running maximum and sum of a row; alpha = exp(m_before - m), what earlier weights are to
// be scaled by; sublane = 16 bytes: as many rows as it has values are taken together.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "score_tiles.hpp"
#include "softmax.hpp"

namespace fastattn {
namespace {

// The largest of a vector's lanes, in all of them.
template <typename Simd, int kStep = Simd::lanes / 2, int... kLane>
inline typename Simd::Vec max_of_lanes(typename Simd::Vec v, Sequence<kLane...> lanes) {
    v = Simd::max(v, __builtin_shufflevector(v, v, (kLane ^ kStep)...));
    if constexpr (kStep > 1) v = max_of_lanes<Simd, kStep / 2>(v, lanes);
    return v;
}

// Adds transposed weights to the accumulators of a sublane of rows: those of the keys kFrom, kFrom
// + 1...
template <int kLanes, int kFrom = 0, typename V, int kSublane, typename Accumulators, int... kLane>
inline void add_in_order(const V (&weights)[kSublane], Accumulators& accumulators,
                         Sequence<kLane...> lanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kSublane; ++i)
        accumulators += __builtin_shufflevector(weights[i], weights[i], (kFrom + kLane)...);
    if constexpr (kFrom + kSublane < kLanes)
        add_in_order<kLanes, kFrom + kSublane>(weights, accumulators, lanes);
}

// Each row of `s` has room for a multiple of kExpVectors vectors of keys.
template <typename Simd, int kRows, int kTileKeys>
[[gnu::always_inline]] inline void decode_softmax(typename Simd::Value* s, int64_t keys,
                                                  typename Simd::Value* m, typename Simd::Value* l,
                                                  typename Simd::Value* alpha) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    constexpr int kLanes = Simd::lanes;
    constexpr int kSublane = 16 / sizeof(T);
    constexpr int kTogether = kRows < kSublane ? kRows : kSublane;  // rows, and vectors of each
    constexpr int kVectors = kExpVectors / kTogether;
    constexpr int64_t kStep = kVectors * kLanes;
    static_assert(kRows <= kLanes && kRows % kTogether == 0 && kExpVectors % kSublane == 0,
                  "rows are taken in whole sublanes");
    using Lanes = typename MakeSequence<kLanes>::type;
    using Sublane = typename MakeSequence<kSublane>::type;

    const auto at = [s](int64_t r, int64_t j) { return s + score_index<kRows, kTileKeys>(r, j); };
    const int64_t end = (keys + kStep - 1) / kStep * kStep;
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r)
        for (int64_t j = keys; j < end; ++j) *at(r, j) = -kInfinity<T>;  // no keys: weight 0

    const Vec m_before = load<Vec>(m);
    Vec m_now[kRows];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) m_now[r] = broadcast<Simd>(m[r]);
    for (int64_t j = 0; j < end; j += kLanes)
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) m_now[r] = Simd::max(load<Vec>(at(r, j)), m_now[r]);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
        m_now[r] = max_of_lanes<Simd>(m_now[r], Lanes{});
        m[r] = m_now[r][0];
        // Where no key was visible yet, -inf - (-inf) would be NaN: 0 gives exp(-inf) = 0.
        m_now[r] = m_now[r] == broadcast<Simd>(-kInfinity<T>) ? Vec{} : m_now[r];
    }

    T accumulators[kLanes] = {};
#pragma GCC unroll 16
    for (int first = 0; first < kRows; first += kTogether) {
        VectorOf_t<T, kSublane> sum{};
        for (int64_t j = 0; j < end; j += kStep) {
            Vec x[kExpVectors];  // [vector][row]
#pragma GCC unroll 16
            for (int i = 0; i < kExpVectors; ++i) {
                const int r = first + i % kTogether;
                x[i] = load<Vec>(at(r, j + i / kTogether * kLanes)) - m_now[r];
            }
            exp_nonpositive<Simd>(x);
#pragma GCC unroll 16
            for (int n = 0; n < kVectors; ++n) {
                Vec weights[kSublane] = {};
#pragma GCC unroll 16
                for (int i = 0; i < kTogether; ++i) {
                    weights[i] = x[n * kTogether + i];
                    store(at(first + i, j + n * kLanes), weights[i]);
                }
                transpose_sublanes<Vec, kLanes, kSublane>(weights);
                add_in_order<kLanes>(weights, sum, Sublane{});
            }
        }
        __builtin_memcpy(accumulators + first, &sum, kTogether * sizeof(T));
    }
    const Vec m_all = load<Vec>(m);
    const Vec factor =
        exp_nonpositive<Simd>(m_before - (m_all == broadcast<Simd>(-kInfinity<T>) ? Vec{} : m_all));
    store(alpha, factor);
    store(l, Simd::fma(load<Vec>(l), factor, load<Vec>(accumulators)));
}

}  // namespace
}  // namespace fastattn
