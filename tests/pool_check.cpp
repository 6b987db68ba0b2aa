// Hammers the pool: calls from many threads at once, each with work that counts what is done.
// Prints what is wrong and returns 1, or returns 0.  tests/test_pool.py builds it with sanitizers.
// SPDX-License-Identifier: Apache-2.0
#include "threads.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

struct Call {
    explicit Call(int items) : done(static_cast<size_t>(items)), used(kMost) {}
    static constexpr int kMost = 16;
    // Plain: a sanitizer sees who comes too late, and two threads of one number.
    std::vector<int> done;
    std::vector<int> used;
};

void work(void* context, int64_t item, int thread) {
    Call& call = *static_cast<Call*>(context);
    ++call.used[static_cast<size_t>(thread)];
    volatile double busy = 1;
    for (int i = 0; i < 100 * (item % 7); ++i) busy = busy + 1 / busy;
    ++call.done[static_cast<size_t>(item)];
}

bool right(int threads, int cpus, int items) {
    Call call(items);
    fastattn::share(items, {threads, cpus, fastattn::Threading::kPool}, work, &call);
    for (const int times : call.done)
        if (times != 1) return std::printf("an item was done %d times\n", times), false;
    for (int thread = threads; thread < Call::kMost; ++thread)
        if (call.used[static_cast<size_t>(thread)])
            return std::printf("there was a thread %d of %d\n", thread, threads), false;
    return true;
}

bool many(int callers, int rounds) {
    std::atomic<bool> all{true};
    std::vector<std::thread> threads;
    for (int caller = 0; caller < callers; ++caller)
        threads.emplace_back([&, caller] {
            for (int round = 0; round < rounds; ++round) {
                const int n = caller + round;
                if (!right(1 + n % 5, 1 + n % 3, n % 60)) all = false;
                if (n % 8 == 0) usleep(500);  // longer than helpers spin
            }
        });
    for (std::thread& thread : threads) thread.join();
    return all;
}

bool forked(int generations) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);
        _exit(right(4, 2, 50) && (generations == 0 || forked(generations - 1)) ? 0 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status) std::printf("a forked child ended with status %d\n", status);
    return status == 0;
}

}  // namespace

int main(int, char** arguments) {
    const int rounds = std::atoi(arguments[1]);
    // 40 callers: more than can be helped at once.
    return right(1, 1, 3) && forked(1) && right(3, 8, 100) && forked(1) && many(3, rounds) &&
                   many(40, rounds / 10) && forked(0)
               ? 0
               : 1;
}
