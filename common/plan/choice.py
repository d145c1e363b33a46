"""Which of the options is the one for throughput, for latency and for long contexts."""

from collections.abc import Sequence
from typing import NamedTuple

from common.plan.option import Option


class Choice(NamedTuple):
    """An option that is best at something.

    Attributes:
        aim: At what.
        option: The option.
        reason: The figure that decided.

    """

    aim: str
    option: Option
    reason: str


def choose(options: Sequence[Option]) -> list[Choice]:
    """Return the best option for each aim, of those that fit; nothing where none does.

    Of equals the one that stands first wins: fewer GPUs for a worker, then the finer formats.
    """
    fitting = [option for option in options if option.fits]
    if not fitting:
        return []
    throughput = max(fitting, key=lambda option: option.requests_per_s)
    latency = min(fitting, key=lambda option: option.alone_s)
    long_context = max(fitting, key=lambda option: option.kv_tokens)
    return [
        Choice("throughput", throughput, f"at best {throughput.requests_per_s:.2f} full-length requests/s"),
        Choice("latency", latency, f"at best {latency.alone_s:.2f} s for a full-length request alone"),
        Choice("long context", long_context, f"{long_context.kv_tokens:,} tokens in one KV cache"),
    ]
