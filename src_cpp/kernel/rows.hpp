// Where the rows of a task lie: row r is query r / group of head r % group.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "../tile/ahead.hpp"

namespace fastattn {
namespace {

// A row as its query and its head in the group; only the first row needs a division.
struct Place {
    int64_t query, head, group;

    Place(const Task& task, int64_t row)
        : query((task.row_begin + row) / task.group),
          head((task.row_begin + row) % task.group),
          group(task.group) {}

    void next() {
        if (++head == group) {
            head = 0;
            ++query;
        }
    }
};

// Addresses of `count` rows from `first` on, then of the last one again until `lanes` are filled:
// what is computed for the repeated ones is not used.
inline void addresses(const Task& task, const QueryRows& rows, int64_t first, int64_t count,
                      int64_t lanes, char** to) {
    Place place(task, first);
    for (int64_t lane = 0; lane < lanes; ++lane) {
        to[lane] = rows.data + place.query * rows.row + place.head * rows.head;
        if (lane + 1 < count) place.next();
    }
}

inline Stream rows_from(const RowSource& matrix, int64_t row, int64_t column = 0) {
    return {matrix.data + row * matrix.row + column * matrix.column, matrix.row};
}
// The rows from `row` on, to be asked for; their columns are assumed to be adjacent.
template <typename S>
inline Ahead<sizeof(S)> ask_for(const RowSource& matrix, int64_t row, int64_t columns) {
    return {rows_from(matrix, row), columns};
}

// Whether rows of a matrix can be read where they lie: their values are adjacent and aligned.
template <typename S>
inline bool in_place(const RowSource& rows) {
    constexpr int64_t kSize = sizeof(S);
    return rows.column == kSize && rows.row % kSize == 0 &&
           reinterpret_cast<uintptr_t>(rows.data) % kSize == 0;
}

// A row of a partial result has dim_v weighted values, the maximum and the sum.
constexpr int64_t partial_row_values(int64_t dim_v) { return dim_v + 2; }

template <typename T>
inline int64_t partial_row_bytes(int64_t dim_v) {
    return partial_row_values(dim_v) * static_cast<int64_t>(sizeof(T));
}

template <typename T>
inline T* partial_row(const Task& task, int64_t split, int64_t row) {
    const int64_t rows = task.row_end - task.row_begin;
    return static_cast<T*>(task.partial) + (split * rows + row) * partial_row_values(task.dim_v);
}

// The sinks of a vector of rows, of which the first `rows` are real; false if there are no sinks.
template <typename Simd>
inline bool sinks_of(const Task& task, int64_t first, int64_t rows, typename Simd::Value* to) {
    if (!task.sinks) return false;
    for (int64_t lane = 0; lane < Simd::lanes; ++lane) {
        const int64_t row = task.row_begin + first + (lane < rows ? lane : 0);
        to[lane] = static_cast<typename Simd::Value>(task.sinks[row % task.group]);
    }
    return true;
}

}  // namespace
}  // namespace fastattn
