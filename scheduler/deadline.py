"""When a request must be over, and which rule says so."""

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from sluice.v1 import inference_pb2

LARGEST_MARGIN = 0.1  # of the time that is left: a short deadline keeps most of itself
ROUNDED_UP = 0.01  # of the time that is left: gRPC's C core sends timeouts with two or three digits, rounded up
LONGEST_DURATION_S = 315_576_000_000  # google.protobuf.Duration's own bound


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time at which a request is stopped, on the clock of its arrival, and the rule that set it."""

    at_s: float
    rule: inference_pb2.DeadlineRule.ValueType


@dataclass(frozen=True, slots=True)
class DeadlinePolicy:
    """What the deployment says about deadlines.

    Attributes:
        default_s: Time of a call that has no deadline.
        margin_s: Time before a call's own deadline at which the answer about it is sent, so that the client learns
            from the server where its time went instead of giving up by its own timer. A hundredth of the time comes
            on top: the client's timer may be that much ahead of the deadline that its call has told.

    """

    default_s: float
    margin_s: float

    def decide(self, arrival_s: float, *, call_time_left_s: float | None, time_budget_s: float | None) -> Deadline:
        """Return the earliest of what the call, the deployment and the request's own budget allow."""
        if call_time_left_s is None:
            time_s, rule = self.default_s, inference_pb2.DEADLINE_RULE_DEFAULT
        else:
            left_s = max(call_time_left_s, 0.0)
            margin_s = min(self.margin_s + left_s * ROUNDED_UP, left_s * LARGEST_MARGIN)
            time_s, rule = call_time_left_s - margin_s, inference_pb2.DEADLINE_RULE_CALL
        if time_budget_s is not None and time_budget_s < time_s:
            time_s, rule = time_budget_s, inference_pb2.DEADLINE_RULE_TIME_BUDGET
        return Deadline(arrival_s + time_s, rule)


def seconds(duration: Duration) -> float | None:
    """Return a duration in seconds, or None where it is none: nanos out of range or of the other sign."""
    if abs(duration.seconds) > LONGEST_DURATION_S or abs(duration.nanos) > 999_999_999:
        return None
    if duration.seconds * duration.nanos < 0:
        return None
    return duration.seconds + duration.nanos / 1e9
