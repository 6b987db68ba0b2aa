// A pool of helper threads.  A call waits only for the helpers that have begun to work for it.
//
// An OpenMP parallel region ends when its last thread does, even if that thread has not been given
// a CPU yet.  If another process is busy, a call of a tenth of a millisecond can then take a time
// slice of some milliseconds.  Here, a thread that comes so late finds the job closed.
//
//   job      a call in progress; one atomic word holds its state
//   slot     room for one helper in a job; a job has a slot for each thread except the caller
//   epoch    number of jobs opened so far; when it changes, there may be a free slot
//
// A thread that waits spins for a while and then parks.  Threads are started when they are first
// needed and never end; the end of the process waits for none of them.
// SPDX-License-Identifier: Apache-2.0
#include "pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif

#include "affinity.hpp"
#include "allocate.hpp"

namespace fastattn {
namespace {

// How long a thread that waits for another one spins before it parks: longer than Python needs
// between two calls and longer than a wake-up takes, but short compared with a time slice.
constexpr auto kSpin = std::chrono::microseconds(200);

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Polls `true_now()` for up to kSpin; returns whether it became true.
template <typename Condition>
bool spin(Condition true_now) {
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int poll = 0; poll < 32; ++poll) {
            if (true_now()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

void alone(int64_t items, Body body, void* context) {
    for (int64_t item = 0; item < items; ++item) body(context, item, 0);
}

// One call.  A job is never freed, so a helper may read its state at any time.  Its other members
// are valid for a helper from the moment it takes a slot until its work there ends.
class alignas(64) Job {
    static constexpr uint32_t kSlots = 0xfff;       // slots that are still free
    static constexpr uint32_t kOneAtWork = 0x1000;  // counts the helpers at work
    static constexpr uint32_t kAtWork = 0xfff000;
    static constexpr uint32_t kParked = 0x1000000;  // the caller is parked until all have ended
    static constexpr uint32_t kClaimed = 0x2000000;

public:
    static constexpr int kMostSlots = kSlots;

    // Takes the job for this caller; returns false if another caller has it.
    bool claim() {
        uint32_t free = 0;
        return state_.load(std::memory_order_relaxed) == 0 &&
               state_.compare_exchange_strong(free, kClaimed, std::memory_order_acquire);
    }

    void open(int64_t items, int slots, Body body, void* context) {
        items_ = items;
        body_ = body;
        context_ = context;
        next_.store(0, std::memory_order_relaxed);
        state_.fetch_add(static_cast<uint32_t>(slots), std::memory_order_release);
    }

    // Takes a slot and works there; returns false if there is none.  Calls `ended(true)` if the
    // caller is parked and this helper was the last at work, else `ended(false)`.
    template <typename Ended>
    bool help(Ended ended) {
        uint32_t state = state_.load(std::memory_order_relaxed);
        do {
            if (!(state & kSlots)) return false;
        } while (!state_.compare_exchange_weak(state, state - 1 + kOneAtWork,
                                               std::memory_order_acquire));
        work(static_cast<int>(state & kSlots));
        state = state_.fetch_sub(kOneAtWork, std::memory_order_acq_rel);
        ended((state & (kAtWork | kParked)) == (kOneAtWork | kParked));
        return true;
    }

    void close() { state_.fetch_and(~kSlots, std::memory_order_relaxed); }
    bool idle() const { return !(state_.load(std::memory_order_acquire) & kAtWork); }
    void park_caller() { state_.fetch_or(kParked, std::memory_order_relaxed); }
    void release() { state_.store(0, std::memory_order_release); }

    void work(int thread) {
        for (int64_t item; (item = next_.fetch_add(1, std::memory_order_relaxed)) < items_;)
            body_(context_, item, thread);
    }

private:
    std::atomic<uint32_t> state_{0};
    int64_t items_ = 0;
    Body body_ = nullptr;
    void* context_ = nullptr;
    alignas(64) std::atomic<int64_t> next_{0};
};

class Pool {
public:
    void share(int64_t items, int helpers, int cpus, Body body, void* context) {
        helpers = std::min(helpers, Job::kMostSlots);
        Job* const job = std::find_if(jobs_, jobs_ + kJobs, [](Job& j) { return j.claim(); });
        if (job == jobs_ + kJobs) return alone(items, body, context);  // all jobs are taken
        job->open(items, helpers, body, context);
        call(helpers, cpus);
        job->work(0);
        job->close();
        wanted_.fetch_sub(helpers, std::memory_order_relaxed);
        if (!spin([&] { return job->idle(); })) {
            job->park_caller();
            std::unique_lock lock(mutex_);
            ended_.wait(lock, [&] { return job->idle(); });
        }
        job->release();
    }

private:
    static constexpr int kJobs = 32;

    // A helper, which never ends.  While it is parked, whoever holds the mutex owns the struct.
    struct Helper {
        WakeCpus cpus;
        std::condition_variable opened;
        Helper* next = nullptr;
        bool parked = false;
    };

    // Calls `helpers` helpers to a job that is open.
    void call(int helpers, int cpus) {
        const int wanted = wanted_.fetch_add(helpers, std::memory_order_relaxed) + helpers;
        cpus_.store(cpus, std::memory_order_relaxed);
        // Sequentially consistent: a helper that parks counts itself first and then looks at
        // the epoch, so one of the two reads what the other wrote.
        epoch_.fetch_add(1);
        if (parked_.load() == 0 && started_.load(std::memory_order_relaxed) >= wanted) return;
        int missing = helpers - spinning_.load(std::memory_order_relaxed);
        if (missing <= 0) return;
        {
            std::lock_guard lock(mutex_);
            while (started_.load(std::memory_order_relaxed) < wanted && start())
                started_.fetch_add(1, std::memory_order_relaxed);
        }
        for (Helper* one; missing > 0 && (one = unpark()); --missing) one->opened.notify_one();
    }

    // Takes a parked helper off the list, to be woken; nullptr if there is none.
    Helper* unpark() {
        std::lock_guard lock(mutex_);
        Helper* const one = parked_list_;
        if (!one) return nullptr;
        parked_list_ = one->next;
        parked_.fetch_sub(1);
        one->cpus.exclude_this();
        one->parked = false;
        return one;
    }

    // Starts one more thread, or none if the system does not give it: the call goes on with the
    // helpers there are.  It blocks signals that are sent, which are for threads that know of them,
    // but not those of its own faults.
#if defined(__unix__) || defined(__APPLE__)
    // Not a std::thread, whose exceptions need memory, which may be what is lacking.
    bool start() {
        sigset_t sent, before;
        sigfillset(&sent);
        for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&sent, fault);
        pthread_sigmask(SIG_SETMASK, &sent, &before);
        pthread_t thread;
        const auto help = [](void* pool) -> void* { static_cast<Pool*>(pool)->help(); };
        const bool started = pthread_create(&thread, nullptr, help, this) == 0;
        if (started) pthread_detach(thread);
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
        return started;
    }
#else
    bool start() {
        try {
            std::thread([this] { help(); }).detach();
        } catch (const std::exception&) {
            return false;
        }
        return true;
    }
#endif

    [[noreturn]] void help() {
        Helper self;
        self.cpus.begin();
        for (;;) {
            const uint64_t seen = epoch_.load(std::memory_order_acquire);
            bool helped = false;
            for (Job& job : jobs_)
                helped |= job.help([this](bool caller_parked) {
                    if (!caller_parked) return;
                    {
                        std::lock_guard lock(mutex_);
                    }  // it may be about to park
                    ended_.notify_all();
                });
            if (!helped && !spin_for_job(seen)) park(seen, self);
        }
    }

    // Whether a job was opened while this thread spun.
    bool spin_for_job(uint64_t seen) {
        const int others = spinning_.fetch_add(1, std::memory_order_relaxed);
        const bool opened = others < cpus_.load(std::memory_order_relaxed) - 1 &&
                            spin([&] { return epoch_.load(std::memory_order_relaxed) != seen; });
        spinning_.fetch_sub(1, std::memory_order_relaxed);
        return opened;
    }

    // Parks until it is called, unless a job was opened meanwhile.
    void park(uint64_t seen, Helper& self) {
        {
            std::unique_lock lock(mutex_);
            parked_.fetch_add(1);
            if (epoch_.load() != seen) {
                parked_.fetch_sub(1);
                return;
            }
            self.parked = true;
            self.next = parked_list_;
            parked_list_ = &self;
            self.opened.wait(lock, [&] { return !self.parked; });
        }
        self.cpus.restore();
    }

    Job jobs_[kJobs];
    alignas(64) std::atomic<uint64_t> epoch_{0};
    alignas(64) std::atomic<int> spinning_{0};
    std::atomic<int> parked_{0};  // number of parked helpers
    std::atomic<int> started_{0};
    std::atomic<int> wanted_{0};  // slots of all calls in progress
    std::atomic<int> cpus_{1};
    std::mutex mutex_;
    Helper* parked_list_ = nullptr;  // last to park first: its caches are warmest
    std::condition_variable ended_;
};

std::atomic<Pool*> pool{nullptr};

#if defined(__unix__) || defined(__APPLE__)
// A forked child has the pool's memory but none of its threads, so it makes a pool of its own.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr, std::memory_order_relaxed); });
#endif

// The pool, made when first wanted; nullptr if there is no memory for one.
Pool* pool_of_process() {
    Pool* there = pool.load(std::memory_order_acquire);
    if (there) return there;
    Pool* const made = make<Pool>();
    if (!made || pool.compare_exchange_strong(there, made, std::memory_order_acq_rel)) return made;
    destroy(made);
    return there;
}

}  // namespace

void share_by_pool(int64_t items, int threads, int cpus, Body body, void* context) {
    Pool* const helpers = threads > 1 ? pool_of_process() : nullptr;
    if (!helpers) return alone(items, body, context);
    helpers->share(items, threads - 1, cpus, body, context);
}

}  // namespace fastattn
