"""The policy for new tokens: how many one sequence may have, and which rule says so."""

from dataclasses import dataclass
from typing import Literal

from sluice.v1 import inference_pb2


@dataclass(frozen=True, slots=True)
class MaxTokens:
    """An effective limit on new tokens of one sequence, and the rule that set it."""

    tokens: int
    rule: inference_pb2.MaxTokensRule.ValueType


@dataclass(frozen=True, slots=True)
class MaxTokensPolicy:
    """The limits that hold for one request.

    Attributes:
        default: What a request without a limit of its own gets.
        cap: The deployment's cap.
        class_cap: The cap of the request's service class.
        over_cap: What becomes of a request that asks for more than a cap.

    """

    default: int
    cap: int
    class_cap: int
    over_cap: Literal["clamp", "refuse"]

    def refusal(self, asked: int | None) -> str | None:
        """Return the bound that ``asked`` breaks, where this deployment refuses instead of clamping."""
        if self.over_cap == "clamp" or asked is None or asked <= min(self.cap, self.class_cap):
            return None
        if self.class_cap < self.cap:
            return f"be at most {self.class_cap}, the cap of the request's service class"
        return f"be at most {self.cap}, the deployment's cap"

    def decide(self, asked: int | None, *, room_tokens: int) -> MaxTokens:
        """Return the lowest of all limits; where several are equal, the rule named first here is the one reported."""
        limits = [
            MaxTokens(self.default, inference_pb2.MAX_TOKENS_RULE_DEFAULT)
            if asked is None
            else MaxTokens(asked, inference_pb2.MAX_TOKENS_RULE_REQUESTED),
            MaxTokens(self.cap, inference_pb2.MAX_TOKENS_RULE_CAP),
            MaxTokens(self.class_cap, inference_pb2.MAX_TOKENS_RULE_CLASS_CAP),
            MaxTokens(room_tokens, inference_pb2.MAX_TOKENS_RULE_CONTEXT),
        ]
        return min(limits, key=lambda limit: limit.tokens)
