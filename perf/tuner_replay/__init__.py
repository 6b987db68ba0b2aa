"""The tuner beside other strategies, replayed on recorded tables of timings."""
