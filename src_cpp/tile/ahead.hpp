// Prefetches rows: asks memory for them before they are used.
//
// For few queries, computing with a byte takes about as long as memory takes to deliver it, so the
// two must overlap.  Lines are asked for in the order of their addresses, so that the hardware
// prefetcher joins in, and one at a time between the products, since requests in bursts are
// dropped.  On its own, the hardware sees no stream in rows that are read side by side.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stdint.h>

namespace fastattn {
namespace {

// Rows in memory, `stride` bytes apart.
struct Stream {
    const char* rows;
    int64_t stride;
};

inline constexpr int kLineBytes = 64;

// Asks for all lines at once.
inline void prefetch(const char* from, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += kLineBytes) __builtin_prefetch(from + i);
}

// Rows of values of kBytes each, to be asked for line by line.
template <int kBytes>
class Ahead {
public:
    static constexpr int value_bytes = kBytes;

    Ahead() = default;
    Ahead(const Stream& rows, int64_t columns)
        : at_(rows.rows),
          lines_((columns * kBytes + kLineBytes - 1) / kLineBytes),
          left_(lines_),
          skip_(rows.stride - lines_ * kLineBytes) {}

    [[gnu::always_inline]] void ask() {
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

// Asks for nothing.
struct NoAhead {
    static constexpr int value_bytes = sizeof(double);
    void ask() const {}
};

}  // namespace
}  // namespace fastattn
