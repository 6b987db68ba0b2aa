// Attention of a block of few rows, as in decoding: attention.hpp's stream over blocks of keys,
// with the products of tile/narrow.hpp.
//
// With queries along the lanes, most lanes would be empty, and each value would be packed for only
// a few rows to use.  Here keys and values are read once, where they lie; what is not adjacent, and
// hidden values that are not finite, go through a small copy.
//
// Memory sits idle wherever the stream jumps between keys and values.  So the keys of several
// adjacent blocks are read first, then the values of all of them: a run.
//
// Every sum is taken in the same order as in attention.hpp, so a row's result is the same, bit for
// bit, whichever of the two computes it.
//
// Legend: S, T = storage and compute type; scores and weights s[row][key]; m, l = running maximum
// and sum of a row; alpha = what its earlier results are scaled by; ld = values between rows of
// results, ld_s between rows of scores.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/narrow.hpp"
#include "dense.hpp"
#include "layout.hpp"
#include "masks.hpp"
#include "narrow_softmax.hpp"
#include "rows.hpp"

namespace fastattn {
namespace {

template <typename Simd>
struct NarrowLayout : Parts<typename Simd::Value> {
    using Tile = NarrowTile<Simd, typename Simd::Value>;
    static constexpr int64_t kRows = Tile::rows;

    // Keys whose exponentials are taken at a time: rows of scores are padded to a multiple of this.
    static constexpr int64_t kGroup = kExpVectors * Simd::lanes;
    static_assert(kGroup % Tile::keys == 0, "the last tile's scores have their place");

    // Bytes of weights that a run holds: they stay in L1 while keys and values pass through it.
    static constexpr int64_t kRunBytes = 16384;
    static constexpr int64_t kMostBlocks = 16;

    int64_t depth, ld, ld_s;
    int64_t q, scores, copies, o, sums, mask, unsafe;

    NarrowLayout(int64_t block_k, int64_t dim, int64_t dim_v)
        : depth(this->round_up(dim, Tile::piece)), ld(this->round_up(dim_v, Simd::lanes)),
          ld_s(this->round_up(block_k, kGroup)) {
        q = this->part(depth * kRows);
        scores = this->part(kRows * ld_s > kRunWeights ? kRows * ld_s : kRunWeights);
        copies = this->part(Tile::keys * (depth > ld ? depth : ld));
        o = this->part(kRows * ld);
        sums = this->part(kRows * ld);
        mask = this->part(this->round_up(block_k, Simd::lanes));
        unsafe = this->part(block_k * this->kPerInt64);
    }

    // Blocks in a run of `used` rows.
    int64_t blocks(int64_t used) const {
        const int64_t count = kRunWeights / (used * ld_s);
        return count < 1 ? 1 : count < kMostBlocks ? count : kMostBlocks;
    }

private:
    static constexpr int64_t kRunWeights = kRunBytes / sizeof(typename Simd::Value);
};

template <typename Simd, typename S>
class Narrow {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    using Tile = NarrowTile<Simd, S>;    // for keys and values where they lie
    using Copied = NarrowTile<Simd, T>;  // and for copies
    using Layout = NarrowLayout<Simd>;
    using Asking = Ahead<sizeof(S)>;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int64_t kRows = Tile::rows;
    static constexpr int64_t kSize = sizeof(T);
    // How far ahead of their use rows are asked for.
    static constexpr int64_t kAheadBytes = 12288;

public:
    static constexpr int64_t most_rows = kRows;

    explicit Narrow(const Task& task)
        : task_(task),
          rows_(task.row_end - task.row_begin),
          at_(task.block_k, task.dim, task.dim_v),
          keys_in_place_(in_place<S>(task.k) && task.dim % Tile::piece == 0),
          values_in_place_(in_place<S>(task.v) && task.dim_v % kLanes == 0) {
        while (used_ < rows_) used_ *= 2;
        blocks_ = at_.blocks(used_);
        T* scratch = static_cast<T*>(task.scratch);
        q_ = scratch + at_.q;
        s_ = scratch + at_.scores;
        copies_ = scratch + at_.copies;
        o_ = scratch + at_.o;
        sums_ = scratch + at_.sums;
        mask_ = scratch + at_.mask;
        unsafe_ = reinterpret_cast<int64_t*>(scratch + at_.unsafe);
        ahead_ = kAheadBytes / (task.dim * static_cast<int64_t>(sizeof(S))) / Tile::keys * Tile::keys;
        if (ahead_ < Tile::keys) ahead_ = Tile::keys;
    }

