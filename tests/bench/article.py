"""The article's tables on one GPU: transformers against Sluice with BF16, FP8 and INT4 weights, in one run.

    python -m tests.bench.article [--arms A,...] [--reduced] [--rounds N] [--json F] [--plot F] [-- WORKER-OPTIONS]

Every arm has Qwen2.5-7B's shape with made-up weights and answers the same load: 8 streams of 4,096 tokens in and 256
out, then one stream at 8,192. Engines get 24 GB of the GPU, whatever it has. Arms run one after another, each warmed up
at the very load; the ratios are what counts. ``--reduced`` runs a small shape and load, on the CPU too.
"""

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common.model_shape import ModelShape
from common.plan.formats import KV, WEIGHTS
from common.plan.memory import kv_tokens
from tests.bench.article_figures import ARTICLE, notes
from tests.bench.article_model import QWEN, SMALL, make_model
from tests.bench.article_row import ArticleRow
from tests.bench.article_sluice import ArticleLoad, measure
from tests.bench.gpu_watch import total_memory_bytes
from tests.processes import ROOT, Sluice

FULL = ArticleLoad(streams=8, prompt=4096, tokens=256, long_prompt=8192, rounds=3, answers=2)
REDUCED = ArticleLoad(streams=4, prompt=256, tokens=32, long_prompt=512, rounds=2, answers=1)
ARMS = ("transformers", "bf16", "fp8", "int4", "int4-fp8kv")
STEP_TOKENS, SEQUENCES = 8192, 256
LIMIT_BYTES, UTILIZATION = 24 * 2**30, 0.95
LONGEST = 131_072
COLUMNS = (
    ("weights GB", lambda row, _: row.weight_bytes / 1e9),
    ("in all GB", lambda row, _: row.used_bytes / 1e9),
    ("tokens/s", lambda row, _: row.rate),
    ("x", lambda row, first: row.rate / first.rate),
    ("P99 s", lambda row, _: row.p99_latency_s),
    ("step ms", lambda row, _: row.decode_step_s * 1e3),
    ("in 24 GB", lambda row, _: row.held_in_24gb),
    ("KV tokens", lambda row, _: row.kv_tokens),
    ("planned", lambda row, _: row.planned_kv_tokens),
    ("GPU busy %", lambda row, _: row.gpu_utilization * 100),
    ("cost", lambda row, first: first.rate / row.rate),
)


