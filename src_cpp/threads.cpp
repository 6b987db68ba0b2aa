// Chooses between the pool and OpenMP, and holds the OpenMP loop.
// SPDX-License-Identifier: Apache-2.0
#include "threads.hpp"

#include "pool.hpp"

#if defined(_OPENMP)
#include <omp.h>
#include <pthread.h>
#endif

namespace fastattn {

#if defined(_OPENMP)
namespace {

bool forked_child = false;

[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forked_child = true; });

void share_by_openmp(int64_t items, int threads, Body body, void* context) {
#pragma omp parallel for schedule(monotonic : dynamic, 1) num_threads(threads)
    for (int64_t item = 0; item < items; ++item) body(context, item, omp_get_thread_num());
}

}  // namespace

bool has_openmp() { return true; }
#else
bool has_openmp() { return false; }
#endif

void share(int64_t items, const Threads& threads, Body body, void* context) {
#if defined(_OPENMP)
    if (threads.count > 1 && threads.threading == Threading::kOpenMP && !forked_child)
        return share_by_openmp(items, threads.count, body, context);
#endif
    share_by_pool(items, threads.count, threads.cpus, body, context);
}

}  // namespace fastattn
