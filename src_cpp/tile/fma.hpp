// The tile policy of ordinary vectors: both products by multiply-add in the compute type.
//
//   queries    packed panel by panel, [column][lane], scaled, before the panel's first visible key
//   keys       read in place, or copied in chunks of `chunk` columns
//   values     read in place, or packed as [key][MR], once per block of keys
//   scores     [key][lane], overwritten by the weights
//   results    [feature][lane]
//
// Of bfloat16, scores may be computed by products of pairs of numbers instead.  Then queries are
// packed, and keys read, as pairs, without conversion; the scores are scaled, not the queries.  A row
// for which this is not exact enough, because it or a key that is visible to it is out of range
// (magnitudes.hpp), ends with NaN as its sum: it is refused, and computed by multiply-add
// (kernels.hpp).
//
// A score is summed in the order of its columns, in chunks (order.hpp); weighted values in the
// order of their keys within a block, and blocks one after another.
//
// Legend: S, T = storage and compute type; K = T, or pairs of S: the factors of a score; panel = up
// to `vectors` vectors of rows; m, l = running maximum and sum of a row; alpha = what its earlier
// results are scaled by.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "decode.hpp"
#include "micro_kernel.hpp"
#include "non_finite.hpp"
#include "pack.hpp"
#include "pairs.hpp"
#include "panels.hpp"
#include "prefetch_schedule.hpp"
#include "scratch.hpp"
#include "softmax.hpp"

namespace fastattn {
namespace {

template <typename SimdTraits, typename S, typename K = typename SimdTraits::Value>
class FmaTile {
public:
    using Simd = SimdTraits;
    using Storage = S;
    using T = typename Simd::Value;

private:
    using Micro = MicroKernel<Simd>;
    using Split = typename Micro::Split;
    static constexpr int kLanes = Simd::lanes;
    static constexpr int64_t kEach = kNumbers<K>;
    static constexpr bool kPairs = kEach > 1;

public:
    static constexpr int vectors = Micro::nr;
    static constexpr int64_t panel_rows = vectors * kLanes;
    // The decode kernel sums in the same order, but not pairs: it takes blocks of up to this many
    // rows.
    static constexpr int64_t decode_rows = kPairs ? 0 : DecodeTile<Simd, S>::rows;
    // Of the tile with the most keys; the others divide it.
    static constexpr int tile_keys = DecodeTile<Simd, T>::keys;
    static_assert(tile_keys % Micro::mr_low == 0);
    // Larger blocks are no faster and sum more products one after the other, which rounds more.
    static constexpr int block_keys = 128;
    // Columns of a key per pass over a panel, so that what is used of the panel's Q stays in L1.
    static constexpr int64_t chunk = 128;
    static_assert(chunk % kScoreChunk == 0, "a chunk of columns has whole chunks of a sum");

    struct Regions {
        int64_t features, tiled_keys;
        T *q, *o, *scores, *values;
        K* keys;
        T *m, *l, *alpha;

        Regions(Arena& arena, int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v)
            : features(Split(dim_v).count()), tiled_keys(Micro::room(block_k)) {
            static_assert(Micro::suffices(), "scores have room");
            q = arena.region<T>(rows * factors(dim));
            o = arena.region<T>(rows * features);
            const bool all_rows = wide(dim, dim_v) && rows > panel_rows;
            scores = arena.region<T>(tiled_keys * (all_rows ? rows : panel_rows));
            values = arena.region<T>((block_k + kSlackKeys) * features);
            keys = arena.region<K>(block_k * key_stride(dim) * ((dim + chunk - 1) / chunk));
            m = arena.region<T>(rows);
            l = arena.region<T>(rows);
            alpha = arena.region<T>(rows);
        }
    };

    FmaTile(const Task& task, const Regions& regions, int64_t rows)
        : task_(task), at_(regions), schedule_(task) {
        // Scores by pairs are scaled: with such a scale, those of numbers in range are finite.
        const double range = task.scale * static_cast<double>(task.dim);
        const bool in_range =
            !kPairs || (task.score_factor == 1 && range < 0x1p27 && range > -0x1p27);
        for (int64_t r = 0; r < rows; ++r) {
            at_.m[r] = -kInfinity<T>;
            at_.l[r] = in_range ? 0 : __builtin_nan("");
        }
        const int64_t count = task.row_end - task.row_begin;
        const bool single = count <= panel_rows, read = single || __is_same(S, T);
        const bool crowded = kWaits && !single && share_cache_sets(task.v);
        // With other widths, a tile would read past a row's end.
        keys_in_place_ = (read || kPairs) && in_place<S>(task.k) && task.dim % kEach == 0;
        values_in_place_ =
            read && in_place<S>(task.v) && task.dim_v % Micro::mr_low == 0 && !crowded;
    }

