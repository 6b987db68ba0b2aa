"""Arrays of other libraries: what goes in comes out."""

from __future__ import annotations

from processes import run_python


def test_no_library_is_imported() -> None:
    """Neither by the package nor by its first call."""
    run_python(
        """
        import sys
        import numpy as np
        import fastattn
        x = np.ones((3, 4), np.float32)
        fastattn.attention(x, x, x)
        assert not {"torch", "jax", "onnx", "transformers", "ml_dtypes"} & set(sys.modules)
        """
    )
