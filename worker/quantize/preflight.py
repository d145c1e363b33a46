"""What can be known to fail before anything heavy begins."""

import re
import shutil
from pathlib import Path
from typing import Final

from common.model_config import quantisation_of, read_model_config
from common.model_shape import ModelShape
from common.plan.gpu import GIB
from worker.quantize.scheme import Scheme

# The model at 16 bit, the quantised copy while it is written, the statistics of a layer; torch and its libraries.
MEMORY_PER_WEIGHT_BYTE: Final = 1.5
MEMORY_BESIDES_BYTES: Final = 1.5 * GIB
DISK_PER_CHECKPOINT_BYTE: Final = 1.05


class CannotQuantize(Exception):
    """What was asked for cannot be done; the message says why and what can."""


def check(model: str, output: Path, scheme: Scheme) -> None:
    """See that the model is one to quantise and that accelerator, memory and disk will do.

    Raises:
        CannotQuantize: They will not.
        ModelConfigError: The model cannot be found.
        ModelShapeError: It is of a kind that is not known here.

    """
    config = read_model_config(model)
    if quantisation := quantisation_of(config):
        raise CannotQuantize(f"{model} is quantised already, by {quantisation.method}")
    shape = ModelShape.from_config(config)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise CannotQuantize(f"{output} exists and is not an empty folder; name another or remove it")
    check_groups(shape, scheme)
    if scheme.needs_accelerator and not _has_accelerator():
        raise CannotQuantize(f"{scheme.name} needs a GPU, and there is none; gptq-w4a16 runs without one")
    check_memory(shape, _available_memory_bytes())
    check_disk(shape, scheme, shutil.disk_usage(_existing(output)).free, output)


def check_groups(shape: ModelShape, scheme: Scheme) -> None:
    """See that the matrices' widths are whole groups; raises CannotQuantize."""
    size = scheme.format.group_size
    for width in (shape.hidden, shape.query_width, shape.intermediate):
        if size and width % size:
            raise CannotQuantize(f"{scheme.name} wants widths of whole groups of {size}, and the model has {width}")


def check_memory(shape: ModelShape, available_bytes: float) -> None:
    """See that there is memory for the whole model at 16 bit; raises CannotQuantize."""
    needed_bytes = shape.parameters * 2 * MEMORY_PER_WEIGHT_BYTE + MEMORY_BESIDES_BYTES
    if available_bytes < needed_bytes:
        raise CannotQuantize(
            f"about {needed_bytes / GIB:.1f} GiB of memory are needed, and {available_bytes / GIB:.1f} are free"
        )


def check_disk(shape: ModelShape, scheme: Scheme, free_bytes: float, output: Path) -> None:
    """See that the new checkpoint fits the disk; raises CannotQuantize."""
    needed_bytes = scheme.format.weight_bytes(shape) * DISK_PER_CHECKPOINT_BYTE
    if free_bytes < needed_bytes:
        needed, free = needed_bytes / GIB, free_bytes / GIB
        raise CannotQuantize(f"about {needed:.1f} GiB of disk are needed at {output}, and {free:.1f} are free")


def _has_accelerator() -> bool:
    import torch

    return bool(torch.accelerator.is_available())


def _available_memory_bytes() -> float:
    """What the kernel could give to new programs."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return float(found[1]) * 1024 if found else float("inf")


def _existing(path: Path) -> Path:
    """Return the nearest folder that is there."""
    path = path.resolve()
    return next(folder for folder in (path, *path.parents) if folder.is_dir())
