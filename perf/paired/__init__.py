"""Two revisions side by side: is the newer one slower?  ``make compare BASE=v0.1.0``.

    engine     screening, fresh rounds, verdicts: knows nothing about processes
    rule       what is discarded, and what a verdict requires
    rounds     a round: one live process of each side, in turns; worker: such a process
    builds     both revisions, in one asv environment
    cells      what is compared: the cases of the asv benchmarks
    calibrate  how often all this is wrong

A *round* starts both processes anew.  It is the unit of the statistics, because what a process
fixes when it starts, above all addresses, is the same in all its samples.
"""
