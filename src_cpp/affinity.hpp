// Keeps the threads of one call on different CPUs, where there are enough of them.
//
// A system that wakes a thread may queue it behind its waker, although another CPU is idle or would
// give it more time: a guest of a hypervisor mistakes an idle CPU for one that it has lost; beside
// a process that is bound to one of two CPUs, both threads of a call would share the other.  So a
// thread is kept off its waker's CPU until it runs.  Load balancing may later put two threads on
// one CPU and leave them there, because every CPU has work.  A thread that finds its CPU taken by
// another one of its call therefore moves to a free one.  Either way, it then has the CPU set that
// it had before.
//
// Only on Linux.  Other processes and calls are not considered.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#endif

namespace fastattn {

#if defined(__linux__)
// The CPUs that the threads of one call are on.
class CallCpus {
public:
    // The CPU of the thread that made it, for as long as this object lives.  `enough`: whether
    // there is a CPU for each thread of the call.
    class Claim {
    public:
        Claim(CallCpus& all, bool enough) : all_(all), enough_(enough) { renew(); }
        ~Claim() { drop(); }
        Claim(const Claim&) = delete;
        Claim& operator=(const Claim&) = delete;

        // If the system has moved this thread onto another one's CPU, moves it to a free CPU, if
        // there is one.  Costs next to nothing if it has not been moved.
        void renew() {
            if (!enough_) return;
            const int cpu = sched_getcpu();
            if (cpu == cpu_) return;
            drop();
            if (!take(cpu) && all_.move_to_free()) take(sched_getcpu());
        }

    private:
        bool take(int cpu) {
            if (cpu < 0 || cpu >= CPU_SETSIZE) return true;
            const uint64_t before = all_.word(cpu).fetch_or(bit(cpu), std::memory_order_relaxed);
            const bool free = !(before & bit(cpu));
            if (free) cpu_ = cpu;
            return free;
        }

        void drop() {
            if (cpu_ >= 0) all_.word(cpu_).fetch_and(~bit(cpu_), std::memory_order_relaxed);
            cpu_ = kNone;
        }

        static constexpr int kNone = -1;
        CallCpus& all_;
        const bool enough_;
        int cpu_ = kNone;
    };

private:
    bool move_to_free() {
        cpu_set_t allowed, free;
        if (sched_getaffinity(0, sizeof allowed, &allowed)) return false;  // more CPUs than bits
        CPU_ZERO(&free);
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
            if (CPU_ISSET(cpu, &allowed) && !(word(cpu).load(std::memory_order_relaxed) & bit(cpu)))
                CPU_SET(cpu, &free);
        if (!CPU_COUNT(&free) || sched_setaffinity(0, sizeof free, &free)) return false;
        sched_setaffinity(0, sizeof allowed, &allowed);
        return true;
    }

    std::atomic<uint64_t>& word(int cpu) { return words_[cpu / 64]; }
    static uint64_t bit(int cpu) { return uint64_t{1} << cpu % 64; }

    std::atomic<uint64_t> words_[CPU_SETSIZE / 64] = {};
};

// The CPUs on which a parked thread may wake.
class WakeCpus {
public:
    // Called by the thread itself, before it parks for the first time.  It has inherited the CPU
    // set of the thread that started it, which may be bound to a few of the process's CPUs: that
    // binding is meant for that thread's call alone.
    void begin() {
        thread_ = pthread_self();
        cpu_set_t own, process;
        if (!sched_getaffinity(0, sizeof own, &own) &&
            !sched_getaffinity(getpid(), sizeof process, &process) &&
            CPU_COUNT(&process) > CPU_COUNT(&own))
            sched_setaffinity(0, sizeof process, &process);
    }

    // Called by the thread that is about to wake it: keeps it off this CPU, if it may use another.
    void exclude_this() {
        const int cpu = sched_getcpu();
        if (cpu < 0 || cpu >= CPU_SETSIZE) return;
        if (pthread_getaffinity_np(thread_, sizeof allowed_, &allowed_)) return;
        others_ = allowed_;
        CPU_CLR(cpu, &others_);
        if (!CPU_COUNT(&others_) || CPU_EQUAL(&others_, &allowed_)) return;
        excluded_ = !pthread_setaffinity_np(thread_, sizeof others_, &others_);
    }

    // Called by the thread itself, once it runs.  If somebody else has changed its CPU set
    // meanwhile, it is left as it is.
    void restore() {
        if (!excluded_) return;
        excluded_ = false;
        cpu_set_t now;
        if (!sched_getaffinity(0, sizeof now, &now) && CPU_EQUAL(&now, &others_))
            sched_setaffinity(0, sizeof allowed_, &allowed_);
    }

private:
    pthread_t thread_ = {};
    cpu_set_t allowed_, others_;  // its CPU set, and the same without the waker's CPU
    bool excluded_ = false;
};
#else
struct CallCpus {
    struct Claim {
        Claim(CallCpus&, bool) {}
        void renew() {}
    };
};

struct WakeCpus {
    void begin() {}
    void exclude_this() {}
    void restore() {}
};
#endif

}  // namespace fastattn
