// Attention of one block of rows: a stream over blocks of keys with an online softmax.
//
//   for each block of keys:                     (block_k keys, at multiples of block_k)
//     classify its tiles: is it masked for each panel of rows?   masks.hpp, dense.hpp
//     load it                                                    the tile policy
//     for each panel:                           (up to `vectors` vectors of rows)
//       S = K Q^T                               the tile policy
//       cap and mask S, only where needed       here
//       P = exp(S - m), running m and l         the tile policy
//       O = alpha O + V^T P                     the tile policy
//   rows = O / l, or O, m and l where the keys are split         epilogue.hpp
//
// It starts no threads, allocates no memory and chooses no block sizes.  All its input is in its Task.
//
// A tile policy decides how operands are held and packed, in which order products are summed and
// what scratch that takes.  It is a class with
//
//   Simd, Storage, T         SIMD traits of the compute type, storage type, compute type
//   vectors, panel_rows      vectors and rows of a panel
//   decode_rows              blocks of at most this many rows go to the decode kernel, which must
//                            give the same bits; 0: none
//   tile_keys, block_keys, chunk    sizes that default blocks follow: see Kernel in abi.hpp
//   Regions(arena, rows, block_k, dim, dim_v)    its scratch; rows are whole vectors or panels
//   Tile(task, regions, rows)
//   load(block, may_mask, non_finite)   makes a block of keys and values ready
//   compute(panels, rows)               adds the block to the panels' results, and sets
//                                       Panel::accumulate; an empty panel is skipped.  `rows` is
//                                       the RowBlock: see mask_scores and add_non_finite
//   results(first), features()          O of a panel, [feature][lane], and its number of features
//   m(), l()                            statistics of each row; l refers to exp(s - m)
//
// and that may have
//
//   finish(first, count)     called once for the rows of a panel, when all blocks are added
//   whole_panels             true: the last panel has all vectors, whatever its rows
//   packed                   see Kernel in abi.hpp
//   factors()                by which the results are to be multiplied to agree with l
//   mask_factor()            by which dense masks are to be multiplied to agree with the scores
//   refused(row)             whether it could not compute a row exactly enough
//
// Legend: S, T = storage and compute type; m, l = running maximum and sum of a row.
// Source: Dao et al., FlashAttention, arXiv:2205.14135, algorithm 1.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/non_finite.hpp"
#include "../tile/pack.hpp"
#include "../tile/panels.hpp"
#include "../tile/scratch.hpp"
#include "epilogue.hpp"
#include "masks.hpp"
#include "softcap.hpp"

namespace fastattn {
namespace {

template <typename Tile>
class RowBlock {
    using Simd = typename Tile::Simd;
    using S = typename Tile::Storage;
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int64_t kPanelRows = Tile::panel_rows;
    static constexpr bool kWholePanels = requires { requires Tile::whole_panels; };

    struct Regions {
        int64_t rows;  // whole vectors: the last row is repeated
        typename Tile::Regions tile;
        NonFinite<Simd, S> non_finite;
        T* mask;               // a tile of the dense mask, [key][lane]
        int64_t *begin, *end;  // of each row's visible keys
        Panel* panels;

        Regions(Arena& arena, int64_t count, int64_t block_k, int64_t dim, int64_t dim_v)
            : rows(round_up(count, kWholePanels ? kPanelRows : kLanes)),
              tile(arena, rows, block_k, dim, dim_v),
              non_finite(arena, block_k, dim_v) {
            mask = arena.region<T>(block_k * kPanelRows);
            begin = arena.region<int64_t>(rows);
            end = arena.region<int64_t>(rows);
            panels = arena.region<Panel>((rows + kPanelRows - 1) / kPanelRows);
        }
    };

public:
    static int64_t scratch_bytes(int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v) {
        Arena arena;
        Regions(arena, rows, block_k, dim, dim_v);
        return arena.bytes();
    }

    explicit RowBlock(const Task& task)
        : task_(task),
          count_(task.row_end - task.row_begin),
          arena_(task.scratch),
          at_(arena_, count_, task.block_k, task.dim, task.dim_v),
          tile_(task, at_.tile, at_.rows) {}

