// What this processor and its operating system can run.  Built without ISA flags.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "abi.hpp"

namespace fastattn {

// Features that the CPU has and whose registers the operating system saves.
uint32_t cpu_features();

// Whether the operating system lets this process use AMX tiles; asked once, when it is to be known.
// The permission is for all threads, and for children.  It makes signal frames larger: after it,
// sigaltstack refuses a stack without room for tiles; such a stack, set before, has it refused.
bool tiles_permitted();

// Name of the lowest feature in `features`, or nullptr if there is none.
const char* feature_name(uint32_t features);

}  // namespace fastattn
