// Prefetches rows, which memory delivers while other rows are used.
//
// For few queries, computing with a byte takes about as long as memory takes to deliver it, so the
// two must overlap.  Lines are prefetched in the order of their addresses, so that the hardware
// prefetcher joins in, and one at a time between the products, since requests in bursts are
// dropped.  On its own, the hardware finds no stream in rows that are read side by side.  Several
// streams at a time arrive faster than one: the hardware prefetcher stops at the end of a page.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "rows.hpp"

namespace fastattn {
namespace {

inline constexpr int kLineBytes = 64;

// Prefetches all lines at once.
inline void prefetch(const char* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += kLineBytes) __builtin_prefetch(from + i);
}

// Rows of values of kBytes each, prefetched line by line.
template <int kBytes>
class Prefetcher {
public:
    static constexpr int value_bytes = kBytes;

    Prefetcher() = default;
    Prefetcher(const StridedRows& rows, int64_t columns)
        : at_(rows.first),
          lines_((columns * kBytes + kLineBytes - 1) / kLineBytes),
          left_(lines_),
          skip_(rows.stride - lines_ * kLineBytes) {}

    [[gnu::always_inline]] void next() {
        __builtin_prefetch(at_);
        at_ += kLineBytes;
        if (--left_ == 0) {
            at_ += skip_;
            left_ = lines_;
        }
    }

private:
    const char* at_;
    int64_t lines_, left_, skip_;
};

// Prefetches rows as kStreams streams side by side, each `span` bytes after the one before.
class StreamPrefetcher {
public:
    static constexpr int64_t kStreams = 4;

    StreamPrefetcher(const StridedRows& rows, int64_t row_bytes, int64_t span)
        : at_(rows.first),
          span_(span),
          lines_((row_bytes + kLineBytes - 1) / kLineBytes),
          left_(lines_),
          skip_(rows.stride - lines_ * kLineBytes) {}

    // Called for every kBytes that are used: prefetches as many.
    template <int kBytes>
    [[gnu::always_inline]] void used() {
        constexpr int kStep = kStreams * kLineBytes;
#pragma GCC unroll 16
        for (int i = 0; i < kBytes / kStep; ++i) next();
        if constexpr (kBytes % kStep != 0) {
            owed_ += kBytes % kStep;
            if (owed_ < kStep) return;
            owed_ -= kStep;
            next();
        }
    }

private:
    [[gnu::always_inline]] void next() {
        const char* at = at_;
#pragma GCC unroll 16
        for (int64_t stream = 0; stream < kStreams; ++stream, at += span_) __builtin_prefetch(at);
        at_ += kLineBytes;
        if (--left_ == 0) {
            at_ += skip_;
            left_ = lines_;
        }
    }

    const char* at_;
    int64_t span_, lines_, left_, skip_;
    int owed_ = 0;  // bytes that were used, for which nothing has been prefetched yet
};

// Prefetches nothing.
struct NoPrefetch {
    static constexpr int value_bytes = sizeof(double);
    void next() const {}
};

// The rows from `row` on; their columns are assumed to be adjacent.
template <typename S>
inline Prefetcher<sizeof(S)> prefetcher(const RowSource& source, int64_t row, int64_t columns) {
    return {rows_from(source, row), columns};
}

}  // namespace
}  // namespace fastattn
