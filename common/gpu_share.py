"""Which GPUs are whose, where several workers share a machine."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


class TooFewGpus(Exception):
    """The workers need more GPUs than there are; the message has both numbers."""


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """Return the GPUs that programs may use, as CUDA_VISIBLE_DEVICES names them: its own, else all that there are."""
    chosen = environment.get(VISIBLE)
    if chosen is not None:
        return [name for name in map(str.strip, chosen.split(",")) if name not in ("", "-1")]
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return []
    listing = subprocess.run([program, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True)
    return listing.stdout.split() if listing.returncode == 0 else []


def share(gpus: Sequence[str], *, workers: int, gpus_each: int) -> list[Sequence[str]]:
    """Give each worker GPUs that no other has; raises TooFewGpus."""
    if len(gpus) < workers * gpus_each:
        raise TooFewGpus(
            f"{workers} worker(s) with {gpus_each} GPU(s) each need {workers * gpus_each}, and {len(gpus)} can be seen"
        )
    return [gpus[number * gpus_each : (number + 1) * gpus_each] for number in range(workers)]


def environment_for(number: int, environment: Mapping[str, str], *, workers: int, gpus_each: int) -> dict[str, str]:
    """Return the environment of one of several workers, which sees its own GPUs and no others.

    A single worker sees what is there, and so does every one on a machine without GPUs.

    Raises:
        TooFewGpus: There are not enough for all.

    """
    gpus = visible_gpus(environment) if workers > 1 else []
    if not gpus:
        return dict(environment)
    return {**environment, VISIBLE: ",".join(share(gpus, workers=workers, gpus_each=gpus_each)[number])}
