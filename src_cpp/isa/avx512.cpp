// The kernels for AVX-512 F, BW, DQ and VL.
// SPDX-License-Identifier: Apache-2.0
#include "../simd/avx512.hpp"

#include "../kernel/kernels.hpp"

extern "C" const fastattn::KernelSet fastattn_kernels_avx512;
constexpr fastattn::KernelSet fastattn_kernels_avx512 = [] {
    using namespace fastattn;
    return fma_kernels<Avx512>("avx512",
                               kAvx512f | kAvx512bw | kAvx512dq | kAvx512vl | kAvx2 | kFma | kF16c);
}();
