// One call: its arrays, its work items, its threads and its scratch memory.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "abi.hpp"
#include "threads.hpp"

namespace fastattn {

// An array of the call.  `batch_strides` has Call::batch_axes entries, 0 for an axis that the
// array broadcasts over.
struct Array {
    char* data;
    const int64_t* batch_strides;
    int64_t head;
    int64_t row;
    int64_t column;
};

struct Call {
    Array q, k, v, out, mask;  // mask.data == nullptr: no dense mask
    Array lse;                 // in the compute type; data == nullptr: not wanted
    const int64_t* offsets;    // [batch], or nullptr: 0
    const int64_t* lengths;    // [batch], or nullptr: length_k
    const double* sinks;       // [heads_q], or nullptr
    const int64_t* batch_shape;
    int64_t batch_axes;
    DType type;
    DType mask_type;
    int64_t heads_q, heads_kv, length_q, length_k, dim, dim_v;
    double scale;
    double score_factor;  // of the scores: see Task
    double softcap;       // 0: none
    int64_t left, right;  // kUnlimited: no limit
    int64_t block_q, block_k;
    int64_t keys_per_split;  // if fewer than length_k, splits are computed apart and merged
    Threads threads;         // count: at most the number of work items
};

enum class Status { kOk, kNoMemory };

// Computes the call.  Allocates scratch first: kNoMemory means nothing was written.
Status attention(const Call& call, const KernelSet& kernels);

}  // namespace fastattn
