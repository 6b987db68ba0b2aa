"""Measure one commit and show it: ``python -m perf.run``, behind ``make bench``.

Names the machine, lets asv build and measure the commit, publishes the pages and prints
the table of `report`, with progress while it works.  The full output of asv goes to a
log.  Exit status: 0; 2 if something failed, after the table; else asv's, after the log's end.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from benchmarks import common
from benchmarks.conditions import RECORD_VARIABLE
from perf import conditions, entry, git, report, vendor
from perf.progress import bar

ROOT = Path(__file__).resolve().parent.parent
LOG = Path(".asv/run.log")
CODE = ("fastattn", "src_cpp", "setup.py", "pyproject.toml")  # what a commit's build depends on
PAUSE_SECONDS = 0.25
REMARKS = 10  # shown at most; all are in the log

# What asv prints: steps, tables of values (which `report` prints better) and remarks.
STEP = re.compile(r"^(?:\[\s*(?P<percent>[\d.]+)%\] )?·+ (?P<text>.*?)\s*$")
DETAIL = re.compile(r"=====|For parameters|Traceback|Running |Benchmarking\b|For \S+ commit ")
ENVIRONMENT = re.compile(r"(?: for| from| into|) virtualenv-\S+")
REMARK = re.compile(
    r"^.*?(?P<text>(?:[A-Za-z]*(?:Error|Exception)|skipped): (?!Traceback).*"
    r"|asv: benchmark timed out.*)$"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of asv's output, or as much of it as has arrived."""

    text: str
    ended: bool


def register_machine(name: str | None) -> str:
    """Make the machine known to asv and return its name.

    The name describes the processor, not the host, and the description leaves out what a
    kernel update changes, because asv draws a new graph for each different description.
    """
    from asv.machine import Machine, MachineCollection

    facts = Machine.get_defaults()
    name_ = f"{facts['cpu'] or facts['arch']} {facts['num_cpu']} cpus"
    slug = re.sub(r"[^a-z0-9]+", "-", name_.lower()).strip("-")
    facts["machine"] = name or slug
    facts["os"] = facts["os"].split()[0]
    facts["ram"] = f"{round(int(facts['ram'] or 0) / 2**30)} GiB"
    MachineCollection.save(facts["machine"], facts)
    return str(facts["machine"])


def ensure_home() -> None:
    """Point HOME at a folder of our own if it names no writable one: asv needs one."""
    home = Path(os.path.expanduser("~"))
    if not os.environ.get("HOME") or not os.access(home, os.W_OK):
        substitute = ROOT / ".asv/home"
        substitute.mkdir(parents=True, exist_ok=True)
        os.environ["HOME"] = str(substitute)


