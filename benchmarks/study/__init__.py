"""The study's questions asked again: ``python -m benchmarks.study``, behind ``make report``.

    published   what the study and the blog printed
    record      what was measured, the file it is kept in, and its statistics
    turns       one process: agreement, then turns
    measure     the whole of it, piece by piece
    tables      tables, and the answer in a sentence; words: numbers as text
    charts      pictures
    page        index.html and report.md

What is measured and what is shown know each other by the record alone: a kept one is
rendered again without measuring.  Heavy modules are imported inside functions, for asv
imports these files too.
"""
