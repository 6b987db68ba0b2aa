"""What Numba compiles for `fastattn.implementations.numba_`, which alone imports it.

``tile``     the register tile of both matrix products, and the transposition of a tile
``softmax``  the online softmax, the exponential, the soft cap
``rows``     rows of the arrays of a call
``kernel``   the loops: blocks of rows, blocks of keys, online softmax
``cache``    the compiled kernel on disk
"""
