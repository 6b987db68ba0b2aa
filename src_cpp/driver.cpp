// Splits a call into work items, gives each thread scratch, and runs the kernels.
//
// A work item is a block of rows (the queries of all heads that share a key head) of one
// batch entry and key head.  Items are handed out dynamically, so a thread that shares
// its core with a stranger takes fewer.  Where a band makes late rows see more keys, the
// late rows go first: the last items handed out are the short ones.
//
// Threads, OpenMP and allocation are here and in roofline.cpp alone.  It does not choose: blocks,
// thread count and instruction set come with the call.
// SPDX-License-Identifier: Apache-2.0
#include "driver.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastattn {
namespace {

// An OpenMP runtime's threads do not survive fork(), and some runtimes wait for them for
// ever: a child computes on the thread that calls.
bool forked_child = false;

#if defined(__unix__) || defined(__APPLE__)
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forked_child = true; });
#endif

// Scratch of the thread that calls, kept for its next call: fresh pages would have to be
// faulted in and cleared each time.  What is larger than kKept goes back at the call's end.
class Scratch {
public:
    ~Scratch() { std::free(memory_); }

    // At least so many bytes, or nullptr.
    char* reserve(int64_t bytes) {
        if (bytes <= size_) return memory_;
        std::free(memory_);
        const int64_t alignment = bytes >= kHugePage ? kHugePage : kScratchAlignment;
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
    static constexpr int64_t kKept = int64_t{16} << 20;
    char* memory_ = nullptr;
    int64_t size_ = 0;
};

thread_local Scratch scratch_of_caller;

// Bytes from an array's start to one batch entry of it, for flat index `batch`.
int64_t batch_offset(const Call& call, const Array& array, int64_t batch) {
    int64_t offset = 0;
    for (int64_t axis = call.batch_axes; axis-- > 0;) {
        const int64_t extent = call.batch_shape[axis];
        offset += batch % extent * array.batch_strides[axis];
        batch /= extent;
    }
    return offset;
}

class Work {
public:
    Work(const Call& call, const KernelSet& kernels)
        : call_(call),
          kernel_(kernels.kernels[static_cast<int>(call.type)]),
          group_(call.heads_q / call.heads_kv),
          rows_(call.length_q * group_),
          block_(std::min(call.block_q, rows_)),
          blocks_(block_ ? (rows_ + block_ - 1) / block_ : 0),
          block_k_(std::max<int64_t>(1, std::min(call.block_k, call.length_k))) {
        batch_ = 1;
        for (int64_t axis = 0; axis < call.batch_axes; ++axis) batch_ *= call.batch_shape[axis];
    }

    int64_t items() const { return batch_ * call_.heads_kv * blocks_; }

    // Bytes for one thread: the kernel's scratch, then maximum and sum of each row.
    // -1 if that overflows.
    int64_t bytes() const {
        const int64_t kernel = kernel_.scratch_bytes(block_, block_k_, call_.dim, call_.dim_v);
        return kernel < 0 ? -1 : round_up(kernel) + statistics_bytes();
    }

    void run(int64_t item, char* memory) const {
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
        task.length_k = call_.lengths ? call_.lengths[batch] : call_.length_k;
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
        if (call_.lse.data) {
            task.row_max = reinterpret_cast<double*>(memory);
            task.row_sum = task.row_max + block_;
        }
        task.scratch = memory + statistics_bytes();
        kernel_.run(task);
        if (call_.lse.data) write_lse(task, batch, head);
    }

private:
    static int64_t round_up(int64_t bytes) {
        return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    }

    int64_t statistics_bytes() const {
        return call_.lse.data ? round_up(2 * block_ * static_cast<int64_t>(sizeof(double))) : 0;
    }

    Rows rows_of(const Array& a, int64_t batch, int64_t head) const {
        return {a.data + batch_offset(call_, a, batch) + head * group_ * a.head, a.head, a.row,
                a.column};
    }

    Matrix matrix_of(const Array& a, int64_t batch, int64_t head) const {
        return {a.data + batch_offset(call_, a, batch) + head * a.head, a.row, a.column};
    }

    void write_lse(const Task& task, int64_t batch, int64_t head) const {
        const Rows lse = rows_of(call_.lse, batch, head);
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
    const Kernel& kernel_;
    int64_t group_, rows_, block_, blocks_, block_k_, batch_;
};

}  // namespace

Status attention(const Call& call, const KernelSet& kernels) {
    const Work work(call, kernels);
    const int64_t items = work.items();
    if (items == 0) return Status::kOk;
    const int64_t wanted = forked_child ? 1 : call.threads;
    const int threads = static_cast<int>(std::max<int64_t>(1, std::min(items, wanted)));
    const int64_t bytes = work.bytes();
    if (bytes < 0 || bytes > std::numeric_limits<int64_t>::max() / threads)
        return Status::kNoMemory;
    char* scratch = scratch_of_caller.reserve(bytes * threads);
    if (!scratch) return Status::kNoMemory;

    if (threads == 1) {
        for (int64_t item = 0; item < items; ++item) work.run(item, scratch);
    } else {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
        for (int64_t item = 0; item < items; ++item) {
#if defined(_OPENMP)
            work.run(item, scratch + bytes * omp_get_thread_num());
#else
            work.run(item, scratch);
#endif
        }
    }
    scratch_of_caller.release_excess();
    return Status::kOk;
}

int team(int wanted) {
#if defined(_OPENMP)
    return forked_child ? 1 : wanted;
#else
    return wanted < 1 ? wanted : 1;
#endif
}

}  // namespace fastattn
