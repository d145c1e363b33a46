"""What came of a quantisation, as it lies beside the checkpoint and as a person reads it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

FILE: Final = "sluice-quantize.json"


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """Sizes, calibration and quality. Holds no text.

    Attributes:
        model: The original's folder or hub name.
        scheme: How it was quantised.
        calibration: Name of the calibration file; empty: the text that comes with Sluice, or none.
        calibration_windows: Windows of it that were used; 0 where the scheme uses none.
        calibration_tokens: Tokens in these.
        original_bytes: The original's weights.
        quantized_bytes: The new weights, as they lie on disk.
        held_out_tokens: Tokens that quality was measured on, none of which was used to calibrate.
        original_perplexity: The original's perplexity on them.
        quantized_perplexity: That of the checkpoint, read back from disk.
        top1_agreement: Share of positions at which both hold the same token likeliest, 0 to 1.
        seconds: What quantising took, without loading, saving and measuring.
        versions: Of the packages that did it.

    """

    model: str
    scheme: str
    calibration: str
    calibration_windows: int
    calibration_tokens: int
    original_bytes: int
    quantized_bytes: int
    held_out_tokens: int
    original_perplexity: float
    quantized_perplexity: float
    top1_agreement: float
    seconds: float
    versions: dict[str, str]

    @classmethod
    def read(cls, checkpoint: Path) -> Self:
        """Read the report beside a checkpoint."""
        return cls(**json.loads((checkpoint / FILE).read_text()))

    def write(self, checkpoint: Path) -> None:
        """Put the report beside a checkpoint."""
        (checkpoint / FILE).write_text(json.dumps(asdict(self), indent=2) + "\n")

    def to_text(self) -> str:
        """Describe it in a few lines."""
        before, after = self.original_bytes / 1e6, self.quantized_bytes / 1e6
        text = self.calibration or "the text that comes with Sluice"
        used = f"{self.calibration_windows} windows, {self.calibration_tokens} tokens, of {text}"
        return "\n".join(
            [
                f"scheme        {self.scheme}",
                f"weights       {before:,.1f} -> {after:,.1f} MB ({after / before:.0%})",
                f"calibration   {used if self.calibration_windows else 'none'}",
                f"perplexity    {self.original_perplexity:.3f} -> {self.quantized_perplexity:.3f}"
                f" on {self.held_out_tokens} held-out tokens of {text}",
                f"top-1         the same likeliest token at {self.top1_agreement:.2%} of them",
            ]
        )
