"""The ways to quantise, by what each needs. Imports nothing heavy: the command and its job both read it."""

from dataclasses import dataclass
from typing import Final

from common.plan.formats import WEIGHTS, WeightFormat


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way to quantise the layers' matrices; embedding and output layer stay as they are.

    Attributes:
        name: What the command line calls it.
        format: The format that comes of it.
        needs_text: Whether it adapts to calibration text.
        needs_accelerator: Whether it runs only where there is a GPU.
        summary: For people.

    """

    name: str
    format: WeightFormat
    needs_text: bool
    needs_accelerator: bool
    summary: str


SCHEMES: Final = {
    scheme.name: scheme
    for scheme in (
        Scheme("gptq-w4a16", WEIGHTS["int4"], True, False, "4 bit weights in groups of 128, by GPTQ"),
        Scheme("awq-w4a16", WEIGHTS["int4"], True, True, "4 bit weights in groups of 128, by AWQ; needs a GPU"),
        Scheme("fp8-dynamic", WEIGHTS["fp8"], False, False, "8 bit weights and activations, scaled as they come"),
    )
}
