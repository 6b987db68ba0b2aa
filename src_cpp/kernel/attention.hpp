// Attention of one block of rows: a stream over blocks of keys with an online softmax.
//
//   for each block of keys:                     (block_k keys, at multiples of block_k)
//     find which of them each panel sees         kernel/masks.hpp, kernel/dense.hpp
//     copy its keys and pack its values, unless they can be read where they lie
//     for each panel of rows:                   (a register tile's lanes of queries)
//       S = K Q^T      scores [key][lane]       tile/fma.hpp; upcoming.hpp prefetches
//       hide, cap      only where needed
//       P = exp(S - m), running m and l         kernel/softmax.hpp
//       O = alpha O + V^T P   [feature][lane]   tile/fma.hpp
//   rows = O / l, or O, m and l where the task has only a part of the keys
//
// It starts no threads, allocates nothing, chooses no block sizes, and reads nothing but its Task.
//
// Legend: S, T = storage and compute type; panel = up to kVectors vectors of rows;
// m, l = running maximum and sum of a row.
// Source: Dao et al., FlashAttention, arXiv:2205.14135, algorithm 1.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "../tile/fma.hpp"
#include "dense.hpp"
#include "layout.hpp"
#include "masks.hpp"
#include "pack.hpp"
#include "rows.hpp"
#include "softmax.hpp"
#include "upcoming.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
class RowBlock {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    using Tile = FmaTile<Simd>;
    using Tiles = typename Tile::Split;
    using Layout = BlockLayout<Simd>;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int kVectors = Tile::vectors;
    static constexpr int kPanel = Layout::kPanel;
    static constexpr int64_t kDepth = Layout::kDepth;

    // QueryRows a multiple of this many bytes apart fall into the same sets of the L1 cache, so a tile
    // that reads values in place waits for a line of each key.  A tile of many vectors has other
    // work meanwhile.
    static constexpr int64_t kCrowdedBytes = 4096;
    static constexpr bool kWaits = kVectors < 4;

    // 16-bit keys and values are read in place only if there is a single panel.  float16 is then
    // converted a little at a time, so that the copies stay in L1: whole tiles (of either height)
    // of keys, and a cache line of features of each value.  bfloat16 is converted in registers.
    static constexpr bool kConverts = !__is_same(S, T) && kColumnsOfLane<S> == 1;
    using Read = typename Either<kConverts, T, S>::type;
    static constexpr int64_t kTilesOfKeys = 24;
    static constexpr int64_t kLineFeatures = kLineBytes / sizeof(S);
    static_assert(kTilesOfKeys % Tile::rows == 0 && kTilesOfKeys % Tile::lone_rows == 0,
                  "all but the last are whole tiles");

public:
    explicit RowBlock(const Task& task)
        : task_(task),
          count_(task.row_end - task.row_begin),
          at_(count_, task.block_k, task.dim, task.dim_v),
          upcoming_(task) {
        T* scratch = static_cast<T*>(task.scratch);
        q_ = scratch + at_.q;
        o_ = scratch + at_.o;
        scores_ = scratch + at_.scores;
        values_ = scratch + at_.values;
        keys_ = scratch + at_.keys;
        line_ = scratch + at_.line;
        mask_ = scratch + at_.mask;
        m_ = scratch + at_.m;
        l_ = scratch + at_.l;
        alpha_ = scratch + at_.alpha;
        begin_ = reinterpret_cast<int64_t*>(scratch + at_.begin);
        end_ = reinterpret_cast<int64_t*>(scratch + at_.end);
        unsafe_ = reinterpret_cast<int64_t*>(scratch + at_.unsafe);
        views_ = reinterpret_cast<View*>(scratch + at_.views);
        const bool single = count_ <= kPanel, read = single || __is_same(S, T);
        const bool crowded = kWaits && !single && task.v.row % kCrowdedBytes == 0;
        // With other widths, a tile would read past a row's end.
        keys_in_place_ = read && in_place<S>(task.k) && task.dim % kColumnsOfLane<S> == 0;
        values_in_place_ =
            read && in_place<S>(task.v) && task.dim_v % Tile::low_rows == 0 && !crowded;
    }

