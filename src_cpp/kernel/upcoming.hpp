// Prefetches what comes next while a block of rows multiplies: memory delivers it meanwhile.
//
// The first panel of rows asks for values while it computes scores, and for the next keys while it
// adds values.  When a block of rows starts, its other panels ask for further queries and for the
// memory that the results go to.
//
// Legend: S = storage type; panel = kPanel rows; ahead = what is asked for (tile/ahead.hpp).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/ahead.hpp"
#include "masks.hpp"
#include "rows.hpp"

namespace fastattn {
namespace {

template <typename S, int64_t kPanel>
class Upcoming {
public:
    using Asking = Ahead<sizeof(S)>;

    explicit Upcoming(const Task& task) : task_(task) {}

    // Asks for a block's keys at once, unless they have been asked for, as all but the first ones
    // usually have.  The hardware does not see them coming: a tile reads several rows side by side.
    [[gnu::noinline]] void keys_now(Interval block) const {
        if (asked_ > block.begin) return;
        for (int64_t j = block.begin; j < block.end; ++j)
            prefetch(task_.k.data + j * task_.k.row, task_.dim * task_.k.column);
    }

    // What is asked for from here on: the values from a key on, or the keys after a block.
    void values(int64_t first) { ahead_ = ask_for<S>(task_.v, first, task_.dim_v); }
    void keys_after(Interval block) {
        ahead_ = ask_for<S>(task_.k, block.end, task_.dim);
        asked_ = block.end + task_.block_k;
    }

    // Runs a panel's multiplication, which asks for memory meanwhile: the first panel goes on from
    // `ahead_`; of the others, only those with `starts` ask, for `rows`.
    template <typename Multiply>
    void during(int64_t first, bool starts, const Asking& rows, Multiply multiply) {
        if (first == 0)
            ahead_ = multiply(ahead_);
        else if (starts)
            multiply(rows);
        else
            multiply(NoAhead{});
    }

    Asking queries(int64_t first) const { return beside(task_.q, task_.dim, first, task_.group); }
    Asking results(int64_t first) const { return beside(task_.out, task_.dim_v, first, 0); }

private:
    // QueryRows `further` panels from one, as many as a panel has, but all of one head: so the panels of
    // all heads of a group together ask for all.
    Asking beside(const QueryRows& rows, int64_t columns, int64_t first, int64_t further) const {
        const int64_t panel = first / kPanel, head = panel % task_.group;
        const int64_t row = task_.row_begin + (panel - head + further) * kPanel;
        return {Stream{rows.data + row / task_.group * rows.row + head * rows.head, rows.row},
                columns};
    }

    const Task& task_;
    Asking ahead_;
    int64_t asked_ = INT64_MIN;  // keys before this one have been asked for
};

}  // namespace
}  // namespace fastattn
