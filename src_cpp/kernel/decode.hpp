// The decode kernel: attention of a block of few rows, attention.hpp's stream over blocks of keys
// with the products of tile/decode.hpp.
//
// With queries along the lanes, most lanes would be empty, and each value would be packed for only
// a few rows to use.  Here keys and values are read once, where they lie; what is not adjacent, and
// values that are not finite where keys may be masked, go through a small copy.
//
// Bandwidth is lost at each switch between keys and values.  So the keys of several
// adjacent blocks, a batch, are read first, then the values of all of them.
//
// Every sum is taken in the same order as in tile/fma.hpp, so a row's result is the same, bit for
// bit, whichever of the two computes it.
//
// Legend: S, T = storage and compute type; s = scores and weights in tiles (tile/decode.hpp); m, l
// = running maximum and sum of a row; alpha = what its earlier results are scaled by; ld = values
// between rows of results.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/decode.hpp"
#include "../tile/decode_softmax.hpp"
#include "../tile/non_finite.hpp"
#include "../tile/scratch.hpp"
#include "epilogue.hpp"
#include "masks.hpp"
#include "softcap.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
class Decode {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    using Tile = DecodeTile<Simd, S>;
    using Prefetch = StreamPrefetcher;
    static constexpr int64_t kStreams = Prefetch::kStreams;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int64_t kRows = Tile::rows;
    static constexpr int64_t kSize = sizeof(T);

    // Keys whose exponentials are taken at a time: rows of scores are padded to a multiple of this.
    static constexpr int64_t kGroup = kExpVectors * kLanes;
    static_assert(kGroup % Tile::keys == 0, "the last tile's scores have room");

    // Weights that a batch holds: they stay in L1 while keys and values pass through it.
    static constexpr int64_t kBatchWeights = 16384 / kSize;
    static constexpr int64_t kBatchBlocks = 16;
    // Most bytes of keys that are read side by side: prefetched lines wait in L1 beside them.
    static constexpr int64_t kSideBySideBytes = 8192;

    struct Regions {
        int64_t depth, ld, room;  // room: for a row's scores of a block
        T *q, *scores, *o, *accumulators, *mask;
        S* copies;
        NonFinite<Simd, S> non_finite;

        Regions(Arena& arena, int64_t block_k, int64_t dim, int64_t dim_v)
            : depth(round_up(dim, Tile::sublane_columns)),
              ld(round_up(dim_v, kLanes)),
              room(round_up(block_k, kGroup)),
              q(arena.region<T>(depth * kRows)),
              scores(arena.region<T>(kRows * room > kBatchWeights ? kRows * room : kBatchWeights)),
              o(arena.region<T>(kRows * ld)),
              accumulators(arena.region<T>(kRows * ld)),
              mask(arena.region<T>(round_up(block_k, kLanes))),
              copies(arena.region<S>(Tile::keys * (depth > ld ? depth : ld))),
              non_finite(arena, block_k, dim_v) {}

        // Blocks in a batch of `used` rows.
        int64_t blocks(int64_t used) const {
            const int64_t count = kBatchWeights / (used * room);
            return count < 1 ? 1 : count < kBatchBlocks ? count : kBatchBlocks;
        }
    };

public:
    static int64_t scratch_bytes(int64_t block_k, int64_t dim, int64_t dim_v) {
        Arena arena;
        Regions(arena, block_k, dim, dim_v);
        return arena.bytes();
    }

    explicit Decode(const Task& task)
        : task_(task),
          rows_(task.row_end - task.row_begin),
          arena_(task.scratch),
          at_(arena_, task.block_k, task.dim, task.dim_v),
          keys_in_place_(in_place<S>(task.k) && task.dim % Tile::sublane_columns == 0),
          values_in_place_(in_place<S>(task.v) && task.dim_v % kLanes == 0) {
        while (used_ < rows_) used_ *= 2;
        blocks_ = at_.blocks(used_);
        const int64_t row_bytes = task.dim * static_cast<int64_t>(sizeof(S));
        side_by_side_ = 2 * Tile::keys * row_bytes <= kSideBySideBytes;
        const int64_t step = (side_by_side_ ? 2 : 1) * Tile::keys;
        window_ = step;
        while (2 * window_ * row_bytes <= kStreams * Tile::stream_bytes) window_ *= 2;
    }

