// The dense mask, a tile at a time: booleans, or numbers that are added to the scores.
//
// A tile is classified before its scores are computed.  Keys at either end that are masked for
// all rows are cut off, so that an empty tile costs only its classification; a tile whose remaining
// keys are visible to all rows, unchanged, needs no mask.
//
// Legend: rows = addresses of the mask's rows, one for each row of scores; M = the mask's type.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../tile/interval.hpp"
#include "../tile/pack.hpp"
#include "../tile/rows.hpp"

namespace fastattn {
namespace {

// Chunks of a mask's row, as vectors whose lanes are 0 (no) or not 0 (yes).
template <typename Simd, typename M>
struct MaskChunk {
    using Yes = typename Simd::Int;
    static constexpr int64_t columns = Simd::lanes;
    static Yes visible(const char* from) {
        return load_values<Simd, M>(from) != broadcast<Simd>(-kInfinity<typename Simd::Value>);
    }
    static Yes changed(const char* from) {
        return load_values<Simd, M>(from) != typename Simd::Vec{};
    }
};
template <typename Simd>
struct MaskChunk<Simd, Bool> {
    static constexpr int64_t columns = 32;
    using Yes = VectorOf_t<signed char, columns>;
    static Yes visible(const char* from) { return load<Yes>(from); }
    static Yes changed(const char* from) { return load<Yes>(from) == Yes{}; }
};

template <typename Simd, typename M>
class DenseTile {
    using Chunk = MaskChunk<Simd, M>;
    using T = typename Simd::Value;
    static constexpr int64_t kColumns = Chunk::columns;

public:
    DenseTile(char* const* rows, int64_t count) : rows_(rows), count_(count) {}

    // Cuts off the keys at either end that are masked for all rows; returns whether the mask
    // changes the rest.
    bool trim(Interval& keys) const {
        // Most tiles are entirely masked or entirely visible: test for that first.
        if (keys.count() >= kColumns) {
            Yes some_visible{}, some_changed{};
            each_chunk(keys, [&](const char* at) {
                some_visible |= Chunk::visible(at);
                some_changed |= Chunk::changed(at);
            });
            if (!any_yes(some_visible)) keys.end = keys.begin;
            if (keys.empty() || !any_yes(some_changed)) return false;
        }
        Interval visible{keys.begin, keys.begin};
        bool changes = false;
        each_key(keys, [&](int64_t j, bool key_visible, bool key_changed) {
            if (!key_visible) return;
            if (visible.empty()) visible.begin = visible.end = j;
            changes |= key_changed || visible.end < j;  // what lies between is masked
            visible.end = j + 1;
        });
        keys = visible;
        return changes;
    }

private:
    using Yes = typename Chunk::Yes;
    static constexpr int64_t kSize = sizeof(M);

    // Row by row: rows lie far apart, and in this order each line is touched once.  The last chunk
    // may overlap the one before it.
    template <typename Body>
    [[gnu::always_inline]] void each_chunk(Interval keys, Body body) const {
        const int64_t last = keys.end - kColumns;
        for (int64_t r = 0; r < count_; ++r) {
            for (int64_t j = keys.begin; j < last; j += kColumns) body(rows_[r] + j * kSize);
            body(rows_[r] + last * kSize);
        }
    }

    // Calls `body` with each key, whether it is visible to a row, and whether the mask changes it
    // for one.
    template <typename Body>
    void each_key(Interval keys, Body body) const {
        int64_t j = keys.begin;
        if (keys.count() >= kColumns)
            while (j < keys.end) {
                const int64_t from = j + kColumns < keys.end ? j : keys.end - kColumns;
                Yes visible{}, changed{};
                for (int64_t r = 0; r < count_; ++r) {
                    visible |= Chunk::visible(rows_[r] + from * kSize);
                    changed |= Chunk::changed(rows_[r] + from * kSize);
                }
                for (; j < from + kColumns; ++j)
                    body(j, visible[j - from] != 0, changed[j - from] != 0);
            }
        for (; j < keys.end; ++j) {
            bool visible = false, changed = false;
            for (int64_t r = 0; r < count_; ++r) {
                const T number = to_compute<T>(load<M>(rows_[r] + j * kSize));
                visible |= number != -kInfinity<T>;
                changed |= number != 0;
            }
            body(j, visible, changed);
        }
    }

    char* const* rows_;
    int64_t count_;
};

// Calls `body` with a value of the mask's type; S is the type of the arrays.
template <typename S, typename Body>
inline void with_mask_type(const Task& task, Body body) {
    if (task.mask_type == DType::kBool)
        body(Bool{});
    else if (task.mask_type == DType::kFloat32)
        body(float{});
    else
        body(S{});
}

// Addresses of the mask's rows, as `addresses` gives them, at key `key`.
inline void mask_rows(const Task& task, int64_t first, int64_t count, int64_t lanes, int64_t key,
                      char** to) {
    addresses(task, task.mask, first, count, lanes, to);
    for (int64_t lane = 0; lane < lanes; ++lane) to[lane] += key * task.mask.column;
}

// As DenseTile::trim, for `count` rows of the task from `first` on.  A mask whose columns are not
// adjacent in memory is not read: the result is true.
template <typename Simd, typename S, int64_t kMostRows>
inline bool trim(const Task& task, int64_t first, int64_t count, Interval& keys) {
    char* rows[kMostRows];
    addresses(task, task.mask, first, count, count, rows);
    int64_t distinct = 1;  // a mask may be one row for many queries
    for (int64_t r = 1; r < count; ++r)
        if (rows[r] != rows[distinct - 1]) rows[distinct++] = rows[r];
    bool changes = true;
    with_mask_type<S>(task, [&](auto type) {
        using M = decltype(type);
        if (task.mask.column == static_cast<int64_t>(sizeof(M)))
            changes = DenseTile<Simd, M>(rows, distinct).trim(keys);
    });
    return changes;
}

// mask *= factor; numbers stay numbers, though they overflow: only -inf masks a key.
template <typename Simd>
inline void scale_mask(typename Simd::Value* mask, int64_t count, typename Simd::Value factor) {
    using T = typename Simd::Value;
    using Vec = typename Simd::Vec;
    const Vec masked = broadcast<Simd>(-kInfinity<T>), lowest = broadcast<Simd>(-kLargest<T>);
    for (int64_t i = 0; i < count; i += Simd::lanes) {
        const Vec m = load<Vec>(mask + i), scaled = m * broadcast<Simd>(factor);
        store(mask + i, ((scaled == masked) & (m != masked)) ? lowest : scaled);
    }
}

// s += mask; a mask of -inf masks its key whatever the score.
template <typename Simd>
inline void add_dense(typename Simd::Value* s, const typename Simd::Value* mask, int64_t count) {
    using Vec = typename Simd::Vec;
    const Vec masked = broadcast<Simd>(-kInfinity<typename Simd::Value>);
    for (int64_t i = 0; i < count; i += Simd::lanes) {
        const Vec m = load<Vec>(mask + i);
        store(s + i, m == masked ? masked : load<Vec>(s + i) + m);
    }
}

}  // namespace
}  // namespace fastattn
