"""A context longer than the model was trained for, by YaRN (Peng et al., "YaRN: Efficient Context Window Extension").

The stretch is static: it is there for short prompts too, which may be answered less well for it. A pool of workers of
its own for long contexts avoids that.
"""

from collections.abc import Mapping
from typing import Any, Final

from common.model_shape import ModelShape

# What Qwen publishes for Qwen2.5: 131,072 tokens from 32,768.
LARGEST_FACTOR: Final = 4.0


class CannotStretch(Exception):
    """The model's context cannot be made so long; the message says why."""


def overrides(config: Mapping[str, Any], shape: ModelShape, context_tokens: int | None) -> dict[str, Any]:
    """Return what to change in the model's configuration for a context; nothing where its own is long enough.

    Raises:
        CannotStretch: It is more than four times the model's own, or the model brings a scaling of its own.

    """
    if context_tokens is None or context_tokens <= shape.context_tokens:
        return {}
    factor = context_tokens / shape.context_tokens
    if factor > LARGEST_FACTOR:
        longest = int(shape.context_tokens * LARGEST_FACTOR)
        raise CannotStretch(
            f"{context_tokens} is more than {longest}, four times the model's own {shape.context_tokens}"
        )
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default":
        raise CannotStretch(
            f"{context_tokens} is more than the model's own {shape.context_tokens}, which it reaches by {kind} already"
        )
    return {
        "max_position_embeddings": context_tokens,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": shape.context_tokens,
            "rope_theta": shape.rope_theta,
        },
    }
