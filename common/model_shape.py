"""The shape of a language model, from its config.json alone: what it weighs, stores per token, and how it divides."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

_NUMBERS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_UNKNOWN_KINDS = ("num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank", "linear_num_key_heads")


class ModelShapeError(ValueError):
    """The configuration is not that of a dense decoder with grouped attention; the message names what is amiss."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A dense decoder of the Llama family: grouped attention, gated MLP, two norms a layer (Qwen2, Llama, Mistral).

    Attributes:
        hidden: Width of the residual stream.
        intermediate: Width of the gated MLP.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Heads of keys and values.
        head_width: Numbers in one head.
        vocabulary: Rows of the embedding.
        context_tokens: The longest context it was trained for.
        has_qkv_bias: Whether queries, keys and values have a bias.
        has_tied_embeddings: Whether the output layer is the embedding itself.
        rope_theta: Base of the rotary embedding.

    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    context_tokens: int
    has_qkv_bias: bool
    has_tied_embeddings: bool
    rope_theta: float

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read a config.json.

        Raises:
            ModelShapeError: It lacks a number, or describes experts or another kind of attention.

        """
        for name in _UNKNOWN_KINDS:
            if config.get(name):
                raise ModelShapeError(f"config.json has {name}: only dense models with grouped attention are known")
        hidden, intermediate, layers, heads, vocabulary = (_number(config, name) for name in _NUMBERS)
        return cls(
            hidden=hidden,
            intermediate=intermediate,
            layers=layers,
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or hidden // heads,
            vocabulary=vocabulary,
            context_tokens=_number(config, "max_position_embeddings"),
            # Qwen2 has the bias without saying so; others say so.
            has_qkv_bias=bool(config.get("attention_bias", config.get("model_type") == "qwen2")),
            has_tied_embeddings=bool(config.get("tie_word_embeddings", False)),
            rope_theta=_rope_theta(config),
        )

    @property
    def query_width(self) -> int:
        """Numbers in all queries of a token."""
        return self.heads * self.head_width

    @property
    def kv_width(self) -> int:
        """Numbers in all keys of a token; as many are in the values."""
        return self.kv_heads * self.head_width

    @property
    def linear_parameters(self) -> int:
        """Parameters of the layers' matrices: what is multiplied for every token, and what quantisation shrinks."""
        attention = self.hidden * (2 * self.query_width + 2 * self.kv_width)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding, or of the output layer."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        bias = self.query_width + 2 * self.kv_width if self.has_qkv_bias else 0
        norms = self.layers * 2 * self.hidden + self.hidden
        embeddings = self.embedding_parameters * (1 if self.has_tied_embeddings else 2)
        return self.linear_parameters + embeddings + norms + self.layers * bias

    def kv_bytes_per_token(self, bytes_per_number: float) -> float:
        """Keys and values of one token over all layers, on all GPUs together."""
        return 2 * self.layers * self.kv_width * bytes_per_number

    def cannot_split(self, gpus: int, group_size: int | None = None) -> str | None:
        """Say why so many GPUs cannot share the model's matrices; None where they can.

        Heads are dealt out whole; keys and values too, or each to several GPUs; each GPU's share of a quantised matrix
        must be whole groups (vLLM's ``verify_with_parallel_config`` and its quantised linear layers).
        """
        if self.heads % gpus:
            return f"{gpus} does not divide the {self.heads} attention heads"
        if self.kv_heads % gpus and gpus % self.kv_heads:
            return f"{gpus} neither divides the {self.kv_heads} heads of keys and values nor is a multiple of them"
        if self.intermediate % gpus:
            return f"{gpus} does not divide the MLP's width of {self.intermediate}"
        for name, width in (("MLP", self.intermediate), ("attention", self.query_width)):
            if group_size and gpus > 1 and width % (gpus * group_size):
                return (
                    f"1/{gpus} of the {name}'s width of {width} is not whole groups of {group_size} quantised weights"
                )
        return None


def _number(config: Mapping[str, Any], name: str) -> int:
    value = config.get(name)
    if not isinstance(value, int) or value < 1:
        raise ModelShapeError(f"config.json has no {name}, or none above 0")
    return value


def _rope_theta(config: Mapping[str, Any]) -> float:
    """Find the base where older and newer configurations have it."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return float(config.get("rope_theta") or parameters.get("rope_theta") or 10_000.0)