def usable_cpus() -> list[int]:
    """CPUs that this process may use; empty if the system does not tell."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def affinity() -> list[str]:
    """Arguments that pin benchmarks to the last usable CPU: the first serves interrupts."""
    usable = usable_cpus()
    return ["--cpu-affinity", str(usable[-1])] if len(usable) > 1 else []


def uncommitted() -> list[str]:
    """Changed and new files of the package; asv builds the commit, so it does not see them."""
    found = git.output("status", "--porcelain", "--untracked-files=all", "--", *CODE)
    return [line[3:] for line in found.splitlines()]


def asv(*arguments: str, log: IO[str], environment: Mapping[str, str]) -> Iterator[Line]:
    """Run asv and yield its lines as they come; after each pause, the unfinished line so far.

    Raises
    ------
    subprocess.CalledProcessError
        asv failed; raised after the last line, with asv's exit status.
    """
    command = [sys.executable, "-P", "-m", "asv", *arguments]
    chunks: queue.SimpleQueue[str] = queue.SimpleQueue()
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        stream = io.TextIOWrapper(process.stdout, encoding="utf-8", errors="replace")

        def read() -> None:
            # asv ends a line only when the next one begins: the current step has no end yet.
            with contextlib.suppress(ValueError):  # closed by an interrupt
                while text := stream.read(1):
                    chunks.put(text)
            chunks.put("")

        threading.Thread(target=read, daemon=True).start()
        line = ""
        while True:
            try:
                text = chunks.get(timeout=PAUSE_SECONDS)
            except queue.Empty:
                yield Line(line, ended=False)
                continue
            log.write(text)
            if text not in ("", "\n"):
                line += text
                continue
            log.flush()
            yield Line(line, ended=True)
            line = ""
            if not text:
                break
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)


def measure(arguments: list[str], log: IO[str], environment: Mapping[str, str]) -> int:
    """Run asv behind a progress bar, and return its exit status."""
    note = Path(environment[common.PROGRESS_VARIABLE])
    remarks: dict[str, None] = {}
    status = 0
    with bar() as progress:
        console, task = progress.console, progress.add_task("", total=100)
        started, done, under_way = time.monotonic(), 0.0, 0.0
        try:
            for line in asv("run", *arguments, log=log, environment=environment):
                step = STEP.match(line.text)
                text = "" if step is None else " ".join(ENVIRONMENT.sub("", step["text"]).split())
                if step and not DETAIL.match(text):
                    percent = float(step["percent"] or 0)
                    if percent > under_way:  # asv already counts the step that begins
                        done, under_way = under_way, percent
                    description = f"{text} {_last_line(note)}"
                    progress.update(task, completed=done, description=description)
                if not line.ended:
                    continue
                note.write_text("")
                if remark := REMARK.match(line.text):
                    remarks[remark["text"]] = None
                elif text and not DETAIL.match(text):
                    minutes, seconds = divmod(int(time.monotonic() - started), 60)
                    text = f"{minutes:2d}:{seconds:02d}  {text}"
                    console.print(text, markup=False, highlight=False)
        except subprocess.CalledProcessError as error:
            status = error.returncode
    for text in list(remarks)[:REMARKS]:
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return status


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    return lines[-1] if lines else ""


@dataclass(frozen=True, slots=True)
class Session:
    """Where asv runs, and under which machine's name.

    Attributes
    ----------
    machine : str
        The machine's name in the results.
    log : text stream
        Gets all that asv says.
    environment : mapping
        Environment of the asv process.
    conditions : Path
        File to which measurements append their conditions.
    """

    machine: str
    log: IO[str]
    environment: Mapping[str, str]
    conditions: Path

    def measure(self, commit: str, arguments: list[str]) -> int:
        """Build and measure a commit, store the conditions, and return asv's exit status."""
        self.conditions.write_text("")
        selected = [f"{commit}^!", "--machine", self.machine, "--show-stderr", *affinity()]
        status = measure([*selected, *arguments], self.log, self.environment)
        lines = self.conditions.read_text(encoding="utf-8").splitlines()
        if status in (0, 2) and lines:  # 2: some benchmark failed, but the others are stored
            self._keep(commit, lines)
        return status

    def _keep(self, commit: str, lines: list[str]) -> None:
        found = conditions.gather(lines)
        conditions.store(found, report.RESULTS, self.machine, commit)
        for warning in dict.fromkeys(conditions.forced(f["variables"]) for f in found["facts"]):
            if warning:
                print(warning)

    def publish(self) -> int:
        """Publish the pages, and return asv's exit status."""
        try:
            for _ in asv("publish", log=self.log, environment=self.environment):
                pass
            vendor.localise()
        except subprocess.CalledProcessError as error:
            print(f"asv publish failed; see {LOG}")
            return error.returncode
        except vendor.VendorError as error:
            print(f"The pages load their scripts from public networks: {error}")
        return 0


@contextmanager
def session(machine: str | None) -> Iterator[Session]:
    """Prepare for running asv in the project's folder."""
    os.chdir(ROOT)
    ensure_home()
    name = register_machine(machine)
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w", encoding="utf-8") as log, tempfile.TemporaryDirectory() as folder:
        note, noted = Path(folder, "progress"), Path(folder, "conditions")
        note.touch()
        # asv looks up an interpreter by its version: make it find the one that runs this.
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        environment = os.environ | {
            "PATH": path,
            "PYTHONUNBUFFERED": "1",
            common.PROGRESS_VARIABLE: str(note),
            common.CPUS_VARIABLE: ",".join(map(str, usable_cpus())),
            RECORD_VARIABLE: str(noted),
        }
        yield Session(name, log, environment, noted)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m perf.run",
        description=__doc__,
        epilog="Arguments that are not listed go to `asv run`, e.g. --bench bench_memory.",
    )
    parser.add_argument("--revision", default="HEAD", help="commit, default %(default)s")
    parser.add_argument("--profile", choices=common.PROFILES, help="default standard")
    parser.add_argument("--machine", help="name of this machine in the results")
    known, rest = parser.parse_known_args()
    if known.profile is not None:
        os.environ[common.PROFILE_VARIABLE] = known.profile
    try:
        common.profile()
    except ValueError as error:
        parser.error(str(error))
    with session(known.machine) as here:
        commit = git.commit(known.revision)
        changed = uncommitted() if known.revision == "HEAD" else []
        name = os.environ.get(common.PROFILE_VARIABLE) or "standard"
        print(f"Measuring {commit[:8]} on {here.machine}, profile {name}; log of asv: {LOG}")
        if changed:
            print(f"Not measured, because asv builds the commit: changes in {', '.join(changed)}")
        status = here.measure(commit, rest)
        if status not in (0, 2):
            here.log.flush()
            print(*LOG.read_text(encoding="utf-8").splitlines()[-40:], sep="\n")
            return status
        status = here.publish() or status
    return _conclude(commit, here.machine) or status


def _conclude(commit: str, machine: str) -> int:
    results: Any = report.load(report.RESULTS, commit, machine)
    if results is None:
        print(f"asv stored no results for {commit[:8]}")
        return 1
    status = report.render(results)
    print("Graphs over commits: `make preview`, then http://127.0.0.1:8080 in a browser.")
    return status


if __name__ == "__main__":
    entry.run(main)
