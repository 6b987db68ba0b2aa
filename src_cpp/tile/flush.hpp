// How the matrix tile treats subnormal numbers.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <immintrin.h>

namespace fastattn {
namespace {

// MXCSR of the calling thread for the time of a scope: rounding to nearest, no exceptions trapped.
template <unsigned kBits>
class Mxcsr {
public:
    Mxcsr() : before_(_mm_getcsr()) { _mm_setcsr(kBits); }
    ~Mxcsr() { _mm_setcsr(before_); }
    Mxcsr(const Mxcsr&) = delete;
    Mxcsr& operator=(const Mxcsr&) = delete;

private:
    const unsigned before_;
};

// Subnormal numbers count as 0, as they do in the tiles: a subnormal result of `scale` would take 60 ns.
using FlushSubnormals = Mxcsr<0x9fc0>;
// Subnormal numbers keep their value: for the conversion of 16-bit types.
using KeepSubnormals = Mxcsr<0x1f80>;

}  // namespace
}  // namespace fastattn
