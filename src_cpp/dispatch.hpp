// The instruction sets of this build, best first, and which of them computes a call.  Built
// without ISA flags.
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

// Lowest feature that row `index` needs and this CPU lacks; nullptr if there is none (or the row is
// not in this build).
const char* lacking(int index);

// Whether the operating system lets this process use what row `index` needs.
bool permitted(int index);

// Whether row `index` can be the best for some call, or is too slow on this CPU to be chosen where
// the caller does not name it.
bool preferred(int index);

// Kernel of row `index`; nullptr if the row is not in this build or has no such kernel.
const Kernel* kernel(int index, Operation operation, DType type);

// First preferred row that can run here and whose kernel for the operation and type is worthwhile for a call
// of these extents; -1 if there is none.
int best_isa(Operation operation, DType type, const Extents& extents);

}  // namespace fastattn
