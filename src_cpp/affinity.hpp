// Makes a helper wake on a CPU other than that of the thread that wakes it.
//
// Linux may put a woken thread in the queue of its waker's CPU although another CPU would be better.
// Under a hypervisor, it can take an idle CPU for one that the hypervisor has taken away.  If another
// process is bound to one of two CPUs, it may run both threads of a call on the other one.
//
// Only on Linux.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
#endif

namespace fastattn {

// The CPUs on which a parked thread may wake.
#if defined(__linux__)
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
struct WakeCpus {
    void begin() {}
    void exclude_this() {}
    void restore() {}
};
#endif

}  // namespace fastattn
