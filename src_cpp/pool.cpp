// Lends the threads of a pool to calls, and waits only for those that have begun.
//
// An OpenMP parallel region ends when its last thread does, even if that thread has not been given
// a CPU yet: beside a busy process, that means a time slice of some milliseconds for a call that
// may need a tenth of one.  Here such a thread finds the call closed.
//
//   seat     place for one helper at a call, which has one for each thread it wants beside its own
//   post     where an open call offers its seats; one atomic word holds its state
//   round    number of calls opened so far; when it changes, there may be a seat
//
// What it does not do: decide what a piece is, or how many threads a call gets.
// Threads are started when first wanted and never ended, so leaving main() waits for none of them.
// SPDX-License-Identifier: Apache-2.0
#include "pool.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <signal.h>
#endif

#include "places.hpp"

namespace fastattn {
namespace {

using Body = void (*)(void* context, int64_t piece, int thread);

// How long a thread that waits for another one polls before it sleeps: longer than Python needs
// between two calls and longer than a wake-up takes, but short compared with a time slice.
constexpr auto kPatience = std::chrono::microseconds(200);

void pause() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Polls `true_now()`: whether it came true before kPatience ran out.
template <typename Condition>
bool watch(Condition true_now) {
    const auto end = std::chrono::steady_clock::now() + kPatience;
    do {
        for (int look = 0; look < 32; ++look) {
            if (true_now()) return true;
            pause();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

void alone(int64_t pieces, Body body, void* context) {
    for (int64_t piece = 0; piece < pieces; ++piece) body(context, piece, 0);
}

// One call.  A post is never freed, so a helper may look at it at any time; what it finds there
// is valid from the moment it takes a seat until its work there ends.
class alignas(64) Post {
    static constexpr uint32_t kSeats = 0xfff;       // seats that nobody has taken yet
    static constexpr uint32_t kOneAtWork = 0x1000;  // counts the helpers at work
    static constexpr uint32_t kAtWork = 0xfff000;
    static constexpr uint32_t kSleeps = 0x1000000;  // the caller sleeps until nobody is at work
    static constexpr uint32_t kClaimed = 0x2000000;

public:
    static constexpr int kMostSeats = kSeats;

    // A post serves one caller at a time: whether it now belongs to this one.
    bool claim() {
        uint32_t free = 0;
        return state_.load(std::memory_order_relaxed) == 0 &&
               state_.compare_exchange_strong(free, kClaimed, std::memory_order_acquire);
    }

    void open(int64_t pieces, int seats, int cpus, Body body, void* context) {
        pieces_ = pieces;
        body_ = body;
        context_ = context;
        next_.store(0, std::memory_order_relaxed);
        enough_.store(seats < cpus, std::memory_order_relaxed);
        state_.fetch_add(static_cast<uint32_t>(seats), std::memory_order_release);
    }

    Places::Place place() { return {places_, enough_.load(std::memory_order_relaxed)}; }

    // The caller's share of the work.
    void lead(Places::Place& place) { work(0, place); }

    // Takes a seat and works there; returns false if there is none.  Calls `ended(true)` if the
    // caller sleeps and this helper was the last at work, else `ended(false)`.
    template <typename Ended>
    bool help(Ended ended) {
        if (!(state_.load(std::memory_order_relaxed) & kSeats)) return false;
        // This may move the thread, which takes a while: do it before anybody waits for it.
        Places::Place place = this->place();
        uint32_t state = state_.load(std::memory_order_relaxed);
        do {
            if (!(state & kSeats)) return false;
        } while (!state_.compare_exchange_weak(state, state - 1 + kOneAtWork,
                                               std::memory_order_acquire));
        work(static_cast<int>(state & kSeats), place);
        state = state_.fetch_sub(kOneAtWork, std::memory_order_acq_rel);
        ended((state & (kAtWork | kSleeps)) == (kOneAtWork | kSleeps));
        return true;
    }

    void close() { state_.fetch_and(~kSeats, std::memory_order_relaxed); }
    bool deserted() const { return !(state_.load(std::memory_order_acquire) & kAtWork); }
    void caller_sleeps() { state_.fetch_or(kSleeps, std::memory_order_relaxed); }
    void give_back() { state_.store(0, std::memory_order_release); }

private:
    void work(int thread, Places::Place& place) {
        for (int64_t piece; (piece = next_.fetch_add(1, std::memory_order_relaxed)) < pieces_;) {
            body_(context_, piece, thread);
            place.keep();
        }
    }

    std::atomic<uint32_t> state_{0};
    std::atomic<bool> enough_{false};  // whether there is a CPU for each thread
    int64_t pieces_ = 0;
    Body body_ = nullptr;
    void* context_ = nullptr;
    Places places_;
    alignas(64) std::atomic<int64_t> next_{0};
};

class Pool {
public:
    void share(int64_t pieces, int helpers, int cpus, Body body, void* context) {
        helpers = std::min(helpers, Post::kMostSeats);
        Post* const post = std::find_if(posts_, posts_ + kPosts, [](Post& p) { return p.claim(); });
        if (post == posts_ + kPosts) return alone(pieces, body, context);  // all posts are taken
        post->open(pieces, helpers, cpus, body, context);
        Places::Place place = post->place();  // before a helper takes one
        call(helpers, cpus);
        post->lead(place);
        post->close();
        wanted_.fetch_sub(helpers, std::memory_order_relaxed);
        if (!watch([&] { return post->deserted(); })) {
            post->caller_sleeps();
            std::unique_lock lock(mutex_);
            ended_.wait(lock, [&] { return post->deserted(); });
        }
        post->give_back();
    }

private:
    static constexpr int kPosts = 32;

    // A helper, which never ends.  While it sleeps, the struct belongs to whoever holds the mutex.
    struct Sleeper {
        Waking waking;
        std::condition_variable opened;
        Sleeper* next = nullptr;
        bool asleep = false;
    };

    // Calls `helpers` helpers to a post that is open.
    void call(int helpers, int cpus) {
        const int wanted = wanted_.fetch_add(helpers, std::memory_order_relaxed) + helpers;
        cpus_.store(cpus, std::memory_order_relaxed);
        // Sequentially consistent: a helper that goes to sleep counts itself first and then looks
        // at the round, so one of the two sees the other.
        round_.fetch_add(1);
        const int asleep = asleep_.load();
        if (asleep == 0 && started_.load(std::memory_order_relaxed) >= wanted) return;
        int missing = helpers - watching_.load(std::memory_order_relaxed);
        if (missing <= 0) return;
        {
            std::lock_guard lock(mutex_);
            while (started_.load(std::memory_order_relaxed) < wanted && start())
                started_.fetch_add(1, std::memory_order_relaxed);
        }
        for (Sleeper* one; missing > 0 && (one = roused()); --missing) one->opened.notify_one();
    }

    // Takes a sleeping helper off the list, to be woken; nullptr if none sleeps.
    Sleeper* roused() {
        std::lock_guard lock(mutex_);
        Sleeper* const one = sleepers_;
        if (!one) return nullptr;
        sleepers_ = one->next;
        asleep_.fetch_sub(1);
        one->waking.keep_off_this();
        one->asleep = false;
        return one;
    }

    // Starts one more thread.  It blocks signals that are sent, which are for threads that know of
    // them, but not those of its own faults.
    bool start() {
#if defined(__unix__) || defined(__APPLE__)
        sigset_t sent, before;
        sigfillset(&sent);
        for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) sigdelset(&sent, fault);
        pthread_sigmask(SIG_SETMASK, &sent, &before);
#endif
        bool started = true;
        try {
            std::thread([this] { help(); }).detach();
        } catch (const std::exception&) {
            started = false;  // the call goes on with the helpers there are
        }
#if defined(__unix__) || defined(__APPLE__)
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
        return started;
    }

    [[noreturn]] void help() {
        Sleeper self;
        self.waking.begin();
        for (;;) {
            const uint64_t seen = round_.load(std::memory_order_acquire);
            bool helped = false;
            for (Post& post : posts_)
                helped |= post.help([this](bool caller_sleeps) {
                    if (!caller_sleeps) return;
                    { std::lock_guard lock(mutex_); }  // it may be about to sleep
                    ended_.notify_all();
                });
            if (!helped && !watched(seen)) sleep(seen, self);
        }
    }

    // Whether a call was opened while this thread watched for one.
    bool watched(uint64_t seen) {
        const int others = watching_.fetch_add(1, std::memory_order_relaxed);
        const bool opened =
            others < cpus_.load(std::memory_order_relaxed) - 1 &&
            watch([&] { return round_.load(std::memory_order_relaxed) != seen; });
        watching_.fetch_sub(1, std::memory_order_relaxed);
        return opened;
    }

    // Sleeps until it is called, unless a call was opened meanwhile.
    void sleep(uint64_t seen, Sleeper& self) {
        {
            std::unique_lock lock(mutex_);
            asleep_.fetch_add(1);
            if (round_.load() != seen) {
                asleep_.fetch_sub(1);
                return;
            }
            self.asleep = true;
            self.next = sleepers_;
            sleepers_ = &self;
            self.opened.wait(lock, [&] { return !self.asleep; });
        }
        self.waking.release();
    }

    Post posts_[kPosts];
    alignas(64) std::atomic<uint64_t> round_{0};
    alignas(64) std::atomic<int> watching_{0};
    std::atomic<int> asleep_{0};  // number of sleepers
    std::atomic<int> started_{0};
    std::atomic<int> wanted_{0};  // seats of all calls in progress
    std::atomic<int> cpus_{1};
    std::mutex mutex_;
    Sleeper* sleepers_ = nullptr;  // last to fall asleep first: its caches are warmest
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
    Pool* const made = new (std::nothrow) Pool;
    if (made && pool.compare_exchange_strong(there, made, std::memory_order_acq_rel)) return made;
    delete made;
    return there;
}

}  // namespace

void share(int64_t pieces, int threads, int cpus, Body body, void* context) {
    Pool* const helpers = threads > 1 ? pool_of_process() : nullptr;
    if (!helpers) return alone(pieces, body, context);
    helpers->share(pieces, threads - 1, cpus, body, context);
}

}  // namespace fastattn