    // Results of a panel, [feature][lane], and the maximum and sum of each row.
    T* results(int64_t first) const { return at_.o + first * at_.features; }
    int64_t features() const { return at_.features; }
    const T* m() const { return at_.m; }
    const T* l() const { return at_.l; }
    // Whether pairs were not exact enough for a row.
    bool refused(int64_t row) const { return !(at_.l[row] < kInfinity<T>); }

    // Fewer rows go to the decode kernel of another set.
    static bool worthwhile(const Extents& of)
        requires(kPairs)
    {
        return of.rows > DecodeTile<Simd, S>::rows;
    }

    // Makes a block of keys and values ready.  `may_mask`: keys may be masked for some rows.
    void load(Interval block, bool may_mask, NonFinite<Simd, S>& non_finite) {
        block_ = block;
        if (!keys_in_place_) copy_keys();
        non_finite.clear();
        packed_ = !values_in_place_ ||
                  (may_mask && !NonFinite<Simd, S>::none(task_.v, block, task_.dim_v));
        if (packed_) pack_values_of(may_mask, non_finite);
        if (keys_in_place_) schedule_.keys_now(block);
        schedule_.values(packed_ ? block.end : block.begin);
        if constexpr (kPairs) scored_ = scored(block);
    }

    // Adds the block to each panel's results.  `rows` masks scores and adds non-finite values.
    template <typename Block>
    void compute(const Panels<Simd, vectors>& panels, Block& rows) {
        // Heads of one chunk: the scores of a panel are used while they are in L1.  Wider ones: a
        // chunk of keys or packed values is used by all panels while it is in L2.
        const int64_t together = wide(task_.dim, task_.dim_v) ? panels.end : panel_rows;
        for (int64_t begin = 0; begin < panels.end; begin += together) {
            group_ = begin;
            compute_group(panels.some(begin, begin + together), rows);
        }
    }

private:
    // Features of the values per pass over a panel, in whole tiles.
    static constexpr int64_t kFeatures = chunk / Micro::mr * Micro::mr;

    // A tile that reads values in place waits for a line of each key if they share cache sets.  A
    // tile of many vectors has other work meanwhile.
    static constexpr bool kWaits = vectors < 4;

    // 16-bit keys and values are read in place only if there is a single panel.  They are then
    // converted a little at a time, so that the copies stay in L1: whole tiles (of either height)
    // of keys, and a cache line of features of each value.
    static constexpr bool kConverts = !__is_same(S, T);
    static constexpr int64_t kTilesOfKeys = 24;
    static constexpr int64_t kLineFeatures = kLineBytes / sizeof(S);
    static_assert(kTilesOfKeys % Micro::mr == 0 && kTilesOfKeys % Micro::mr_single == 0,
                  "all but the last are whole tiles");

    // Whether heads are wider than a chunk, so that all panels' scores are held at once.
    static bool wide(int64_t dim, int64_t dim_v) { return dim > chunk || dim_v > chunk; }

    // Factors that hold some columns.
    static int64_t factors(int64_t columns) { return (columns + kEach - 1) / kEach; }
    // Copied keys lie chunk by chunk, with an unused cache line between rows.
    static int64_t key_stride(int64_t dim) {
        constexpr int64_t kLine = kScratchAlignment / static_cast<int64_t>(sizeof(K));
        return round_up(factors(dim < chunk ? dim : chunk), kLine) + kLine;
    }

    // Keys that a panel of values has room for.
    int64_t span() const { return block_.count() + kSlackKeys; }
    // [key - keys.begin][lane]
    T* scores(int64_t first) const { return at_.scores + (first - group_) * at_.tiled_keys; }
    // Columns of the chunk that starts at d.
    int64_t depth(int64_t d) const { return task_.dim - d < chunk ? task_.dim - d : chunk; }
    // Features of the chunk that starts at f; a rest too small for its own tiles joins the last.
    int64_t width(int64_t f) const {
        const int64_t left = at_.features - f;
        if (!packed_) return kConverts && left > kLineFeatures ? kLineFeatures : left;
        return left < kFeatures + 2 * Micro::mr_low ? left : kFeatures;
    }

