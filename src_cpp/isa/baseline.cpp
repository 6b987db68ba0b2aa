// The kernels for any CPU.
// SPDX-License-Identifier: Apache-2.0
#include "../simd/baseline.hpp"

#include "../kernel/kernels.hpp"

extern "C" const fastattn::KernelSet fastattn_kernels_baseline;
constexpr fastattn::KernelSet fastattn_kernels_baseline = [] {
    using namespace fastattn;
    return fma_kernels<Baseline>("baseline", 0);
}();
