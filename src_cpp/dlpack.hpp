// Arrays of other libraries, by the part of the DLPack standard that reads them in place.
//
// The standard fixes the layout of these structs; the names are ours.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

using PyObject = struct _object;

namespace fastattn::dlpack {

constexpr uint32_t kMajor = 1, kMinor = 0;  // those of one major number have the same layout
constexpr int kCpu = 1;
constexpr int kMostAxes = 64;  // NumPy's

// Data types, as 256 times the code plus the number of bits.
constexpr int kInt32 = 0 + 32, kInt64 = 0 + 64;
constexpr int kFloat16 = 0x200 + 16, kFloat32 = 0x200 + 32, kFloat64 = 0x200 + 64;
constexpr int kBFloat16 = 0x400 + 16;
constexpr int kBool = 0x600 + 8;

struct Tensor {
    char* data;
    int32_t device, device_number;
    int32_t axes;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t* shape;
    int64_t* strides;  // in elements
    uint64_t byte_offset;
};

// A tensor that somebody owns until `release` is called.
struct Managed {
    uint32_t major, minor;
    void* owner;
    void (*release)(Managed*);
    uint64_t flags;
    Tensor tensor;
};

// What `__dlpack_c_exchange_api__` of a type of arrays points to.  Functions return 0, or -1 if a
// Python exception is set.
struct Exchange {
    uint32_t major, minor;
    const Exchange* older;
    void (*not_used[2])();
    // Makes an array, which releases the memory at its end.
    int (*make)(Managed* managed, PyObject** array);
    // Describes the memory of `array` until it is next changed; null if the library does not.
    int (*read)(void* array, Tensor* tensor);
};

// The table of a version that is known here, or nullptr.
inline const Exchange* known(const void* table) {
    const auto* found = static_cast<const Exchange*>(table);
    while (found && found->major != kMajor) found = found->older;
    return found && found->read ? found : nullptr;
}

}  // namespace fastattn::dlpack