    void compute() {
        each_block(task_, start(), [&](Interval block) { step(block); });
        finish();
    }

private:
    // Calls `body` for each panel of rows [begin, end), with its number of vectors as a constant,
    // its first row and its number of rows.
    template <typename Body>
    static void each_panel(int64_t begin, int64_t end, Body body) {
        for (int64_t first = begin; first < end; first += kPanel) {
            const int64_t rows = end - first < kPanel ? end - first : kPanel;
            with_vectors<kVectors>((rows + kLanes - 1) / kLanes, first, rows, body);
        }
    }

    template <int kWidth, typename Body>
    static void with_vectors(int64_t vectors, int64_t first, int64_t rows, Body body) {
        if (kWidth == 1 || vectors == kWidth)
            body(Count<kWidth>{}, first, rows);
        else if constexpr (kWidth > 1)
            with_vectors<kWidth - 1>(vectors, first, rows, body);
    }

    // Initialises the statistics, and returns the keys that some row sees.
    [[gnu::noinline]] Interval start() {
        Interval all{task_.key_begin, task_.key_begin};
        seen_by_all_ = {0, INT64_MAX};
        Place place(task_, 0);
        for (int64_t r = 0; r < at_.rows; ++r) {
            const Interval keys = visible_keys(task_, place.query);
            if (r + 1 < count_) place.next();
            begin_[r] = keys.begin;
            end_[r] = keys.end;
            m_[r] = -kInfinity<T>;
            l_[r] = 0;
            seen_by_all_ = common(seen_by_all_, keys);
            all = hull(all, keys);
        }
        each_panel(0, count_,
                   [&](auto, int64_t first, int64_t) { views_[first / kPanel].fresh = true; });
        return all;
    }

    template <int kWidth>
    [[gnu::noinline]] void pack_queries(int64_t first, int64_t rows) {
        constexpr int64_t ld = kWidth * kLanes;
        char* from[ld];
        addresses(task_, task_.q, first, rows, ld, from);
        pack_rows<Simd, S>(from, ld, task_.q.column, task_.dim, static_cast<T>(task_.scale),
                           q_ + first * task_.dim, ld);
    }

    // What one panel sees of the block of keys.
    struct View {
        Interval keys;  // those that some row sees
        bool partial;   // by band or length, some row does not see all of these
        bool masked;    // the dense mask changes some score
        bool fresh;     // no earlier block had keys for this panel: its O is not yet written
    };
    static_assert(sizeof(View) <= Layout::kViewBytes, "the views' place is too small");

    // Computes one block of keys.
    void step(Interval block) {
        block_ = look(block);
        if (block_.empty()) return;
        const bool may_hide = task_.mask.data || block_.begin < seen_by_all_.begin ||
                              block_.end > seen_by_all_.end;
        if (!keys_in_place_) read_keys();
        unsafe_count_ = 0;
        packed_ = !values_in_place_ || (may_hide && !finite_values());
        if (packed_) read_values(may_hide);
        if (keys_in_place_) upcoming_.keys_now(block_);
        upcoming_.values(packed_ ? block_.end : block_.begin);
        // Narrow heads: the scores of one panel are used while they are in L1.  Wide ones: a chunk
        // of keys or packed values is used by all panels while it is in L2.
        const int64_t together = Layout::wide(task_.dim, task_.dim_v) ? count_ : kPanel;
        for (int64_t begin = 0; begin < count_; begin += together) {
            group_ = begin;
            panels(begin, begin + together < count_ ? begin + together : count_);
        }
    }

    // Sets each panel's view of a block, and returns the keys of the block that some row sees.
    [[gnu::noinline]] Interval look(Interval block) {
        Interval seen{block.begin, block.begin};
        each_panel(0, count_, [&](auto vectors, int64_t first, int64_t rows) {
            constexpr int64_t ld = decltype(vectors)::value * kLanes;
            Interval some{block.begin, block.begin}, each = block;
            for (int64_t r = first; r < first + ld; ++r) {
                const Interval keys = common({begin_[r], end_[r]}, block);
                some = hull(some, keys);
                each = common(each, keys);
            }
            View& at = views_[first / kPanel];
            at.masked = task_.mask.data && !some.empty() &&
                        trim<Simd, S, kPanel>(task_, first, rows, some);
            at.keys = some;
            at.partial = each.begin > some.begin || each.end < some.end;
            seen = hull(seen, some);
        });
        return seen;
    }

