// Attention of one block of rows: a stream over blocks of keys with an online softmax.
//
//   for each block of keys:                     (block_k keys, at multiples of block_k)
//     pack its values; bring its keys to the compute type where they are not in it
//     for each panel of rows:                   (a register tile's lanes of queries)
//       S = K Q^T      scores [key][lane]       tile/fma.hpp
//       hide, cap      only where needed        kernel/masks.hpp
//       P = exp(S - m), running m and l         kernel/softmax.hpp
//       O = alpha O + V^T P   [feature][lane]   tile/fma.hpp
//   rows = O / l
//
// It will not thread, allocate, choose block sizes or read anything but its Task.
//
// Legend: S, T = storage and compute type; panel = up to kVectors vectors of rows;
// m, l = running maximum and sum of a row.
// Source: Dao et al., FlashAttention, arXiv:2205.14135, algorithm 1.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../abi.hpp"
#include "../tile/fma.hpp"
#include "layout.hpp"
#include "masks.hpp"
#include "pack.hpp"
#include "probes.hpp"
#include "rows.hpp"
#include "softmax.hpp"

namespace fastattn {
namespace {

template <typename Simd, typename S>
class Block {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    using Tile = FmaTile<Simd>;
    using Layout = BlockLayout<Simd>;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int kRows = Layout::kRows;
    static constexpr int kVectors = Tile::vectors;
    static constexpr int kPanel = Layout::kPanel;
    static constexpr int64_t kDepth = Layout::kDepth;

    // Rows of a tile of keys that lie a multiple of some KiB apart fall on the same sets of the L1
    // cache.  In place is for rows so near that a tile's span this, or for too few queries to
    // pay for a copy.
    static constexpr int64_t kNearBytes = 4096;

public:
    static int64_t scratch_bytes(int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v) {
        return Layout::bytes(rows, block_k, dim, dim_v);
    }

    static void run(const Task& task) { Block(task).compute(); }

private:
    explicit Block(const Task& task)
        : task_(task),
          count_(task.row_end - task.row_begin),
          at_(count_, task.block_k, task.dim, task.dim_v) {
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
        const int64_t reach = (task.k.row < 0 ? -task.k.row : task.k.row) * kRows;
        keys_in_place_ = in_place(task.k) && (reach <= kNearBytes || count_ <= kPanel);
        values_in_place_ = in_place(task.v);
    }

    // Whether rows can be read where they lie: in the compute type, adjacent and aligned.
    static bool in_place(const Matrix& rows) {
        constexpr int64_t kSize = sizeof(T);
        return __is_same(S, T) && rows.column == kSize && rows.row % kSize == 0 &&
               reinterpret_cast<uintptr_t>(rows.data) % kSize == 0;
    }

    // Calls `body` with the vectors of each panel as a constant, its first row and its
    // number of rows, for the panels of rows [begin, end).
    template <typename Body>
    static void each_panel(int64_t begin, int64_t end, Body body) {
        for (int64_t first = begin; first < end; first += kPanel) {
            const int64_t rows = end - first < kPanel ? end - first : kPanel;
            with_vectors<kVectors>((rows + kLanes - 1) / kLanes, first, rows, body);
        }
    }

    template <int kWidth>
    struct Vectors {
        static constexpr int value = kWidth;
    };

    template <int kWidth, typename Body>
    static void with_vectors(int64_t vectors, int64_t first, int64_t rows, Body body) {
        if (kWidth == 1 || vectors == kWidth)
            body(Vectors<kWidth>{}, first, rows);
        else if constexpr (kWidth > 1)
            with_vectors<kWidth - 1>(vectors, first, rows, body);
    }

    void compute() {
        Interval all = start();
        for (int64_t first = all.begin / task_.block_k * task_.block_k; first < all.end;
             first += task_.block_k) {
            const int64_t last = first + task_.block_k;
            step({first < all.begin ? all.begin : first, last < all.end ? last : all.end});
        }
        finish();
    }

