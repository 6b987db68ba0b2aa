// Intervals of keys.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

namespace fastattn {
namespace {

// Keys [begin, end).
struct Interval {
    int64_t begin;
    int64_t end;

    bool empty() const { return begin >= end; }
    int64_t count() const { return end - begin; }
    bool holds(int64_t key) const { return key >= begin && key < end; }
};

inline Interval common(Interval a, Interval b) {
    return {a.begin > b.begin ? a.begin : b.begin, a.end < b.end ? a.end : b.end};
}

// The shortest interval that holds both.
inline Interval hull(Interval a, Interval b) {
    if (a.empty()) return b;
    if (b.empty()) return a;
    return {a.begin < b.begin ? a.begin : b.begin, a.end > b.end ? a.end : b.end};
}

}  // namespace
}  // namespace fastattn
