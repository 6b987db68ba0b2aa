// When a block of rows prefetches what.
//
// The first panel of rows prefetches values while it computes scores, and the next keys while it
// adds values.  When a block of rows starts, its other panels prefetch further queries and the
// memory that the results go to.
//
// Legend: S = storage type; panel = kPanel rows.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "interval.hpp"
#include "prefetch.hpp"

namespace fastattn {
namespace {

template <typename S, int64_t kPanel>
class PrefetchSchedule {
public:
    using Rows = Prefetcher<sizeof(S)>;

    explicit PrefetchSchedule(const Task& task) : task_(task) {}

    // Prefetches a block's keys at once, unless that has been done, as for all but the first block.
    // The hardware does not see them coming: a tile reads several rows side by side.
    [[gnu::noinline]] void keys_now(Interval block) const {
        if (keys_end_ > block.begin) return;
        for (int64_t j = block.begin; j < block.end; ++j)
            prefetch(row_of(task_.k, j), task_.dim * task_.k.column);
    }

    // What the first panel prefetches from here on: values from a key on, or the keys after a
    // block.
    void values(int64_t first) { rows_ = prefetcher<S>(task_.v, first, task_.dim_v); }
    void keys_after(Interval block) {
        rows_ = prefetcher<S>(task_.k, block.end, task_.dim);
        keys_end_ = block.end + task_.block_k;
    }

    // Runs a panel's multiplication, which prefetches meanwhile: the first panel goes on from
    // `rows_`; of the others, only those with `starts` prefetch `rows`.
    template <typename Multiply>
    void during(int64_t first, bool starts, const Rows& rows, Multiply multiply) {
        if (first == 0)
            rows_ = multiply(rows_);
        else if (starts)
            multiply(rows);
        else
            multiply(NoPrefetch{});
    }

    Rows queries(int64_t first) const { return beside(task_.q, task_.dim, first, task_.group); }
    Rows results(int64_t first) const { return beside(task_.out, task_.dim_v, first, 0); }

private:
    // Rows `further` panels from one, as many as a panel has, but all of one head: so the panels of
    // all heads of a group together prefetch all.
    Rows beside(const QueryRows& rows, int64_t columns, int64_t first, int64_t further) const {
        const int64_t panel = first / kPanel, head = panel % task_.group;
        const int64_t row = task_.row_begin + (panel - head + further) * kPanel;
        return {rows_from(rows, row / task_.group, head), columns};
    }

    const Task& task_;
    Rows rows_;
    int64_t keys_end_ = INT64_MIN;  // keys before this one have been prefetched
};

}  // namespace
}  // namespace fastattn
