"""Tensors for the tests of the adapters to PyTorch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastattn._interop import to_torch

__all__ = ["GROUPED", "normal", "ours", "qkv", "tensor"]

GROUPED = torch.__version__ >= (2, 9)
"""Whether torch brings us calls with fewer key heads than query heads."""


def ours(x: Any) -> Any:
    """2 key heads, for 4 query heads, as torch brings them to us."""
    return x if GROUPED else x.repeat_interleave(2, 1)


def tensor(array: np.ndarray) -> Any:
    """The array, or its copy if torch has no such strides."""
    if any(stride < 0 or stride % array.itemsize for stride in array.strides):
        array = array.copy()
    return to_torch(array)


def normal(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(shape).to(dtype)


def qkv(dtype: Any = torch.float32, dim_v: int = 8) -> tuple[Any, Any, Any]:
    """B 2, Hq 4, Hkv 2, Lq 7, Lk 9, D 8."""
    shapes = (2, 4, 7, 8), (2, 2, 9, 8), (2, 2, 9, dim_v)
    return tuple(normal(*shape, dtype=dtype) for shape in shapes)