    void compute() {
        start();
        const Interval all = visible_.some;
        each_block(task_, all, [&](Interval keys) {
            add_keys(keys, keys.end < all.end);
            if (held_ == blocks_) end_batch();
        });
        end_batch();
        epilogue();
    }

private:
    // A block of keys whose values are still to be read.
    struct KeyBlock : TileMask {
        T* s;
        T alpha[kLanes];  // one row per lane
    };

    // Converts and scales the queries, as [column][row].
    void start() {
        visible_ = visible_rows(task_, [&](int64_t r, Interval keys) { rows_keys_[r] = keys; });
        char* from[kRows];
        addresses(task_, task_.q, 0, rows_, kRows, from);
        for (int64_t d = 0; d < at_.depth; ++d)
            for (int64_t r = 0; r < used_; ++r) {
                const char* x = from[r] + d * task_.q.column;
                at_.q[d * used_ + r] =
                    d < task_.dim ? to_compute<T>(load<S>(x)) * static_cast<T>(task_.scale) : T(0);
            }
        for (int64_t lane = 0; lane < kLanes; ++lane) m_[lane] = -kInfinity<T>, l_[lane] = 0;
    }

    // Computes a block's weights.  `more`: keys of other blocks follow.
    void add_keys(Interval keys, bool more) {
        KeyBlock& block = batch_[held_];
        static_cast<TileMask&>(block) = classify<Simd, S, kRows>(
            task_, 0, rows_, keys, [&](int64_t r) { return rows_keys_[r]; });
        if (block.keys.empty()) return;
        block.s = at_.scores + held_ * used_ * at_.room;
        ++held_;
        more = more && held_ < blocks_;
        with_rows<1>([&](auto used) { weights<decltype(used)::value>(block, more); });
    }

    // Adds the values of the blocks whose weights are known.
    void end_batch() {
        for (int64_t i = 0; i < held_; ++i) {
            const KeyBlock* next = i + 1 < held_ ? batch_ + i + 1 : nullptr;
            with_rows<1>([&](auto used) { add_values<decltype(used)::value>(batch_[i], next); });
            accumulate_ = true;
        }
        held_ = 0;
    }

    template <int kUsed, typename Body>
    void with_rows(Body body) {
        if constexpr (kUsed < kRows)
            if (used_ > kUsed) return with_rows<2 * kUsed>(body);
        body(Count<kUsed>{});
    }

    // Never inlined, and with all of the softmax inside, apart from the loop over the values.
    template <int kUsed>
    [[gnu::noinline]] void weights(KeyBlock& block, bool more) {
        constexpr int kTiles = Tile::template tiles<kUsed>;
        int64_t j = block.keys.begin;
        if (keys_in_place_ && side_by_side_)
            for (; j + kTiles * Tile::keys <= block.keys.end; j += kTiles * Tile::keys)
                add_scores<kUsed, kTiles>(block, j, more);
        for (; j < block.keys.end; j += Tile::keys) add_scores<kUsed, 1>(block, j, more);
        mask_scores<kUsed>(block);
        decode_softmax<Simd, kUsed, Tile::keys>(block.s, block.keys.count(), m_, l_, block.alpha);
    }

    // Keys or values that are read in order.
    struct Rows {
        const RowSource& source;
        int64_t columns;
        Interval rows;
    };
    Rows keys_of(Interval rows) const { return {task_.k, task_.dim, rows}; }
    Rows values_of(Interval rows) const { return {task_.v, task_.dim_v, rows}; }

