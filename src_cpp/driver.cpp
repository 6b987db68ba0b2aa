// Splits a call into work items, gives each thread scratch, and runs the kernels.
//
// An item is a block of rows (queries of all heads that share a key head) of one batch entry and
// key head.  Its keys may be split into parts, whose results are merged.  Where there are few
// items, each part is a piece of work of its own; otherwise a piece is a whole item.  Pieces are
// handed out dynamically, so a thread that shares its core with another process takes fewer.
// Where a band lets later rows see more keys, later rows go first, so that the last pieces handed
// out are the short ones.
//
// Parts are cut and merged in the same way whichever thread computes them, so a result does not
// depend on the number of threads or of other items.
//
// This file decides how many threads a call gets, and gives it memory; the threads themselves
// belong to pool.cpp.  It chooses neither block sizes, nor how many threads are wanted, nor the
// instruction set: they come with the call.
// SPDX-License-Identifier: Apache-2.0
#include "driver.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif
#if defined(FASTATTN_SLOWDOWN_PERCENT)
#include <time.h>
#endif

#include "pool.hpp"

namespace fastattn {
namespace {

// Threads held by all calls in progress.
std::atomic<int> busy_threads{0};

#if defined(__unix__) || defined(__APPLE__)
// In a forked child no thread is busy: the calls of other threads stay with the parent.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { busy_threads = 0; });
#endif

// The threads of one call: as many as it wants, as far as calls on other threads of the process
// leave CPUs free, but at least the calling thread.
class Team {
public:
    Team(int64_t wanted, int cpus) {
        int busy = busy_threads.load(std::memory_order_relaxed);
        do {
            const int64_t free = std::max<int64_t>(cpus, wanted) - busy;
            size_ = static_cast<int>(std::max<int64_t>(1, std::min(wanted, free)));
        } while (!busy_threads.compare_exchange_weak(busy, busy + size_, std::memory_order_relaxed));
    }
    ~Team() { busy_threads.fetch_sub(size_, std::memory_order_relaxed); }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;
    int size() const { return size_; }

private:
    int size_;
};

// Scratch of the calling thread, kept for its next call: fresh pages would have to be faulted in
// and cleared each time.  If it is larger than kKept, it is freed when the call ends.
class Scratch {
public:
    ~Scratch() { std::free(memory_); }

    // At least `bytes` bytes, or nullptr.
    char* reserve(int64_t bytes) {
        if (bytes <= size_) return memory_;
        std::free(memory_);
        const int64_t alignment = bytes >= kScattered ? kHugePage : kScratchAlignment;
        size_ = (bytes + alignment - 1) / alignment * alignment;
        memory_ = static_cast<char*>(
            std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(size_)));
        if (!memory_) size_ = 0;
#if defined(__linux__)
        if (memory_ && alignment == kHugePage)
            madvise(memory_, static_cast<size_t>(size_), MADV_HUGEPAGE);  // advice: may fail
#endif
        return memory_;
    }

    void release_excess() {
        if (size_ <= kKept) return;
        std::free(memory_);
        memory_ = nullptr;
        size_ = 0;
    }

private:
    static constexpr int64_t kHugePage = int64_t{2} << 20;
    // Scratch of this size or more asks for huge pages.  Small pages lie anywhere in physical
    // memory and collide in the L2 cache more or less by chance, so the same call would take
    // longer in one process than in the next.
    static constexpr int64_t kScattered = int64_t{64} << 10;
    static constexpr int64_t kKept = int64_t{16} << 20;
    char* memory_ = nullptr;
    int64_t size_ = 0;
};

thread_local Scratch scratch_of_caller;

// Bytes from the start of an array to its batch entry with flat index `batch`.
int64_t batch_offset(const Call& call, const Array& array, int64_t batch) {
    int64_t offset = 0;
    for (int64_t axis = call.batch_axes; axis-- > 0;) {
        const int64_t extent = call.batch_shape[axis];
        offset += batch % extent * array.batch_strides[axis];
        batch /= extent;
    }
    return offset;
}

// Only for calibrating benchmarks/paired: each piece of work takes FASTATTN_SLOWDOWN_PERCENT per
// cent more time, whatever its shape.  No other build has this delay, its clock or its mark.
#if defined(FASTATTN_SLOWDOWN_PERCENT)
[[gnu::used]] const char slowdown_mark[] = "fastattn is slowed down on purpose";

class Slowdown {
public:
    ~Slowdown() {
        const double done = now();
        const double end = done + (done - start_) * FASTATTN_SLOWDOWN_PERCENT / 100.0;
        while (now() < end) {
        }
    }

private:
    static double now() {
        timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);  // the thread's own clock needs a system call
        return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
    }
    const double start_ = now();
};
#else
struct Slowdown {};
#endif

