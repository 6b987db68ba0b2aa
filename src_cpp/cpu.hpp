// What this processor and its operating system can run.  Built without ISA flags.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "abi.hpp"

namespace fastattn {

// Features that the CPU has and whose registers the operating system saves.
uint32_t cpu_features();

// Whether the operating system lets this process use AMX tiles.  It is asked at the first call; its
// permission is for all threads, and for children, and makes signal frames larger.  Then sigaltstack
// refuses stacks without room for tiles.  If a thread has such a stack already, tiles are refused.
bool tiles_permitted();

// Name of the lowest feature in `features`, or nullptr if there is none.
const char* feature_name(uint32_t features);

}  // namespace fastattn