    // What is prefetched while kRead rows from j on are read: as many, a window further on, of
    // `now` or of what is read after it.  The rows of a window are prefetched as streams.
    template <int64_t kRead>
    Prefetch prefetched(int64_t j, const Rows& now, const Rows& after) const {
        const int64_t left = now.rows.end - j - window_;
        const Rows& of = left > 0 ? now : after;
        const int64_t i = left > 0 ? j + window_ - now.rows.begin : -left;
        const int64_t begin = i & -window_;
        const bool whole = of.rows.count() - begin >= window_;
        const int64_t row = whole ? begin + (i - begin) / kStreams : i;
        return {rows_from(of.source, of.rows.begin + row),
                of.columns * static_cast<int64_t>(sizeof(S)),
                (whole ? window_ : kRead) / kStreams * of.source.row};
    }

    // After a block's keys come those of the next block, or the batch's values.
    template <int kUsed, int kTiles>
    void add_scores(const KeyBlock& block, int64_t first, bool more) {
        const int64_t left = block.keys.end - first;
        T* s = block.s + (first - block.keys.begin) * kUsed;
        const Prefetch prefetch = prefetched<kTiles * Tile::keys>(
            first, keys_of(block.keys),
            more ? keys_of({block.keys.end, task_.key_end})
                 : values_of({batch_[0].keys.begin, block.keys.end}));
        if (keys_in_place_ && left >= kTiles * Tile::keys)
            return Tile::template scores<kUsed, kTiles>(rows_from(task_.k, first), at_.q, at_.depth,
                                                        s, prefetch);
        for (int64_t j = 0; j < Tile::keys; ++j) {
            S* to = at_.copies + j * at_.depth;
            const int64_t columns = j < left ? task_.dim : 0;
            copy_row(task_.k, first + j, columns, to);
            for (int64_t d = columns; d < at_.depth; ++d) to[d] = S{};
        }
        Tile::template scores<kUsed, 1>(copies(at_.depth), at_.q, at_.depth, s, prefetch);
    }

    // The copied rows, `ld` values apart.
    StridedRows copies(int64_t ld) const {
        return {reinterpret_cast<const char*>(at_.copies), ld * static_cast<int64_t>(sizeof(S))};
    }

    // Caps and masks scores.
    template <int kUsed>
    void mask_scores(const KeyBlock& block) {
        const int64_t count = block.keys.count();
        scale_and_cap<Simd>(task_, block.s, round_up(count, Tile::keys) * kUsed);
        if (!block.dense && !block.partial()) return;
        for (int64_t r = 0; r < kUsed; ++r) {
            const int64_t row = r < rows_ ? r : rows_ - 1;  // the last are repetitions
            if (block.dense) {
                read_mask(row, block.keys);
                for (int64_t j = 0; j < count; j += Tile::keys)
                    add_dense<Simd>(block.s + Tile::template index<kUsed>(r, j), at_.mask + j,
                                    count - j < Tile::keys ? count - j : Tile::keys);
            }
            block.each_partial([&](Interval some) {
                for (int64_t j = some.begin; j < some.end; ++j)
                    if (!rows_keys_[row].holds(j))
                        block.s[Tile::template index<kUsed>(r, j - block.keys.begin)] =
                            -kInfinity<T>;
            });
        }
    }

    void read_mask(int64_t r, Interval keys) {
        char* row;
        mask_rows(task_, r, 1, 1, keys.begin, &row);
        with_mask_type<S>(task_, [&](auto type) {
            read_row<Simd, decltype(type)>(row, task_.mask.column, keys.count(), at_.mask);
        });
    }

