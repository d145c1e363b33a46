"""Callers' constraints before and after vLLM's own checks."""

import json
from typing import Any

from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.sampling_params import StructuredOutputsParams

from sluice.v1 import generation_pb2
from worker.constraints import Constraint, ConstraintChecker
from worker.vllm_arguments import BACKEND

CHOSEN_BACKEND = "_backend"  # of vLLM's StructuredOutputsParams


def make_checker(config: VllmConfig, tokenizer: Any) -> ConstraintChecker | None:
    """Make what compiles constraints as the engine core will; None where the core has another backend."""
    structured_outputs = config.structured_outputs_config
    if structured_outputs.backend != BACKEND:
        return None
    backend_tokenizer = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    backend_tokenizer.no_padding()
    backend_tokenizer.no_truncation()
    setup = {
        "tokenizer": backend_tokenizer.to_str(),
        "vocabulary": max(config.model_config.get_vocab_size(), len(tokenizer)),
        "eos_token_id": tokenizer.eos_token_id,
        "any_whitespace": not structured_outputs.disable_any_whitespace,
    }
    return ConstraintChecker(setup)


def constraint_of(sampling: generation_pb2.SamplingParams) -> Constraint | None:
    """Return what of a caller's has to be compiled, if anything."""
    wanted = sampling.structured_output
    match kind := wanted.WhichOneof("constraint"):
        case "json_schema":
            return Constraint(kind, as_object(wanted.json_schema))
        case "regex" | "grammar":
            return Constraint(kind, getattr(wanted, kind))
        case "choice":
            return Constraint(kind, json.dumps(list(wanted.choice.values)))
    return None


def promise_of(sampling: generation_pb2.SamplingParams) -> Constraint | None:
    """Return what a caller's whole answer has to keep to, also where nothing has to be compiled for it."""
    any_object = sampling.structured_output.WhichOneof("constraint") == "json_object"
    return Constraint("json_schema", '{"type":"object"}') if any_object else constraint_of(sampling)


def structured_outputs(wanted: generation_pb2.StructuredOutput) -> StructuredOutputsParams | None:
    """Translate a constraint."""
    match wanted.WhichOneof("constraint"):
        case "json_schema":
            return StructuredOutputsParams(json=as_object(wanted.json_schema))
        case "regex":
            return StructuredOutputsParams(regex=wanted.regex)
        case "choice":
            return StructuredOutputsParams(choice=list(wanted.choice.values))
        case "grammar":
            return StructuredOutputsParams(grammar=wanted.grammar)
        case "json_object":
            return StructuredOutputsParams(json_object=True)
    return None


def as_object(schema: str) -> str:
    """Write the schema that allows everything as an object, the only kind that vLLM's backends take."""
    return "{}" if schema.strip() == "true" else schema


def set_aside(params: SamplingParams, backend: str) -> StructuredOutputsParams | None:
    """Take a constraint that has been checked off what vLLM checks, which would compile it in this process.

    Where the backend is another, or vLLM no longer has what its check sets, it checks; with BACKEND the same text has
    compiled elsewhere before.
    """
    constraint = params.structured_outputs
    if constraint is None or backend != BACKEND or not hasattr(constraint, CHOSEN_BACKEND):
        return None
    params.structured_outputs = None
    setattr(constraint, CHOSEN_BACKEND, BACKEND)
    return constraint
