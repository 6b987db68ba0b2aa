// The instruction sets of this build, best first.  Built without ISA flags.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "abi.hpp"

namespace fastattn {

// One row of setup.py's ISAS table.
struct Isa {
    const char* name;
    const KernelSet* kernels;  // nullptr: not in this build
    const char* refusal;       // why it is not in this build, or nullptr
};

int isa_count();
const Isa& isa(int index);

// Lowest feature that row `index` needs and this CPU lacks; nullptr if it can run here
// (or is not in this build).
const char* lacking(int index);

}  // namespace fastattn