    void compute() {
        start();
        each_block(task_, visible_.some, [&](Interval keys) {
            const Interval block = classify_panels(keys);
            if (block.empty()) return;
            last_block_ = keys.end == visible_.some.end;
            tile_.load(block, visible_.may_mask(task_, block), at_.non_finite);
            tile_.compute(panels(), *this);
        });
        panels().each([&](auto vectors, Panel& panel, int64_t first, int64_t rows) {
            if (!panel.ended) end_panel(vectors, panel, first, rows);
        });
        write_statistics(task_, count_, tile_.m(), tile_.l());
    }

    // For the tile: whether the block of keys is the last one.
    bool last_block() const { return last_block_; }

    // For the tile, which may call it when a panel's results are complete: writes the panel's rows.
    template <typename Vectors>
    [[gnu::noinline]] void end_panel(Vectors vectors, Panel& panel, int64_t first, int64_t rows) {
        constexpr int64_t ld = Vectors::value * kLanes;
        if constexpr (requires { tile_.finish(first, ld); }) tile_.finish(first, ld);
        write_rows(vectors, panel, first, rows);
        panel.ended = true;
    }

    // For the tile: caps and masks a panel's scores, s[key - keys.begin][lane] of panel.keys.
    template <int kVectors>
    void mask_scores(const TileMask& panel, int64_t first, int64_t rows, T* s) {
        const Interval keys = panel.keys;
        const int64_t count = keys.count() * kVectors * kLanes;
        scale_and_cap<Simd>(task_, s, count);
        if (panel.dense) {
            read_mask<kVectors>(first, rows, keys);
            if constexpr (requires { tile_.mask_factor(); })
                scale_mask<Simd>(at_.mask, count, tile_.mask_factor());
            add_dense<Simd>(s, at_.mask, count);
        }
        panel.each_partial([&](Interval some) {
            mask_outside<Simd, kVectors>(s + (some.begin - keys.begin) * kVectors * kLanes,
                                         some.begin, some.count(), at_.begin + first,
                                         at_.end + first);
        });
    }

    // For the tile: adds what NonFinite left out of a block's values to a panel's results, once the
    // others are added.  weight(lane, key) is the key's weight.
    template <typename Vectors, typename Weight>
    void add_non_finite(Vectors, const Panel& panel, int64_t first, int64_t rows, Weight weight) {
        if (!at_.non_finite.empty()) add_listed<Vectors::value>(panel, first, rows, weight);
    }

    // For the tile: calls `body` with the lane of each row of a panel to which one of `count` keys is
    // visible.
    template <typename Vectors, typename Body>
    [[gnu::noinline]] void each_row_of_visible(Vectors, const Panel& panel, int64_t first,
                                               int64_t rows, const int64_t* keys, int64_t count,
                                               Body body) {
        if (panel.dense) read_mask<Vectors::value>(first, rows, panel.keys);
        for (int64_t lane = 0; lane < rows; ++lane)
            for (int64_t i = 0; i < count; ++i)
                if (panel.keys.holds(keys[i]) &&
                    is_visible<Vectors::value>(panel, first, lane, keys[i])) {
                    body(lane);
                    break;
                }
    }

    // Whether the tile could not compute a row.
    bool refused(int64_t row) const { return tile_.refused(row); }

private:
    Panels<Simd, Tile::vectors, kWholePanels> panels() const { return {at_.panels, 0, count_}; }

    [[gnu::noinline]] void start() {
        visible_ = visible_rows(task_, [&](int64_t r, Interval keys) {
            at_.begin[r] = keys.begin;
            at_.end[r] = keys.end;
        });
        for (int64_t r = count_; r < at_.rows; ++r) {
            at_.begin[r] = at_.begin[count_ - 1];
            at_.end[r] = at_.end[count_ - 1];
        }
        panels().each(
            [](auto, Panel& panel, int64_t, int64_t) { panel.accumulate = panel.ended = false; });
    }

