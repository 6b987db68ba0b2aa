// Keeps the threads of one call on different CPUs, where there are enough of them.
//
// A system that wakes a thread may queue it behind its waker, although another CPU is idle or would
// give it more time: a guest of a hypervisor mistakes a sleeping CPU for one that it has lost;
// beside a process that is bound to one of two CPUs, both threads of a call would share the other.
// So a thread is kept off its waker's CPU until it runs.  Load balancing may put two threads on one
// CPU later, and then leave them there, because every CPU has work.  A thread that finds its CPU
// taken therefore moves to a free one.  In either case it is then as free to be moved as before.
//
// What this does not do: bind a thread for longer than it takes to move it; consider other
// processes or calls; anything at all on systems other than Linux.
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
class Places {
public:
    // The place of the thread that made it, for as long as this object lives.  `enough`: whether
    // there is a CPU for each thread of the call.
    class Place {
    public:
        Place(Places& all, bool enough) : all_(all), enough_(enough) { keep(); }
        ~Place() { leave(); }
        Place(const Place&) = delete;
        Place& operator=(const Place&) = delete;

        // If the system has moved this thread onto another one's CPU, moves it to a free CPU, if
        // there is one.  Costs next to nothing if it has not been moved.
        void keep() {
            if (!enough_) return;
            const int cpu = sched_getcpu();
            if (cpu == cpu_) return;
            leave();
            if (!take(cpu) && all_.move_to_free()) take(sched_getcpu());
        }

    private:
        bool take(int cpu) {
            if (cpu < 0 || cpu >= CPU_SETSIZE) return true;
            const bool free = !(all_.word(cpu).fetch_or(bit(cpu), std::memory_order_relaxed) & bit(cpu));
            if (free) cpu_ = cpu;
            return free;
        }

        void leave() {
            if (cpu_ >= 0) all_.word(cpu_).fetch_and(~bit(cpu_), std::memory_order_relaxed);
            cpu_ = kNone;
        }

        static constexpr int kNone = -1;
        Places& all_;
        const bool enough_;
        int cpu_ = kNone;
    };

private:
    using Word = std::atomic<uint64_t>;

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

    Word& word(int cpu) { return words_[cpu / 64]; }
    static uint64_t bit(int cpu) { return uint64_t{1} << cpu % 64; }

    Word words_[CPU_SETSIZE / 64] = {};
};

// A thread that sleeps, and the CPUs on which it may wake.
class Waking {
public:
    // Called by the thread itself, before it sleeps for the first time.  It has inherited the CPUs
    // of the thread that started it, which may be bound to a few of the process's CPUs: that
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
    void keep_off_this() {
        const int cpu = sched_getcpu();
        if (cpu < 0 || cpu >= CPU_SETSIZE) return;
        if (pthread_getaffinity_np(thread_, sizeof allowed_, &allowed_)) return;
        left_ = allowed_;
        CPU_CLR(cpu, &left_);
        if (!CPU_COUNT(&left_) || CPU_EQUAL(&left_, &allowed_)) return;
        kept_off_ = !pthread_setaffinity_np(thread_, sizeof left_, &left_);
    }

    // Called by the thread itself, once it runs.  If somebody else has changed its CPUs meanwhile,
    // they are left as they are.
    void release() {
        if (!kept_off_) return;
        kept_off_ = false;
        cpu_set_t now;
        if (!sched_getaffinity(0, sizeof now, &now) && CPU_EQUAL(&now, &left_))
            sched_setaffinity(0, sizeof allowed_, &allowed_);
    }

private:
    pthread_t thread_ = {};
    cpu_set_t allowed_, left_;  // its CPUs, and the same without the waker's
    bool kept_off_ = false;
};
#else
class Places {
public:
    struct Place {
        Place(Places&, bool) {}
        void keep() {}
    };
};

struct Waking {
    void begin() {}
    void keep_off_this() {}
    void release() {}
};
#endif

}  // namespace fastattn
