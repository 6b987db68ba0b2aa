"""The study's questions asked again: ``python -m perf.study``, behind ``make report``.

    published   what the study and the blog printed
    data        what was measured, the file it is kept in, and its statistics
    turns       one process: agreement, then turns
    measure     the whole of it, step by step
    tables      tables, and the answer in a sentence; formats: numbers as text
    charts      pictures
    page        index.html and report.md

Measuring and showing know each other through the record alone, so that a kept record can be
rendered again without measuring.
"""
