// The one interface through which work is shared between threads: calls and probes use it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace fastattn {

enum class Threading : int32_t {
    kPool = 0,    // helper threads of our own (pool.cpp)
    kOpenMP = 1,  // a parallel loop of the compiler's OpenMP runtime
};

// Whether this build has OpenMP.
bool has_openmp();

struct Threads {
    int count;  // the calling thread and at most count - 1 others
    int cpus;   // CPUs that all calls of the process share
    Threading threading;
};

using Body = void (*)(void* context, int64_t item, int thread);

// Calls `body(context, item, thread)` once for each item from 0 to `items` - 1 and returns when all
// are done.  The calling thread is number 0; the others have different numbers below
// `threads.count`.  Whichever thread is free takes the next item, so a thread that shares its CPU
// with another process takes fewer, and one that does them all does them in this order.
//
// A body may wait until as many bodies run as there are items, if that is at most
// `threads.count`; it must then give up after a while, since threads may be refused.
//
// OpenMP runtimes may wait for ever in a forked child, for threads that stayed with the parent:
// there, the pool takes its place.
void share(int64_t items, const Threads& threads, Body body, void* context);

// The same for a callable `body(item, thread)`.
template <typename F>
void share(int64_t items, const Threads& threads, F&& body) {
    share(
        items, threads,
        [](void* context, int64_t item, int thread) { (*static_cast<F*>(context))(item, thread); },
        &body);
}

}  // namespace fastattn
