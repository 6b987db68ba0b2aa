"""The Numba implementation's kernel; `fastattn.implementations.numba_` is its door.

From there inwards: `pool` threads, `places` where they wake; `shape` what a call tells the
kernel; `kernel` work items; `panels` a block of rows, `few` one of a few rows; `block` a block of
keys; `tiles`, `strips` (for few rows), `rows` and `intrinsics` what runs inside them; `formulas` of
the softmax; `ir` the notation of the inner ones.
"""
