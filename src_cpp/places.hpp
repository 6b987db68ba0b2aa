// The CPUs on which the threads of one call began, so that no two share one for want of a look.
//
// A system that wakes a thread may put it behind the one that woke it, though another CPU would
// give it more: beside a process bound to one of two CPUs both threads of a call would share the
// other.  Who finds its place taken moves on, once, and is then as free to be moved as before.
//
// What it does not do: bind threads, know of other processes or calls, or anything but on Linux.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fastattn {

class Places {
public:
#if defined(__linux__)
    // Forgets the last call's; this thread's is taken.
    void begin() {
        for (Word& word : words_) word.store(0, std::memory_order_relaxed);
        take();
    }

    // Takes a place for this thread; if another has it, moves to a free one that there may be.
    void join() {
        if (take()) return;
        cpu_set_t allowed, free;
        if (sched_getaffinity(0, sizeof allowed, &allowed)) return;  // more CPUs than a set holds
        CPU_ZERO(&free);
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
            if (CPU_ISSET(cpu, &allowed) && !(word(cpu).load(std::memory_order_relaxed) & bit(cpu)))
                CPU_SET(cpu, &free);
        if (!CPU_COUNT(&free) || sched_setaffinity(0, sizeof free, &free)) return;
        sched_setaffinity(0, sizeof allowed, &allowed);
        take();
    }

private:
    using Word = std::atomic<uint64_t>;

    // Whether the CPU that this thread runs on was free.
    bool take() {
        const int cpu = sched_getcpu();
        if (cpu < 0 || cpu >= CPU_SETSIZE) return true;
        return !(word(cpu).fetch_or(bit(cpu), std::memory_order_relaxed) & bit(cpu));
    }

    Word& word(int cpu) { return words_[cpu / 64]; }
    static uint64_t bit(int cpu) { return uint64_t{1} << cpu % 64; }

    Word words_[CPU_SETSIZE / 64] = {};
#else
    void begin() {}
    void join() {}
#endif
};

}  // namespace fastattn
