"""The work itself, inside llm-compressor's environment: load, quantise, save, read back, measure.

``python -m worker.quantize.job --model M --output DIR --scheme S ...``; ``sluice quantize`` starts it.
"""

import argparse
import gc
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from worker.quantize.calibration import CalibrationError, Text, Windows, cut, read_texts
from worker.quantize.report import QuantizeReport
from worker.quantize.tokenizer_copy import copy_tokenizer

HELD_OUT_WINDOWS = 64
PACKAGES = ("llmcompressor", "compressed-tensors", "transformers", "torch")
OUTPUT_LAYER = ["lm_head"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the job; progress goes to standard error."""
    parser = argparse.ArgumentParser(prog="python -m worker.quantize.job", description="Quantise a checkpoint.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--scheme", required=True)
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--sample-tokens", type=int, required=True)
    try:
        quantize(parser.parse_args(arguments))
    except (CalibrationError, OSError) as error:  # transformers says so, too, of what is no model
        sys.exit(f"sluice: {str(error).partition(chr(10))[0]}")


def quantize(options: argparse.Namespace) -> None:
    """Write the checkpoint and its report."""
    say("1/5 loading the model")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    windows = tokenised(AutoTokenizer.from_pretrained(options.model), read_texts(options.calibration), options)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16)
    original_bytes = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())

    say(f"2/5 measuring the original on {len(windows.held_out)} held-out windows")
    from worker.quantize.quality import measure

    before = measure(model, windows.held_out)
    say(f"3/5 quantising by {options.scheme}")
    began = time.monotonic()
    used = compress(model, options.scheme, windows.calibration)
    seconds = time.monotonic() - began
    say("4/5 writing the new checkpoint")
    model.save_pretrained(options.output, save_compressed=True)
    copy_tokenizer(options.model, options.output)
    del model
    gc.collect()

    say("5/5 reading it back and measuring it")
    after = measure(AutoModelForCausalLM.from_pretrained(options.output, dtype=torch.bfloat16), windows.held_out)
    QuantizeReport(
        model=options.model,
        scheme=options.scheme,
        calibration=options.calibration.name if options.calibration else "",
        calibration_windows=len(used),
        calibration_tokens=sum(map(len, used)),
        original_bytes=original_bytes,
        quantized_bytes=sum(file.stat().st_size for file in options.output.glob("*.safetensors")),
        held_out_tokens=len(after.likeliest),
        original_perplexity=before.perplexity,
        quantized_perplexity=after.perplexity,
        top1_agreement=before.agreement(after),
        seconds=seconds,
        versions={name: version(name) for name in PACKAGES},
    ).write(options.output)


def tokenised(tokenizer: Any, texts: Sequence[Text], options: argparse.Namespace) -> Windows:
    """Render and tokenise the texts and cut them into windows, no more than asked for."""
    ids = [_ids(tokenizer, text) for text in texts]
    windows = cut(ids, options.sample_tokens)
    return Windows(windows.calibration[: options.samples], windows.held_out[:HELD_OUT_WINDOWS])


def _ids(tokenizer: Any, text: Text) -> list[int]:
    if not isinstance(text, str):
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(text, tokenize=False)
        else:
            text = "\n".join(message["content"] for message in text)
    return list(tokenizer(text)["input_ids"])


def compress(model: Any, scheme: str, windows: list[list[int]]) -> list[list[int]]:
    """Quantise the model in place; returns the windows that it was calibrated with."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    if scheme == "fp8-dynamic":
        oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=OUTPUT_LAYER))
        return []
    four_bits = {"targets": "Linear", "scheme": "W4A16", "ignore": OUTPUT_LAYER}
    recipe: Any = GPTQModifier(**four_bits)
    if scheme == "awq-w4a16":
        from llmcompressor.modifiers.transform.awq import AWQModifier

        recipe = [AWQModifier(duo_scaling="both"), QuantizationModifier(**four_bits)]
    dataset = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in windows])
    longest = max(map(len, windows))
    oneshot(model=model, dataset=dataset, recipe=recipe, max_seq_length=longest, num_calibration_samples=len(windows))
    return windows


def say(text: str) -> None:
    """Tell what is being done."""
    sys.stderr.write(f"[quantize] {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
