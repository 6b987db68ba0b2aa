"""The tuner: finds the best configuration for a problem with few measurements.

`space` says what may be chosen, `strategies` what is tried next.
"""