    // Computes the block of keys for rows [begin, end).
    void panels(int64_t begin, int64_t end) {
        for (int64_t d = 0; d < task_.dim; d += kDepth)
            each_panel(begin, end, [&](auto vectors, int64_t first, int64_t rows) {
                constexpr int kWidth = decltype(vectors)::value;
                if (d == 0 && view(first).fresh && !view(first).keys.empty())
                    pack_queries<kWidth>(first, rows);
                add_scores<kWidth>(first, d);
            });
        each_panel(begin, end, [&](auto vectors, int64_t first, int64_t rows) {
            weigh<decltype(vectors)::value>(first, rows);
        });
        if (begin == 0) upcoming_.keys_after(block_);
        for (int64_t f = 0; f < at_.features; f += width(f))
            each_panel(begin, end, [&](auto vectors, int64_t first, int64_t) {
                add_values<decltype(vectors)::value>(first, f);
            });
        if (unsafe_count_)
            each_panel(begin, end, [&](auto vectors, int64_t first, int64_t rows) {
                add_unsafe<decltype(vectors)::value>(first, rows);
            });
    }

    // Keys that a panel of values has room for.
    int64_t span() const { return block_.count() + kSlackKeys; }
    const View& view(int64_t first) const { return views_[first / kPanel]; }
    // [key - keys.begin][lane]
    T* scores(int64_t first) const { return scores_ + (first - group_) * at_.tiled_keys; }

    // Copies the keys into chunks of kDepth columns.
    [[gnu::noinline]] void read_keys() {
        const int64_t stride = Layout::key_stride(task_.dim), chunk = (block_.count()) * stride;
        for (int64_t j = block_.begin; j < block_.end; ++j) {
            const char* from = task_.k.data + j * task_.k.row;
            prefetch_row(from, task_.k, j, task_.dim);
            T* to = keys_ + (j - block_.begin) * stride;
            for (int64_t d = 0; d < task_.dim; d += kDepth, to += chunk)
                read_row<Simd, S>(from + d * task_.k.column, task_.k.column, depth(d), to);
        }
    }

    // Asks for the row after the next one: otherwise rows would be copied sooner than they arrive.
    void prefetch_row(const char* row, const RowSource& rows, int64_t j, int64_t columns) const {
        constexpr int64_t kAhead = 2;
        if (rows.column != static_cast<int64_t>(sizeof(S)) || j + kAhead >= block_.end) return;
        prefetch(row + kAhead * rows.row, columns * rows.column);
    }

    // Columns of the chunk that starts at d.
    int64_t depth(int64_t d) const { return task_.dim - d < kDepth ? task_.dim - d : kDepth; }

    // Features of the chunk that starts at f; a rest too narrow for its own tiles joins the last.
    int64_t width(int64_t f) const {
        const int64_t left = at_.features - f;
        if (!packed_) return kConverts && left > kLineFeatures ? kLineFeatures : left;
        return left < Layout::kFeatures + 2 * Tile::low_rows ? left : Layout::kFeatures;
    }

    bool finite_values() const {
        bool finite = true;
        for (int64_t j = block_.begin; j < block_.end && finite; ++j)
            finite = all_finite<Simd>(reinterpret_cast<const S*>(task_.v.data + j * task_.v.row),
                                      task_.dim_v);
        return finite;
    }

    // Packs the values.  A hidden key's weight is 0, and 0 * NaN would be NaN: where keys may be
    // hidden, values that are not finite are replaced by 0, and their keys are listed.
    [[gnu::noinline]] void read_values(bool may_hide) {
        const bool adjacent = __is_same(S, T) && in_place<S>(task_.v);
        for (int64_t j = block_.begin; j < block_.end; ++j) {
            const char* from = task_.v.data + j * task_.v.row;
            prefetch_row(from, task_.v, j, task_.dim_v);
            const T* row = reinterpret_cast<const T*>(from);
            if (!adjacent) {
                read_row<Simd, S>(from, task_.v.column, task_.dim_v, line_);
                row = line_;
            }
            if (may_hide && !all_finite<Simd>(row, task_.dim_v)) {
                unsafe_[unsafe_count_++] = j;
                for (int64_t f = 0; f < task_.dim_v; ++f)
                    line_[f] = is_finite(row[f]) ? row[f] : T(0);
                row = line_;
            }
            pack_values<Simd>(row, j - block_.begin, span(), task_.dim_v,
                              Tiles(task_.dim_v), values_);
        }
    }