    template <typename Block>
    void compute_group(const Panels<Simd, vectors>& panels, Block& rows) {
        for (int64_t d = 0; d < task_.dim; d += chunk)
            panels.each([&](auto count, const Panel& panel, int64_t first, int64_t real) {
                constexpr int kVectors = decltype(count)::value;
                if (panel.keys.empty()) return;
                if (d == 0 && !panel.accumulate) pack_queries<kVectors>(first, real);
                add_scores<kVectors>(panel, first, d);
            });
        panels.each([&](auto count, const Panel& panel, int64_t first, int64_t real) {
            if (!panel.keys.empty())
                apply_softmax<decltype(count)::value>(panel, first, real, rows);
        });
        if (panels.begin == 0) schedule_.keys_after(block_);
        for (int64_t f = 0; f < at_.features; f += width(f))
            panels.each([&](auto count, const Panel& panel, int64_t first, int64_t) {
                if (!panel.keys.empty()) add_values<decltype(count)::value>(panel, first, f);
            });
        panels.each([&](auto count, Panel& panel, int64_t first, int64_t real) {
            constexpr int64_t ld = decltype(count)::value * kLanes;
            if (panel.keys.empty()) return;
            panel.accumulate = true;
            const T* s = scores(first);
            const int64_t begin = panel.keys.begin;
            rows.add_non_finite(count, panel, first, real, [=](int64_t lane, int64_t j) {
                return s[(j - begin) * ld + lane];
            });
        });
    }

    template <int kVectors>
    [[gnu::noinline]] void pack_queries(int64_t first, int64_t rows) {
        constexpr int64_t ld = kVectors * kLanes;
        char* from[ld];
        addresses(task_, task_.q, first, rows, ld, from);
        T* q = at_.q + first * factors(task_.dim);
        if constexpr (kPairs) {
            pack_pairs<Simd>(from, ld, task_.q.column, task_.dim, q, ld);
            each_refused_lane<Simd>(q, factors(task_.dim), ld,
                                    [&](int64_t lane) { at_.l[first + lane] = __builtin_nan(""); });
        } else {
            pack_rows<Simd, S>(from, ld, task_.q.column, task_.dim, static_cast<T>(task_.scale), q,
                               ld);
        }
    }

    [[gnu::noinline]] void copy_keys() {
        const int64_t stride = key_stride(task_.dim), chunk_values = block_.count() * stride;
        for (int64_t j = block_.begin; j < block_.end; ++j) {
            prefetch_row(task_.k, j, task_.dim);
            K* to = at_.keys + (j - block_.begin) * stride;
            for (int64_t d = 0; d < task_.dim; d += chunk, to += chunk_values)
                if constexpr (kPairs)
                    for (int64_t c = 0; c < depth(d); c += kEach)
                        to[c / kEach] =
                            read_pair(row_of(task_.k, j), task_.k.column, d + c, task_.dim);
                else
                    read_row<Simd, S>(task_.k, j, d, depth(d), to);
        }
    }

    // Prefetches the row after the next one: otherwise rows would be copied sooner than they
    // arrive.
    void prefetch_row(const RowSource& rows, int64_t j, int64_t columns) const {
        constexpr int64_t kDistance = 2;
        if (!adjacent<S>(rows) || j + kDistance >= block_.end) return;
        prefetch(row_of(rows, j + kDistance), columns * rows.column);
    }

    [[gnu::noinline]] void pack_values_of(bool may_mask, NonFinite<Simd, S>& non_finite) {
        for (int64_t j = block_.begin; j < block_.end; ++j) {
            prefetch_row(task_.v, j, task_.dim_v);
            pack_values<Simd>(non_finite.read(task_.v, j, task_.dim_v, may_mask), j - block_.begin,
                              span(), task_.dim_v, Split(task_.dim_v), at_.values);
        }
    }

    // Adds the products of the chunk of columns from d to a panel's scores; the first sets them.
    template <int kVectors>
    void add_scores(const Panel& panel, int64_t first, int64_t d) {
        const Interval keys = panel.keys;
        const auto further = schedule_.queries(first);
        const T scale = static_cast<T>(task_.scale);
        const auto add = [&](auto rows, Interval some) {
            schedule_.during(first, d == 0 && !panel.accumulate, further, [&](auto prefetcher) {
                return Micro::template multiply<kVectors>(
                    rows, some.count(),
                    at_.q + first * factors(task_.dim) + d / kEach * kVectors * kLanes,
                    factors(depth(d)),
                    scores(first) + (some.begin - keys.begin) * kVectors * kLanes, d != 0,
                    kPairs ? &scale : nullptr, prefetcher);
            });
        };
        if (kPairs || !keys_in_place_)
            return add(InPlace<K>{key_rows(keys.begin, d), keys.count()}, keys);
        if constexpr (!kPairs) {
            const int64_t most = kConverts ? kTilesOfKeys : task_.block_k;
            for (int64_t j = keys.begin; j < keys.end; j += most) {
                const Interval some = common(keys, {j, j + most});
                const StridedRows rows =
                    read(task_.k, some, d, depth(d), at_.keys, key_stride(task_.dim));
                add(InPlace<T>{rows, some.count()}, some);
            }
        }
    }

