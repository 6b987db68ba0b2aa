// Which rows of which head, and which keys, each work item of a call computes.
//
// A work item is a block of rows (queries of all heads that share a key head) of one batch entry
// and key head.  Its keys may be split; the partial results of the splits are merged.  Where there
// are few blocks, each split is a work item of its own.
//
// How keys are split and merged does not depend on the threads that compute them.  Therefore a
// result depends neither on the number of threads nor on the other work items.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

namespace fastattn {

// With fewer work items per thread than this, threads are left without work at the end of a call
// unless the work is balanced explicitly.  cython_.py takes it from the binding.
inline constexpr int64_t kFewItems = 4;

// What the division into work items depends on.
struct Extent {
    int64_t batch, heads_kv, rows, keys;  // rows: of one key head
    int64_t block_q, keys_per_split;
    int threads;
};

struct WorkItem {
    int64_t batch, head;  // flat index of the batch entry; key head
    int64_t row_begin, row_end;
    int64_t block;                   // index among the call's blocks of rows
    int64_t split_begin, split_end;  // the splits that it computes
};

class Schedule {
public:
    // `later_first`: more keys are visible to later rows, so these items go first: the last items
    // then take the least time.
    Schedule(const Extent& extent, bool later_first)
        : extent_(extent),
          later_first_(later_first),
          block_rows_(std::min(extent.block_q, extent.rows)),
          blocks_of_head_(block_rows_ ? (extent.rows + block_rows_ - 1) / block_rows_ : 0),
          blocks_(extent.batch * extent.heads_kv * blocks_of_head_),
          splits_(std::max<int64_t>(
              1, (extent.keys + extent.keys_per_split - 1) / extent.keys_per_split)),
          distributes_splits_(splits_ > 1 && blocks_ < kFewItems * extent.threads) {}

    int64_t items() const { return distributes_splits_ ? blocks_ * splits_ : blocks_; }
    int64_t blocks() const { return blocks_; }
    int64_t block_rows() const { return block_rows_; }  // the most of any block
    int64_t splits() const { return splits_; }
    // Whether each split is a work item of its own.
    bool distributes_splits() const { return distributes_splits_; }

    WorkItem item(int64_t index) const {
        const int64_t split = distributes_splits_ ? index % splits_ : 0;
        const int64_t block = distributes_splits_ ? index / splits_ : index;
        const int64_t of_head = block % blocks_of_head_, head = block / blocks_of_head_;
        const int64_t begin =
            (later_first_ ? blocks_of_head_ - 1 - of_head : of_head) * block_rows_;
        return {.batch = head / extent_.heads_kv,
                .head = head % extent_.heads_kv,
                .row_begin = begin,
                .row_end = std::min(extent_.rows, begin + block_rows_),
                .block = block,
                .split_begin = split,
                .split_end = distributes_splits_ ? split + 1 : splits_};
    }

    // First key of a split; the split after it begins where it ends.
    int64_t split_key(int64_t split) const { return split * extent_.keys_per_split; }

private:
    const Extent extent_;
    const bool later_first_;
    const int64_t block_rows_, blocks_of_head_, blocks_, splits_;
    const bool distributes_splits_;
};

inline int64_t work_items(const Extent& extent) { return Schedule(extent, false).items(); }

}  // namespace fastattn