// Processor state that a set's kernels need, for the length of a work item.
class Region {
public:
    explicit Region(const KernelSet& kernels)
        : kernels_(kernels), entered_(kernels.enter ? kernels.enter() : 0) {}
    ~Region() {
        if (kernels_.leave) kernels_.leave(entered_);
    }
    Region(const Region&) = delete;
    Region& operator=(const Region&) = delete;

private:
    const KernelSet& kernels_;
    const uint64_t entered_;
};

class Work {
public:
    Work(const Call& call, const KernelSet& kernels)
        : call_(call),
          kernels_(kernels),
          kernel_(kernels.kernels[static_cast<int>(Operation::kForward)]
                                 [static_cast<int>(call.type)]),
          group_(call.heads_q / call.heads_kv),
          rows_(call.length_q * group_),
          block_(std::min(call.block_q, rows_)),
          blocks_(block_ ? (rows_ + block_ - 1) / block_ : 0),
          parts_(std::max<int64_t>(1, (call.length_k + call.keys_per_split - 1) / call.keys_per_split)),
          block_k_(std::max<int64_t>(
              1, std::min(call.block_k, std::min(call.keys_per_split, call.length_k)))) {
        batch_ = 1;
        for (int64_t axis = 0; axis < call.batch_axes; ++axis) batch_ *= call.batch_shape[axis];
        const int64_t items = batch_ * call.heads_kv * blocks_;
        spread_ = parts_ > 1 && items < kPiecesPerThread * call.threads;
        pieces_ = spread_ ? items * parts_ : items;
    }

    int64_t pieces() const { return pieces_; }

    // Bytes for one thread: maximum and sum of each row, the kernel's scratch and, unless parts
    // are pieces of their own, the results of an item's parts.  -1 if that overflows.
    int64_t bytes() const {
        const int64_t kernel = kernel_.scratch_bytes(block_, block_k_, call_.dim, call_.dim_v);
        const int64_t parts = parts_bytes();
        if (kernel < 0 || parts < 0) return -1;
        return statistics_bytes() + round_up(kernel) + (spread_ ? 0 : parts);
    }

    // Bytes that all threads share: for each item, the number of parts left to do and the results
    // of its parts.  -1 if that overflows.
    int64_t shared_bytes() const {
        if (!spread_) return 0;
        const int64_t items = pieces_ / parts_, parts = parts_bytes();
        if (parts < 0 || parts > kMost / items) return -1;
        return round_up(items * static_cast<int64_t>(sizeof(Counter))) + items * parts;
    }

    void start(char* shared) const {
        if (!spread_) return;
        const int64_t items = pieces_ / parts_;
        for (int64_t item = 0; item < items; ++item)
            new (shared + item * static_cast<int64_t>(sizeof(Counter)))
                Counter(parts_);
    }

    void run(int64_t piece, char* memory, char* shared) const {
        [[maybe_unused]] const Slowdown slowdown;
        const Region region(kernels_);
        const int64_t item = spread_ ? piece / parts_ : piece;
        Task task = task_of(item);
        if (call_.lse.data) {
            task.row_max = reinterpret_cast<double*>(memory);
            task.row_sum = task.row_max + block_;
        }
        task.scratch = memory + statistics_bytes();
        if (parts_ == 1) {
            kernel_.run(task);
        } else if (spread_) {
            const int64_t items = pieces_ / parts_;
            Counter* left = reinterpret_cast<Counter*>(shared) + item;
            task.partial = shared + round_up(items * static_cast<int64_t>(sizeof(Counter))) +
                        item * parts_bytes();
            run_part(task, piece % parts_);
            // The thread that finishes last sees what the others wrote, and merges.
            if (left->fetch_sub(1, std::memory_order_acq_rel) != 1) return;
            kernel_.merge(task, parts_);
        } else {
            task.partial = memory + bytes() - parts_bytes();
            for (int64_t part = 0; part < parts_; ++part) run_part(task, part);
            kernel_.merge(task, parts_);
        }
        if (call_.lse.data) write_lse(task, item / blocks_);
    }

private:
    using Counter = std::atomic<int64_t>;
    static constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 4;
    // Enough pieces for dynamic scheduling to even out their lengths.
    static constexpr int64_t kPiecesPerThread = 4;

