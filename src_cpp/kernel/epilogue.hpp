// The epilogue of a row, after all keys: its weighted values, maximum m and sum l become a row of
// the result, or of a partial result that is merged with others.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/rows.hpp"
#include "../tile/softmax.hpp"

namespace fastattn {
namespace {

// A row of a partial result: dim_v weighted values, then m and l.
template <typename T>
struct PartialRow {
    T* values;
    int64_t dim_v;

    PartialRow(const Task& task, int64_t split, int64_t row)
        : values(static_cast<T*>(task.partial) +
                 (split * (task.row_end - task.row_begin) + row) * count(task.dim_v)),
          dim_v(task.dim_v) {}
    T& m() const { return values[dim_v]; }
    T& l() const { return values[dim_v + 1]; }

    static int64_t bytes(int64_t dim_v) { return count(dim_v) * static_cast<int64_t>(sizeof(T)); }

private:
    static int64_t count(int64_t dim_v) { return dim_v + 2; }
};

// What the weighted values of a vector of rows from `first` on are to be multiplied by.
template <typename Simd>
inline typename Simd::Vec row_factors(const Task& task, int64_t first, int64_t rows,
                                      typename Simd::Vec m, typename Simd::Vec l) {
    using T = typename Simd::Value;
    if (!task.sinks) return normaliser<Simd>(m, l, nullptr);
    T sinks[Simd::lanes];
    for (int64_t lane = 0; lane < Simd::lanes; ++lane) {
        const int64_t row = task.row_begin + first + (lane < rows ? lane : 0);
        sinks[lane] = static_cast<T>(task.sinks[row % task.group]);
    }
    return normaliser<Simd>(m, l, sinks);
}

template <typename T>
inline void write_statistics(const Task& task, int64_t rows, const T* m, const T* l,
                             int64_t first = 0) {
    if (!task.row_max) return;
    for (int64_t r = 0; r < rows; ++r) {
        task.row_max[first + r] = static_cast<double>(m[r]);
        task.row_sum[first + r] = static_cast<double>(l[r]);
    }
}

}  // namespace
}  // namespace fastattn