    void compute() {
        const Interval seen = start();
        each_block(task_, seen, [&](Interval keys) {
            step(keys, keys.end < seen.end);
            if (held_ == blocks_) end_run();
        });
        end_run();
        finish();
    }

private:
    // Keys whose values are still to be read.
    struct KeyBlock {
        Interval keys;
        T* s;
        T alpha[kLanes];  // one row per lane
    };

    // Converts and scales the queries, as [column][row], and returns the keys that some row sees.
    Interval start() {
        Interval all{task_.key_begin, task_.key_begin};
        seen_by_all_ = {0, INT64_MAX};
        char* from[kRows];
        addresses(task_, task_.q, 0, rows_, kRows, from);
        Place place(task_, 0);
        for (int64_t r = 0; r < rows_; ++r) {
            if (r) place.next();
            seen_[r] = visible_keys(task_, place.query);
            seen_by_all_ = common(seen_by_all_, seen_[r]);
            all = hull(all, seen_[r]);
        }
        for (int64_t d = 0; d < at_.depth; ++d)
            for (int64_t r = 0; r < used_; ++r) {
                const char* x = from[r] + d * task_.q.column;
                q_[d * used_ + r] =
                    d < task_.dim ? to_compute<T>(load<S>(x)) * static_cast<T>(task_.scale) : T(0);
            }
        for (int64_t lane = 0; lane < kLanes; ++lane) m_[lane] = -kInfinity<T>, l_[lane] = 0;
        fresh_ = true;
        return all;
    }

    // Weighs a block of keys.  `more`: keys of other blocks follow.
    void step(Interval keys, bool more) {
        bool masked = false;
        if (task_.mask.data) masked = trim<Simd, S, kRows>(task_, 0, rows_, keys);
        if (keys.empty()) return;
        KeyBlock& block = run_[held_];
        block.keys = keys;
        block.s = s_ + held_ * used_ * at_.ld_s;
        ++held_;
        more = more && held_ < blocks_;
        with_rows<1>([&](auto used) { weigh<decltype(used)::value>(block, masked, more); });
    }

