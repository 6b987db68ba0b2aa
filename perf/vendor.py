"""Published pages that need no network: ``python -m perf.vendor``.

asv's pages load their scripts and a stylesheet from public networks.  Here we get the same files
from the npm registry, through the machine's own ``npm``, whose settings say where that is,
check them against a hash, keep them in ``.asv/vendor``, copy them beside the pages, and
rewrite the pages' references.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from perf import entry

CACHE = Path(".asv/vendor")
PAGES = Path(".asv/html")
FOLDER = "vendor"  # beside the pages
TIMEOUT_SECONDS = 120


class VendorError(Exception):
    """The pages still need a network; the message says why."""


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the npm registry.

    Attributes
    ----------
    name : str
        Name with the version, as ``npm`` takes it.
    sha512 : str
        Hash of the whole package, in base64.
    files : dict of str to str
        Path in the package -> path beside the pages.
    """

    name: str
    sha512: str
    files: dict[str, str]


_FONT = "fonts/glyphicons-halflings-regular"
PACKAGES = (
    Package(
        "jquery@3.3.1",
        "Ubldcmxp5np52/ENotGxlLe6aGMvmF4R8S6tZjsP6Knsaxd/xp3Zrh50cG93lR6nPXyUFwzN3ZSOQI0wRJNdGg==",
        {"dist/jquery.min.js": "jquery.min.js"},
    ),
    Package(
        "flot@0.8.3",
        "xg2otcTJDvS+ERK+my4wxG/ASq90QURXtoM4LhacCq0jQW2jbyjdttbRNqU2cPykrpMvJ6b2uSp6SAgYAzj9tQ==",
        {
            f"jquery.flot{plugin}.js": f"jquery.flot{plugin}.js"
            for plugin in ("", ".time", ".selection", ".categories")
        },
    ),
    Package(
        "flot-orderbars@1.0.0",
        "Jv51fvzevUjNXEeozpwEKfPjhiZhfiJddv0WHjduUTCmSF+7T5K7C9c9Y1wIVmUhDBv5fLMjgbwKecT0GIKPZA==",
        {"js/jquery.flot.orderBars.js": "jquery.flot.orderBars.js"},
    ),
    Package(
        "stupid-table-plugin@1.1.3",
        "2Vk7XouQPxUQPRe9w0Fu7ZZ8kHLK7rDoLMsCgtKxRNJ7f4dSOGvW9CkHsq5wD6QsaEnWoyLBYH3xOEsrK3yWBg==",
        {"stupidtable.min.js": "stupidtable.min.js"},
    ),
    Package(
        "blueimp-md5@2.19.0",
        "DRQrD6gJyy8FbiE4s+bDoXS9hiW3Vbx5uCdwvcCf3zLHL+Iv7LtGHLpr+GZV8rHG8tK766FGYBwRbu8pELTt+w==",
        {"js/md5.min.js": "md5.min.js"},
    ),
    Package(
        "bootstrap@3.1.1",
        "TAzqS8E/ISpVHP29gYhy+1NSV+FJwApDVQhDfgLYsIuUDJiqJzH2DfORN5tiu+Ie2iBLrzEG34t4Rf465cigqg==",
        {
            "dist/js/bootstrap.min.js": "bootstrap/js/bootstrap.min.js",
            "dist/css/bootstrap.min.css": "bootstrap/css/bootstrap.min.css",
            **{
                f"dist/{_FONT}.{kind}": f"bootstrap/{_FONT}.{kind}"
                for kind in ("eot", "svg", "ttf", "woff")
            },
        },
    ),
)
# File that asv's page asks for -> the one beside the pages.  Where a package holds only a readable
# form or a later version, the two files differ; the others are the same, to the byte.
REFERENCES = {
    "jquery-3.3.1.min.js": "jquery.min.js",
    "jquery.flot.min.js": "jquery.flot.js",
    "jquery.flot.time.min.js": "jquery.flot.time.js",
    "jquery.flot.selection.min.js": "jquery.flot.selection.js",
    "jquery.flot.categories.min.js": "jquery.flot.categories.js",
    "jquery.flot.orderBars.js": "jquery.flot.orderBars.js",
    "stupidtable.min.js": "stupidtable.min.js",
    "md5.min.js": "md5.min.js",
    "bootstrap.min.js": "bootstrap/js/bootstrap.min.js",
    "bootstrap.min.css": "bootstrap/css/bootstrap.min.css",
}

