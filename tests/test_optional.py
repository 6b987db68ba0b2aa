"""Parts and packages that fastattn can do without: absent, outdated or broken in any way."""

from __future__ import annotations

from processes import run_python


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