    // `next`: the block whose values come next, or nullptr.
    template <int kUsed>
    [[gnu::noinline]] void add_values(const KeyBlock& block, const KeyBlock* next) {
        const Interval keys = block.keys;
        const bool may_mask = visible_.may_mask(task_, keys);
        at_.non_finite.clear();
        for (int64_t j = keys.begin; j < keys.end; j += Tile::keys)
            add<kUsed>(block, j, next, may_mask);
        for (int64_t r = 0; r < rows_; ++r)
            for (int64_t f = 0; f < at_.ld; f += kLanes) {
                T* o = at_.o + r * at_.ld + f;
                const Vec sum =
                    Tile::template accumulated<kUsed>(at_.accumulators + r * at_.ld, f, at_.ld);
                const Vec alpha = broadcast<Simd>(block.alpha[r]);
                store(o, accumulate_ ? Simd::fma(load<Vec>(o), alpha, sum) : sum);
            }
        if (at_.non_finite.empty()) return;
        const auto visible = [&](int64_t r, int64_t j) {
            if (!rows_keys_[r].holds(j)) return false;
            if (!block.dense) return true;
            read_mask(r, keys);
            return at_.mask[j - keys.begin] != -kInfinity<T>;
        };
        at_.non_finite.add(
            task_.v, task_.dim_v, keys, rows_, visible,
            [&](int64_t r, int64_t j) {
                return block.s[Tile::template index<kUsed>(r, j - keys.begin)];
            },
            [&](int64_t r) { return at_.o + r * at_.ld; }, 1);
    }

    // Adds the values of some keys from j on to the accumulators.  After a batch's values come the
    // keys of the next batch.
    template <int kUsed>
    void add(const KeyBlock& block, int64_t j, const KeyBlock* next, bool may_mask) {
        const int64_t left = block.keys.end - j, count = left < Tile::keys ? left : Tile::keys;
        const Prefetch prefetch = prefetched<Tile::keys>(
            j, values_of(block.keys),
            next ? values_of(next->keys) : keys_of({block.keys.end, task_.key_end}));
        if (values_in_place_ &&
            (!may_mask || NonFinite<Simd, S>::none(task_.v, {j, j + count}, task_.dim_v)))
            return add_weighted<kUsed>(block, rows_from(task_.v, j), j, count, prefetch);
        for (int64_t i = 0; i < count; ++i) {
            S* to = at_.copies + i * at_.ld;  // padded to whole vectors
            copy_row(task_.v, j + i, task_.dim_v, to);
            for (int64_t f = task_.dim_v; f < at_.ld; ++f) to[f] = S{};
            if (may_mask) at_.non_finite.replace(to, j + i, task_.dim_v, to);
        }
        add_weighted<kUsed>(block, copies(at_.ld), j, count, prefetch);
    }

    template <int kUsed>
    void add_weighted(const KeyBlock& block, const StridedRows& v, int64_t j, int64_t count,
                      Prefetch prefetch) {
        Tile::template add_values<kUsed>(v, count, block.s + (j - block.keys.begin) * kUsed, at_.ld,
                                         at_.accumulators, at_.ld, j != block.keys.begin, prefetch);
    }

    void epilogue() {
        if (!accumulate_)
            for (int64_t i = 0; i < rows_ * at_.ld; ++i) at_.o[i] = 0;
        const Vec factors = row_factors<Simd>(task_, 0, rows_, load<Vec>(m_), load<Vec>(l_));
        for (int64_t r = 0; r < rows_; ++r) {
            const T* o = at_.o + r * at_.ld;
            if (task_.partial) {
                const PartialRow<T> row(task_, 0, r);
                __builtin_memcpy(row.values, o, static_cast<uint64_t>(task_.dim_v * kSize));
                row.m() = m_[r];
                row.l() = l_[r];
            } else {
                char* out;
                addresses(task_, task_.out, r, 1, 1, &out);
                write_row<Simd, S>(out, task_.out.column, task_.dim_v, o, factors[r]);
            }
        }
        write_statistics(task_, rows_, m_, l_);
    }

    const Task& task_;
    const int64_t rows_;
    int64_t used_ = 1;  // rows that are computed: a power of two; the last may be repetitions
    Arena arena_;
    Regions at_;
    const bool keys_in_place_, values_in_place_;
    bool side_by_side_;          // whether several tiles of keys are read at a time
    int64_t window_;             // rows that are prefetched as streams: a power of two
    Interval rows_keys_[kRows];  // visible to each row
    Visible visible_;
    T m_[kLanes], l_[kLanes];  // one row per lane
    bool accumulate_ = false;  // an earlier block of keys has written O
    KeyBlock batch_[kBatchBlocks];
    int64_t blocks_, held_ = 0;  // blocks that a batch may hold, and holds
};

}  // namespace
}  // namespace fastattn
