// The interval of keys that a row sees by band and length.  (The dense mask is dense.hpp's.)
// Works on a tile of scores held with queries along the lanes: s[key][lane].
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "exp.hpp"
#include "../simd/storage.hpp"

namespace fastattn {
namespace {

// Keys [begin, end).
struct Interval {
    int64_t begin;
    int64_t end;

    bool empty() const { return begin >= end; }
    int64_t count() const { return end - begin; }
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

// Keys that a query sees by band and length.
inline Interval visible_keys(const Task& task, int64_t query) {
    const int64_t position = query + task.offset;
    Interval keys{task.key_begin, task.key_end};
    if (task.left != kUnlimited && position - task.left > keys.begin)
        keys.begin = position - task.left;
    if (task.right != kUnlimited && position + task.right + 1 < keys.end)
        keys.end = position + task.right + 1;
    if (keys.end < keys.begin) keys.end = keys.begin;
    return keys;
}

// Calls `body` with each block of keys in `seen`, its ends cut to `seen`.  Blocks lie at multiples
// of block_k from the first key of the task, whatever is seen of them.
template <typename Body>
inline void each_block(const Task& task, Interval seen, Body body) {
    const int64_t origin = task.key_begin, step = task.block_k;
    for (int64_t first = origin + (seen.begin - origin) / step * step; first < seen.end;
         first += step)
        body(common({first, first + step}, seen));
}

// Hides the scores of keys outside their row's interval.  `begin` and `end` hold the
// intervals' bounds for each lane; s[0] belongs to key `first`.
template <typename Simd, int kVectors>
inline void hide_outside(typename Simd::Value* s, int64_t first, int64_t keys,
                         const int64_t* begin, const int64_t* end) {
    using Vec = typename Simd::Vec;
    using Int = typename Simd::Int;
    using Signed = typename SameWidth<typename Simd::Value>::Signed;
    constexpr int kLanes = Simd::lanes;
    const Vec hidden = broadcast<Simd>(-kInfinity<typename Simd::Value>);
    for (int n = 0; n < kVectors; ++n) {
        Int low, high;  // relative to `first`, within [0, keys]: they fit any lane
        for (int lane = 0; lane < kLanes; ++lane) {
            const int64_t from = begin[n * kLanes + lane] - first;
            const int64_t to = end[n * kLanes + lane] - first;
            low[lane] = static_cast<Signed>(from < 0 ? 0 : from > keys ? keys : from);
            high[lane] = static_cast<Signed>(to < 0 ? 0 : to > keys ? keys : to);
        }
        for (int64_t j = 0; j < keys; ++j) {
            typename Simd::Value* at = s + (j * kVectors + n) * kLanes;
            const Int key = static_cast<Signed>(j) - Int{};
            store(at, ((key >= low) & (key < high)) ? load<Vec>(at) : hidden);
        }
    }
}

// s = softcap * tanh(s / softcap).
template <typename Simd>
inline void cap(typename Simd::Value* s, int64_t count, typename Simd::Value softcap) {
    using Vec = typename Simd::Vec;
    const Vec factor = broadcast<Simd>(softcap);
    for (int64_t i = 0; i < count; i += Simd::lanes)
        store(s + i, factor * tanh<Simd>(load<Vec>(s + i) / factor));
}

}  // namespace
}  // namespace fastattn
