"""What kinds of request there are, and what each is promised."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """What the requests of one class are promised, and what they are worth.

    Attributes:
        name: Its name, as requests give it.
        weight: What meeting the targets of one request is worth, relative to other classes; above 0.
        ttft_s: Seconds from arrival to the first token; None: no target.
        tpot_s: Seconds per output token after the first; None: no target.
        e2e_s: Seconds from arrival to the last token; None: no target.
        floor: Share of the engines' time, 0 to 1, below which others make room for the class.
        on_infeasible: What becomes of a request that cannot meet its targets: refuse it, or relegate it to what the
            others leave over until its deadline.

    """

    name: str
    weight: float
    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    floor: float = 0.0
    on_infeasible: Literal["refuse", "relegate"] = "refuse"


# For a 7B model on 24 GB cards: a prompt of 2,048 tokens takes half a second there, a decode step 35 to 80 ms.
SHIPPED_CLASSES: Mapping[str, ServiceClass] = {
    "high": ServiceClass("high", weight=2.0, ttft_s=2.0, tpot_s=0.15, e2e_s=None, floor=0.1),
    "normal": ServiceClass("normal", weight=1.0, ttft_s=6.0, tpot_s=0.2, e2e_s=None, floor=0.1),
    "low": ServiceClass("low", weight=0.5, ttft_s=20.0, tpot_s=None, e2e_s=None, floor=0.05, on_infeasible="relegate"),
}
