// Which keys are visible to a row by band and length, and the classification of a tile.  The dense
// mask is in dense.hpp.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/storage.hpp"
#include "../tile/panels.hpp"
#include "../tile/rows.hpp"
#include "dense.hpp"

namespace fastattn {
namespace {

// Keys that are visible to a query.
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

// Keys that are visible to some row of a task, and to every row of it.
struct Visible {
    Interval some, every;

    // Whether some key of a block may be masked for some row.
    bool may_mask(const Task& task, Interval block) const {
        return task.mask.data || block.begin < every.begin || block.end > every.end;
    }
};

// Calls `body` with each row and the keys that are visible to it.
template <typename Body>
inline Visible visible_rows(const Task& task, Body body) {
    Visible all{{task.key_begin, task.key_begin}, {0, INT64_MAX}};
    const int64_t rows = task.row_end - task.row_begin;
    RowIndex index(task, 0);
    for (int64_t r = 0; r < rows; ++r) {
        const Interval keys = visible_keys(task, index.query);
        if (r + 1 < rows) index.next();
        body(r, keys);
        all.every = common(all.every, keys);
        all.some = hull(all.some, keys);
    }
    return all;
}

// Calls `body` with each block of the visible keys, its ends cut to them.  Blocks lie at multiples
// of block_k from the first key of the task, whatever is visible of them.
template <typename Body>
inline void each_block(const Task& task, Interval visible, Body body) {
    const int64_t origin = task.key_begin, step = task.block_k;
    for (int64_t first = origin + (visible.begin - origin) / step * step; first < visible.end;
         first += step)
        body(common({first, first + step}, visible));
}

// Classifies the tile of `rows` rows from `first` on and a block of keys: empty, partial or full.
// `visible` gives the keys that are visible to a row; at most kMostRows rows.
template <typename Simd, typename S, int64_t kMostRows, typename Rows>
inline TileMask classify(const Task& task, int64_t first, int64_t rows, Interval block,
                         Rows visible) {
    Interval some{block.begin, block.begin}, every = block;
    for (int64_t r = first; r < first + rows; ++r) {
        const Interval keys = common(visible(r), block);
        some = hull(some, keys);
        every = common(every, keys);
    }
    TileMask tile;
    tile.dense =
        task.mask.data && !some.empty() && trim<Simd, S, kMostRows>(task, first, rows, some);
    tile.keys = some;
    tile.every = every;
    return tile;
}

// Masks the scores s[key][lane] of keys outside their row's interval.  `begin` and `end` hold the
// intervals' bounds for each lane; s[0] belongs to key `first`.
template <typename Simd, int kVectors>
inline void mask_outside(typename Simd::Value* s, int64_t first, int64_t keys, const int64_t* begin,
                         const int64_t* end) {
    using Vec = typename Simd::Vec;
    using Int = typename Simd::Int;
    using Signed = typename SameWidth<typename Simd::Value>::Signed;
    constexpr int kLanes = Simd::lanes;
    const Vec masked = broadcast<Simd>(-kInfinity<typename Simd::Value>);
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
            store(at, ((key >= low) & (key < high)) ? load<Vec>(at) : masked);
        }
    }
}

}  // namespace
}  // namespace fastattn
