// Drawn calls of the driver, on every kernel set that runs here, beside the plain computation:
// values within the bound of tests/oracle.py, the same bits for other blocks of rows and threads,
// and nothing else written.  tests/fuzz.py builds it, for libFuzzer or with fuzz_main.cpp.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "dispatch.hpp"
#include "driver.hpp"
#include "fuzz_problem.hpp"

using namespace fastattn;

namespace {

std::atomic<long long> calls{0};

void report() {
    std::printf("calls: %lld\n", calls.load());
    std::fflush(stdout);
}

[[noreturn]] void fail(const Problem& problem, const char* kernels, const char* what) {
    problem.describe(kernels, what);
    std::fflush(stdout);
    std::abort();
}

// The plain computation in the type R.
template <typename R>
struct Answer {
    std::vector<R> out, lse;
    std::vector<double> magnitude;  // of each row's scores
    std::vector<char> defined;      // whether a row's result is: no overflow, no NaN

    Answer(const Problem& p, bool scale_first) {
        const Call& c = p.call;
        const int64_t rows = p.entries() * c.heads_q * c.length_q, group = c.heads_q / c.heads_kv;
        out.resize(rows * c.dim_v), lse.resize(rows), magnitude.resize(rows), defined.resize(rows);
        std::vector<R> s(c.length_k);
        const R scale = static_cast<R>(p.scale), cap = static_cast<R>(c.softcap);
        const double most = c.type == DType::kFloat64 ? 1e307 : 1e37;
        for (int64_t row = 0; row < rows; ++row) {
            const int64_t i = row % c.length_q, h = row / c.length_q % c.heads_q,
                          b = row / c.length_q / c.heads_q;
            const int64_t keys = (b * c.heads_kv + h / group) * c.length_k;
            const double *q = &p.q[row * c.dim], *k = p.k.data() + keys * c.dim;
            const double* v = p.v.data() + keys * c.dim_v;
            const int64_t end = c.lengths ? p.lengths[b] : c.length_k;
            const int64_t place = i + (c.offsets ? p.offsets[b] : 0);
            double size = 0, largest = 0;
            bool fine = true;
            R m = -HUGE_VAL, l = 0;
            for (int64_t j = 0; j < c.length_k; ++j) {
                const double bias = p.mask.empty() ? 0 : p.mask[row * c.length_k + j];
                const bool boolean = c.mask_type == DType::kBool;
                s[j] = -HUGE_VAL;
                if (j >= end || (c.left != kUnlimited && j < place - c.left) ||
                    (c.right != kUnlimited && j > place + c.right) ||
                    (!p.mask.empty() && (boolean ? bias == 0 : bias == -HUGE_VAL)))
                    continue;
                R sum = 0;
                double total = 0;
                for (int64_t d = 0; d < c.dim; ++d) {
                    const R x = static_cast<R>(q[d]), y = static_cast<R>(k[j * c.dim + d]);
                    sum += (scale_first ? x * scale : x) * y;
                    total += std::abs(q[d] * k[j * c.dim + d]);
                }
                if (!scale_first) sum *= scale;
                if (c.softcap != 0) sum = cap * std::tanh(sum / cap);
                fine = fine && total <= most && total * std::abs(c.scale) <= most;
                total *= std::abs(p.scale);
                if (!p.mask.empty() && !boolean)
                    sum += static_cast<R>(bias), total += std::abs(bias);
                for (int64_t f = 0; f < c.dim_v; ++f) {
                    const double x = std::abs(v[j * c.dim_v + f]);
                    if (!(x <= largest)) largest = x;
                    fine = fine && x <= most;
                }
                fine = fine && total <= most && largest * static_cast<double>(c.length_k) <= most;
                size = std::max(size, total);
                s[j] = sum, m = std::max(m, sum);
            }
            magnitude[row] = size, defined[row] = fine;
            for (int64_t j = 0; j < end; ++j)
                l += s[j] = s[j] == -HUGE_VAL ? 0 : std::exp(s[j] - m);
            lse[row] = l == 0 ? -HUGE_VAL : m + std::log(l);
            R rest = 0;
            if (c.sinks && l != 0 && p.sinks[h] != -HUGE_VAL)
                rest = std::exp(static_cast<R>(p.sinks[h]) - m);
            const bool swamped = std::isinf(rest);
            for (int64_t j = 0; j < end; ++j) s[j] = swamped || l == 0 ? 0 : s[j] / (l + rest);
            for (int64_t f = 0; f < c.dim_v; ++f) {
                R sum = 0;
                for (int64_t j = 0; j < end; ++j)
                    if (s[j] != 0) sum += s[j] * static_cast<R>(v[j * c.dim_v + f]);
                out[row * c.dim_v + f] = sum;
            }
        }
    }
};

// Compares results with the answer in W; T is the compute type.
template <typename W, typename T>
class Check {
public:
    explicit Check(const Problem& p) : p_(p), exact_(p, false) {
        const DType type = p.call.type;
        for (const bool scale_first : {false, true}) {
            const Answer<T> plain(p, scale_first);
            for (size_t i = 0; i < exact_.out.size(); ++i) {
                char stored[8];
                store(type, stored, static_cast<double>(plain.out[i]));
                note(out_error_, i / p.call.dim_v, load(type, stored) - exact_.out[i]);
            }
            for (size_t i = 0; i < exact_.lse.size(); ++i)
                note(lse_error_, i, plain.lse[i] - exact_.lse[i]);
        }
        for (const double x : p.v)
            if (std::isfinite(x)) largest_ = std::max(largest_, std::abs(x));
    }
    const char* fault(const std::vector<double>& out, const std::vector<T>& lse) const {
        const Call& c = p_.call;
        constexpr double eps = std::numeric_limits<T>::epsilon();
        const double storage = c.type == DType::kFloat16    ? 0x1p-10
                               : c.type == DType::kBFloat16 ? 0x1p-7
                                                            : eps;
        const double smallest = (c.type == DType::kFloat16 ? 0x1p-24 : 0) +
                                static_cast<double>(c.length_k + 2) *
                                    static_cast<double>(std::numeric_limits<T>::denorm_min());
        const double walk = std::sqrt(std::min<double>(static_cast<double>(c.length_k), 256)) / 4;
        for (size_t row = 0; row < exact_.lse.size(); ++row) {
            if (!exact_.defined[row]) continue;
            const double wobble = 2 * exact_.magnitude[row];
            const double bound =
                2 * out_error_ + (storage + eps * (2 + walk + wobble)) * largest_ + smallest;
            for (size_t f = 0; f < static_cast<size_t>(c.dim_v); ++f) {
                const size_t at = row * static_cast<size_t>(c.dim_v) + f;
                if (!(std::abs(out[at] - exact_.out[at]) <= bound)) {
                    std::printf("row %zu feature %zu: %g, exactly %g, bound %g\n", row, f, out[at],
                                static_cast<double>(exact_.out[at]), bound);
                    return "a result is off";
                }
            }
            if (lse.empty() || static_cast<W>(lse[row]) == exact_.lse[row]) continue;
            const double size = std::abs(static_cast<double>(exact_.lse[row]));
            const double error = static_cast<double>(std::abs(lse[row] - exact_.lse[row]));
            if (!(error <= 2 * lse_error_ + eps * (2 + size + walk + wobble))) {
                std::printf("row %zu: lse %g, exactly %g\n", row, static_cast<double>(lse[row]),
                            static_cast<double>(exact_.lse[row]));
                return "a log-sum-exp is off";
            }
        }
        return nullptr;
    }

private:
    void note(double& largest, size_t row, W error) {
        if (exact_.defined[row] && std::isfinite(error))
            largest = std::max(largest, static_cast<double>(std::abs(error)));
    }
    const Problem& p_;
    const Answer<W> exact_;
    double out_error_ = 0, lse_error_ = 0, largest_ = 0;
};

bool runs(int index) { return !lacking(index) && permitted(index); }

// The models take most of the time, so where AMX's instructions run, few inputs have them.
bool skips_model(Draw& draw) {
    bool amx = false;
    for (int index = 0; index < isa_count(); ++index)
        amx |= std::strcmp(isa(index).name, "amx") == 0 && runs(index);
    return amx && !draw.chance(16);
}

template <typename W, typename T>
void run(Problem& p, Draw choices) {
    const Check<W, T> check(p);
    const bool no_model = skips_model(choices);
    const Tensor& out = p.tensors[3];
    std::vector<std::vector<char>> inputs;
    for (const Tensor& tensor : p.tensors) inputs.push_back(tensor.bytes());
    for (int index = 0; index < isa_count(); ++index) {
        const char* const name = isa(index).name;
        if (!kernel(index, Operation::kForward, p.call.type) || !runs(index)) continue;
        if (no_model && std::strstr(name, "_model")) continue;
        Draw draw = choices;
        std::vector<char> first;
        for (int repetition = 0; repetition < 4; ++repetition) {
            if (repetition == 2) p.configure(draw);
            if (repetition % 2) p.choose_rows(draw);
            std::vector<T> lse(static_cast<size_t>(p.entries() * p.call.heads_q * p.call.length_q));
            const bool wanted = draw.chance(2);
            const int64_t heads = p.call.length_q * static_cast<int64_t>(sizeof(T));
            const int64_t entries[] = {p.batch[1] * p.call.heads_q * heads, p.call.heads_q * heads};
            p.call.lse = {wanted ? reinterpret_cast<char*>(lse.data()) : nullptr, entries, heads,
                          sizeof(T), 0};
            std::copy(inputs[3].begin(), inputs[3].end(), out.memory.get());
            if (++calls % (1 << 16) == 0) report();
            if (attention(p.call, *isa(index).kernels) != Status::kOk)
                fail(p, name, "there was no memory");
            if (!wanted) lse.clear();
            if (const char* what = check.fault(out.values(), lse)) fail(p, name, what);
            if (!out.only_elements_differ(inputs[3]))
                fail(p, name, "memory beside out was written");
            if (repetition % 2 == 0)
                first = out.bytes();
            else if (!out.equals(first))
                fail(p, name, "other blocks of rows, other bits");
        }
    }
    for (size_t i = 0; i < p.tensors.size(); ++i)
        if (i != 3 && !p.tensors[i].holds(inputs[i])) fail(p, "all", "an input was written");
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
    std::atexit(report);
    for (int index = 0; index < isa_count(); ++index)
        std::printf("%s: %s\n", isa(index).name, runs(index) ? "runs" : "cannot run here");
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    Problem problem(Draw(data, size / 4 * 3));
    const Draw other(data + size / 4 * 3, size - size / 4 * 3);
    if (problem.call.type == DType::kFloat64)
        run<long double, double>(problem, other);
    else
        run<double, float>(problem, other);
    return 0;
}
