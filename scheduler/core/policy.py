"""Who is served first: the policies, one small class each."""

from typing import Literal, Protocol

from scheduler.core.request import Request

PolicyName = Literal["strict-priority", "fcfs"]


class Policy(Protocol):
    """An order of service."""

    def key(self, request: Request) -> float:
        """Where the request stands in the queue: lowest first, equal keys in order of submission.

        It is asked once, when the request joins the queue.
        """
        ...


class StrictPriority:
    """The more urgent first, with aging; inside a priority first come, first served.

    The key is ``arrival_s + priority * aging_s``: a request is treated as if it had arrived ``aging_s`` later for each
    step that it is below HIGH. So a NORMAL request is passed by the HIGH ones that arrive less than ``aging_s`` after
    it, a LOW one by the NORMAL ones that arrive less than ``aging_s`` and the HIGH ones that arrive less than
    ``2 * aging_s`` after it, and by nothing that arrives later. Nobody starves: the number of requests that can pass
    one is bounded by what arrives in that time, whatever arrives afterwards.
    """

    def __init__(self, aging_s: float) -> None:
        """One step of priority is worth ``aging_s`` seconds of waiting; above 0."""
        self._aging_s = aging_s

    def key(self, request: Request) -> float:
        """The arrival, later by one aging time for each step below HIGH."""
        return request.arrival_s + request.priority * self._aging_s


class Fcfs:
    """First come, first served; priorities change nothing."""

    def key(self, request: Request) -> float:
        """The arrival."""
        return request.arrival_s


def make_policy(name: PolicyName, aging_s: float) -> Policy:
    """The policy of that name. ``aging_s``: seconds of waiting worth one step of priority, where the policy ages."""
    match name:
        case "strict-priority":
            return StrictPriority(aging_s)
        case "fcfs":
            return Fcfs()
