// A task's scratch memory, handed out region by region.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"

namespace fastattn {
namespace {

constexpr int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Regions lie one after another at multiples of the alignment.  Without memory, it only counts.
class Arena {
public:
    explicit Arena(void* memory = nullptr) : next_(reinterpret_cast<uintptr_t>(memory)) {}

    // A region of `count` values.
    template <typename T>
    T* region(int64_t count) {
        T* const first = reinterpret_cast<T*>(next_);
        const int64_t bytes = round_up(count * static_cast<int64_t>(sizeof(T)), kScratchAlignment);
        next_ += static_cast<uintptr_t>(bytes);
        bytes_ += bytes;
        return first;
    }

    int64_t bytes() const { return bytes_; }

private:
    uintptr_t next_;
    int64_t bytes_ = 0;
};

}  // namespace
}  // namespace fastattn
