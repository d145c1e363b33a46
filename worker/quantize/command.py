"""The command sluice quantize: a smaller checkpoint that the worker serves as it is."""

import argparse
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from common.model_config import ModelConfigError
from common.model_shape import ModelShapeError
from worker.quantize.calibration import CalibrationError, read_texts
from worker.quantize.environment import EnvironmentFailed, prepared
from worker.quantize.preflight import CannotQuantize, check
from worker.quantize.report import QuantizeReport
from worker.quantize.scheme import SCHEMES

SUMMARY = "make a smaller checkpoint of a model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    schemes = "; ".join(f"{scheme.name}: {scheme.summary}" for scheme in SCHEMES.values())
    add = parser.add_argument
    add("--model", required=True, metavar="M", help="folder or hub name")
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the new checkpoint")
    add("--scheme", choices=list(SCHEMES), required=True, help=schemes)
    add(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="text like the model's work: plain, or .jsonl with text or messages (default: a little that comes along); "
        "a fifth is held out to measure quality",
    )
    add("--samples", type=_count, default=512, metavar="N", help="most windows to calibrate with (default: 512)")
    add("--sample-tokens", type=_count, default=2048, metavar="N", help="tokens of a window (default: 2048)")
    add("--cache", type=Path, default=Path(".cache"), metavar="FOLDER", help="for llm-compressor (default: .cache)")


def run(options: argparse.Namespace) -> int:
    """Make the checkpoint and print its report; return the exit status."""
    output = options.output.resolve()
    try:
        check(options.model, output, SCHEMES[options.scheme])
        read_texts(options.calibration)
        if importlib.util.find_spec("torch") is None:
            raise EnvironmentFailed("torch is not installed: install sluice[cpu] or sluice[cuda]")
        python = prepared(options.cache / "quantize", _say)
    except (CannotQuantize, ModelConfigError, ModelShapeError, CalibrationError, EnvironmentFailed) as error:
        sys.stderr.write(f"sluice: {error}\n")
        return 1
    return _make(python, options, output)


def _make(python: Path, options: argparse.Namespace, output: Path) -> int:
    """Run the job; the folder appears whole or not at all."""
    unfinished = output.with_name(f".{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        status = subprocess.run(_job(python, options, unfinished), env=_environment()).returncode
        if status != 0:
            why = "it was killed, most likely for want of memory" if status == -signal.SIGKILL else "see above"
            sys.stderr.write(f"sluice: quantising failed with status {status}: {why}\n")
            return 1
        if output.exists():
            output.rmdir()
        unfinished.rename(output)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    sys.stdout.write(f"{QuantizeReport.read(output).to_text()}\n\n  sluice-worker --model {options.output}\n")
    return 0


def _job(python: Path, options: argparse.Namespace, unfinished: Path) -> list[str]:
    # -P: a folder of the user's that happens to be called worker is not to be taken for ours.
    command = [str(python), "-P", "-m", "worker.quantize.job", "--model", options.model, "--output", str(unfinished)]
    command += ["--scheme", options.scheme, "--samples", str(options.samples)]
    command += ["--sample-tokens", str(options.sample_tokens)]
    return command + (["--calibration", str(options.calibration)] if options.calibration else [])


def _environment() -> dict[str, str]:
    """This process's environment without what would mix its packages with the job's."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return {"LLM_COMPRESSOR_LOG_LEVEL": "ERROR", "TOKENIZERS_PARALLELISM": "false", **kept}


def _say(text: str) -> None:
    sys.stderr.write(f"[quantize] {text}\n")
    sys.stderr.flush()


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)
