// The dense mask, a tile at a time: booleans, or numbers that are added to the scores.
//
// A tile is classed before its scores are computed.  Keys at either end that no row sees are cut
// off, so that an empty tile costs the look; a tile whose rows all see all that is left, unchanged,
// needs no mask.
//
// Legend: rows = addresses of the mask's rows, one for each row of scores; M = the mask's type.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "masks.hpp"
#include "pack.hpp"
#include "rows.hpp"

namespace fastattn {
namespace {

// Chunks of a mask's row as vectors of lanes that are all ones (yes) or 0 (no).
template <typename Simd, typename M>
struct MaskChunk {
    using Yes = typename Simd::Int;
    static constexpr int64_t columns = Simd::lanes;
    static Yes seen(const char* from) {
        return load_values<Simd, M>(from) != broadcast<Simd>(-kInfinity<typename Simd::Value>);
    }
    static Yes plain(const char* from) {
        return load_values<Simd, M>(from) == typename Simd::Vec{};
    }
};
template <typename Simd>
struct MaskChunk<Simd, Bool> {
    static constexpr int64_t columns = 32;
    using Yes = VectorOf_t<signed char, columns>;
    static Yes seen(const char* from) { return load<Yes>(from) != Yes{}; }
    static Yes plain(const char* from) { return seen(from); }
};

template <typename V>
inline bool any_yes(V lanes) {
    uint64_t words[sizeof(V) / sizeof(uint64_t)], all = 0;
    __builtin_memcpy(words, &lanes, sizeof(V));
    for (uint64_t word : words) all |= word;
    return all != 0;
}

template <typename Simd, typename M>
class MaskTile {
    using Chunk = MaskChunk<Simd, M>;
    using T = typename Simd::Value;
    static constexpr int64_t kColumns = Chunk::columns;

public:
    MaskTile(char* const* rows, int64_t count) : rows_(rows), count_(count) {}

    // Cuts off the keys at either end that no row sees; whether the mask changes what is left.
    bool trim(Interval& keys) const {
        int64_t& e = keys.end;
        keys.begin = pass(
            keys, [&](int64_t j) { return !some_seen(j); }, [&](int64_t j) { return !seen(j); });
        while (keys.begin + kColumns <= e && !some_seen(e - kColumns)) e -= kColumns;
        while (keys.begin < e && !seen(e - 1)) --e;
        return pass(
                   keys, [&](int64_t j) { return all_plain(j); },
                   [&](int64_t j) { return plain(j); }) < e;
    }

private:
    static constexpr int64_t kSize = sizeof(M);

    // The first key that does not hold what is asked of a chunk, or of one key.  The last chunk may
    // overlap the one before it.
    template <typename OfChunk, typename OfKey>
    static int64_t pass(Interval keys, OfChunk of_chunk, OfKey of_key) {
        int64_t j = keys.begin;
        while (j + kColumns <= keys.end && of_chunk(j)) j += kColumns;
        const int64_t last = keys.end - kColumns;
        if (j > last && last >= keys.begin && of_chunk(last)) return keys.end;
        while (j < keys.end && of_key(j)) ++j;
        return j;
    }

    bool some_seen(int64_t j) const {
        typename Chunk::Yes some{};
        for (int64_t r = 0; r < count_; ++r) some |= Chunk::seen(rows_[r] + j * kSize);
        return any_yes(some);
    }
    bool all_plain(int64_t j) const {
        typename Chunk::Yes not_all{};
        for (int64_t r = 0; r < count_; ++r) not_all |= ~Chunk::plain(rows_[r] + j * kSize);
        return !any_yes(not_all);
    }
    T number(int64_t r, int64_t j) const { return to_compute<T>(load<M>(rows_[r] + j * kSize)); }
    bool seen(int64_t j) const {
        for (int64_t r = 0; r < count_; ++r)
            if (number(r, j) != -kInfinity<T>) return true;
        return false;
    }
    bool plain(int64_t j) const {
        for (int64_t r = 0; r < count_; ++r)
            if (number(r, j) != 0) return false;
        return true;
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

// As MaskTile::trim, for `count` rows of the task from `first` on.  What is not adjacent in memory
// is not looked at.
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
            changes = MaskTile<Simd, M>(rows, distinct).trim(keys);
    });
    return changes;
}

// s += mask; a mask of -inf hides its key whatever the score.
template <typename Simd>
inline void add_dense(typename Simd::Value* s, const typename Simd::Value* mask, int64_t count) {
    using Vec = typename Simd::Vec;
    const Vec hidden = broadcast<Simd>(-kInfinity<typename Simd::Value>);
    for (int64_t i = 0; i < count; i += Simd::lanes) {
        const Vec m = load<Vec>(mask + i);
        store(s + i, m == hidden ? hidden : load<Vec>(s + i) + m);
    }
}

}  // namespace
}  // namespace fastattn
