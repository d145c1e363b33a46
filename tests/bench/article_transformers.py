"""The baseline of the article's tables, in a process of its own: transformers' generate with a static batch.

    python -m tests.bench.article_transformers --model DIR --batch N --prompt N --tokens N --long-prompt N --rounds N

Prints one line of JSON, an ArticleRow. Weights are random; FlashAttention-2 where flash-attn is installed, else
PyTorch's own (SDPA).
"""

import argparse
import json
import time
from importlib.util import find_spec
from typing import Any

import torch
import transformers

from tests.bench.article_row import ArticleRow
from tests.bench.gpu_watch import GpuWatch

LONG_TOKENS = 32
BUDGET_BYTES = 24 * 2**30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    for name in ("--batch", "--prompt", "--tokens", "--long-prompt", "--rounds"):
        parser.add_argument(name, type=int, required=True)
    print(json.dumps(measure(parser.parse_args()).to_dict()), flush=True)


def measure(options: argparse.Namespace) -> ArticleRow:
    """Run the batch a few times, then one long prompt."""
    on_gpu = torch.cuda.is_available()
    device = "cuda" if on_gpu else "cpu"
    attention = "flash_attention_2" if on_gpu and find_spec("flash_attn") else "sdpa"
    config = transformers.AutoConfig.from_pretrained(options.model, attn_implementation=attention)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    weights = float(sum(each.numel() * each.element_size() for each in model.parameters()))

    generate(model, options.batch, options.prompt, options.tokens)
    with GpuWatch() as watch:
        times = [generate(model, options.batch, options.prompt, options.tokens) for _ in range(options.rounds)]
    used = watch.most_used_bytes
    first, whole = (generate(model, 1, options.long_prompt, tokens) for tokens in (1, 1 + LONG_TOKENS))
    per_request = (torch.cuda.max_memory_allocated() - weights) / options.batch if on_gpu else float("nan")
    return ArticleRow(
        arm="transformers",
        engine=f"transformers {transformers.__version__}, {attention}",
        weight_bytes=weights,
        used_bytes=used,
        tokens_per_s=[options.batch * options.tokens / each for each in times],
        latency_s=[each for each in times for _ in range(options.batch)],
        decode_step_s=(whole - first) / LONG_TOKENS,
        held_in_24gb=(BUDGET_BYTES - weights) // per_request if on_gpu else float("nan"),
        gpu_utilization=watch.mean_utilization,
    )


def generate(model: Any, batch: int, prompt: int, tokens: int) -> float:
    """Return the seconds that a batch takes: each prompt read and answered with exactly so many tokens."""
    ids = torch.randint(100, 2000, (batch, prompt), device=model.device)
    mask, length = torch.ones_like(ids), {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens}
    began = time.perf_counter()
    with torch.inference_mode():
        answer = model.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **length)
    answer.cpu()  # waits for the GPU
    assert answer.shape[1] == prompt + tokens
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
