// Objects whose allocation may fail.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdlib>
#include <new>

namespace fastattn {

// A new T, or nullptr.  Even operator new that returns nullptr throws inside, for which the C++
// library needs memory in each thread; where that is lacking, the C library ends the process.
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
