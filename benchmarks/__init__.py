"""The asv suite of fastattn; start with README.md beside this file.

asv imports every module here in an environment that holds the measured commit, its
run-time dependencies and asv's runner, and nothing else: import anything more inside
the function that needs it.
"""
