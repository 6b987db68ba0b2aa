"""What a call tells the Numba kernel: a table of whole numbers, and the working memory.

Purpose: the place of each number, stated once for the side that writes (`numba_`) and the
side that reads (`kernel`).
Non-goals: arrays.  The table holds what is the same for all calls of one spec,
configuration and set of strides; addresses travel beside it.

All strides are in bytes, named ARRAY_AXIS: H = head, R = row (query or key position),
E = element (feature, or key of a mask).
"""

from __future__ import annotations

from typing import Final

FLOAT32: Final = 0
FLOAT64: Final = 1
FLOAT16: Final = 2
BFLOAT16: Final = 3
BOOL: Final = 4
NO_KIND: Final = -1

KINDS: dict[str, int] = {
    "float32": FLOAT32,
    "float64": FLOAT64,
    "float16": FLOAT16,
    "bfloat16": BFLOAT16,
    "bool": BOOL,
}
"""What an array holds, by NumPy's name."""

REGIONS: tuple[str, ...] = (
    "ROW_TABLES",  # `ROW_TABLE` words of each row of a row block
    "PANEL_TABLE",  # `PANEL_CELL` words of each panel
    "STAGE_TABLE",  # addresses of the staged rows
    "STATE",  # `STATE_ROW` numbers of each row
    "LANES",  # `LANE_ROW` panel rows for temporary use
    "QUERIES",
    "RESULT",
    "SCORES",
    "KEYS",
    "VALUES",
    "STAGE",
    "MASK",
    "PART",
)
"""Parts of a thread's arena; each one's offset in bytes is a number of the table."""

TABLE: tuple[str, ...] = (
    # The work: items are batch x kv head x row block.
    "ITEMS",
    "ROW_BLOCKS",
    "HEADS_KV",
    "GROUP",
    "LENGTH_Q",
    "LENGTH_K",
    "DIM",
    "DIM_V",
    "BLOCK_Q",
    "BLOCK_K",
    "CHUNK",
    # Whether rows are few, and the runs of key blocks that an item's work is divided into.
    "FEW",
    "SPLITS",
    "BLOCKS_PER_SPLIT",
    # What hides keys.
    "LEFT",
    "RIGHT",
    "MASK_KIND",
    "SINK_KIND",
    "KIND",
    "IN_PLACE",  # whether KIND is the compute type
    # Strides.
    *("Q_H", "Q_R", "Q_E", "K_H", "K_R", "K_E", "V_H", "V_R", "V_E"),
    *("OUT_H", "OUT_R", "OUT_E", "LSE_H", "LSE_R", "MASK_H", "MASK_R", "MASK_E", "SINK_E"),
    # The arena, and sizes within its regions.
    *REGIONS,
    "ARENA_BYTES",
    "ROW_TABLE_BYTES",  # one row table, or one row of the state, of a row block
    "QUERY_PANEL_BYTES",
    "RESULT_PANEL_BYTES",
    "SCORE_PANEL_BYTES",
    "KEY_BYTES",  # a staged key; 0 where keys are read in place
    "VALUE_GROUP_BYTES",  # TILE_ROWS features of each value of a key block
    "STAGE_BYTES",  # a staged query or result
    "QUERY_ROW_BYTES",  # single rows of these, if rows are few
    "RESULT_ROW_BYTES",
    "SCORE_ROW_BYTES",
    "PART_BYTES",  # maximum, sum and result of a block of keys for a few rows
    "ARENAS",  # where the first arena is, from the scratch's start
    "PARTS",  # where the parts of all blocks are, from the scratch's start
    "BLOCKS",
    "MASK_ROW_BYTES",
    "ZERO",
    "BATCH_AXES",
)
"""Numbers of a call.  After them comes the batch table."""

ROW_TABLE: tuple[str, ...] = ("Q", "OUT", "LSE", "MASK", "LOW", "HIGH")
"""For each row of a row block: addresses, the first key that it sees and one past the last."""

PANEL_CELL: tuple[str, ...] = ("LOW_MIN", "LOW_MAX", "HIGH_MIN", "HIGH_MAX", "BEGIN", "END", "FULL")
"""Bounds of LOW and HIGH over a panel's rows, the keys that it computes now, and whether the
mask leaves them all visible.  `rows.find_seen` fills the last three."""

STATE_ROW: tuple[str, ...] = ("TOP", "TOTAL", "ALPHA", "BETA", "SINK")
"""For each row: running maximum and sum, the factors for what came before and for what a block
adds, and its head's sink."""

LANE_ROW: tuple[str, ...] = ("ONES", "FIRST", "PAST", "FACTOR")

BATCHED: tuple[str, ...] = ("q", "k", "v", "out", "lse", "mask", "offsets", "lengths")
"""Arrays with batch axes.  For each batch axis, the last one first, the batch table has its
length and then its stride in each of these arrays, in this order."""

UNLIMITED: Final = 2**52
"""A side of a band without a limit; positions stay below 2**49 (`_problem`)."""

HEADER_BYTES: Final = 64
"""Bytes before all else in the scratch: the counters of claimed and of finished units."""

FEW_ROWS: Final = 8
"""Up to this many rows are computed row by row (`few`): lanes of a panel would be empty, and its
packing of values would cost more than it saves."""

TOGETHER: Final = 4
"""How many of a few rows share each load of a key or value: their sums stay in registers."""
