"""Serve the published pages to this machine only: ``python -m perf.preview``.

asv's own server listens on every network interface; this one only on the loopback interface.
"""

from __future__ import annotations

import argparse
import functools
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from perf import entry
from perf.run import ROOT

ADDRESS, PORT = "127.0.0.1", 8080
PAGES = ROOT / ".asv/html"


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of a folder, bound to its port; 0 is any free one.

    Raises
    ------
    OSError
        The port is taken, or not allowed.
    """
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    ThreadingHTTPServer.allow_reuse_address = True
    return ThreadingHTTPServer((ADDRESS, port), handler)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; exit status 1 if there are no pages, 2 if the port cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m perf.preview", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help="default %(default)s; 0: a free one")
    parser.add_argument("--folder", type=Path, default=PAGES, help="default %(default)s")
    known = parser.parse_args(arguments)
    if not (known.folder / "index.html").is_file():
        print(f"There are no pages in {known.folder}: `make bench` publishes them.")
        return 1
    try:
        serving = server(known.folder, known.port)
    except (OSError, OverflowError) as error:
        print(f"Port {known.port} cannot be used: {error}. Fix: choose another one with --port.")
        return 2
    with serving:
        print(f"http://{ADDRESS}:{serving.server_port}/  (Ctrl-C ends it)", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    entry.run(main)
