"""The tuner: finds the best configuration for a problem with few measurements.

`space` says what may be chosen, `strategies` what is tried next, `measure` how long a point takes,
`race` and `select` which point is faster; `search` and `run` put them together.
"""

from __future__ import annotations

from fastattn.tuner.result import TuningResult
from fastattn.tuner.run import tune

__all__ = ["TuningResult", "tune"]
