// Where the rows of a call's arrays lie in memory.  No other header knows.
//
// Keys and values come from a RowSource, row by row or as rows at a constant distance, which is how
// a tile reads them in place.  Queries, results and masks are QueryRows: row r of a task is query
// r / group of head r % group.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "../simd/storage.hpp"

namespace fastattn {
namespace {

// Rows in memory, `stride` bytes apart.
struct StridedRows {
    const char* first;
    int64_t stride;

    const char* row(int64_t index) const { return first + index * stride; }
};

inline const char* row_of(const RowSource& source, int64_t row) {
    return source.data + row * source.row;
}

// The rows from `row` on, less their first `column` columns.
inline StridedRows rows_from(const RowSource& source, int64_t row, int64_t column = 0) {
    return {row_of(source, row) + column * source.column, source.row};
}

// to[0..columns) = columns of a row from `column` on, in the compute type.
template <typename Simd, typename S>
[[gnu::always_inline]] inline void read_row(const RowSource& source, int64_t row, int64_t column,
                                            int64_t columns, typename Simd::Value* to) {
    read_row<Simd, S>(row_of(source, row) + column * source.column, source.column, columns, to);
}

// Whether the values of a row are adjacent.
template <typename S>
inline bool adjacent(const RowSource& source) {
    return source.column == static_cast<int64_t>(sizeof(S));
}

// Whether rows can be read where they lie: their values are adjacent and aligned.
template <typename S>
inline bool in_place(const RowSource& source) {
    constexpr int64_t kSize = sizeof(S);
    return adjacent<S>(source) && source.row % kSize == 0 &&
           reinterpret_cast<uintptr_t>(source.data) % kSize == 0;
}

// to[0..columns) = the first columns of a row.
template <typename S>
inline void copy_row(const RowSource& source, int64_t row, int64_t columns, S* to) {
    const char* from = row_of(source, row);
    if (adjacent<S>(source)) {
        __builtin_memcpy(to, from, static_cast<uint64_t>(columns) * sizeof(S));
    } else {
        for (int64_t c = 0; c < columns; ++c) to[c] = load<S>(from + c * source.column);
    }
}

// Whether all rows fall into the same sets of the L1 cache.
inline bool share_cache_sets(const RowSource& source) {
    constexpr int64_t kSetsBytes = 4096;
    return source.row % kSetsBytes == 0;
}

// A row's query, and its head in the group; only the first row needs a division.
struct RowIndex {
    int64_t query, head, group;

    RowIndex(const Task& task, int64_t row)
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

// One head's rows from a query on.
inline StridedRows rows_from(const QueryRows& rows, int64_t query, int64_t head) {
    return {rows.data + query * rows.row + head * rows.head, rows.row};
}

// Addresses of `count` rows from `first` on, then of the last one again until `lanes` are filled:
// what is computed for the repeated ones is not used.
inline void addresses(const Task& task, const QueryRows& rows, int64_t first, int64_t count,
                      int64_t lanes, char** to) {
    RowIndex index(task, first);
    for (int64_t lane = 0; lane < lanes; ++lane) {
        to[lane] = rows.data + index.query * rows.row + index.head * rows.head;
        if (lane + 1 < count) index.next();
    }
}

}  // namespace
}  // namespace fastattn
