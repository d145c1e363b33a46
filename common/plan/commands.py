"""What to type for an option: the checkpoint it needs, its workers, and the scheduler in front of them."""

import shlex
from pathlib import Path

from common.plan.option import Option

FIRST_WORKER_PORT, FIRST_METRICS_PORT = 50061, 9465


def commands(model: str, option: Option) -> list[str]:
    """Return the commands, in the order in which they are typed."""
    checkpoint = model
    lines = []
    if option.weights.scheme:
        scheme = option.weights.scheme
        checkpoint = f"{Path(model).resolve().name}-{scheme}"
        lines.append(_line("sluice", "quantize", "--model", model, "--output", checkpoint, "--scheme", scheme))
    lines += [_worker(checkpoint, option, number) for number in range(option.workers)]
    addresses = [f"127.0.0.1:{FIRST_WORKER_PORT + number}" for number in range(option.workers)]
    lines.append(_line("sluice-scheduler", *(word for address in addresses for word in ("--worker", address))))
    return lines


def _worker(checkpoint: str, option: Option, number: int) -> str:
    """The command of one worker, which sees the GPUs that are its own and no others."""
    first = number * option.tensor_parallel
    gpus = ",".join(str(gpu) for gpu in range(first, first + option.tensor_parallel))
    words = ["sluice-worker", "--model", checkpoint, "--tensor-parallel-size", str(option.tensor_parallel)]
    words += ["--context-tokens", str(option.demand.context_tokens), "--kv-cache-dtype", option.kv.flag]
    words += ["--gpu-memory-utilization", f"{option.box.utilization:g}"]
    words += ["--max-sequences", str(option.demand.max_sequences), "--max-step-tokens", str(option.step_tokens)]
    words += ["--listen", f"127.0.0.1:{FIRST_WORKER_PORT + number}"]
    words += ["--metrics-listen", f"127.0.0.1:{FIRST_METRICS_PORT + number}"]
    return f"CUDA_VISIBLE_DEVICES={gpus} {_line(*words)}"


def _line(*words: str) -> str:
    return shlex.join(words)
