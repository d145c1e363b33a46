"""llm-compressor's environment: its own packages in front, the torch of this installation behind.

Its pins of compressed-tensors and transformers clash with vLLM's, so it cannot be installed beside vLLM. A second torch
would be gigabytes more; instead the environment sees this one's packages wherever it has none of its own.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

REQUIREMENT: Final = "llmcompressor>=0.14,<0.15"
_SHOWN_LINES = 15


class EnvironmentFailed(Exception):
    """The environment could not be made; the message has the end of the installer's output."""


def prepared(folder: Path, say: Callable[[str], None]) -> Path:
    """Return the environment's Python; the environment is made or brought up to date first where it has to be.

    Raises:
        EnvironmentFailed: There is no torch to build on, or the installer failed.

    """
    folder = folder.resolve()
    python, stamp, wanted = folder / "bin" / "python", folder / ".holds", _fingerprint()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # one maker at a time; the lock dies with the process
        if not stamp.exists() or stamp.read_text() != wanted:
            say(f"installing {REQUIREMENT} into {folder} (once; about 450 MB beside the torch that is there)")
            _make(folder, python)
            stamp.write_text(wanted)
    finally:
        os.close(descriptor)
    return python


def _make(folder: Path, python: Path) -> None:
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise EnvironmentFailed(f"cannot make an environment in {folder}: {error}") from None
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    # Read after the environment's own packages, so that those win.
    (site_packages / "zz-sluice.pth").write_text("".join(f"{path}\n" for path in _behind()))
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", REQUIREMENT]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if ran.returncode != 0:
        tail = "\n".join(ran.stdout.splitlines()[-_SHOWN_LINES:])
        raise EnvironmentFailed(f"pip install {REQUIREMENT!r} failed with status {ran.returncode}:\n{tail}")


def _behind() -> list[str]:
    """Where this installation's packages are, and Sluice's own, which lie elsewhere when it is installed editable."""
    ours = Path(__file__).resolve().parents[2]
    return list(dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), str(ours)]))


def _fingerprint() -> str:
    """What the environment depends on."""
    try:
        torch = version("torch")
    except PackageNotFoundError:
        raise EnvironmentFailed("torch is not installed: install sluice[cpu] or sluice[cuda]") from None
    parts = [REQUIREMENT, torch, sys.version, *_behind(), Path(__file__).read_text()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
