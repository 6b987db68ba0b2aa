// Exact merging of a row's partial results:
//
//   m = max m_i,  l = sum of exp(m_i - m) l_i,  O = sum of exp(m_i - m) O_i,  row = O / l
//
// Splits are taken in the order of their keys, no matter which was finished first.
// Source: Dao et al., "Flash-Decoding for long-context inference", 2023; the identity is that of
// the online softmax, arXiv:1805.02867, section 3.1.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "epilogue.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
inline void merge(const Task& task, int64_t splits) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    using Row = PartialRow<T>;
    const int64_t rows = task.row_end - task.row_begin, dim_v = task.dim_v;
    for (int64_t r = 0; r < rows; ++r) {
        T m = -kInfinity<T>, l = 0;
        for (int64_t i = 0; i < splits; ++i) {
            const T other = Row(task, i, r).m();
            m = other > m ? other : m;
        }
        for (int64_t i = 0; i < splits; ++i) {
            const Row row(task, i, r);
            T& factor = row.m();
            // Where no key of a split was visible, -inf - (-inf) would be NaN.
            const T shift = factor == -kInfinity<T> ? factor : factor - m;
            factor = exp_nonpositive<Simd>(broadcast<Simd>(shift))[0];
            l += factor * row.l();
        }
        const Vec scale = row_factors<Simd>(task, r, 1, broadcast<Simd>(m), broadcast<Simd>(l));
        const Row sum(task, 0, r);
        for (int64_t f = 0; f < dim_v; ++f) sum.values[f] *= sum.m();
        for (int64_t i = 1; i < splits; ++i) {
            const Row row(task, i, r);
            for (int64_t f = 0; f < dim_v; ++f) sum.values[f] += row.values[f] * row.m();
        }
        char* out;
        addresses(task, task.out, r, 1, 1, &out);
        write_row<Simd, S>(out, task.out.column, dim_v, sum.values, scale[0]);
        write_statistics(task, 1, &m, &l, r);
    }
}

}  // namespace
}  // namespace fastattn