    // Adds the products of the chunk of columns from d to a panel's scores; the first sets them.
    template <int kWidth>
    void add_scores(int64_t first, int64_t d) {
        const Interval keys = view(first).keys;
        if (keys.empty()) return;
        const bool starts = d == 0 && views_[first / kPanel].fresh;
        const auto further = upcoming_.queries(first);
        const auto add = [&](auto rows, Interval some) {
            upcoming_.during(first, starts, further, [&](auto asking) {
                return Tile::template multiply<kWidth>(
                    rows, some.count(), q_ + first * task_.dim + d * kWidth * kLanes, depth(d),
                    scores(first) + (some.begin - keys.begin) * kWidth * kLanes, d == 0, nullptr,
                    asking);
            });
        };
        if (!keys_in_place_)
            return add(InPlace<T>{copied_keys(keys.begin, d), keys.count()}, keys);
        const int64_t most = kConverts ? kTilesOfKeys : task_.block_k;
        for (int64_t j = keys.begin; j < keys.end; j += most) {
            const Interval some = common(keys, {j, j + most});
            const Stream rows =
                read(task_.k, some, d, depth(d), keys_, Layout::key_stride(task_.dim));
            add(InPlace<Read>{rows, some.count()}, some);
        }
    }

    Stream copied_keys(int64_t first, int64_t d) const {
        const int64_t stride = Layout::key_stride(task_.dim);
        const T* row = keys_ + (d / kDepth * block_.count() + first - block_.begin) * stride;
        return {reinterpret_cast<const char*>(row), stride * static_cast<int64_t>(sizeof(T))};
    }

    // Where a tile reads some columns of some rows: where they lie, or in `copy`, whose rows are
    // `stride` values apart.
    static Stream read(const RowSource& matrix, Interval some, int64_t column, int64_t columns,
                       T* copy, int64_t stride) {
        const Stream rows = rows_from(matrix, some.begin, column);
        if constexpr (!kConverts) return rows;
        for (int64_t i = 0; i < some.count(); ++i)
            read_row<Simd, S>(rows.rows + i * rows.stride, matrix.column, columns,
                              copy + i * stride);
        return {reinterpret_cast<const char*>(copy), stride * static_cast<int64_t>(sizeof(T))};
    }

    // Turns scores into weights.
    template <int kWidth>
    [[gnu::noinline]] void weigh(int64_t first, int64_t rows) {
        const View at = view(first);
        if (at.keys.empty()) return;
        T* s = scores(first);
        const int64_t count = at.keys.count() * kWidth * kLanes;
        if (task_.softcap != 0) cap<Simd>(s, count, static_cast<T>(task_.softcap));
        if (at.masked) {
            read_mask<kWidth>(first, rows, at.keys);
            add_dense<Simd>(s, mask_, count);
        }
        if (at.partial)
            hide_outside<Simd, kWidth>(s, at.keys.begin, at.keys.count(), begin_ + first,
                                       end_ + first);
        online_softmax<Simd, kWidth>(s, at.keys.count(), m_ + first, l_ + first, alpha_ + first);
    }

    // Adds the weighted values of the chunk of features from f to a panel's O.
    template <int kWidth>
    void add_values(int64_t first, int64_t f) {
        View& at = views_[first / kPanel];
        if (at.keys.empty()) return;
        const auto results = upcoming_.results(first);
        const auto add = [&](auto values) {
            upcoming_.during(first, f == 0 && at.fresh, results, [&](auto asking) {
                return Tile::template multiply<kWidth>(
                    values, width(f), scores(first), at.keys.count(),
                    o_ + first * at_.features + f * kWidth * kLanes, at.fresh, alpha_ + first,
                    asking);
            });
        };
        if (packed_)
            add(Interleaved<T>{values_ + f * span(), span(), at.keys.begin - block_.begin});
        else
            add(Transposed<Read>{read(task_.v, at.keys, f, width(f), values_, width(f))});
        if (f + width(f) == at_.features) at.fresh = false;
    }

