// Gives each thread of a call scratch memory, and runs the kernels on the call's work items.
//
// schedule.hpp divides a call into work items; threads.hpp gives them to threads.  The number of
// threads, the block sizes and the instruction set come with the call.  Only here the number of
// threads is reduced by the CPUs that other calls of the process use at the moment.
// SPDX-License-Identifier: Apache-2.0
#include "driver.hpp"

#include <algorithm>
#include <atomic>
#include <cfenv>
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

#include "allocate.hpp"
#include "schedule.hpp"

namespace fastattn {
namespace {

// Threads held by all calls in progress.
std::atomic<int> busy_threads{0};

#if defined(__unix__) || defined(__APPLE__)
// In a forked child no thread is busy: the calls of other threads stay with the parent.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { busy_threads = 0; });
#endif

// The threads of one call: as many as it asks for, but no more than the CPUs that other calls of the
// process leave free, and at least the calling thread.
class Team {
public:
    explicit Team(const Threads& wanted) : threads_(wanted) {
        int busy = busy_threads.load(std::memory_order_relaxed);
        do {
            const int free = std::max(wanted.cpus, wanted.count) - busy;
            threads_.count = std::max(1, std::min(wanted.count, free));
        } while (!busy_threads.compare_exchange_weak(busy, busy + threads_.count,
                                                     std::memory_order_relaxed));
    }
    ~Team() { busy_threads.fetch_sub(threads_.count, std::memory_order_relaxed); }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;
    const Threads& threads() const { return threads_; }

private:
    Threads threads_;
};

// Scratch memory of a thread.  It is kept for the thread's next call, because the system would have
// to map and clear new pages.  If it is larger than kKept for each thread of a call, it is freed when
// the call ends.
class Scratch {
public:
    Scratch() = default;
    ~Scratch() { std::free(memory_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

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

    void release_excess(int threads) {
        if (size_ <= kKept * threads) return;
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

#if defined(__unix__) || defined(__APPLE__)
pthread_key_t scratch_key;
const bool has_scratch_key =
    pthread_key_create(&scratch_key, [](void* kept) { destroy(static_cast<Scratch*>(kept)); }) == 0;

// Scratch of the calling thread, or nullptr if there is no memory for it.  It is not a thread_local
// object: if memory is short, the C library ends a process that uses one for the first time.
Scratch* scratch_of_caller() {
    if (!has_scratch_key) return nullptr;
    if (void* const kept = pthread_getspecific(scratch_key)) return static_cast<Scratch*>(kept);
    Scratch* const made = make<Scratch>();
    if (!made || pthread_setspecific(scratch_key, made) == 0) return made;
    destroy(made);
    return nullptr;
}
#else
Scratch* scratch_of_caller() {
    thread_local Scratch kept;
    return &kept;
}
#endif

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

Extent extent_of(const Call& call) {
    int64_t batch = 1;
    for (int64_t axis = 0; axis < call.batch_axes; ++axis) batch *= call.batch_shape[axis];
    return {.batch = batch,
            .heads_kv = call.heads_kv,
            .rows = call.length_q * (call.heads_q / call.heads_kv),
            .keys = call.length_k,
            .block_q = call.block_q,
            .keys_per_split = call.keys_per_split,
            .threads = call.threads.count};
}

// Sets the floating-point environment that the kernels assume: round to nearest, no flushing of
// subnormal numbers, no traps.  The thread's own environment is restored at the end.  Other
// libraries change it in some threads of a process and not in others.
class DefaultArithmetic {
public:
#if defined(__x86_64__)
    DefaultArithmetic() : before_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(0x1f80); }
    ~DefaultArithmetic() { __builtin_ia32_ldmxcsr(before_); }

private:
    const uint32_t before_;
#else
    DefaultArithmetic() {
        std::fegetenv(&before_);
        std::fesetenv(FE_DFL_ENV);
    }
    ~DefaultArithmetic() { std::fesetenv(&before_); }

private:
    std::fenv_t before_;
#endif
public:
    DefaultArithmetic(const DefaultArithmetic&) = delete;
    DefaultArithmetic& operator=(const DefaultArithmetic&) = delete;
};

// Sets the processor state that a kernel set needs, for the duration of a work item.
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
    const DefaultArithmetic arithmetic_;
    const KernelSet& kernels_;
    const uint64_t entered_;
};

class Work {
public:
    Work(const Call& call, const KernelSet& kernels)
        : call_(call),
          kernels_(kernels),
          kernel_(
              kernels.kernels[static_cast<int>(Operation::kForward)][static_cast<int>(call.type)]),
          group_(call.heads_q / call.heads_kv),
          schedule_(extent_of(call), call.right != kUnlimited),
          block_k_(
              std::max<int64_t>(1, std::min({call.block_k, call.keys_per_split, call.length_k}))) {}

    int64_t items() const { return schedule_.items(); }

    // Bytes for one thread: maximum and sum of each row, the kernel's scratch and, unless splits
    // are work items of their own, the partial results of a block.  -1 if that overflows.
    int64_t thread_bytes() const {
        const int64_t kernel =
            kernel_.scratch_bytes(schedule_.block_rows(), block_k_, call_.dim, call_.dim_v);
        const int64_t partials = partials_bytes();
        if (kernel < 0 || partials < 0) return -1;
        return statistics_bytes() + round_up(kernel) +
               (schedule_.distributes_splits() ? 0 : partials);
    }

    // Bytes that all threads share where splits are work items of their own: for each block, the
    // number of splits left to do and their partial results.  -1 if that overflows.
    int64_t shared_bytes() const {
        if (!schedule_.distributes_splits()) return 0;
        const int64_t partials = partials_bytes();
        if (partials < 0 || partials > kMost / schedule_.blocks()) return -1;
        return counters_bytes() + schedule_.blocks() * partials;
    }

    void start(char* shared) const {
        if (!schedule_.distributes_splits()) return;
        for (int64_t block = 0; block < schedule_.blocks(); ++block)
            new (shared + block * static_cast<int64_t>(sizeof(Counter)))
                Counter(schedule_.splits());
    }

    void run(int64_t index, char* memory, char* shared) const {
        const Region region(kernels_);
        const WorkItem item = schedule_.item(index);
        Task task = task_of(item);
        if (call_.lse.data) {
            task.row_max = reinterpret_cast<double*>(memory);
            task.row_sum = task.row_max + schedule_.block_rows();
        }
        task.scratch = memory + statistics_bytes();
        if (schedule_.splits() == 1) {
            kernel_.run(task);
        } else {
            const bool distributed = schedule_.distributes_splits();
            task.partial = distributed ? shared + counters_bytes() + item.block * partials_bytes()
                                       : memory + thread_bytes() - partials_bytes();
            for (int64_t split = item.split_begin; split < item.split_end; ++split)
                run_split(task, split);
            // The thread that finishes last reads what the others wrote, and merges.
            if (distributed && reinterpret_cast<Counter*>(shared)[item.block].fetch_sub(
                                   1, std::memory_order_acq_rel) != 1)
                return;
            kernel_.merge(task, schedule_.splits());
        }
        if (call_.lse.data) write_lse(task, item);
    }

private:
    using Counter = std::atomic<int64_t>;
    static constexpr int64_t kMost = std::numeric_limits<int64_t>::max() / 4;

    Task task_of(const WorkItem& item) const {
        Task task{};
        task.q = rows_of(call_.q, item);
        task.k = keys_of(call_.k, item);
        task.v = keys_of(call_.v, item);
        task.out = rows_of(call_.out, item);
        if (call_.mask.data) task.mask = rows_of(call_.mask, item);
        task.sinks = call_.sinks ? call_.sinks + item.head * group_ : nullptr;
        task.mask_type = call_.mask_type;
        task.group = group_;
        task.key_begin = 0;
        task.key_end = call_.lengths ? call_.lengths[item.batch] : call_.length_k;
        task.dim = call_.dim;
        task.dim_v = call_.dim_v;
        task.scale = call_.scale;
        task.score_factor = call_.score_factor;
        task.softcap = call_.softcap;
        task.offset = call_.offsets ? call_.offsets[item.batch] : 0;
        task.left = call_.left;
        task.right = call_.right;
        task.row_begin = item.row_begin;
        task.row_end = item.row_end;
        task.block_k = block_k_;
        return task;
    }

    void run_split(Task task, int64_t split) const {
        task.key_begin = schedule_.split_key(split);
        task.key_end = std::min(task.key_end, schedule_.split_key(split + 1));
        task.row_max = task.row_sum = nullptr;
        task.partial = static_cast<char*>(task.partial) +
                       split * (task.row_end - task.row_begin) * partial_row_bytes();
        kernel_.run(task);
    }

    int64_t partial_row_bytes() const { return kernel_.partial_row_bytes(call_.dim_v); }

    // Bytes of the partial results of one block.
    int64_t partials_bytes() const {
        if (schedule_.splits() == 1) return 0;
        const double bytes = static_cast<double>(schedule_.splits()) *
                             static_cast<double>(schedule_.block_rows()) *
                             static_cast<double>(partial_row_bytes());
        if (bytes > static_cast<double>(kMost)) return -1;
        return round_up(schedule_.splits() * schedule_.block_rows() * partial_row_bytes());
    }

    int64_t counters_bytes() const {
        return round_up(schedule_.blocks() * static_cast<int64_t>(sizeof(Counter)));
    }

    int64_t statistics_bytes() const {
        if (!call_.lse.data) return 0;
        return round_up(2 * schedule_.block_rows() * static_cast<int64_t>(sizeof(double)));
    }

    static int64_t round_up(int64_t bytes) {
        return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    }

    QueryRows rows_of(const Array& a, const WorkItem& item) const {
        return {a.data + batch_offset(call_, a, item.batch) + item.head * group_ * a.head, a.head,
                a.row, a.column};
    }

    RowSource keys_of(const Array& a, const WorkItem& item) const {
        return {a.data + batch_offset(call_, a, item.batch) + item.head * a.head, a.row, a.column};
    }

    void write_lse(const Task& task, const WorkItem& item) const {
        const QueryRows lse = rows_of(call_.lse, item);
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
    const int64_t group_;
    const Schedule schedule_;
    const int64_t block_k_;
};

}  // namespace

Status attention(const Call& call, const KernelSet& kernels) {
    const Work work(call, kernels);
    const int64_t items = work.items();
    if (items == 0) return Status::kOk;
    const Team team(call.threads);
    const int64_t bytes = work.thread_bytes(), shared_bytes = work.shared_bytes();
    if (bytes < 0 || shared_bytes < 0 ||
        bytes > std::numeric_limits<int64_t>::max() / 4 / call.threads.count)
        return Status::kNoMemory;
    Scratch of_call;
    Scratch* const kept = scratch_of_caller();
    Scratch& memory = kept ? *kept : of_call;
    char* const shared = memory.reserve(shared_bytes + bytes * team.threads().count);
    if (!shared) return Status::kNoMemory;
    char* const scratch = shared + shared_bytes;
    work.start(shared);
    share(items, team.threads(),
          [&](int64_t item, int thread) { work.run(item, scratch + bytes * thread, shared); });
    memory.release_excess(team.threads().count);
    return Status::kOk;
}

}  // namespace fastattn
