// Runs the calls of fuzz_attention.cpp from many threads at once, on random bytes, without libFuzzer:
// for ThreadSanitizer, and for compilers and machines that have no libFuzzer.
// SPDX-License-Identifier: Apache-2.0
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments);
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

constexpr size_t kBytes = 160;
thread_local unsigned long current;

void run(unsigned long seed, unsigned long input) {
    current = input;
    std::seed_seq both{seed, input};
    std::mt19937 random(both);
    std::vector<uint8_t> bytes(kBytes);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

}  // namespace

// Arguments: seconds, seed, threads; and the number of an input, to run only that one.
int main(int count, char** arguments) {
    LLVMFuzzerInitialize(&count, &arguments);
    if (count < 4) return 2;
    const auto end =
        std::chrono::steady_clock::now() + std::chrono::seconds(std::atol(arguments[1]));
    const unsigned long seed = std::strtoul(arguments[2], nullptr, 10);
    std::signal(SIGABRT, [](int) {
        std::printf("input %lu\n", current);
        std::fflush(stdout);
    });
    if (count > 4) return run(seed, std::strtoul(arguments[4], nullptr, 10)), 0;
    std::atomic<unsigned long> next{0};
    std::vector<std::thread> threads;
    for (long i = 0; i < std::atol(arguments[3]); ++i)
        threads.emplace_back([&] {
            while (std::chrono::steady_clock::now() < end) run(seed, next++);
        });
    for (std::thread& thread : threads) thread.join();
    return 0;
}