    // Packs the queries, starts the statistics, and returns the keys that some row sees.
    [[gnu::noinline]] Interval start() {
        Interval all{INT64_MAX, 0};
        seen_by_all_ = {0, INT64_MAX};
        Place place(task_, 0);
        for (int64_t r = 0; r < at_.rows; ++r) {
            const Interval keys = visible_keys(task_, place.query);
            if (r + 1 < count_) place.next();
            begin_[r] = keys.begin;
            end_[r] = keys.end;
            m_[r] = -kInfinity<T>;
            l_[r] = 0;
            if (keys.begin > seen_by_all_.begin) seen_by_all_.begin = keys.begin;
            if (keys.end < seen_by_all_.end) seen_by_all_.end = keys.end;
            if (keys.begin == keys.end) continue;
            if (keys.begin < all.begin) all.begin = keys.begin;
            if (keys.end > all.end) all.end = keys.end;
        }
        each_panel(0, count_, [&](auto vectors, int64_t first, int64_t rows) {
            constexpr int64_t ld = decltype(vectors)::value * kLanes;
            char* from[ld];
            addresses(task_, task_.q, first, rows, ld, from);
            pack_rows<Simd, S>(from, ld, task_.q.column, task_.dim, static_cast<T>(task_.scale),
                               q_ + first * task_.dim, ld);
        });
        if (all.begin > all.end) all = {0, 0};
        return all;
    }

    // One block of keys.
    void step(Interval block) {
        block_ = block;
        if (!keys_in_place_) read_keys();
        read_values();
        // Narrow heads: the scores of one panel are used while they are in L1.  Wide ones: a chunk
        // of keys or values is used by all panels while it is in L2.
        const bool wide = Layout::wide(task_.dim, task_.dim_v);
        for (int64_t begin = 0; begin < count_; begin += kPanel) {
            group_ = begin;
            if (wide) {
                panels(0, count_);
                return;
            }
            panels(begin, begin + kPanel < count_ ? begin + kPanel : count_);
        }
    }

    // The block of keys for rows [begin, end).
    void panels(int64_t begin, int64_t end) {
        for (int64_t d = 0; d < task_.dim; d += kDepth)
            each_panel(begin, end, [&](auto vectors, int64_t first, int64_t) {
                add_scores<decltype(vectors)::value>(first, d);
            });
        each_panel(begin, end, [&](auto vectors, int64_t first, int64_t rows) {
            weigh<decltype(vectors)::value>(first, rows);
        });
        for (int64_t f = 0; f < at_.features; f += Layout::kFeatures)
            each_panel(begin, end, [&](auto vectors, int64_t first, int64_t) {
                add_values<decltype(vectors)::value>(first, f);
            });
        if (unsafe_count_)
            each_panel(begin, end, [&](auto vectors, int64_t first, int64_t rows) {
                add_unsafe<decltype(vectors)::value>(first, rows);
            });
    }

    // What the block of keys is to one panel.
    struct View {
        Interval keys;  // those that some row sees
        bool partial;   // some row does not see all of them
        bool fresh;     // no earlier block had keys for this panel: its O is not yet written
        T* scores;      // [key - keys.begin][lane]

        bool empty() const { return keys.begin >= keys.end; }
        int64_t count() const { return keys.end - keys.begin; }
    };

    template <int kWidth>
    View view(int64_t first) const {
        Interval some{INT64_MAX, 0}, each{0, INT64_MAX};  // keys that some row, each row sees
        for (int64_t r = first; r < first + kWidth * kLanes; ++r) {
            if (begin_[r] > each.begin) each.begin = begin_[r];
            if (end_[r] < each.end) each.end = end_[r];
            if (begin_[r] == end_[r]) continue;
            if (begin_[r] < some.begin) some.begin = begin_[r];
            if (end_[r] > some.end) some.end = end_[r];
        }
        const Interval keys{some.begin > block_.begin ? some.begin : block_.begin,
                            some.end < block_.end ? some.end : block_.end};
        return {keys, each.begin > keys.begin || each.end < keys.end, keys.begin == some.begin,
                scores_ + (first - group_) * at_.tiled_keys};
    }

    // Copies the keys, to chunks of kDepth columns.
    [[gnu::noinline]] void read_keys() {
        const int64_t stride = Layout::key_stride(task_.dim), chunk = (block_.end - block_.begin) * stride;
        for (int64_t j = block_.begin; j < block_.end; ++j) {
            const char* from = task_.k.data + j * task_.k.row;
            prefetch_row(from, task_.k, j, task_.dim);
            T* to = keys_ + (j - block_.begin) * stride;
            for (int64_t d = 0; d < task_.dim; d += kDepth, to += chunk)
                read_row<Simd, S>(from + d * task_.k.column, task_.k.column, depth(d), to);
        }
    }

    // Asks for the row after next: rows of a block are copied faster than they arrive.
    void prefetch_row(const char* row, const Matrix& rows, int64_t j, int64_t columns) const {
        constexpr int64_t kAhead = 2, kLineBytes = 64;
        if (rows.column != static_cast<int64_t>(sizeof(S)) || j + kAhead >= block_.end) return;
        const char* next = row + kAhead * rows.row;
        for (int64_t i = 0; i < columns * rows.column; i += kLineBytes) __builtin_prefetch(next + i);
    }

