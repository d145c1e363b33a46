"""Sampling values as vLLM has them."""

from vllm import SamplingParams

from sluice.v1 import generation_pb2
from worker.engine import ONLY_ENDS
from worker.vllm_constraints import structured_outputs

ENGINE_SEEDS = 2**63


class OnlyEnds(ValueError):
    """Tokens are to come before an end token, and nothing but end tokens is allowed: vLLM would choose id 0."""

    parameter = "min_tokens"

    def __init__(self, min_tokens: int) -> None:
        super().__init__(ONLY_ENDS.format(min_tokens))


class NotWhileGuessing(ValueError):
    """What vLLM's speculative decoding does not keep to.

    Attributes:
        parameter: The field.

    """

    def __init__(self, parameter: str, why: str) -> None:
        super().__init__(why)
        self.parameter = parameter


def sampling_params(sampling: generation_pb2.SamplingParams, *, resumed_tokens: int = 0) -> SamplingParams:
    """Translate effective sampling values, less those of the text, which vLLM does not make.

    ``resumed_tokens``: output that is there already and part of the prompt for vLLM.

    Raises what vLLM's own validation raises.
    """
    return SamplingParams(
        n=sampling.n or 1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        max_tokens=sampling.max_tokens - resumed_tokens,
        min_tokens=max(sampling.min_tokens - resumed_tokens, 0),
        stop_token_ids=list(sampling.stop_token_ids) or None,
        ignore_eos=sampling.ignore_eos,
        seed=engine_seed(sampling, 0),
        logprobs=sampling.logprobs if sampling.HasField("logprobs") else None,
        logit_bias=dict(sampling.logit_bias) or None,
        allowed_token_ids=list(sampling.allowed_token_ids) or None,
        bad_words=list(sampling.bad_words) or None,
        structured_outputs=structured_outputs(sampling.structured_output),
        skip_clone=True,
    )


def engine_seed(sampling: generation_pb2.SamplingParams, index: int) -> int | None:
    """Return the seed of a request's sequence; None where the request has none.

    vLLM takes -1 as none, and keeps seeds in 64 signed bits: the numbers that it gets stay at 0 and above.
    """
    return (sampling.seed + index) % ENGINE_SEEDS if sampling.HasField("seed") else None


def check_end_tokens(params: SamplingParams) -> None:
    """Raise OnlyEnds where ``params``, to which vLLM has added the model's end tokens, leave no token to choose."""
    if (
        params.min_tokens
        and params.allowed_token_ids
        and params.all_stop_token_ids.issuperset(params.allowed_token_ids)
    ):
        raise OnlyEnds(params.min_tokens)


def check_guessing(sampling: generation_pb2.SamplingParams, *, on_cpu: bool) -> None:
    """Raise NotWhileGuessing for what an engine that guesses tokens would leave out, or die of.

    vLLM makes its logits processors for ``min_p`` and ``logit_bias`` only where nothing guesses
    (vllm/v1/sample/logits_processor); where it refuses them itself, it names neither. On a CPU it reads beyond top_k's
    values (0.32), and dies of it.
    """
    where = "where the engine guesses tokens ahead"
    if sampling.logit_bias:
        raise NotWhileGuessing("logit_bias", f"must be empty {where}; it has {len(sampling.logit_bias)} entries")
    if not sampling.temperature:  # the likeliest token, whatever min_p and top_k say
        return
    if sampling.min_p:
        raise NotWhileGuessing("min_p", f"must be 0 {where}; it is {sampling.min_p:g}")
    if on_cpu and sampling.top_k:
        raise NotWhileGuessing("top_k", f"must be 0 {where} on a CPU; it is {sampling.top_k}")


def field_at_fault(error: Exception, sampling: generation_pb2.SamplingParams) -> str:
    """Name the field that vLLM refused: the one it names itself, else the constraint, which it alone can judge."""
    parameter = getattr(error, "parameter", None)
    if parameter in generation_pb2.SamplingParams.DESCRIPTOR.fields_by_name:
        return f"sampling.{parameter}"
    return constraint_field(sampling) or "sampling"


def constraint_field(sampling: generation_pb2.SamplingParams) -> str:
    """Name the constraint that is set; empty where none is."""
    kind = sampling.structured_output.WhichOneof("constraint")
    return f"sampling.structured_output.{kind}" if kind else ""
