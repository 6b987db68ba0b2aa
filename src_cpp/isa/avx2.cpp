// The kernels for AVX2, FMA and F16C.
// SPDX-License-Identifier: Apache-2.0
#include "../simd/avx2.hpp"

#include "../kernel/kernels.hpp"

extern "C" const fastattn::KernelSet fastattn_kernels_avx2;
constexpr fastattn::KernelSet fastattn_kernels_avx2 = [] {
    using namespace fastattn;
    return fma_kernels<Avx2>("avx2", kAvx2 | kFma | kF16c);
}();
