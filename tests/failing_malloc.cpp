// Preloaded into a process, fails chosen allocations of the thread that asks for it.
// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <cstddef>

extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
}

namespace {

// Allocations of this thread until the first that fails, 0: none does; and how many fail from it on.
[[gnu::tls_model("initial-exec")]] thread_local long until = 0, failing = 0;

bool fails() {
    if (until == 0 || --until > 0) return false;
    if (--failing > 0) until = 1;
    errno = ENOMEM;
    return true;
}

}  // namespace

extern "C" {

// Of Python, if the process is one.
[[gnu::weak]] void* PyObject_CallNoArgs(void*);

// Calls a Python function, of whose allocations the `first` and all `count` from it on fail.  Tells
// in `ended` whether it allocated less often.
void* call_failing(void* function, long first, long count, int* ended) {
    until = first, failing = count;
    void* const result = PyObject_CallNoArgs(function);
    *ended = until > 0 && failing == count;
    until = failing = 0;
    return result;
}

void* malloc(size_t size) { return fails() ? nullptr : __libc_malloc(size); }
void* calloc(size_t count, size_t size) { return fails() ? nullptr : __libc_calloc(count, size); }
void* realloc(void* old, size_t size) { return fails() ? nullptr : __libc_realloc(old, size); }
void* memalign(size_t alignment, size_t size) {
    return fails() ? nullptr : __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void** to, size_t alignment, size_t size) {
    void* const memory = memalign(alignment, size);
    if (!memory) return ENOMEM;
    *to = memory;
    return 0;
}
}
