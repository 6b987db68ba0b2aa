// Runs the probes on all threads at once and times them.
//
// For each repetition of each limit, the threads wait for one another; then each works until its
// time window is over.  The rate of a thread is its work over its time, and the rates are added up.
// So all threads load the machine at the same time, as in a call, and no thread waits for another.
// The limits are measured alternately, and the best repetition of each counts, because other
// processes can only lower a rate.
// SPDX-License-Identifier: Apache-2.0
#include "roofline.hpp"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <mutex>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastattn {
namespace {

constexpr int kLimits = 5;
constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kSmallPage = 4096;

// If not all threads have arrived after this time, some could not be started.
constexpr double kMeetingSeconds = 2;

// Work between two readings of the clock: some tens of microseconds.
constexpr int64_t kRounds = 8192;
constexpr int64_t kChunkBytes = int64_t{2} << 20;

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

// One thread: its share of the memory, and where in it the stream continues.
class Worker {
public:
    Worker(const KernelSet& kernels, const Probing& how, char* share, int64_t bytes)
        : kernels_(kernels), probes_(kernels.probes), how_(how), share_(share), bytes_(bytes) {
        for (int64_t at = 0; at < bytes; at += kSmallPage) share[at] = 1;  // no page is shared
    }

    double rate_of(int limit) {
        switch (limit) {
            case 0: return rate(how_.window_seconds, [&] { return probes_.fma32(kRounds); });
            case 1: return rate(how_.window_seconds, [&] { return probes_.fma64(kRounds); });
            case 2: return rate(how_.window_seconds, [&] { return stream(); });
            case 3: return rate(how_.window_seconds, [&] { return cached(); });
            default: return probes_.bfloat16 ? bfloat16() : 0;
        }
    }

private:
    double bfloat16() {
        const uint64_t entered = kernels_.enter ? kernels_.enter() : 0;
        const double found = rate(how_.window_seconds, [&] { return probes_.bfloat16(kRounds); });
        if (kernels_.leave) kernels_.leave(entered);
        return found;
    }

    int64_t stream() {
        at_ = at_ + kChunkBytes <= bytes_ ? at_ : 0;
        digest_ ^= probes_.read(share_ + at_, kChunkBytes);
        at_ += kChunkBytes;
        return kChunkBytes;
    }

    int64_t cached() {
        int64_t read = 0;
        for (; read < kChunkBytes; read += how_.cached_bytes)
            digest_ ^= probes_.read(share_, how_.cached_bytes);
        return read;
    }

    const KernelSet& kernels_;
    const Probes& probes_;
    const Probing& how_;
    char* share_;
    int64_t bytes_;
    int64_t at_ = 0;
    int64_t digest_ = 0;
};

// Makes threads wait until `wanted` of them have arrived.  After kMeetingSeconds, the measurement is
// called off.
class Meeting {
public:
    explicit Meeting(int wanted) : missing_(wanted) {}

    // Whether all have come.
    bool join() {
        int missing = missing_.fetch_sub(1) - 1;
        const double end = now() + kMeetingSeconds;
        while (missing > 0 && now() < end) {
            std::this_thread::yield();
            missing = missing_.load();
        }
        while (missing > 0 && !missing_.compare_exchange_weak(missing, kCalledOff)) {
        }
        return held();
    }
    bool held() const { return missing_.load() == 0; }

private:
    static constexpr int kCalledOff = std::numeric_limits<int>::min() / 2;
    std::atomic<int> missing_;
};

}  // namespace

Probed roofline(const Probing& how, const KernelSet& kernels, Roofline& found) {
    const int threads = how.threads.count;
    const int64_t each = round_up(how.stream_bytes / threads, kHugePage);
    if (each > std::numeric_limits<int64_t>::max() / threads) return Probed::kNoMemory;
    const size_t bytes = static_cast<size_t>(each * threads);
    char* memory = static_cast<char*>(std::aligned_alloc(kHugePage, bytes));
    if (!memory) return Probed::kNoMemory;
#if defined(__linux__)
    madvise(memory, bytes, MADV_HUGEPAGE);  // advice: may fail
#endif

    double best[kLimits] = {}, sum[kLimits] = {};
    bool wrong = false;
    std::mutex mutex;
    Meeting meeting(threads);
    std::barrier start(threads);
    std::barrier end(threads, [&]() noexcept {
        for (int limit = 0; limit < kLimits; ++limit) {
            best[limit] = std::max(best[limit], sum[limit]);
            sum[limit] = 0;
        }
    });
    // An item for each thread: none is done before all have begun.
    share(threads, how.threads, [&](int64_t item, int) {
        if (!meeting.join()) return;
        Worker worker(kernels, how, memory + item * each, each);
        for (int repetition = 0; repetition < how.repetitions; ++repetition) {
            for (int limit = 0; limit < kLimits; ++limit) {
                start.arrive_and_wait();
                const double own = worker.rate_of(limit);
                const std::lock_guard lock(mutex);
                wrong = wrong || own < 0;
                sum[limit] += own;
            }
            end.arrive_and_wait();
        }
    });
    std::free(memory);
    if (!meeting.held()) return Probed::kNoThreads;
    if (wrong) return Probed::kWrongSum;
    found = {best[0], best[1], best[4], best[2], best[3]};
    return Probed::kOk;
}

}  // namespace fastattn
