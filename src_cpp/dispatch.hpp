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

// Whether the operating system lets this process use what row `index` needs.  Asking has effects on
// the whole process (see `tiles_permitted`), so it is the last question.
bool permitted(int index);

// Whether row `index` can be the best for some call, or is too slow on this CPU to be chosen where
// the caller does not name it.
bool preferred(int index);

// Kernel of row `index`; nullptr if the row is not in this build or has no such kernel.
const Kernel* kernel(int index, Operation operation, DType type);

// Whether row `index` suits a call of these extents that names no row, or the first reason why not.
enum class Suits : int32_t { kYes, kNoKernel, kLacking, kSlowHere, kSmallCall };
Suits suits(int index, Operation operation, DType type, const Extents& extents);

}  // namespace fastattn
