// The recipe "adding a tile" of src_cpp/README.md, with a tile of scalar loops: its kernel sets are
// dispatched, driven and compared with attention as it is defined.  Built and run by test_tile.py.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "dispatch.hpp"
#include "driver.hpp"
#include "kernel/kernels.hpp"
#include "simd/baseline.hpp"

namespace fastattn {
namespace {

template <typename S>
class ScalarTile {
public:
    using Simd = Baseline<S>;
    using Storage = S;
    using T = S;
    static constexpr int vectors = 2;
    static constexpr int64_t panel_rows = vectors * Simd::lanes;
    static constexpr int64_t decode_rows = 0;  // it sums in an order of its own
    static constexpr int tile_keys = 1, block_keys = 32, chunk = 1024;

    struct Regions {
        T *q, *k, *v, *o, *s, *m, *l;
        int64_t features;

        Regions(Arena& arena, int64_t rows, int64_t block_k, int64_t dim, int64_t dim_v)
            : q(arena.region<T>(rows * dim)),
              k(arena.region<T>(block_k * dim)),
              v(arena.region<T>(block_k * dim_v)),
              o(arena.region<T>(rows * dim_v)),
              s(arena.region<T>(block_k * panel_rows)),
              m(arena.region<T>(rows)),
              l(arena.region<T>(rows)),
              features(dim_v) {}
    };

    ScalarTile(const Task& task, const Regions& regions, int64_t rows) : task_(task), at_(regions) {
        for (int64_t r = 0; r < rows; ++r) at_.m[r] = -kInfinity<T>, at_.l[r] = 0;
    }

    T* results(int64_t first) const { return at_.o + first * at_.features; }
    int64_t features() const { return at_.features; }
    const T* m() const { return at_.m; }
    const T* l() const { return at_.l; }

    void load(Interval block, bool may_mask, NonFinite<Simd, S>& non_finite) {
        block_ = block;
        non_finite.clear();
        for (int64_t j = block.begin; j < block.end; ++j) {
            read_row<Simd, S>(task_.k, j, 0, task_.dim, at_.k + (j - block.begin) * task_.dim);
            const T* v = non_finite.read(task_.v, j, task_.dim_v, may_mask);
            for (int64_t f = 0; f < task_.dim_v; ++f)
                at_.v[(j - block.begin) * task_.dim_v + f] = v[f];
        }
    }

    template <typename Block>
    void compute(const Panels<Simd, vectors>& panels, Block& rows) {
        panels.each([&](auto count, Panel& panel, int64_t first, int64_t real) {
            constexpr int kVectors = decltype(count)::value;
            constexpr int64_t ld = kVectors * Simd::lanes;
            const Interval keys = panel.keys;
            if (keys.empty()) return;
            T* q = at_.q + first * task_.dim;
            if (!panel.accumulate) {
                char* from[ld];
                addresses(task_, task_.q, first, real, ld, from);
                pack_rows<Simd, S>(from, ld, task_.q.column, task_.dim, static_cast<T>(task_.scale),
                                   q, ld);
                for (int64_t i = 0; i < ld * task_.dim_v; ++i) results(first)[i] = 0;
            }
            for (int64_t j = keys.begin; j < keys.end; ++j)
                for (int64_t lane = 0; lane < ld; ++lane) {
                    T sum = 0;
                    for (int64_t d = task_.dim; d-- > 0;)
                        sum += q[d * ld + lane] * at_.k[(j - block_.begin) * task_.dim + d];
                    at_.s[(j - keys.begin) * ld + lane] = sum;
                }
            rows.template mask_scores<kVectors>(panel, first, real, at_.s);
            for (int64_t lane = 0; lane < ld; ++lane) add_row(panel, first, lane, ld);
            panel.accumulate = true;
            rows.add_non_finite(count, panel, first, real, [&](int64_t lane, int64_t j) {
                return at_.s[(j - keys.begin) * ld + lane];
            });
        });
    }

private:
    // Scores of a row become weights, and its values are added.
    void add_row(const Panel& panel, int64_t first, int64_t lane, int64_t ld) {
        T &m = at_.m[first + lane], &l = at_.l[first + lane], *o = results(first) + lane;
        T m_now = m;
        for (int64_t j = 0; j < panel.keys.count(); ++j)
            m_now = std::max(m_now, at_.s[j * ld + lane]);
        if (m_now == -kInfinity<T>) return zero_weights(panel, lane, ld);
        const T alpha = std::exp(m - m_now);
        m = m_now;
        l *= alpha;
        for (int64_t f = 0; f < task_.dim_v; ++f) o[f * ld] *= alpha;
        for (int64_t j = panel.keys.begin; j < panel.keys.end; ++j) {
            T& p = at_.s[(j - panel.keys.begin) * ld + lane];
            p = std::exp(p - m);
            l += p;
            for (int64_t f = 0; f < task_.dim_v; ++f)
                o[f * ld] += p * at_.v[(j - block_.begin) * task_.dim_v + f];
        }
    }
    void zero_weights(const Panel& panel, int64_t lane, int64_t ld) {
        for (int64_t j = 0; j < panel.keys.count(); ++j) at_.s[j * ld + lane] = 0;
    }