def main() -> None:
    """Measure, and print, save and draw what came of it, after each arm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", default="transformers,bf16,fp8,int4", help=f"of {','.join(ARMS)} (default: four)")
    parser.add_argument("--reduced", action="store_true", help="a small shape and load, to try it out")
    parser.add_argument("--rounds", type=int, help="measured rounds of each arm")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--plot", type=Path, help="also draw them there")
    parser.add_argument("worker_options", nargs="*", help="options of sluice-worker, after --")
    options = parser.parse_args()
    rows: list[ArticleRow] = []
    with tempfile.TemporaryDirectory() as folder:
        for arm in options.arms.split(","):
            say(arm)
            try:
                rows.append(run(arm, Path(folder), options))
            except Exception as error:  # whatever stops one arm, the others' figures are worth having
                say(f"{arm} failed: {error}")
                continue
            save(rows, options)
    report(rows, load_of(options))


def run(arm: str, folder: Path, options: argparse.Namespace) -> ArticleRow:
    """Measure one arm."""
    weights, _, kv = arm.partition("-")
    shape = SMALL if options.reduced else QWEN
    model = make_model(folder / arm, dict(shape), weights)
    load = load_of(options)
    if arm == "transformers":
        return baseline(model, load)
    planned = kv_tokens(
        ModelShape.from_config(shape),
        WEIGHTS[weights],
        KV["fp8" if kv else "16bit"],
        gpus=1,
        budget_bytes=LIMIT_BYTES * UTILIZATION,
        step_tokens=STEP_TOKENS,
        sequences=SEQUENCES,
    )
    longest = LONGEST if weights == "int4" and not options.reduced else 0
    arguments = worker_arguments(longest, kv) + options.worker_options
    os.environ["VLLM_CONFIGURE_LOGGING"] = "1"  # its log says what the weights take
    with Sluice(engine="vllm", model=str(model), worker_arguments=arguments) as sluice:
        # The last tokens of the longest context are for the answer.
        return asyncio.run(
            measure(sluice, load, arm=arm, planned_kv_tokens=planned, longest_prompt=max(0, longest - 64))
        )


def baseline(model: Path, load: ArticleLoad) -> ArticleRow:
    """Measure transformers in a process of its own, which gives its memory back."""
    command = [sys.executable, "-m", "tests.bench.article_transformers", "--model", str(model)]
    sizes = {"batch": load.streams, "prompt": load.prompt, "tokens": load.tokens, "long-prompt": load.long_prompt}
    for name, value in {**sizes, "rounds": load.rounds}.items():
        command += [f"--{name}", str(value)]
    ran = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    figures = json.loads(ran.stdout.splitlines()[-1])
    return ArticleRow(**{name: figures[name] for name in ArticleRow.__dataclass_fields__})


def worker_arguments(longest: int, kv: str) -> list[str]:
    """Return the worker's options: made-up weights, and 24 GB of the GPU's memory."""
    arguments = ["--engine-args", '{"load_format": "dummy"}', "--served-model-name", "article"]
    arguments += ["--max-step-tokens", str(STEP_TOKENS), "--max-sequences", str(SEQUENCES)]
    total = total_memory_bytes()
    if not math.isnan(total):
        arguments += ["--gpu-memory-utilization", f"{min(1.0, LIMIT_BYTES / total) * UTILIZATION:.4f}"]
    if longest:
        arguments += ["--context-tokens", str(longest)]
    return arguments + (["--kv-cache-dtype", "fp8"] if kv else [])


def load_of(options: argparse.Namespace) -> ArticleLoad:
    """Return the load, with as many rounds as asked for."""
    load = REDUCED if options.reduced else FULL
    rounds = options.rounds or load.rounds
    return ArticleLoad(load.streams, load.prompt, load.tokens, load.long_prompt, rounds, load.answers)


def report(rows: list[ArticleRow], load: ArticleLoad) -> None:
    """Print the table, and the article's figures under it."""
    if not rows:
        sys.exit("no arm came to its end")
    print(f"{load.streams} streams, {load.prompt} tokens in, {load.tokens} out; step: alone at {load.long_prompt}\n")
    print(f"{'arm':14}" + "".join(f"{name:>12}" for name, _ in COLUMNS) + f"{'requests/day':>14}")
    for row in rows:
        cells = "".join(f"{shown(figure(row, rows[0])):>12}" for _, figure in COLUMNS)
        print(f"{row.arm:14}{cells}{row.requests_per_day(load.tokens):>14,.0f}")
    for row in rows:
        print(f"{row.arm}: {row.engine}; longest prompt answered: {shown(row.longest_prompt_tokens)} tokens")
    print("\nThe article, on four RTX 4090D:")
    for name, value in ARTICLE.items():
        print(f"  {name}: {value}")
    for note in notes():
        print(f"  {note}")


def shown(value: float) -> str:
    """Write three digits, and none behind the point from a hundred on."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def save(rows: list[ArticleRow], options: argparse.Namespace) -> None:
    """Write what is known so far."""
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        document: dict[str, Any] = {"rows": [row.to_dict() for row in rows], "article": ARTICLE, "notes": notes()}
        options.json.write_text(json.dumps(document, indent=1))
    if options.plot:
        draw(rows, options.plot)


def draw(rows: list[ArticleRow], path: Path) -> None:
    """Draw throughput, decode step and weights as bars, where matplotlib is there."""
    try:
        from matplotlib import pyplot
    except ImportError:
        say(f"no picture in {path}: matplotlib is not installed")
        return
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4))
    names = [row.arm for row in rows]
    for axis, title, values in (
        (axes[0], "tokens/s", [row.rate for row in rows]),
        (axes[1], "decode step, ms", [row.decode_step_s * 1e3 for row in rows]),
        (axes[2], "weights, GB", [row.weight_bytes / 1e9 for row in rows]),
    ):
        axis.bar(names, values)
        axis.set_title(title)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    pyplot.close(figure)


def say(text: str) -> None:
    """Tell what is being done."""
    print(f"[bench {time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
