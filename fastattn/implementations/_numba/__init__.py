"""The Numba implementation's kernel, entered through `fastattn.implementations.numba_`.

From there inwards: `pool` (threads) and `places` (where they wake); `shape` (what a call tells
the kernel); `kernel` (work items); `panels` (a block of rows) and `few` (a block of a few rows);
`block` (a block of keys); `tiles`, `strips` (for few rows), `rows` and `intrinsics` (what runs
inside them); `formulas` (of the softmax); `ir` (the notation in which the innermost are written).
"""