    // Columns of the chunk that starts at d.
    int64_t depth(int64_t d) const { return task_.dim - d < kDepth ? task_.dim - d : kDepth; }

    // Packs the values.  A hidden key's weight is 0, and 0 * NaN would be NaN: where keys may
    // be hidden, values that are not finite are replaced by 0, and their keys listed.
    [[gnu::noinline]] void read_values() {
        const bool may_hide = task_.mask.data || block_.begin < seen_by_all_.begin ||
                              block_.end > seen_by_all_.end;
        unsafe_count_ = 0;
        for (int64_t j = block_.begin; j < block_.end; ++j) {
            const char* from = task_.v.data + j * task_.v.row;
            prefetch_row(from, task_.v, j, task_.dim_v);
            const T* row = reinterpret_cast<const T*>(from);
            if (!values_in_place_) {
                read_row<Simd, S>(from, task_.v.column, task_.dim_v, line_);
                row = line_;
            }
            if (may_hide && !all_finite<Simd>(row, task_.dim_v)) {
                unsafe_[unsafe_count_++] = j;
                for (int64_t f = 0; f < task_.dim_v; ++f)
                    line_[f] = is_finite(row[f]) ? row[f] : T(0);
                row = line_;
            }
            pack_values<Simd, kRows>(row, j - block_.begin, block_.end - block_.begin,
                                     task_.dim_v, values_);
        }
    }

    // Scores of a panel, or what the chunk of columns from d adds to them.
    template <int kWidth>
    void add_scores(int64_t first, int64_t d) {
        const View at = view<kWidth>(first);
        if (at.empty()) return;
        constexpr int64_t kSize = sizeof(T);
        InPlace<T, kRows> keys{task_.k.data + at.keys.begin * task_.k.row + d * kSize, task_.k.row,
                               at.count()};
        if (!keys_in_place_) {
            keys.stride = Layout::key_stride(task_.dim) * kSize;
            keys.first = reinterpret_cast<const char*>(keys_) +
                         (d / kDepth * (block_.end - block_.begin) + at.keys.begin -
                          block_.begin) * keys.stride;
        }
        Tile::template multiply<kWidth>(keys, (at.count() + kRows - 1) / kRows,
                                        q_ + first * task_.dim + d * kWidth * kLanes, depth(d),
                                        at.scores, d == 0, nullptr);
    }

    // Scores to weights.
    template <int kWidth>
    [[gnu::noinline]] void weigh(int64_t first, int64_t rows) {
        const View at = view<kWidth>(first);
        if (at.empty()) return;
        const int64_t scores = at.count() * kWidth * kLanes;
        if (task_.softcap != 0) cap<Simd>(at.scores, scores, static_cast<T>(task_.softcap));
        if (task_.mask.data) {
            read_mask<kWidth>(first, rows, at.keys);
            add_dense<Simd>(at.scores, mask_, scores);
        }
        if (at.partial)
            hide_outside<Simd, kWidth>(at.scores, at.keys.begin, at.count(), begin_ + first,
                                       end_ + first);
        online_softmax<Simd, kWidth>(at.scores, at.count(), m_ + first, l_ + first,
                                     alpha_ + first);
    }

    // What a panel's weights and the features from f on add to its O.
    template <int kWidth>
    void add_values(int64_t first, int64_t f) {
        const View at = view<kWidth>(first);
        if (at.empty()) return;
        const int64_t span = block_.end - block_.begin;
        const int64_t features = at_.features - f < Layout::kFeatures ? at_.features - f : Layout::kFeatures;
        Tile::template multiply<kWidth>(
            Interleaved<T, kRows>{values_ + f * span + (at.keys.begin - block_.begin) * kRows,
                                  span},
            features / kRows, at.scores, at.count(),
            o_ + first * at_.features + f * kWidth * kLanes, at.fresh, alpha_ + first);
    }

    // What `read_values` left out, for the rows that see it.
    template <int kWidth>
    [[gnu::noinline]] void add_unsafe(int64_t first, int64_t rows) {
        const View at = view<kWidth>(first);
        if (at.empty()) return;
        constexpr int64_t ld = kWidth * kLanes;
        T* o = o_ + first * at_.features;
        if (task_.mask.data) read_mask<kWidth>(first, rows, at.keys);
        for (int64_t u = 0; u < unsafe_count_; ++u) {
            const int64_t j = unsafe_[u], row = (j - at.keys.begin) * ld;
            if (j < at.keys.begin || j >= at.keys.end) continue;
            read_row<Simd, S>(task_.v.data + j * task_.v.row, task_.v.column, task_.dim_v, line_);
            for (int64_t lane = 0; lane < ld; ++lane) {
                if (j < begin_[first + lane] || j >= end_[first + lane]) continue;
                if (task_.mask.data && mask_[row + lane] == -kInfinity<T>) continue;
                for (int64_t f = 0; f < task_.dim_v; ++f)
                    if (!is_finite(line_[f])) o[f * ld + lane] += at.scores[row + lane] * line_[f];
            }
        }
    }

