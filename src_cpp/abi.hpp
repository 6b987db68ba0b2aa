// The interface between the two parts of the library: plain structs.
//
//   binding -> driver -> dispatch          built for any CPU
//   KernelSet <- isa <- kernel <- simd     built once per instruction set
//
// This file has no functions, templates or standard-library headers, so that a translation unit
// built with ISA flags can include it and still exports nothing but its KernelSet.
//
// Legend: q, k, v = queries, keys, values; rows = queries of all heads that share one
// key head, ordered (query, head): row r is query r / group of head r % group;
// strides are in bytes.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

namespace fastattn {

// Mirrors DTYPES in fastattn/_dtypes.py; a test compares the two.
enum class DType : int32_t { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3, kBool = 4 };
inline constexpr int kStorageTypes = 4;

// What a call computes.
enum class Operation : int32_t { kForward = 0 };
inline constexpr int kOperations = 1;

// "No limit on this side" of a band.
inline constexpr int64_t kUnlimited = INT64_MAX;

// Queries, results or a mask of one key head: row r starts at
// data + (r / group) * row + (r % group) * head.
struct QueryRows {
    char* data;
    int64_t head;
    int64_t row;
    int64_t column;
};

// Keys or values of one head.  Only tile/rows.hpp knows where in memory a row lies.
struct RowSource {
    const char* data;
    int64_t row;
    int64_t column;
};

// Everything a kernel needs to compute what keys [key_begin, key_end) contribute to rows
// [row_begin, row_end) of one key head.
struct Task {
    QueryRows q;
    RowSource k;
    RowSource v;
    QueryRows out;
    QueryRows mask;       // data == nullptr: no dense mask
    const double* sinks;  // one for each head of the group, or nullptr
    DType mask_type;
    int64_t group;
    int64_t key_begin;  // first key that may be visible to the rows
    int64_t key_end;    // one past the last of them
    int64_t dim;
    int64_t dim_v;
    double scale;         // of the queries
    double score_factor;  // of the scores, a power of two: where `scale` alone would overflow
    double softcap;       // 0: none
    // Key j is visible to query i if i + offset - left <= j <= i + offset + right.
    int64_t offset;
    int64_t left;
    int64_t right;
    int64_t row_begin;
    int64_t row_end;
    int64_t block_k;
    void* scratch;  // scratch_bytes(...) bytes, aligned to kScratchAlignment
    // Where the keys are split: the partial result of this split, a row of
    // Kernel::partial_row_bytes for each row.  Otherwise nullptr.
    void* partial;
    double* row_max;  // [row_end - row_begin], running maximum of each row, or nullptr
    double* row_sum;  // the same for its sum of exponentials
};

inline constexpr int64_t kScratchAlignment = 64;

// Bytes of scratch for a block of `rows` rows and `block_k` keys, or -1 if that overflows.
using ScratchBytes = int64_t (*)(int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v);
using Run = void (*)(const Task&);
// Computes rows from `splits` partial results, which lie one after another at Task::partial.
using Merge = void (*)(const Task&, int64_t splits);
// Bytes of one row of a partial result.
using PartialRowBytes = int64_t (*)(int64_t dim_v);

// Of one key head of a call: rows are queries times heads of the group.
struct Extents {
    int64_t rows, keys, dim, dim_v;
};

// The kernel for one operation and storage type.
struct Kernel {
    Run run;  // nullptr: the set has no such kernel
    Merge merge;
    ScratchBytes scratch_bytes;
    PartialRowBytes partial_row_bytes;
    // Whether it is worth choosing for a call that leaves the choice open; nullptr: always.
    bool (*worthwhile)(const Extents&);
    int32_t lanes;       // values of the compute type in a vector
    int32_t tile_keys;   // blocks of a multiple of this many keys are whole tiles
    int32_t tile_rows;   // queries in a tile
    int32_t block_keys;  // keys of a block where the caller gives none
    int32_t chunk;       // columns of a wider head are taken in chunks of this many
    int32_t packed;      // bytes of each number of a block's keys and values; 0: not all are packed
};

// Loops that measure the machine's limits (kernel/probes.hpp).
inline constexpr int64_t kProbeStep = 4096;
struct Probes {
    int64_t (*fma32)(int64_t rounds);  // flops done; < 0: a wrong sum
    int64_t (*fma64)(int64_t rounds);
    int64_t (*read)(const void* from, int64_t bytes);  // bytes: a multiple of kProbeStep
    // Products of bfloat16; nullptr: the set has none.
    int64_t (*bfloat16)(int64_t rounds);
};

// CPU features, as bits; names and detection in cpu.cpp.
enum Feature : uint32_t {
    kFma = 1u << 0,
    kF16c = 1u << 1,
    kAvx2 = 1u << 2,
    kAvx512f = 1u << 3,
    kAvx512bw = 1u << 4,
    kAvx512dq = 1u << 5,
    kAvx512vl = 1u << 6,
    kAmxBf16 = 1u << 7,  // tiles, their bfloat16 product, and the permission to use them
    kAvx512Bf16 = 1u << 8,
    kFastPairs = 1u << 9,  // its products of pairs take as long as an FMA
};

// One instruction set: what it needs, its kernels, its probes.
struct KernelSet {
    const char* name;
    uint32_t needs;    // Feature bits
    uint32_t prefers;  // those without which it is too slow to be chosen where a caller does not
    // Called before and after each work item, on its thread, for processor state that the kernels
    // need; `leave` gets what `enter` returned.  nullptr: nothing to do.
    uint64_t (*enter)();
    void (*leave)(uint64_t entered);
    Kernel kernels[kOperations][kStorageTypes];
    Probes probes;
};

}  // namespace fastattn
