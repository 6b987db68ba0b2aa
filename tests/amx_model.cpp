// The kernels of src_cpp/isa/amx.cpp over the exact model of the matrix unit.
// SPDX-License-Identifier: Apache-2.0
#include "amx_model.hpp"

#include "../src_cpp/kernel/kernels.hpp"
#include "../src_cpp/simd/avx2.hpp"
#include "../src_cpp/tile/matrix.hpp"

extern "C" const fastattn::KernelSet fastattn_kernels_amx_model, fastattn_kernels_avx2;
constexpr fastattn::KernelSet fastattn_kernels_amx_model = [] {
    using namespace fastattn;
    KernelSet set{};
    set.name = "amx_model";
    set.needs = kAvx2 | kFma | kF16c;
    set.probes = probes_of<Avx2>();
    set.probes.bfloat16 = &MatrixProbe<ModelUnit>::multiply;
    add_refusing<MatrixTile<ModelUnit, float>, fastattn_kernels_avx2>(set);
    add_refusing<MatrixTile<ModelUnit, Half>, fastattn_kernels_avx2>(set);
    add_refusing<MatrixTile<ModelUnit, BFloat>, fastattn_kernels_avx2>(set);
    return set;
}();
