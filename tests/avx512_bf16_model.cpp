// The kernels of src_cpp/isa/avx512_bf16.cpp over the exact model of the products of pairs.
// SPDX-License-Identifier: Apache-2.0
#include "pairs_model.hpp"

#include "../src_cpp/kernel/kernels.hpp"
#include "../src_cpp/simd/avx2.hpp"

extern "C" const fastattn::KernelSet fastattn_kernels_avx512_bf16_model, fastattn_kernels_avx2;
constexpr fastattn::KernelSet fastattn_kernels_avx512_bf16_model = [] {
    using namespace fastattn;
    KernelSet set{};
    set.name = "avx512_bf16_model";
    set.needs = kAvx2 | kFma | kF16c;
    set.probes = probes_of<Avx2>();
    add_refusing<FmaTile<ModelPairs, BFloat, BFloatPair>, fastattn_kernels_avx2>(set);
    return set;
}();
