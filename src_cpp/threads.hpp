// The one interface through which work is shared between threads: calls and probes use it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace fastattn {

enum class Threading : int32_t {
    kPool = 0,    // helper threads of our own (pool.cpp)
    kOpenMP = 1,  // a parallel loop of the compiler's OpenMP runtime
    kHost = 2,    // one of the OpenMP runtime that `use_host` has named
};

// Whether this build has OpenMP.
bool has_openmp();

// The OpenMP runtime of another library in this process, by its functions GOMP_parallel and
// omp_get_thread_num.  A call from that library's program does best on its threads: they spin for a
// while after their own work, and would keep threads of ours off the CPUs.
void use_host(void* parallel, void* thread_number);

struct Threads {
    int count;  // the calling thread and at most count - 1 others
    int cpus;   // CPUs that all calls of the process share
    Threading threading;
};

using Body = void (*)(void* context, int64_t item, int thread);

// Calls `body(context, item, thread)` once for each item from 0 to `items` - 1 and returns when all
// are done.  The calling thread is number 0; the others have different numbers below
// `threads.count`.  Each thread takes the next item when it is free.  So a thread that shares its
// CPU with another process takes fewer items, and a single thread takes them in order.
//
// If there are at most `threads.count` items, a body may wait until all items run at the same time.
// It must give up after a while, because the system may refuse to start threads.
//
// In a forked child the pool is used instead of OpenMP, whose runtime might wait for ever for
// threads that exist only in the parent.  It is also used instead of a host that was not named.
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