    // A panel's tile of the dense mask, as numbers to add to the scores.
    template <int kWidth>
    void read_mask(int64_t first, int64_t rows, Interval keys) {
        constexpr int64_t ld = kWidth * kLanes;
        char* from[ld];
        addresses(task_, task_.mask, first, rows, ld, from);
        for (char*& row : from) row += keys.begin * task_.mask.column;
        const auto read = [&](auto tag) {
            pack_rows<Simd, decltype(tag)>(from, ld, task_.mask.column, keys.end - keys.begin, T(1),
                                           mask_, ld);
        };
        if (task_.mask_type == DType::kBool)
            read(Bool{});
        else if (task_.mask_type == DType::kFloat32)
            read(float{});
        else
            read(S{});
    }

    [[gnu::noinline]] void finish() {
        each_panel(0, count_, [&](auto vectors, int64_t first, int64_t rows) {
            constexpr int64_t ld = decltype(vectors)::value * kLanes;
            T* o = o_ + first * at_.features;
            bool blind = true;  // no block of keys wrote this panel's O
            for (int64_t r = first; r < first + ld; ++r) blind &= begin_[r] == end_[r];
            if (blind)
                for (int64_t i = 0; i < at_.features * ld; ++i) o[i] = 0;
            T factor[ld];
            for (int64_t lane = 0; lane < ld; lane += kLanes)
                store(factor + lane, normaliser(first + lane, rows - lane));
            char* to[ld];
            addresses(task_, task_.out, first, rows, ld, to);
            unpack_rows<Simd, S>(o, ld, factor, rows, task_.dim_v, to, task_.out.column);
        });
        if (task_.row_max)
            for (int64_t r = 0; r < count_; ++r) {
                task_.row_max[r] = static_cast<double>(m_[r]);
                task_.row_sum[r] = static_cast<double>(l_[r]);
            }
    }

    // What a vector of rows is to be multiplied by: 1 / l, 0 for a row that sees nothing.
    Vec normaliser(int64_t first, int64_t rows) const {
        const Vec one = broadcast<Simd>(T(1));
        const Vec l = load<Vec>(l_ + first);
        Vec factor = one / l;
        if (task_.sinks) {
            T sinks[kLanes];
            for (int64_t lane = 0; lane < kLanes; ++lane) {
                const int64_t row = task_.row_begin + first + (lane < rows ? lane : 0);
                sinks[lane] = static_cast<T>(task_.sinks[row % task_.group]);
            }
            const Vec m = load<Vec>(m_ + first), sink = load<Vec>(sinks);
            const Vec top = Simd::max(m, sink);  // NaN in a sink passes
            const Vec alpha = exp_nonpositive<Simd>(m - top);
            factor = alpha / (l * alpha + exp_nonpositive<Simd>(sink - top));
        }
        return l == Vec{} ? Vec{} : factor;
    }

    const Task& task_;
    const int64_t count_;
    const Layout at_;
    T *q_, *o_, *scores_, *values_, *keys_, *line_, *mask_, *m_, *l_, *alpha_;
    int64_t *begin_, *end_;  // of each row's visible keys
    int64_t* unsafe_;        // keys of the block with values that are not finite
    int64_t unsafe_count_;
    Interval seen_by_all_;
    Interval block_;  // of keys
    int64_t group_;   // first row whose scores are held
    bool keys_in_place_, values_in_place_;
};

template <typename Simd, typename S>
constexpr Kernel kernel_of() {
    return {&Block<Simd, S>::scratch_bytes, &Block<Simd, S>::run, Simd::lanes,
            FmaTile<Simd>::rows, FmaTile<Simd>::vectors * Simd::lanes};
}

// The kernels of one vocabulary, by DType.
template <template <typename> class Simd>
constexpr KernelSet kernels_of(const char* name, uint32_t needs) {
    return {name,
            needs,
            {kernel_of<Simd<float>, float>(), kernel_of<Simd<double>, double>(),
             kernel_of<Simd<float>, Half>(), kernel_of<Simd<float>, BFloat>()},
            probes_of<Simd>()};
}

}  // namespace
}  // namespace fastattn