    Task task_of(int64_t item) const {
        const int64_t block =
            call_.right == kUnlimited ? item % blocks_ : blocks_ - 1 - item % blocks_;
        const int64_t head = item / blocks_ % call_.heads_kv;
        const int64_t batch = item / blocks_ / call_.heads_kv;
        Task task{};
        task.q = rows_of(call_.q, batch, head);
        task.k = matrix_of(call_.k, batch, head);
        task.v = matrix_of(call_.v, batch, head);
        task.out = rows_of(call_.out, batch, head);
        if (call_.mask.data) task.mask = rows_of(call_.mask, batch, head);
        task.sinks = call_.sinks ? call_.sinks + head * group_ : nullptr;
        task.mask_type = call_.mask_type;
        task.group = group_;
        task.key_begin = 0;
        task.key_end = call_.lengths ? call_.lengths[batch] : call_.length_k;
        task.dim = call_.dim;
        task.dim_v = call_.dim_v;
        task.scale = call_.scale;
        task.softcap = call_.softcap;
        task.offset = call_.offsets ? call_.offsets[batch] : 0;
        task.left = call_.left;
        task.right = call_.right;
        task.row_begin = block * block_;
        task.row_end = std::min(rows_, task.row_begin + block_);
        task.block_k = block_k_;
        return task;
    }

    void run_part(Task task, int64_t part) const {
        task.key_begin = part * call_.keys_per_split;
        task.key_end = std::min(task.key_end, task.key_begin + call_.keys_per_split);
        task.row_max = task.row_sum = nullptr;
        task.partial = static_cast<char*>(task.partial) +
                    part * (task.row_end - task.row_begin) * part_row_bytes();
        kernel_.run(task);
    }

    int64_t part_row_bytes() const {
        return kernel_.partial_row_bytes(call_.dim_v);
    }

    int64_t parts_bytes() const {
        if (parts_ == 1) return 0;
        const double bytes = static_cast<double>(parts_) * static_cast<double>(block_) *
                             static_cast<double>(part_row_bytes());
        if (bytes > static_cast<double>(kMost)) return -1;
        return round_up(parts_ * block_ * part_row_bytes());
    }

    static int64_t round_up(int64_t bytes) {
        return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    }

    int64_t statistics_bytes() const {
        return call_.lse.data ? round_up(2 * block_ * static_cast<int64_t>(sizeof(double))) : 0;
    }

    QueryRows rows_of(const Array& a, int64_t batch, int64_t head) const {
        return {a.data + batch_offset(call_, a, batch) + head * group_ * a.head, a.head, a.row,
                a.column};
    }

    RowSource matrix_of(const Array& a, int64_t batch, int64_t head) const {
        return {a.data + batch_offset(call_, a, batch) + head * a.head, a.row, a.column};
    }

    // `head`: flat index over batch entries and key heads.
    void write_lse(const Task& task, int64_t head) const {
        const int64_t batch = head / call_.heads_kv;
        head %= call_.heads_kv;
        const QueryRows lse = rows_of(call_.lse, batch, head);
        for (int64_t row = task.row_begin; row < task.row_end; ++row) {
            const double sum = task.row_sum[row - task.row_begin];
            const double value = sum == 0 ? -std::numeric_limits<double>::infinity()
                                          : task.row_max[row - task.row_begin] + std::log(sum);
            char* to = lse.data + row / group_ * lse.row + row % group_ * lse.head;
            if (call_.type == DType::kFloat64)
                *reinterpret_cast<double*>(to) = value;
            else
                *reinterpret_cast<float*>(to) = static_cast<float>(value);
        }
    }

    const Call& call_;
    const KernelSet& kernels_;
    const Kernel& kernel_;
    int64_t group_, rows_, block_, blocks_, parts_, block_k_, batch_, pieces_;
    bool spread_;  // each part is a piece of its own
};

}  // namespace

Status attention(const Call& call, const KernelSet& kernels) {
    const Work work(call, kernels);
    const int64_t pieces = work.pieces();
    if (pieces == 0) return Status::kOk;
    const int64_t wanted = std::min<int64_t>(pieces, call.threads);
    const Team team(wanted, call.cpus);
    const int64_t bytes = work.bytes(), shared_bytes = work.shared_bytes();
    if (bytes < 0 || shared_bytes < 0 || bytes > std::numeric_limits<int64_t>::max() / 4 / wanted)
        return Status::kNoMemory;
    char* shared = scratch_of_caller.reserve(shared_bytes + bytes * team.size());
    if (!shared) return Status::kNoMemory;
    char* scratch = shared + shared_bytes;
    work.start(shared);

    struct Shared {
        const Work& work;
        const int64_t bytes;
        char *const scratch, *const shared;
    } all{work, bytes, scratch, shared};
    share(
        pieces, team.size(), call.cpus,
        [](void* context, int64_t piece, int thread) {
            const Shared& all = *static_cast<const Shared*>(context);
            all.work.run(piece, all.scratch + all.bytes * thread, all.shared);
        },
        &all);
    scratch_of_caller.release_excess();
    return Status::kOk;
}

}  // namespace fastattn