    // Classifies each panel's tile of a block, and returns the keys that are visible to some row.
    [[gnu::noinline]] Interval classify_panels(Interval block) {
        Interval some{block.begin, block.begin};
        panels().each([&](auto, Panel& panel, int64_t first, int64_t rows) {
            static_cast<TileMask&>(panel) = classify<Simd, S, kPanelRows>(
                task_, first, rows, block,
                [&](int64_t r) { return Interval{at_.begin[r], at_.end[r]}; });
            some = hull(some, panel.keys);
        });
        return some;
    }

    // Reads a panel's tile of the dense mask, as numbers to add to the scores.
    template <int kVectors>
    void read_mask(int64_t first, int64_t rows, Interval keys) {
        constexpr int64_t ld = kVectors * kLanes;
        char* from[ld];
        mask_rows(task_, first, rows, ld, keys.begin, from);
        with_mask_type<S>(task_, [&](auto type) {
            pack_rows<Simd, decltype(type)>(from, ld, task_.mask.column, keys.count(), T(1),
                                            at_.mask, ld);
        });
    }

    template <int kVectors, typename Weight>
    [[gnu::noinline]] void add_listed(const Panel& panel, int64_t first, int64_t rows,
                                      Weight weight) {
        constexpr int64_t ld = kVectors * kLanes;
        const Interval keys = panel.keys;
        if (panel.dense) read_mask<kVectors>(first, rows, keys);
        const auto visible = [&](int64_t lane, int64_t j) {
            return is_visible<kVectors>(panel, first, lane, j);
        };
        at_.non_finite.add(
            task_.v, task_.dim_v, keys, rows, visible, weight,
            [&](int64_t lane) { return tile_.results(first) + lane; }, ld);
    }

    // Whether key j of a panel is visible to a row.  A dense mask has been read.
    template <int kVectors>
    bool is_visible(const Panel& panel, int64_t first, int64_t lane, int64_t j) const {
        if (j < at_.begin[first + lane] || j >= at_.end[first + lane]) return false;
        return !panel.dense ||
               at_.mask[(j - panel.keys.begin) * kVectors * kLanes + lane] != -kInfinity<T>;
    }

    T result_factor(int64_t row) const {
        if constexpr (requires { tile_.factors(); })
            return tile_.factors()[row];
        else
            return 1;
    }

    template <typename Vectors>
    [[gnu::always_inline]] void write_rows(Vectors, const Panel& panel, int64_t first,
                                           int64_t rows) {
        constexpr int64_t ld = Vectors::value * kLanes;
        T* o = tile_.results(first);
        if (!panel.accumulate)
            for (int64_t i = 0; i < tile_.features() * ld; ++i) o[i] = 0;
        char* to[ld];
        T factor[ld];
        if (task_.partial) {
            for (int64_t lane = 0; lane < ld; ++lane) {
                const int64_t r = first + (lane < rows ? lane : rows - 1);
                const PartialRow<T> row(task_, 0, r);
                to[lane] = reinterpret_cast<char*>(row.values);
                factor[lane] = result_factor(r);
                row.m() = tile_.m()[r];
                row.l() = tile_.l()[r];
            }
            unpack_rows<Simd, T>(o, ld, factor, rows, task_.dim_v, to, sizeof(T));
            return;
        }
        for (int64_t lane = 0; lane < ld; lane += kLanes)
            store(factor + lane, row_factors<Simd>(task_, first + lane, rows - lane,
                                                   load<Vec>(tile_.m() + first + lane),
                                                   load<Vec>(tile_.l() + first + lane)));
        if constexpr (requires { tile_.factors(); })
            for (int64_t lane = 0; lane < ld; ++lane) factor[lane] *= result_factor(first + lane);
        addresses(task_, task_.out, first, rows, ld, to);
        unpack_rows<Simd, S>(o, ld, factor, rows, task_.dim_v, to, task_.out.column);
    }

    const Task& task_;
    const int64_t count_;
    Arena arena_;
    Regions at_;
    Tile tile_;
    Visible visible_;
    bool last_block_ = false;
};

}  // namespace
}  // namespace fastattn
