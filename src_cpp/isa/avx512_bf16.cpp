// The kernels for products of pairs of bfloat16 numbers, AVX512_BF16; the other types have none.
//
// The weighted values are computed by FMA: of pairs, they would take two products, since weights need
// two bfloat16 components to be exact enough.
// SPDX-License-Identifier: Apache-2.0
#include "../simd/avx512.hpp"

#include "../kernel/kernels.hpp"

extern "C" const fastattn::KernelSet fastattn_kernels_avx512_bf16, fastattn_kernels_avx512;
constexpr fastattn::KernelSet fastattn_kernels_avx512_bf16 = [] {
    using namespace fastattn;
    KernelSet set{};
    set.name = "avx512_bf16";
    set.needs = kAvx512Bf16 | kAvx512f | kAvx512bw | kAvx512dq | kAvx512vl | kAvx2 | kFma | kF16c;
    set.prefers = kFastPairs;
    set.probes = probes_of<Avx512>();
    set.probes.bfloat16 = &Probe<Avx512<float>>::pairs;
    add_refusing<FmaTile<Avx512<float>, BFloat, BFloatPair>, fastattn_kernels_avx512>(set);
    return set;
}();
