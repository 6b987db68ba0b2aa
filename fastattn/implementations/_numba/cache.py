"""The compiled kernel on disk, in the folder that Numba gives it (``NUMBA_CACHE_DIR``).

Numba's own cache finds a data file through an index that several processes may write at once:
the kernel of one data type can end up under the name of another.  Here a file's name is a digest
of all that its content depends on, and a second file holds the digest of name and content.  What
does not agree with it is compiled anew and written again.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
from pathlib import Path

import llvmlite
import numba
import numpy as np
from numba.core.caching import FunctionCache
from numba.core.serialize import dumps

from fastattn._log import warn_once
from fastattn.implementations._numba.kernel import attend

_SOURCES = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))


def _digest(*contents):
    return hashlib.sha256(b"".join(contents)).hexdigest()


def _is_private(folder):
    """Whether nobody else can write to a folder: what is read from there is run."""
    state = os.stat(folder)
    others = 0o002 if state.st_gid == os.getegid() else 0o022
    private = state.st_uid in (0, os.geteuid()) and not state.st_mode & others
    if not private:
        warn_once(f"the cache of compiled kernels in {folder} is not used: others can write to it")
    return private


class CheckedCache(FunctionCache):
    """A cache that loads a kernel only if it is the one that was saved for the same key."""

    def _paths(self, signature, codegen):
        versions = numba.__version__, llvmlite.__version__, np.__version__
        key = _digest(repr((self._index_key(signature, codegen), versions)).encode(), _SOURCES)
        base = os.path.join(self.cache_path, f"{self._impl.filename_base}-{key}")
        return key.encode(), Path(base + ".nbc"), Path(base + ".nbi")

    def load_overload(self, sig, target_context):
        """Compile result for a signature; None if there is none that can be trusted."""
        target_context.refresh()
        try:
            if not _is_private(self.cache_path):
                return None
            key, data, check = self._paths(sig, target_context.codegen())
            content = data.read_bytes()
            if check.read_text() != _digest(key, content):
                return None
            return self._impl.rebuild(target_context, pickle.loads(content))
        except Exception:  # whatever is wrong with it, it can be compiled anew
            return None

    def save_overload(self, sig, data):
        """Keep a compile result, if the folder can be written."""
        key, path, check = self._paths(sig, data.codegen)
        content = dumps(self._impl.reduce(data))
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not _is_private(self.cache_path):
                return
            for target, text in ((path, content), (check, _digest(key, content).encode())):
                temporary = target.with_name(f"{target.name}.{os.getpid()}")
                try:
                    temporary.write_bytes(text)
                    os.replace(temporary, target)  # other processes see whole files only
                finally:
                    temporary.unlink(missing_ok=True)


@functools.cache
def compiled(dtype):
    """`attend` for float32 or float64, for arrays of any layout."""

    def array(element, axes, readonly=True):
        return numba.types.Array(element, axes, "A", readonly=readonly, aligned=False)

    number = numba.types.float64 if dtype == "float64" else numba.types.float32
    masks = numba.types.Tuple([array(kind, 4) for kind in (numba.types.uint8, number)])
    results = array(number, 4, readonly=False), array(number, 3, readonly=False)
    per_batch, per_head, word = array(numba.types.int64, 1), array(number, 1), numba.types.intp
    signature = (*[array(number, 4)] * 3, *results, masks, word, per_batch, per_batch, per_head)
    signature += (word, word, *[number] * 3, *[word] * 4)
    with contextlib.suppress(RuntimeError):  # Numba knows no folder that can be written
        attend._cache = CheckedCache(attend.py_func)
    attend.compile(signature)
    # Called directly, since Numba's dispatch would compile anew for each layout.
    return attend.overloads[signature].entry_point
