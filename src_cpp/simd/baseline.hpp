// Vectors of 16 bytes in the compilers' own terms: SSE2 on x86-64, NEON on Arm, scalar
// code where there is nothing better.  Runs on every CPU the compiler targets.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "vector.hpp"

namespace fastattn {
namespace {

template <typename T>
struct Baseline : Portable<T, 16, 16> {};

}  // namespace
}  // namespace fastattn
