"""Tools around the benchmarks: comparisons, history, reports, replays of the tuner."""