    // Adds the values of the blocks that have been weighed.
    void end_run() {
        for (int64_t i = 0; i < held_; ++i) {
            const KeyBlock* next = i + 1 < held_ ? run_ + i + 1 : nullptr;
            with_rows<1>([&](auto used) { add_values<decltype(used)::value>(run_[i], next); });
            fresh_ = false;
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
    [[gnu::noinline]] void weigh(KeyBlock& block, bool masked, bool more) {
        for (int64_t j = block.keys.begin; j < block.keys.end; j += Tile::keys)
            add_scores<kUsed>(block, j, more);
        for (int64_t r = 0; r < kUsed; ++r) hide(block, r, masked);
        narrow_softmax<Simd, kUsed>(block.s, at_.ld_s, block.keys.count(), m_, l_, block.alpha);
    }

    // What is asked for after a block's keys: those of the next block, or the run's values.
    template <int kUsed>
    void add_scores(const KeyBlock& block, int64_t first, bool more) {
        const int64_t left = block.keys.end - first, next = first + ahead_;
        Stream k = rows_from(task_.k, first);
        T* s = block.s + (first - block.keys.begin);
        Asking ahead = more || next < block.keys.end
                           ? ask_for<S>(task_.k, next, task_.dim)
                           : ask_for<S>(task_.v, run_[0].keys.begin + next - block.keys.end,
                                        task_.dim_v);
        if (keys_in_place_ && left >= Tile::keys)
            return Tile::template scores<kUsed>(k, q_, at_.depth, s, at_.ld_s, ahead);
        for (int64_t j = 0; j < Tile::keys; ++j) {
            T* to = copies_ + j * at_.depth;
            if (j < left) read_row<Simd, S>(k.rows + j * k.stride, task_.k.column, task_.dim, to);
            for (int64_t d = j < left ? task_.dim : 0; d < at_.depth; ++d) to[d] = 0;
        }
        k = {reinterpret_cast<const char*>(copies_), at_.depth * kSize};
        Copied::template scores<kUsed>(k, q_, at_.depth, s, at_.ld_s, ahead);
    }

    // Caps the scores of a row and hides what it does not see.
    void hide(const KeyBlock& block, int64_t r, bool masked) {
        const Interval keys = block.keys;
        T* s = block.s + r * at_.ld_s;
        if (task_.softcap != 0) cap<Simd>(s, keys.count(), static_cast<T>(task_.softcap));
        if (r >= rows_) r = rows_ - 1;  // a repetition
        if (masked) {
            read_mask(r, keys);
            add_dense<Simd>(s, mask_, keys.count());
        }
        const Interval seen = common(seen_[r], keys);
        if (seen.begin == keys.begin && seen.end == keys.end) return;
        for (int64_t j = keys.begin; j < keys.end; ++j)
            if (j < seen.begin || j >= seen.end) s[j - keys.begin] = -kInfinity<T>;
    }

    void read_mask(int64_t r, Interval keys) {
        char* row;
        addresses(task_, task_.mask, r, 1, 1, &row);
        with_mask_type<S>(task_, [&](auto type) {
            read_row<Simd, decltype(type)>(row + keys.begin * task_.mask.column,
                                           task_.mask.column, keys.count(), mask_);
        });
    }

    // `next`: the block whose values come next, or nullptr.
    template <int kUsed>
    [[gnu::noinline]] void add_values(const KeyBlock& block, const KeyBlock* next) {
        // A hidden key's weight is 0, and 0 * NaN would be NaN: see attention.hpp.
        const bool may_hide = task_.mask.data || block.keys.begin < seen_by_all_.begin ||
                              block.keys.end > seen_by_all_.end;
        unsafe_count_ = 0;
        for (int64_t j = block.keys.begin; j < block.keys.end; j += Tile::keys)
            add<kUsed>(block, j, next, may_hide);
        for (int64_t r = 0; r < rows_; ++r)
            for (int64_t f = 0; f < at_.ld; f += kLanes) {
                T* o = o_ + r * at_.ld + f;
                const Vec sum = load<Vec>(sums_ + r * at_.ld + f);
                const Vec alpha = broadcast<Simd>(block.alpha[r]);
                store(o, fresh_ ? sum : Simd::fma(load<Vec>(o), alpha, sum));
            }
        for (int64_t u = 0; u < unsafe_count_; ++u) add_unsafe(block, unsafe_[u]);
    }

    // Adds the values of some keys from j on to the sums.  After a run's values, the keys of the
    // next run are asked for.
    template <int kUsed>
    void add(const KeyBlock& block, int64_t j, const KeyBlock* next, bool may_hide) {
        const int64_t left = block.keys.end - j, count = left < Tile::keys ? left : Tile::keys;
        Stream v = rows_from(task_.v, j);
        const Asking ahead =
            ahead_ < left ? ask_for<S>(task_.v, j + ahead_, task_.dim_v)
            : next        ? ask_for<S>(task_.v, next->keys.begin + ahead_ - left, task_.dim_v)
                          : ask_for<S>(task_.k, j + ahead_, task_.dim);
        bool copy = !values_in_place_;
        for (int64_t i = 0; i < count && may_hide && !copy; ++i)
            copy = !all_finite<Simd>(reinterpret_cast<const S*>(v.rows + i * v.stride), task_.dim_v);
        if (!copy) return weight<Tile, kUsed>(block, v, j, count, ahead);
        for (int64_t i = 0; i < count; ++i)
            copy_value(v.rows + i * v.stride, j + i, may_hide, copies_ + i * at_.ld);
        weight<Copied, kUsed>(block, {reinterpret_cast<const char*>(copies_), at_.ld * kSize}, j,
                              count, ahead);
    }

    template <typename From, int kUsed>
    void weight(const KeyBlock& block, const Stream& v, int64_t j, int64_t count, Asking ahead) {
        From::template add_values<kUsed>(v, count, block.s + (j - block.keys.begin), at_.ld_s,
                                         at_.ld, sums_, at_.ld, j == block.keys.begin, ahead);
    }

    // Copies a value, padded to whole vectors.  If it may be hidden, numbers that are not finite
    // are replaced by 0, and its key is listed.
    void copy_value(const char* from, int64_t j, bool may_hide, T* to) {
        read_row<Simd, S>(from, task_.v.column, task_.dim_v, to);
        for (int64_t f = task_.dim_v; f < at_.ld; ++f) to[f] = 0;
        if (!may_hide || all_finite<Simd>(to, task_.dim_v)) return;
        unsafe_[unsafe_count_++] = j;
        for (int64_t f = 0; f < task_.dim_v; ++f) to[f] = is_finite(to[f]) ? to[f] : T(0);
    }

    // Adds what `copy_value` left out, to the rows that see it.
    void add_unsafe(const KeyBlock& block, int64_t j) {
        read_row<Simd, S>(task_.v.data + j * task_.v.row, task_.v.column, task_.dim_v, copies_);
        for (int64_t r = 0; r < rows_; ++r) {
            if (j < seen_[r].begin || j >= seen_[r].end) continue;
            if (task_.mask.data) {
                read_mask(r, block.keys);
                if (mask_[j - block.keys.begin] == -kInfinity<T>) continue;
            }
            const T weight = block.s[r * at_.ld_s + (j - block.keys.begin)];
            for (int64_t f = 0; f < task_.dim_v; ++f)
                if (!is_finite(copies_[f])) o_[r * at_.ld + f] += weight * copies_[f];
        }
    }

    void finish() {
        if (fresh_)
            for (int64_t i = 0; i < rows_ * at_.ld; ++i) o_[i] = 0;
        for (int64_t r = 0; r < rows_; ++r) {
            const T* o = o_ + r * at_.ld;
            if (task_.partial) {
                T* part = partial_row<T>(task_, 0, r);
                __builtin_memcpy(part, o, static_cast<uint64_t>(task_.dim_v * kSize));
                part[task_.dim_v] = m_[r];
                part[task_.dim_v + 1] = l_[r];
            } else {
                T sinks[kLanes];
                const bool given = sinks_of<Simd>(task_, r, 1, sinks);
                const Vec scale = normaliser<Simd>(broadcast<Simd>(m_[r]), broadcast<Simd>(l_[r]),
                                                   given ? sinks : nullptr);
                char* out;
                addresses(task_, task_.out, r, 1, 1, &out);
                write_row<Simd, S>(out, task_.out.column, task_.dim_v, o, scale[0]);
            }
            if (!task_.row_max) continue;
            task_.row_max[r] = static_cast<double>(m_[r]);
            task_.row_sum[r] = static_cast<double>(l_[r]);
        }
    }

    const Task& task_;
    const int64_t rows_;
    int64_t used_ = 1;  // rows that are computed: a power of two; the last may be repetitions
    const Layout at_;
    const bool keys_in_place_, values_in_place_;
    int64_t ahead_;  // rows from the one in use to the one asked for
    T *q_, *s_, *copies_, *o_, *sums_, *mask_;
    int64_t* unsafe_;  // keys of the block with values that are not finite
    int64_t unsafe_count_;
    Interval seen_[kRows];  // keys that each row sees
    Interval seen_by_all_;
    T m_[kLanes], l_[kLanes];  // one row per lane
    bool fresh_;  // no block of keys has written O yet
    KeyBlock run_[Layout::kMostBlocks];
    int64_t blocks_, held_ = 0;  // blocks that a run may hold, and holds
};

}  // namespace
}  // namespace fastattn
