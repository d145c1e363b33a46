"""What is to be served: one request, by its sizes and times."""

from dataclasses import dataclass
from enum import IntEnum

SHORTEST_PREFIX_TOKENS = 64


class Priority(IntEnum):
    """How urgent a request is; lower is more urgent."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


CLASS_OF_PRIORITY = {priority: priority.name.lower() for priority in Priority}


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the scheduler sees it: sizes and times, never text.

    Attributes:
        request_id: Unique among the requests that wait or run.
        priority: How urgent it is.
        arrival_s: When it arrived, in seconds of the clock that gives every ``now``.
        deadline_s: When it must be over, on the same clock.
        prompt_tokens: Tokens of the prompt; at least 1.
        max_tokens: Most new tokens of one sequence; at least 1.
        sequences: How many sequences are generated from the prompt; at least 1.
        service_class: Name of the service class that it belongs to; empty: the lower-case name of its priority.
        tenant: Whom it is served for; empty: nobody in particular.
        prefixes: Opaque keys of the prompt's first 64, 128, 256, ... tokens, the same for prompts that begin alike.
        partial: Whether the answer so far stands when the deadline comes, so that it need only begin before it.
        resumes: Of a request that goes on elsewhere, what it was on arrival; its prompt has grown by its output so far,
            of all sequences that have not ended, and there are no others.

    """

    request_id: str
    priority: Priority
    arrival_s: float
    deadline_s: float
    prompt_tokens: int
    max_tokens: int
    sequences: int = 1
    service_class: str = ""
    tenant: str = ""
    prefixes: tuple[bytes, ...] = ()
    partial: bool = False
    resumes: "Request | None" = None

    @property
    def context_tokens(self) -> int:
        """Tokens of context that it may come to need."""
        return self.prompt_tokens + self.max_tokens

    @property
    def class_name(self) -> str:
        """The name of its service class."""
        return self.service_class or CLASS_OF_PRIORITY[self.priority]
