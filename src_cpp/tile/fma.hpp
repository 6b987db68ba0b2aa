// The register tile of the two matrix products: C[rows][lanes] += A[rows][k] B[k][lanes].
//
// A is read a scalar at a time and broadcast, B a vector at a time, C stays in registers
// over the whole of k.  Keys (or value features) run along the rows, queries along the
// lanes: neither product needs a sum across lanes, and keys are read where they lie.
//
// Legend: kRows x kVectors = the tile, in scalars by vectors; ld = values between rows of
// B and of C.
// Source: Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication",
// ACM TOMS 34(3), 2008, section 4; the tile's shape is that of BLIS's Haswell kernels.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../simd/vector.hpp"

namespace fastattn {
namespace {

// A whose tiles lie one behind the other, rows interleaved: `span` columns a tile.
template <typename T, int kRows>
struct Interleaved {
    const T* first;
    int64_t span;

    struct Tile {
        const T* start;
        T operator()(int r, int64_t k) const { return start[k * kRows + r]; }
    };
    Tile tile(int64_t t) const { return {first + t * span * kRows}; }
};

// A in place: `stride` bytes between its `count` rows.
template <typename T, int kRows>
struct InPlace {
    const char* first;
    int64_t stride;
    int64_t count;

    struct Tile {
        const T* row[kRows];
        T operator()(int r, int64_t k) const { return row[r][k]; }
    };
    // Rows past the last repeat it: their products are computed and not used.
    Tile tile(int64_t t) const {
        Tile tile;
        const int64_t left = count - t * kRows;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r)
            tile.row[r] = reinterpret_cast<const T*>(
                first + stride * (t * kRows + (r < left ? r : left - 1)));
        return tile;
    }
};

template <typename Simd>
struct FmaTile {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    static constexpr int kLanes = Simd::lanes;

    // As tall a tile of as many vectors as fit: its sums, a row of B and a broadcast value.
    static constexpr int rows = 6;
    static constexpr int vectors = (Simd::registers - 1 - rows / 2) / rows;
    static_assert(rows * vectors + vectors + 1 <= Simd::registers, "the tile spills");

    // For each tile of A's rows: C = A B if `fresh`, else scale * C + A B.  `scale` has
    // kVectors vectors, or is nullptr for 1.  The product is summed on its own: a sum of many
    // blocks rounds once a block, not once a product.
    //
    // Never inlined: among a caller's variables the addresses of A's rows lose their registers.
    template <int kVectors, typename A>
    [[gnu::noinline]] static void multiply(const A a, int64_t tiles, const T* b, int64_t count,
                                           T* c, bool fresh, const T* scale) {
        constexpr int64_t ld = kVectors * kLanes;
        for (int64_t t = 0; t < tiles; ++t, c += rows * ld) {
            Vec sum[rows][kVectors] = {};
            accumulate<kVectors>(a.tile(t), b, count, sum);
#pragma GCC unroll 16
            for (int n = 0; n < kVectors; ++n) {
                const Vec factor = scale ? load<Vec>(scale + n * kLanes) : broadcast<Simd>(T(1));
#pragma GCC unroll 16
                for (int r = 0; r < rows; ++r) {
                    T* at = c + r * ld + n * kLanes;
                    store(at, fresh ? sum[r][n] : Simd::fma(load<Vec>(at), factor, sum[r][n]));
                }
            }
        }
    }

private:
    template <int kVectors, typename Tile>
    [[gnu::always_inline]] static void accumulate(const Tile a, const T* b, int64_t count,
                                                  Vec (&sum)[rows][kVectors]) {
        constexpr int64_t ld = kVectors * kLanes;
        for (int64_t k = 0; k < count; ++k) {
            Vec row[kVectors];
#pragma GCC unroll 16
            for (int n = 0; n < kVectors; ++n) row[n] = load<Vec>(b + k * ld + n * kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < rows; ++r) {
                const Vec value = broadcast<Simd>(a(r, k));
#pragma GCC unroll 16
                for (int n = 0; n < kVectors; ++n) sum[r][n] = Simd::fma(value, row[n], sum[r][n]);
            }
        }
    }
};

}  // namespace
}  // namespace fastattn
