"""Parts and packages that fastattn can do without: absent, outdated or broken in any way."""

from __future__ import annotations

import pytest
from processes import run_python

import fastattn


def test_broken_parts_are_told_and_done_without() -> None:
    """Whatever their import raises: the rest goes on, and each tells its reason."""
    run_python(
        """
        import sys

        ERRORS = {
            "fastattn.implementations._native": ValueError("numpy.dtype size changed"),
            "numba": AttributeError("module 'numpy' has no attribute 'long'"),
            "ml_dtypes": SystemExit("not on this machine"),
        }

        class Broken:
            def find_spec(self, name, path=None, target=None):
                if name in ERRORS:
                    raise ERRORS[name]

        sys.meta_path.insert(0, Broken())
        import numpy as np
        import fastattn
        from fastattn.__main__ import main
        from fastattn.tuner.measure import numpy_dtype

        reasons = fastattn.implementations()
        assert "size changed" in reasons["cython"], reasons
        assert "no attribute 'long'" in reasons["numba"], reasons
        q, k, v = np.ones((3, 4, 4))
        assert fastattn.explain(q, k, v).impl == "numpy"
        assert (fastattn.attention(q, k, v) == v).all()
        assert main(["info"]) == 0
        for name, word in (("cython", "size changed"), ("numba", "'long'")):
            try:
                fastattn.attention(q, k, v, impl=name)
            except fastattn.UnavailableError as error:
                assert word in str(error), error
            else:
                raise AssertionError(name)
        try:
            numpy_dtype("bfloat16")
        except fastattn.UnavailableError as error:
            assert "not on this machine" in str(error), error
        else:
            raise AssertionError("computed")
        """
    )


@pytest.mark.skipif(
    fastattn.implementations()["numba"] is not None, reason="numba is not installed"
)
def test_a_kernel_that_does_not_compile() -> None:
    """Numba fails in a call: a clear error, or the next implementation where the choice is free."""
    run_python(
        """
        import numpy as np
        import fastattn
        from fastattn.implementations import load
        from fastattn.implementations._numba.kernel import attend

        def compile(signature):
            raise NotImplementedError("no such target")

        attend.compile = compile
        load("cython").missing = lambda: "left out here"
        q, k, v = np.ones((3, 4, 4), np.float32)
        assert fastattn.explain(q, k, v).impl == "numba"
        assert (fastattn.attention(q, k, v) == v).all()
        assert fastattn.explain(q, k, v).impl == "numpy"
        for _ in range(2):
            try:
                fastattn.attention(q, k, v, impl="numba")
            except fastattn.UnavailableError as error:
                assert "no such target" in str(error), error
            else:
                raise AssertionError("computed")
        assert "no such target" in fastattn.implementations()["numba"]
        """
    )


def test_no_memory_is_no_reason() -> None:
    """A part that could not be loaded for want of memory is not given up."""
    run_python(
        """
        import sys

        class NoMemory:
            def find_spec(self, name, path=None, target=None):
                if name == "fastattn.implementations._native":
                    raise MemoryError

        import fastattn
        sys.meta_path.insert(0, NoMemory())
        try:
            fastattn.machine()
        except MemoryError:
            del sys.meta_path[0]
        else:
            raise AssertionError("went on")
        reasons = fastattn.machine().missing_isas
        assert not any("MemoryError" in reason for reason in reasons.values()), reasons
        """
    )