    const Task& task_;
    const Regions at_;
    Interval block_{};
};

std::atomic<int> entered{0}, left{0};
constexpr uint64_t kState = 42;

}  // namespace
}  // namespace fastattn

extern "C" const fastattn::KernelSet fastattn_kernels_slow, fastattn_kernels_scalar,
    fastattn_kernels_other;

// A set that every processor runs, but none well.
constexpr fastattn::KernelSet fastattn_kernels_slow = [] {
    fastattn::KernelSet set{};
    set.prefers = 1u << 31;
    fastattn::add_forward<fastattn::ScalarTile<float>>(set);
    return set;
}();
// One data type, larger calls only, processor state of its own.
constexpr fastattn::KernelSet fastattn_kernels_scalar = [] {
    using namespace fastattn;
    KernelSet set{};
    set.name = "scalar";
    set.enter = [] { return ++entered, kState; };
    set.leave = [](uint64_t state) { left += state == kState; };
    add_forward<ScalarTile<float>>(set).worthwhile = [](const Extents& e) { return e.rows >= 8; };
    return set;
}();
constexpr fastattn::KernelSet fastattn_kernels_other = [] {
    fastattn::KernelSet set{};
    set.name = "other";
    fastattn::add_forward<fastattn::ScalarTile<float>>(set);
    fastattn::add_forward<fastattn::ScalarTile<double>>(set);
    return set;
}();

