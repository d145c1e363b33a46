"""In which formats weights and KV cache are stored, and what a number takes in each."""

from dataclasses import dataclass
from typing import Final

from common.model_shape import ModelShape

GROUP_SIZE: Final = 128


@dataclass(frozen=True, slots=True)
class WeightFormat:
    """A format of the layers' matrices. Embedding, output layer, norms and biases stay at 16 bit in all of them.

    Attributes:
        name: For people.
        bytes_per_weight: With its share of the scales.
        scheme: What ``sluice quantize`` calls it; empty: the model as it is published.
        computes_in_fp8: Whether the multiplications run on the 8 bit units; INT4 is unpacked to 16 bit for them.
        group_size: Weights that share a scale, where groups must be whole; None: a scale for a whole row.

    """

    name: str
    bytes_per_weight: float
    scheme: str = ""
    computes_in_fp8: bool = False
    group_size: int | None = None

    def weight_bytes(self, shape: ModelShape) -> float:
        """Size of all weights: the matrices in this format, the rest at two bytes a number."""
        rest = shape.parameters - shape.linear_parameters
        return shape.linear_parameters * self.bytes_per_weight + rest * 2

    def bytes_read_per_step(self, shape: ModelShape) -> float:
        """Bytes of weights that an engine step reads: all but the embedding, of which it reads a row per token."""
        return self.weight_bytes(shape) - (0 if shape.has_tied_embeddings else shape.embedding_parameters * 2)


@dataclass(frozen=True, slots=True)
class KvFormat:
    """A format of the KV cache.

    Attributes:
        name: For people.
        bytes_per_number: Size of a number.
        flag: What ``sluice-worker --kv-cache-dtype`` calls it.

    """

    name: str
    bytes_per_number: float
    flag: str


# FP8 has one 16 bit scale for each row of a matrix, which is too little to count; INT4 has one for each group.
WEIGHTS: Final = {
    "bf16": WeightFormat("BF16", 2.0),
    "fp8": WeightFormat("FP8", 1.0, "fp8-dynamic", computes_in_fp8=True),
    "int4": WeightFormat("INT4", 0.5 + 2 / GROUP_SIZE, "gptq-w4a16", group_size=GROUP_SIZE),
}
KV: Final = {"16bit": KvFormat("16 bit", 2.0, "auto"), "fp8": KvFormat("FP8", 1.0, "fp8")}
