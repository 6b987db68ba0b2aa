"""Child processes that report while they measure, one JSON object a line."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks import child

__all__ = ["ChildError", "messages"]


class ChildError(RuntimeError):
    """A child process failed.

    Attributes
    ----------
    status : int
        Its exit status; negative for a signal.
    output : str
        The end of what it wrote to standard error.
    """

    def __init__(self, status: int, output: str) -> None:
        super().__init__(f"the process ended with {status}: {output}")
        self.status, self.output = status, output


def messages(
    module: str, request: Mapping[str, Any], environment: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """What ``module.child`` reports in a fresh process, which ends with this iterator.

    `environment` is added to that of this process.

    Raises
    ------
    ChildError
        The process failed; what it reported before has been yielded.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            child.command(module, request),
            env=child.environment(environment),
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                yield json.loads(line)
        except BaseException:  # GeneratorExit too: nobody listens any more
            process.kill()
            raise
        if process.wait() != 0:
            errors.seek(0)
            raise ChildError(process.returncode, errors.read().strip()[-2000:])
