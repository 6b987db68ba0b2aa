// Objects whose allocation may fail.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <new>

namespace fastattn {

// A new T, or nullptr.  This does not use operator new: even its non-throwing form throws and
// catches internally.  An exception needs memory in each thread, and if there is none, the C library
// ends the process.
template <typename T>
T* make() {
    void* const memory = std::aligned_alloc(alignof(T), sizeof(T));
    return memory ? new (memory) T : nullptr;
}

template <typename T>
void destroy(T* object) {
    object->~T();
    std::free(object);
}

}  // namespace fastattn
