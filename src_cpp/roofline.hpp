// The machine's limits, measured with the probes of one instruction set on any number of threads.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "abi.hpp"
#include "threads.hpp"

namespace fastattn {

// How to measure.
struct Probing {
    Threads threads;
    int repetitions;
    double window_seconds;  // length of each repetition of each limit
    int64_t stream_bytes;   // read by all threads together: far more than the caches hold
    int64_t cached_bytes;   // read by each thread again and again: fits its L2 cache
};

// Of all threads together, per second.
struct Roofline {
    double flops32;
    double flops64;
    double bfloat16_flops;  // 0: the instruction set has no products of bfloat16
    double stream_bytes;
    double cached_bytes;
};

enum class Probed { kOk, kNoMemory, kNoThreads, kWrongSum };

Probed roofline(const Probing& how, const KernelSet& kernels, Roofline& found);

}  // namespace fastattn
