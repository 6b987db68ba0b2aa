// Runs the probes on all threads at once and times them.
//
// For each repetition of each limit, the threads wait for one another; then each works until its
// window is over.  Its rate is its own work over its own time, and the rates are added up.  So the
// threads disturb one another as those of a call do, and none is waited for.  The limits take
// turns, and the best repetition of each counts: what a neighbour takes away is no limit of the
// machine.  Unlike a call (pool.cpp), a probe needs all of its threads: hence OpenMP.
// SPDX-License-Identifier: Apache-2.0
#include "roofline.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastattn {
namespace {

constexpr int kLimits = 4;
constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kSmallPage = 4096;

// Work between two looks at the clock: some tens of microseconds.
constexpr int64_t kRounds = 8192;
constexpr int64_t kChunkBytes = int64_t{2} << 20;

// Some OpenMP runtimes wait for ever in a forked child, for threads that stayed with the parent.
bool forked_child = false;

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forked_child = true; });
#endif

bool startable(int threads) {
#if defined(_OPENMP)
    return threads == 1 || !forked_child;
#else
    return threads == 1;
#endif
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

int64_t round_up(int64_t bytes, int64_t to) { return (bytes + to - 1) / to * to; }

// One thread's rate at one limit: calls `work`, which returns how much it did, until the window is
// over.  -1 if the work was done wrong.
template <typename Work>
double rate(double window_seconds, Work work) {
    const double start = now();
    double done = 0, seconds = 0;
    do {
        const int64_t more = work();
        if (more < 0) return -1;
        done += static_cast<double>(more);
        seconds = now() - start;
    } while (seconds < window_seconds);
    return done / seconds;
}

// One thread: its part of the memory, and where in it the stream continues.
class Worker {
public:
    Worker(const Probes& probes, const Probing& how, char* part, int64_t bytes)
        : probes_(probes), how_(how), part_(part), bytes_(bytes) {
        for (int64_t at = 0; at < bytes; at += kSmallPage) part[at] = 1;  // no page is shared
    }

    double rate_of(int limit) {
        switch (limit) {
            case 0: return rate(how_.window_seconds, [&] { return probes_.fma32(kRounds); });
            case 1: return rate(how_.window_seconds, [&] { return probes_.fma64(kRounds); });
            case 2: return rate(how_.window_seconds, [&] { return stream(); });
            default: return rate(how_.window_seconds, [&] { return cached(); });
        }
    }

private:
    int64_t stream() {
        at_ = at_ + kChunkBytes <= bytes_ ? at_ : 0;
        digest_ ^= probes_.read(part_ + at_, kChunkBytes);
        at_ += kChunkBytes;
        return kChunkBytes;
    }

    int64_t cached() {
        int64_t read = 0;
        for (; read < kChunkBytes; read += how_.cached_bytes)
            digest_ ^= probes_.read(part_, how_.cached_bytes);
        return read;
    }

    const Probes& probes_;
    const Probing& how_;
    char* part_;
    int64_t bytes_;
    int64_t at_ = 0;
    int64_t digest_ = 0;
};

}  // namespace

Probed roofline(const Probing& how, const KernelSet& kernels, Roofline& found) {
    if (!startable(how.threads)) return Probed::kNoThreads;
    const int64_t part = round_up(how.stream_bytes / how.threads, kHugePage);
    if (part > std::numeric_limits<int64_t>::max() / how.threads) return Probed::kNoMemory;
    const size_t bytes = static_cast<size_t>(part * how.threads);
    char* memory = static_cast<char*>(std::aligned_alloc(kHugePage, bytes));
    if (!memory) return Probed::kNoMemory;
#if defined(__linux__)
    madvise(memory, bytes, MADV_HUGEPAGE);  // advice: may fail
#endif

    double best[kLimits] = {}, sum[kLimits] = {};
    bool wrong = false;
    int present = 1;
#pragma omp parallel num_threads(how.threads)
    {
        int self = 0;
#if defined(_OPENMP)
        self = omp_get_thread_num();
#pragma omp single
        present = omp_get_num_threads();
#endif
        Worker worker(kernels.probes, how, memory + self * part, part);
        for (int repetition = 0; repetition < how.repetitions; ++repetition) {
            for (int limit = 0; limit < kLimits; ++limit) {
#pragma omp barrier
                const double own = worker.rate_of(limit);
#pragma omp critical
                {
                    wrong = wrong || own < 0;
                    sum[limit] += own;
                }
            }
#pragma omp barrier
#pragma omp single
            for (int limit = 0; limit < kLimits; ++limit) {
                best[limit] = std::max(best[limit], sum[limit]);
                sum[limit] = 0;
            }
        }
    }
    std::free(memory);
    if (present != how.threads) return Probed::kNoThreads;
    if (wrong) return Probed::kWrongSum;
    found = {best[0], best[1], best[2], best[3]};
    return Probed::kOk;
}

}  // namespace fastattn
