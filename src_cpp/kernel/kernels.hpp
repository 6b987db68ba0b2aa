// The kernels of one vocabulary, as the constant that an instruction set exports.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention.hpp"
#include "merge.hpp"
#include "narrow.hpp"
#include "probes.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
inline void run(const Task& task) {
    if (task.row_end - task.row_begin <= Narrow<Simd, S>::most_rows)
        Narrow<Simd, S>(task).compute();
    else
        RowBlock<Simd, S>(task).compute();
}

// Enough for blocks of `rows` rows, and for the last one, which may be shorter.
template <typename Simd>
inline int64_t scratch_bytes(int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v) {
    const double extents = static_cast<double>(rows) + static_cast<double>(block_k) + 128;
    const double widths = static_cast<double>(dim) + static_cast<double>(dim_v) + extents;
    if (extents * widths > 0x1p52) return -1;  // 16 such areas of 8 bytes are below 2^63
    const int64_t few = NarrowLayout<Simd>(block_k, dim, dim_v).bytes();
    if (rows <= NarrowLayout<Simd>::kRows) return few;
    const int64_t many = BlockLayout<Simd>(rows, block_k, dim, dim_v).bytes();
    return few > many ? few : many;
}

template <typename Simd, typename S>
constexpr Kernel kernel_of() {
    constexpr int kKeys = NarrowLayout<Simd>::Tile::keys;  // of the tile with the most keys
    static_assert(kKeys % FmaTile<Simd>::low_rows == 0, "other tiles divide it");
    Kernel kernel{};
    kernel.run = &run<Simd, S>;
    kernel.merge = &merge<Simd, S>;
    kernel.scratch_bytes = &scratch_bytes<Simd>;
    kernel.partial_row_bytes = &partial_row_bytes<typename Simd::Value>;
    kernel.lanes = Simd::lanes;
    kernel.tile_keys = kKeys;
    kernel.tile_rows = FmaTile<Simd>::vectors * Simd::lanes;
    kernel.block_keys = 128;
    kernel.chunk = BlockLayout<Simd>::kDepth;
    return kernel;
}

// The kernels of one vocabulary, by DType.
template <template <typename> class Simd>
constexpr KernelSet kernels_of(const char* name, uint32_t needs) {
    return {name,
            needs,
            nullptr,
            nullptr,
            {{kernel_of<Simd<float>, float>(), kernel_of<Simd<double>, double>(),
              kernel_of<Simd<float>, Half>(), kernel_of<Simd<float>, BFloat>()}},
            probes_of<Simd>()};
}

}  // namespace
}  // namespace fastattn
