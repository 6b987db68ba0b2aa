// The table of instruction sets, as the build wrote it.
//
// isa_table.inc has a line for each row of setup.py's ISAS table, in its order:
// FASTATTN_ISA(name) for an object that was compiled, FASTATTN_NO_ISA(name, "reason")
// for one that was not.
// SPDX-License-Identifier: Apache-2.0
#include "dispatch.hpp"

#include "cpu.hpp"

#define FASTATTN_ISA(name) extern "C" const fastattn::KernelSet fastattn_kernels_##name;
#define FASTATTN_NO_ISA(name, reason)
#include "isa_table.inc"
#undef FASTATTN_ISA
#undef FASTATTN_NO_ISA

namespace fastattn {
namespace {

constexpr Isa kIsas[] = {
#define FASTATTN_ISA(name) {#name, &fastattn_kernels_##name, nullptr},
#define FASTATTN_NO_ISA(name, reason) {#name, nullptr, reason},
#include "isa_table.inc"
#undef FASTATTN_ISA
#undef FASTATTN_NO_ISA
};

}  // namespace

int isa_count() { return static_cast<int>(sizeof(kIsas) / sizeof(kIsas[0])); }

const Isa& isa(int index) { return kIsas[index]; }

const char* lacking(int index) {
    const KernelSet* kernels = kIsas[index].kernels;
    if (!kernels) return nullptr;
    return feature_name(kernels->needs & ~cpu_features());
}

bool permitted(int index) {
    const KernelSet* kernels = kIsas[index].kernels;
    return !kernels || !(kernels->needs & kAmxBf16) || tiles_permitted();
}

bool preferred(int index) {
    const KernelSet* kernels = kIsas[index].kernels;
    return !kernels || !(kernels->prefers & ~cpu_features());
}

const Kernel* kernel(int index, Operation operation, DType type) {
    const KernelSet* set = kIsas[index].kernels;
    if (!set) return nullptr;
    const Kernel& found = set->kernels[static_cast<int>(operation)][static_cast<int>(type)];
    return found.run ? &found : nullptr;
}

Suits suits(int index, Operation operation, DType type, const Extents& extents) {
    const Kernel* found = kernel(index, operation, type);
    if (!found) return Suits::kNoKernel;
    if (lacking(index)) return Suits::kLacking;
    if (!preferred(index)) return Suits::kSlowHere;
    return !found->worthwhile || found->worthwhile(extents) ? Suits::kYes : Suits::kSmallCall;
}

}  // namespace fastattn
