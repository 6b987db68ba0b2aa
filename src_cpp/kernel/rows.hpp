// Where the rows of a task lie: row r is query r / group of head r % group.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"

namespace fastattn {
namespace {

// A row as its query and its head in the group; division is for the first one only.
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

// Addresses of rows first..first + count, then of the last again until `lanes` are filled:
// what is computed of the repeated ones is not used.
inline void addresses(const Task& task, const Rows& rows, int64_t first, int64_t count,
                      int64_t lanes, char** to) {
    Place place(task, first);
    for (int64_t lane = 0; lane < lanes; ++lane) {
        to[lane] = rows.data + place.query * rows.row + place.head * rows.head;
        if (lane + 1 < count) place.next();
    }
}

}  // namespace
}  // namespace fastattn
