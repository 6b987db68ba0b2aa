// The kernels of a tile policy, as the rows of the constant that an instruction set exports.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/fma.hpp"
#include "attention.hpp"
#include "decode.hpp"
#include "merge.hpp"
#include "probes.hpp"

namespace fastattn {
namespace {

// Where a tile's kernel leaves the rows that the tile refuses: the kernel of another set.
struct Nowhere {
    static constexpr bool exists = false;
};
template <const KernelSet& kSet, DType kType>
struct KernelOf {
    static constexpr bool exists = true;
    static const Kernel& get() {
        return kSet.kernels[static_cast<int>(Operation::kForward)][static_cast<int>(kType)];
    }
};

// Scratch of a tile or, after it, of the kernel for the rows that the tile refused.  Behind it lies,
// for each row, whether it was refused.
template <typename Tile, typename Fallback>
inline int64_t shared_bytes(int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v) {
    const int64_t tile = RowBlock<Tile>::scratch_bytes(rows, block_k, dim, dim_v);
    const int64_t other = Fallback::get().scratch_bytes(rows, block_k, dim, dim_v);
    return round_up(tile > other ? tile : other, kScratchAlignment);
}

// Computes the rows that a tile refused, the first of which is `begin`.
template <typename Tile, typename Fallback>
[[gnu::noinline]] void run_refused(const Task& task, const RowBlock<Tile>& block, int64_t begin) {
    using T = typename Tile::T;
    const int64_t rows = task.row_end - task.row_begin;
    bool* const refused = static_cast<bool*>(task.scratch) +
                          shared_bytes<Tile, Fallback>(rows, task.block_k, task.dim, task.dim_v);
    for (int64_t r = begin; r < rows; ++r) refused[r] = block.refused(r);
    for (int64_t end; begin < rows; begin = end + 1) {
        while (begin < rows && !refused[begin]) ++begin;
        for (end = begin; end < rows && refused[end];) ++end;
        if (begin == end) continue;
        Task some = task;
        some.row_begin = task.row_begin + begin;
        some.row_end = task.row_begin + end;
        if (task.partial)
            some.partial =
                static_cast<char*>(task.partial) + begin * PartialRow<T>::bytes(task.dim_v);
        if (task.row_max) some.row_max += begin, some.row_sum += begin;
        Fallback::get().run(some);
    }
}

template <typename Tile, typename Fallback>
inline void run(const Task& task) {
    const int64_t rows = task.row_end - task.row_begin;
    if constexpr (Tile::decode_rows > 0)
        if (rows <= Tile::decode_rows)
            return Decode<typename Tile::Simd, typename Tile::Storage>(task).compute();
    if constexpr (requires { typename Tile::Few; })
        if (rows <= Tile::Few::panel_rows) return run<typename Tile::Few, Fallback>(task);
    RowBlock<Tile> block(task);
    block.compute();
    if constexpr (Fallback::exists) {
        int64_t first = 0;
        while (first < rows && !block.refused(first)) ++first;
        if (first < rows) run_refused<Tile, Fallback>(task, block, first);
    }
}

// Enough for blocks of `rows` rows, and for the last one, which may be shorter.
template <typename Tile, typename Fallback>
inline int64_t scratch_bytes(int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v) {
    const double extents = static_cast<double>(rows) + static_cast<double>(block_k) + 128;
    const double widths = static_cast<double>(dim) + static_cast<double>(dim_v) + extents;
    if (extents * widths > 0x1p52) return -1;  // 16 such areas of 8 bytes are below 2^63
    int64_t few = 0;
    if constexpr (Tile::decode_rows > 0) {
        using Kernel = Decode<typename Tile::Simd, typename Tile::Storage>;
        few = Kernel::scratch_bytes(block_k, dim, dim_v);
        if (rows <= Tile::decode_rows) return few;
    }
    int64_t many;
    if constexpr (Fallback::exists)
        many = shared_bytes<Tile, Fallback>(rows, block_k, dim, dim_v) + rows;
    else
        many = RowBlock<Tile>::scratch_bytes(rows, block_k, dim, dim_v);
    if constexpr (requires { typename Tile::Few; })
        few =
            scratch_bytes<typename Tile::Few, Fallback>(Tile::Few::panel_rows, block_k, dim, dim_v);
    return few > many ? few : many;
}

template <typename S>
inline constexpr DType kTypeOf = DType::kFloat32;
template <>
inline constexpr DType kTypeOf<double> = DType::kFloat64;
template <>
inline constexpr DType kTypeOf<Half> = DType::kFloat16;
template <>
inline constexpr DType kTypeOf<BFloat> = DType::kBFloat16;

// Adds a tile's kernel for its storage type to a set.
template <typename Tile, typename Fallback = Nowhere>
constexpr Kernel& add_forward(KernelSet& set) {
    using Simd = typename Tile::Simd;
    using S = typename Tile::Storage;
    Kernel& kernel =
        set.kernels[static_cast<int>(Operation::kForward)][static_cast<int>(kTypeOf<S>)];
    kernel.run = &run<Tile, Fallback>;
    kernel.merge = &merge<Simd, S>;
    kernel.scratch_bytes = &scratch_bytes<Tile, Fallback>;
    kernel.partial_row_bytes = &PartialRow<typename Simd::Value>::bytes;
    kernel.lanes = Simd::lanes;
    kernel.tile_keys = Tile::tile_keys;
    kernel.tile_rows = Tile::panel_rows;
    kernel.block_keys = Tile::block_keys;
    kernel.chunk = Tile::chunk;
    if constexpr (requires { Tile::packed; }) kernel.packed = Tile::packed;
    if constexpr (requires { Tile::worthwhile({}); }) kernel.worthwhile = &Tile::worthwhile;
    return kernel;
}

// Adds the kernel of a tile that refuses rows, which a set of multiply-add kernels then computes.
template <typename Tile, const KernelSet& kFallback>
constexpr Kernel& add_refusing(KernelSet& set) {
    return add_forward<Tile, KernelOf<kFallback, kTypeOf<typename Tile::Storage>>>(set);
}

// All kernels by multiply-add with the vectors of an instruction set.
template <template <typename> class Simd>
constexpr KernelSet fma_kernels(const char* name, uint32_t needs) {
    KernelSet set{};
    set.name = name;
    set.needs = needs;
    set.probes = probes_of<Simd>();
    add_forward<FmaTile<Simd<float>, float>>(set);
    add_forward<FmaTile<Simd<double>, double>>(set);
    add_forward<FmaTile<Simd<float>, Half>>(set);
    add_forward<FmaTile<Simd<float>, BFloat>>(set);
    return set;
}

}  // namespace
}  // namespace fastattn
