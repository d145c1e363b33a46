"""The article's own figures, and which of them cannot hold on its box of four RTX 4090D."""

from common.model_config import read_model_config
from common.model_shape import ModelShape
from common.plan.formats import KV, WEIGHTS
from common.plan.gpu import GPUS
from common.plan.speed import Speed

ARTICLE = {
    "weights, BF16 -> INT4": "15.2 -> 6.2 GB",
    "tokens/s at 8 streams of 4K, transformers -> vLLM": "1,200 -> 3,800 (3.2 x)",
    "INT4 beside 16 bit decoding": "15% slower",
    "attention at 8K, of a decode step": "33 ms",
}


def notes() -> list[str]:
    """Say what the card's own peaks have to say about the article's figures."""
    shape, card = ModelShape.from_config(read_model_config("Qwen/Qwen2.5-7B-Instruct")), GPUS["rtx4090d"]
    speed = {name: Speed(shape, WEIGHTS[name], KV["16bit"], card, 1) for name in ("bf16", "int4")}
    ceiling = 8 / speed["bf16"].decode_step_s(8, 4096)
    step_ms = speed["bf16"].decode_step_s(1, 8192) * 1e3
    attention_ms = step_ms - speed["bf16"].decode_step_s(1, 0) * 1e3
    faster = speed["bf16"].decode_step_s(1, 0) / speed["int4"].decode_step_s(1, 0)
    return [
        f"1,200 tokens/s of 16 bit weights at 8 streams of 4K exceed what one card can read: at most {ceiling:.0f}.",
        f"Attention at 8K cannot take 33 ms of a step: reading its cache takes {attention_ms:.1f} of {step_ms:.1f} ms.",
        f"INT4 reads less and so decodes faster, not slower: by up to {faster:.1f} x for one stream.",
    ]