    // The keys from `first` on, less their first d columns, in place or copied.
    StridedRows key_rows(int64_t first, int64_t d) const {
        if (keys_in_place_) return rows_from(task_.k, first, d);
        const int64_t stride = key_stride(task_.dim);
        const K* row = at_.keys + (d / chunk * block_.count() + first - block_.begin) * stride;
        return {reinterpret_cast<const char*>(row), stride * static_cast<int64_t>(sizeof(K))};
    }

    // Whether some keys are in range, so that their scores by pairs are exact enough.
    [[gnu::noinline]] bool scored(Interval keys) const {
        bool all = true;
        for (int64_t d = 0; d < task_.dim; d += chunk)
            all = all && fastattn::scored<Simd>(key_rows(keys.begin, d), keys.count(), depth(d));
        return all;
    }

    // Calls `body` with each score s[key][lane] of those keys that are out of range for pairs.
    template <int kVectors, typename Body>
    void each_unscored(Interval keys, T* s, Body body) const {
        constexpr int64_t ld = kVectors * kLanes;
        if constexpr (kPairs)
            for (int64_t j = keys.begin; j < keys.end && !scored_; ++j, s += ld)
                if (!scored({j, j + 1}))
                    for (int64_t lane = 0; lane < ld; ++lane) body(s[lane]);
    }

    // Where a tile reads some columns of some rows: where they lie, or in `copy`, whose rows are
    // `stride` values apart.
    static StridedRows read(const RowSource& source, Interval some, int64_t column, int64_t columns,
                            T* copy, int64_t stride) {
        const StridedRows rows = rows_from(source, some.begin, column);
        if constexpr (!kConverts) return rows;
        for (int64_t i = 0; i < some.count(); ++i)
            read_row<Simd, S>(rows.row(i), source.column, columns, copy + i * stride);
        return {reinterpret_cast<const char*>(copy), stride * static_cast<int64_t>(sizeof(T))};
    }

    // Turns scores into weights.
    template <int kVectors, typename Block>
    [[gnu::noinline]] void apply_softmax(const Panel& panel, int64_t first, int64_t real,
                                         Block& rows) {
        T* s = scores(first);
        // So that -inf is what the mask wrote, whatever the score was.
        each_unscored<kVectors>(panel.keys, s, [](T& score) { score = 0; });
        rows.template mask_scores<kVectors>(panel, first, real, s);
        each_unscored<kVectors>(panel.keys, s, [](T& score) {
            if (score != -kInfinity<T>) score = __builtin_nan("");
        });
        online_softmax<Simd, kVectors>(s, panel.keys.count(), at_.m + first, at_.l + first,
                                       at_.alpha + first);
    }

    // Adds the weighted values of the chunk of features from f to a panel's results.
    template <int kVectors>
    void add_values(const Panel& panel, int64_t first, int64_t f) {
        const auto results_prefetch = schedule_.results(first);
        const auto add = [&](auto values) {
            schedule_.during(first, f == 0 && !panel.accumulate, results_prefetch,
                             [&](auto prefetcher) {
                                 return Micro::template multiply<kVectors>(
                                     values, width(f), scores(first), panel.keys.count(),
                                     results(first) + f * kVectors * kLanes, panel.accumulate,
                                     at_.alpha + first, prefetcher);
                             });
        };
        if (packed_)
            add(Interleaved<T>{at_.values + f * span(), span(), panel.keys.begin - block_.begin});
        else
            add(Transposed<T>{read(task_.v, panel.keys, f, width(f), at_.values, width(f))});
    }

    const Task& task_;
    const Regions at_;
    Interval block_;  // of keys
    int64_t group_;   // first row whose scores are held
    bool keys_in_place_, values_in_place_;
    bool packed_;  // whether this block's values are packed
    bool scored_;  // whether this block's keys are in range for pairs
    PrefetchSchedule<S, panel_rows> schedule_;
};

}  // namespace
}  // namespace fastattn