# Elements that may refer to another host, such a reference, and what only makes sense with one.
_ELEMENT = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*>")
_ADDRESS = re.compile(r"""\b(src|href)=["']((?:https?:)?//[^"']+)["']""")
_REMOTE_ONLY = re.compile(r"""\s+(?:integrity|crossorigin|referrerpolicy)="[^"]*\"""")
_STYLE_ADDRESS = re.compile(r"""(?:url\(|@import\s)\s*["']?([^"')\s]+)""")


def pack(package: Package) -> bytes:
    """Get a package from the registry.

    Raises
    ------
    VendorError
        There is no npm, or it does not deliver the package.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise VendorError("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--pack-destination", folder, package.name]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                cwd=folder,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise VendorError(f"npm gave no {package.name} in {TIMEOUT_SECONDS} s") from None
        found = list(Path(folder).glob("*.tgz"))
        if done.returncode != 0 or len(found) != 1:
            lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
            raise VendorError(f"npm gave no {package.name}: {lines[0]}")
        return found[0].read_bytes()


def fetch(cache: Path = CACHE, download: Callable[[Package], bytes] = pack) -> None:
    """Download into `cache` what is not there yet.

    Raises
    ------
    VendorError
        A package cannot be had, or its hash is not the known one.
    """
    for package in PACKAGES:
        if all((cache / package.name / path).is_file() for path in package.files):
            continue
        content = download(package)
        found = base64.b64encode(hashlib.sha512(content).digest()).decode()
        if found != package.sha512:
            raise VendorError(f"{package.name} has sha512 {found}, not {package.sha512}")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in package.files:
                stream = archive.extractfile(f"package/{member}")
                assert stream is not None  # the hash vouches for it
                target = cache / package.name / member
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(stream.read())


def rewrite(page: str) -> str:
    """The page, referring to files beside it instead of to other hosts.

    Raises
    ------
    VendorError
        The page asks for a file that is not known.
    """

    def local(element: re.Match[str]) -> str:
        address = _ADDRESS.search(element[0])
        if address is None:
            return element[0]
        name = address[2].rpartition("/")[2]
        if name not in REFERENCES:
            raise VendorError(f"asv's page asks for {address[2]}, which perf.vendor lacks")
        here = element[0].replace(address[2], f"{FOLDER}/{REFERENCES[name]}")
        return _REMOTE_ONLY.sub("", here)

    return _ELEMENT.sub(local, page)


def outside(pages: Path) -> list[str]:
    """What pages and stylesheets would load from other hosts, or what does not exist."""
    found = []
    for path in sorted(pages.rglob("*.html")):
        for element in _ELEMENT.findall(path.read_text(encoding="utf-8")):
            found += [f"{path.name}: {address[1]}" for address in _ADDRESS.findall(element)]
    for path in sorted(pages.rglob("*.css")):
        for address in _STYLE_ADDRESS.findall(path.read_text(encoding="utf-8")):
            local = address.partition("?")[0].partition("#")[0]
            inside = address.startswith("data:") or (path.parent / local).is_file()
            if not inside:
                found.append(f"{path.name}: {address}")
    return found


def localise(pages: Path = PAGES, cache: Path = CACHE) -> None:
    """Make published pages need no network; doing so twice does no harm.

    Raises
    ------
    VendorError
        They still need one.
    """
    index = pages / "index.html"
    page = rewrite(index.read_text(encoding="utf-8"))
    fetch(cache)
    for package in PACKAGES:
        for member, path in package.files.items():
            target = pages / FOLDER / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(cache / package.name / member, target)
    index.write_text(page, encoding="utf-8")
    if left := outside(pages):
        raise VendorError(f"the pages still ask for {', '.join(left)}")


def main() -> int:
    """Run the command; exit status 1 if the pages still need a network."""
    parser = argparse.ArgumentParser(prog="python -m perf.vendor", description=__doc__)
    parser.add_argument("--pages", type=Path, default=PAGES, help="default %(default)s")
    parser.add_argument("--cache", type=Path, default=CACHE, help="default %(default)s")
    known = parser.parse_args()
    try:
        if (known.pages / "index.html").is_file():
            localise(known.pages, known.cache)
            print(f"{known.pages} needs no network")
        else:
            fetch(known.cache)
            print(f"Scripts for the pages are in {known.cache}")
    except VendorError as error:
        print(f"The pages need a network: {error}")
        return 1
    return 0


if __name__ == "__main__":
    entry.run(main)