    // Adds what `read_values` left out, to the rows that see it.
    template <int kWidth>
    [[gnu::noinline]] void add_unsafe(int64_t first, int64_t rows) {
        const View at = view(first);
        if (at.keys.empty()) return;
        constexpr int64_t ld = kWidth * kLanes;
        T* o = o_ + first * at_.features;
        const T* s = scores(first);
        if (at.masked) read_mask<kWidth>(first, rows, at.keys);
        for (int64_t u = 0; u < unsafe_count_; ++u) {
            const int64_t j = unsafe_[u], row = (j - at.keys.begin) * ld;
            if (j < at.keys.begin || j >= at.keys.end) continue;
            read_row<Simd, S>(task_.v.data + j * task_.v.row, task_.v.column, task_.dim_v, line_);
            for (int64_t lane = 0; lane < ld; ++lane) {
                if (j < begin_[first + lane] || j >= end_[first + lane]) continue;
                if (at.masked && mask_[row + lane] == -kInfinity<T>) continue;
                for (int64_t f = 0; f < task_.dim_v; ++f)
                    if (!is_finite(line_[f])) o[f * ld + lane] += s[row + lane] * line_[f];
            }
        }
    }

    // Reads a panel's tile of the dense mask, as numbers to add to the scores.
    template <int kWidth>
    void read_mask(int64_t first, int64_t rows, Interval keys) {
        constexpr int64_t ld = kWidth * kLanes;
        char* from[ld];
        addresses(task_, task_.mask, first, rows, ld, from);
        for (char*& row : from) row += keys.begin * task_.mask.column;
        with_mask_type<S>(task_, [&](auto type) {
            pack_rows<Simd, decltype(type)>(from, ld, task_.mask.column, keys.count(), T(1), mask_, ld);
        });
    }

    [[gnu::noinline]] void finish() {
        each_panel(0, count_, [&](auto vectors, int64_t first, int64_t rows) {
            constexpr int64_t ld = decltype(vectors)::value * kLanes;
            T* o = o_ + first * at_.features;
            if (view(first).fresh)
                for (int64_t i = 0; i < at_.features * ld; ++i) o[i] = 0;
            char* to[ld];
            T factor[ld];
            if (task_.partial) {
                for (int64_t lane = 0; lane < ld; ++lane) {
                    T* part = partial_row<T>(task_, 0, first + (lane < rows ? lane : rows - 1));
                    to[lane] = reinterpret_cast<char*>(part);
                    factor[lane] = 1;
                    if (lane >= rows) continue;
                    part[task_.dim_v] = m_[first + lane];
                    part[task_.dim_v + 1] = l_[first + lane];
                }
                unpack_rows<Simd, T>(o, ld, factor, rows, task_.dim_v, to, sizeof(T));
                return;
            }
            for (int64_t lane = 0; lane < ld; lane += kLanes)
                store(factor + lane, scale_of(first + lane, rows - lane));
            addresses(task_, task_.out, first, rows, ld, to);
            unpack_rows<Simd, S>(o, ld, factor, rows, task_.dim_v, to, task_.out.column);
        });
        if (task_.row_max)
            for (int64_t r = 0; r < count_; ++r) {
                task_.row_max[r] = static_cast<double>(m_[r]);
                task_.row_sum[r] = static_cast<double>(l_[r]);
            }
    }

    // The factors by which a vector of rows is to be multiplied.
    Vec scale_of(int64_t first, int64_t rows) const {
        T sinks[kLanes];
        const bool given = sinks_of<Simd>(task_, first, rows, sinks);
        return normaliser<Simd>(load<Vec>(m_ + first), load<Vec>(l_ + first),
                                given ? sinks : nullptr);
    }

    const Task& task_;
    const int64_t count_;
    const Layout at_;
    T *q_, *o_, *scores_, *values_, *keys_, *line_, *mask_, *m_, *l_, *alpha_;
    int64_t *begin_, *end_;  // of each row's visible keys
    int64_t* unsafe_;        // keys of the block with values that are not finite
    int64_t unsafe_count_;
    View* views_;    // one for each panel
    Interval seen_by_all_;
    Interval block_;  // of keys
    int64_t group_;   // first row whose scores are held
    bool keys_in_place_, values_in_place_;
    bool packed_;   // whether this block's values are packed
    Upcoming<S, kPanel> upcoming_;
};

}  // namespace
}  // namespace fastattn
