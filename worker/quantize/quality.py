"""How well a model foretells held-out text. Runs inside llm-compressor's environment."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

LEAST_HEADROOM = 1.2


class Quality(NamedTuple):
    """What a model makes of the held-out windows.

    Attributes:
        perplexity: Exponential of the mean negative log likelihood of a token.
        likeliest: The token it holds likeliest at each position, one after another.

    """

    perplexity: float
    likeliest: torch.Tensor

    def agreement(self, other: "Quality") -> float:
        """The share of positions at which both hold the same token likeliest."""
        return float((self.likeliest == other.likeliest).float().mean())


def measure(model: Any, windows: Sequence[list[int]]) -> Quality:
    """Run the model over the windows, on a GPU where it fits."""
    device = _device_for(model)
    if device != "cpu":
        model = model.to(device)
    loss, likeliest = 0.0, []
    with torch.no_grad():
        for window in windows:
            ids = torch.tensor([window], device=device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
            loss += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            likeliest.append(logits.argmax(-1).cpu())
    if device != "cpu":
        model.to("cpu")
        torch.cuda.empty_cache()
    return Quality(math.exp(loss / sum(map(len, likeliest))), torch.cat(likeliest))


def _device_for(model: Any) -> str:
    if not torch.cuda.is_available():
        return "cpu"
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    return "cuda" if torch.cuda.mem_get_info()[0] > LEAST_HEADROOM * size else "cpu"
