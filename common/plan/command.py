"""The command sluice plan: what fits the GPUs, how fast it could be, and what to type for it."""

import argparse
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from common.model_config import ModelConfigError, quantisation_of, read_model_config
from common.model_shape import ModelShape, ModelShapeError
from common.plan.box import Box, Demand
from common.plan.choice import choose
from common.plan.formats import KV, WEIGHTS, WeightFormat
from common.plan.gpu import DEFAULT_GPU, GIB, GPUS
from common.plan.option import options
from common.plan.report import to_json, to_table, to_text

SUMMARY = "see what fits the GPUs, and what to type for it"
_UNITS = {"GiB": GIB, "MiB": 1 << 20, "GB": 1e9, "": GIB}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's options."""
    add = parser.add_argument
    add("--model", required=True, metavar="M", help="folder or hub name; only its config.json is read")
    add("--gpu", choices=list(GPUS), default=DEFAULT_GPU, help=f"default: {DEFAULT_GPU}")
    add("--gpus", type=_count, default=1, metavar="N", help="how many (default: 1)")
    add("--gpu-memory", type=_size, metavar="SIZE", help="of one GPU, as 24GiB or 80GB (default: as the card has)")
    add("--gpu-memory-utilization", type=_share, default=0.9, metavar="X", help="what an engine takes (default: 0.9)")
    add("--context", type=_count, metavar="N", help="tokens of a full-length request (default: the model's context)")
    add("--output-tokens", type=_count, metavar="N", help="of these, the answer (default: 256, an eighth at the most)")
    add("--max-sequences", type=_count, default=256, metavar="N", help="most that a worker runs (default: 256)")
    add("--target-tpot", type=_seconds, metavar="S", help="most seconds between two tokens of an answer")
    add("--weights", choices=list(WEIGHTS), action="append", help="only this format; repeat it (default: all)")
    add("--kv", choices=list(KV), action="append", help="only this KV cache; repeat it (default: both)")
    add("--format", choices=["table", "json"], default="table", help="default: table")


def run(options_given: argparse.Namespace) -> int:
    """Print the plan; return the exit status, 1 where nothing fits."""
    try:
        return _plan(options_given)
    except (ModelConfigError, ModelShapeError, ValueError) as error:
        sys.stderr.write(f"sluice: {error}\n")
        return 1


def _plan(given: argparse.Namespace) -> int:
    config = read_model_config(given.model)
    shape = ModelShape.from_config(config)
    gpu = GPUS[given.gpu]
    box = Box(gpu, given.gpus, given.gpu_memory or gpu.memory_bytes, given.gpu_memory_utilization)
    demand = _demand(given, shape)
    kv = [KV[name] for name in given.kv or KV]
    ways = list(options(shape, box, demand, _weights(given, config), kv))
    choices = choose(ways)
    if given.format == "json":
        sys.stdout.write(to_json(given.model, ways, choices) + "\n")
    else:
        title = _title(given.model, shape, box, demand)
        sys.stdout.write(f"{to_table(title, ways)}\n\n{to_text(given.model, choices).rstrip()}\n")
    return 0 if choices else 1


def _demand(given: argparse.Namespace, shape: ModelShape) -> Demand:
    context = given.context or shape.context_tokens
    output = given.output_tokens or max(1, min(256, context // 8))
    if output >= context:
        raise ValueError(f"--output-tokens {output} leaves no room for a prompt in a context of {context}")
    return Demand(context, output, given.max_sequences, given.target_tpot)


def _weights(given: argparse.Namespace, config: Mapping[str, Any]) -> list[WeightFormat]:
    """Return the formats to try; of a checkpoint that is quantised already, its own alone."""
    quantisation = quantisation_of(config)
    if quantisation is None:
        return [WEIGHTS[name] for name in given.weights or WEIGHTS]
    base = {4: WEIGHTS["int4"], 8: WEIGHTS["fp8"]}.get(quantisation.bits or 0)
    if base is None:
        raise ValueError(f"{given.model} is quantised by {quantisation.method}, whose size is not known here")
    return [replace(base, scheme="", group_size=quantisation.group_size)]


def _title(model: str, shape: ModelShape, box: Box, demand: Demand) -> str:
    memory = f"{box.memory_bytes / GIB:.0f} GiB, {box.utilization:.0%} of it"
    title = f"{model} ({shape.parameters / 1e9:.2f} billion parameters) on {box.gpus} x {box.gpu.name} ({memory})\n"
    title += f"Requests of {demand.context_tokens:,} tokens, {demand.output_tokens:,} of them the answer"
    if demand.target_tpot_s:
        title += f"; at most {demand.target_tpot_s * 1e3:g} ms between its tokens"
    if demand.context_tokens > shape.context_tokens:
        title += f"\nBeyond the model's own {shape.context_tokens:,} tokens: workers stretch it by YaRN"
    return title


def _size(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(GiB|MiB|GB|)", text)
    if not found or float(found[1]) <= 0:
        raise argparse.ArgumentTypeError(f"must be a size like 24GiB or 80GB, not {text}")
    return float(found[1]) * _UNITS[found[2]]


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def _share(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, not {text}")
    return float(text)


def _seconds(text: str) -> float:
    if not 0 < float(text) < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return float(text)
