// Chooses between the pool and OpenMP, and holds the OpenMP loops.
// SPDX-License-Identifier: Apache-2.0
#include "threads.hpp"

#include <atomic>

#include "pool.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fastattn {
namespace {

bool forked_child = false;

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forked_child = true; });
#endif

#if defined(_OPENMP)
void share_by_openmp(int64_t items, int threads, Body body, void* context) {
#pragma omp parallel for schedule(monotonic : dynamic, 1) num_threads(threads)
    for (int64_t item = 0; item < items; ++item) body(context, item, omp_get_thread_num());
}
#endif

// The host's runtime.  Its ABI is that of the code that GCC emits for `#pragma omp parallel`.
using Parallel = void (*)(void (*region)(void*), void* data, unsigned threads, unsigned flags);
using ThreadNumber = int (*)();
std::atomic<Parallel> host_parallel{nullptr};
std::atomic<ThreadNumber> host_thread_number{nullptr};

// All threads of the host take part, as in its own loops: a runtime that has to form a team of
// another size ends threads, and starts them again.
void share_by_host(Parallel parallel, int64_t items, int threads, Body body, void* context) {
    struct Loop {
        const int64_t items;
        const int threads;
        const Body body;
        void* const context;
        std::atomic<int64_t> next{0};
    } loop{items, threads, body, context};
    const auto region = [](void* data) {
        auto& loop = *static_cast<Loop*>(data);
        const int thread = host_thread_number.load(std::memory_order_relaxed)();
        if (thread >= loop.threads) return;
        for (int64_t item; (item = loop.next.fetch_add(1, std::memory_order_relaxed)) < loop.items;)
            loop.body(loop.context, item, thread);
    };
    parallel(region, &loop, 0, 0);
}

}  // namespace

#if defined(_OPENMP)
bool has_openmp() { return true; }
#else
bool has_openmp() { return false; }
#endif

void use_host(void* parallel, void* thread_number) {
    host_thread_number = reinterpret_cast<ThreadNumber>(thread_number);
    host_parallel = reinterpret_cast<Parallel>(parallel);
}

void share(int64_t items, const Threads& threads, Body body, void* context) {
    if (threads.count > 1 && !forked_child) {
#if defined(_OPENMP)
        if (threads.threading == Threading::kOpenMP)
            return share_by_openmp(items, threads.count, body, context);
#endif
        if (threads.threading == Threading::kHost)
            if (const Parallel parallel = host_parallel)
                return share_by_host(parallel, items, threads.count, body, context);
    }
    share_by_pool(items, threads.count, threads.cpus, body, context);
}

}  // namespace fastattn