namespace {

using namespace fastattn;

int failures = 0;
void expect(bool holds, const char* what) {
    if (!holds) ++failures, std::printf("failed: %s\n", what);
}

struct Features {
    const char* name;
    int64_t left = kUnlimited, right = kUnlimited, offset = 0, length = 50, keys_per_split = 1000;
    bool mask = false, poison = false;
    double softcap = 0;
};

// A call of two query heads on one key head, beside attention as it is defined.
template <typename T>
void check(const KernelSet& set, DType type, double tolerance, const Features& features) {
    constexpr int64_t heads = 2, queries = 37, keys = 50, dim = 7, dim_v = 9;
    std::mt19937 random(7);
    std::normal_distribution<double> normal;
    std::vector<T> q(heads * queries * dim), k(keys * dim), v(keys * dim_v);
    for (auto* array : {&q, &k, &v})
        for (T& x : *array) x = static_cast<T>(normal(random));
    std::vector<char> mask(queries * keys);
    for (char& x : mask) x = random() % 3 != 0;
    for (int64_t i = 0; i < queries; ++i) mask[i * keys + 20] = i == 3;
    if (features.poison) v[20 * dim_v + 2] = std::numeric_limits<T>::quiet_NaN();
    const auto visible = [&](int64_t i, int64_t j) {
        const int64_t at = i + features.offset;
        return j < features.length && (!features.mask || mask[i * keys + j]) &&
               (features.left == kUnlimited || j >= at - features.left) &&
               (features.right == kUnlimited || j <= at + features.right);
    };

    std::vector<T> out(heads * queries * dim_v), lse(heads * queries);
    constexpr int64_t size = sizeof(T);
    Call call{};
    call.q = {reinterpret_cast<char*>(q.data()), nullptr, queries * dim * size, dim * size, size};
    call.k = {reinterpret_cast<char*>(k.data()), nullptr, keys * dim * size, dim * size, size};
    call.v = {reinterpret_cast<char*>(v.data()), nullptr, keys * dim_v * size, dim_v * size, size};
    call.out = {reinterpret_cast<char*>(out.data()), nullptr, queries * dim_v * size, dim_v * size,
                size};
    call.lse = {reinterpret_cast<char*>(lse.data()), nullptr, queries * size, size, 0};
    if (features.mask) call.mask = {mask.data(), nullptr, 0, keys, 1};
    call.offsets = &features.offset, call.lengths = &features.length;
    call.type = type, call.mask_type = DType::kBool;
    call.heads_q = heads, call.heads_kv = 1, call.length_q = queries, call.length_k = keys;
    call.dim = dim, call.dim_v = dim_v, call.scale = 0.5, call.score_factor = 1,
    call.softcap = features.softcap;
    call.left = features.left, call.right = features.right;
    call.block_q = 19, call.block_k = 16, call.keys_per_split = features.keys_per_split;
    call.threads = {2, 2, Threading::kPool};
    expect(attention(call, set) == Status::kOk, features.name);

    for (int64_t h = 0; h < heads; ++h)
        for (int64_t i = 0; i < queries; ++i) {
            std::vector<double> sum(dim_v);
            double l = 0;
            for (int64_t j = 0; j < keys; ++j) {
                if (!visible(i, j)) continue;
                double s = 0;
                for (int64_t d = 0; d < dim; ++d)
                    s += 0.5 * q[(h * queries + i) * dim + d] * k[j * dim + d];
                if (features.softcap != 0) s = features.softcap * std::tanh(s / features.softcap);
                l += std::exp(s);
                for (int64_t f = 0; f < dim_v; ++f) sum[f] += std::exp(s) * v[j * dim_v + f];
            }
            const double log_l = l == 0 ? -HUGE_VAL : std::log(l), got = lse[h * queries + i];
            expect(got == log_l || std::abs(got - log_l) < tolerance, features.name);
            for (int64_t f = 0; f < dim_v; ++f) {
                const double exact = l == 0 ? 0 : sum[f] / l;
                const double x = out[(h * queries + i) * dim_v + f];
                expect(std::isnan(exact) ? std::isnan(x) : std::abs(x - exact) < tolerance,
                       features.name);
            }
        }
}

}  // namespace

int main() {
    const auto found = [](int index, DType type, int64_t rows) {
        return suits(index, Operation::kForward, type, {rows, 50, 7, 9});
    };
    expect(!preferred(0) && preferred(1), "a set prefers processors");
    expect(found(0, DType::kFloat32, 8) == Suits::kSlowHere, "a set is slow on this one");
    expect(found(1, DType::kFloat32, 8) == Suits::kYes, "a set serves the type");
    expect(found(1, DType::kFloat32, 7) == Suits::kSmallCall, "a call is too small for a set");
    expect(found(1, DType::kFloat64, 8) == Suits::kNoKernel, "a set has no kernel for the type");
    expect(found(2, DType::kFloat64, 8) == Suits::kYes, "a set serves another type");

    const Features all[] = {
        {.name = "plain"},
        {.name = "causal", .right = 0, .offset = 13},
        {.name = "window", .left = 5, .right = 3, .offset = 2},
        {.name = "length", .length = 17},
        {.name = "mask", .mask = true, .poison = true},
        {.name = "split", .right = 0, .keys_per_split = 16, .mask = true, .poison = true},
        {.name = "softcap", .softcap = 2},
    };
    for (const Features& features : all) {
        check<float>(fastattn_kernels_scalar, DType::kFloat32, 1e-5, features);
        check<double>(fastattn_kernels_other, DType::kFloat64, 1e-13, features);
    }
    expect(entered > 0 && entered == left, "each work item enters and leaves");
    return failures != 0;
}
