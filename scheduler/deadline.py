"""When a request must be over, and which rule says so."""

from dataclasses import dataclass

from sluice.v1 import inference_pb2

LARGEST_MARGIN = 0.1  # of the time that is left: a short deadline keeps most of itself
ROUNDED_UP = 0.01  # of the time that is left: gRPC's C core sends timeouts with two or three digits, rounded up


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time at which a request is stopped, on the clock of its arrival, and the rule that set it."""

    at_s: float
    rule: inference_pb2.DeadlineRule.ValueType


@dataclass(frozen=True, slots=True)
class DeadlinePolicy:
    """What the deployment says about deadlines.

    Attributes:
        default_s: Time of a call that has no deadline, where its class has none either.
        margin_s: Time before a call's own deadline at which the answer about it is sent, so that the client learns
            from the server where its time went instead of giving up by its own timer. A hundredth of the time comes
            on top: the client's timer may be that much ahead of the deadline that its call has told.

    """

    default_s: float
    margin_s: float

    def decide(
        self,
        arrival_s: float,
        *,
        call_time_left_s: float | None,
        time_budget_s: float | None,
        class_default_s: float | None = None,
    ) -> Deadline:
        """Return the earliest of what the call, else its class, and the request's own budget allow."""
        if call_time_left_s is None:
            time_s = self.default_s if class_default_s is None else class_default_s
            rule = inference_pb2.DEADLINE_RULE_DEFAULT
        else:
            left_s = max(call_time_left_s, 0.0)
            margin_s = min(self.margin_s + left_s * ROUNDED_UP, left_s * LARGEST_MARGIN)
            time_s, rule = call_time_left_s - margin_s, inference_pb2.DEADLINE_RULE_CALL
        if time_budget_s is not None and time_budget_s < time_s:
            time_s, rule = time_budget_s, inference_pb2.DEADLINE_RULE_TIME_BUDGET
        return Deadline(arrival_s + time_s, rule)
