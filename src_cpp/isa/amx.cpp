// The kernels for AMX tiles of bfloat16; float64 has none.
// SPDX-License-Identifier: Apache-2.0
#include "../tile/amx.hpp"

#include "../kernel/kernels.hpp"
#include "../tile/matrix.hpp"

namespace fastattn {
namespace {

uint64_t enter() {
    AmxUnit::configure();
    return 0;
}
void leave(uint64_t) { AmxUnit::release(); }

}  // namespace
}  // namespace fastattn

extern "C" const fastattn::KernelSet fastattn_kernels_amx, fastattn_kernels_avx512;
constexpr fastattn::KernelSet fastattn_kernels_amx = [] {
    using namespace fastattn;
    KernelSet set{};
    set.name = "amx";
    set.needs = kAmxBf16 | kAvx512Bf16 | kAvx512f | kAvx512bw | kAvx512dq | kAvx512vl | kAvx2 |
                kFma | kF16c;
    set.enter = &enter;
    set.leave = &leave;
    set.probes = probes_of<Avx512>();
    set.probes.bfloat16 = &MatrixProbe<AmxUnit>::multiply;
    add_refusing<MatrixTile<AmxUnit, float>, fastattn_kernels_avx512>(set);
    add_refusing<MatrixTile<AmxUnit, Half>, fastattn_kernels_avx512>(set);
    add_refusing<MatrixTile<AmxUnit, BFloat>, fastattn_kernels_avx512>(set);
    return set;
}();
