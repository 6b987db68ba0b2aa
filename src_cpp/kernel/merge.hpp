// Exact merging of a row's results from parts of the keys:
//
//   m = max m_i,  l = sum of exp(m_i - m) l_i,  O = sum of exp(m_i - m) O_i,  row = O / l
//
// Parts are taken in the order of their keys, no matter which was finished first.
// Source: Dao et al., "Flash-Decoding for long-context inference", 2023; the identity is that of
// the online softmax, arXiv:1805.02867, section 3.1.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rows.hpp"
#include "softmax.hpp"
#include "../simd/storage.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
inline void merge(const Task& task, int64_t splits) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    constexpr int64_t kLanes = Simd::lanes;
    const int64_t rows = task.row_end - task.row_begin, dim_v = task.dim_v;
    for (int64_t r = 0; r < rows; ++r) {
        T m = -kInfinity<T>, l = 0;
        for (int64_t i = 0; i < splits; ++i) {
            const T other = partial_row<T>(task, i, r)[dim_v];
            m = other > m ? other : m;
        }
        for (int64_t i = 0; i < splits; ++i) {
            T* part = partial_row<T>(task, i, r);
            T& top = part[dim_v];  // becomes the part's factor
            // For a part in which the row saw nothing: -inf - (-inf) would be NaN.
            const T shift = top == -kInfinity<T> ? top : top - m;
            top = exp_nonpositive<Simd>(broadcast<Simd>(shift))[0];
            l += top * part[dim_v + 1];
        }
        T sinks[kLanes];
        const bool given = sinks_of<Simd>(task, r, 1, sinks);
        const Vec scale = normaliser<Simd>(broadcast<Simd>(m), broadcast<Simd>(l),
                                           given ? sinks : nullptr);
        T* sum = partial_row<T>(task, 0, r);
        for (int64_t f = 0; f < dim_v; ++f) sum[f] *= sum[dim_v];
        for (int64_t i = 1; i < splits; ++i) {
            const T* part = partial_row<T>(task, i, r);
            for (int64_t f = 0; f < dim_v; ++f) sum[f] += part[f] * part[dim_v];
        }
        char* out;
        addresses(task, task.out, r, 1, 1, &out);
        write_row<Simd, S>(out, task.out.column, dim_v, sum, scale[0]);
        if (task.row_max) {
            task.row_max[r] = static_cast<double>(m);
            task.row_sum[r] = static_cast<double>(l);
        }
    }
}

}  // namespace
}  // namespace fastattn
