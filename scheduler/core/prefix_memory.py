"""Which prompts' beginnings a worker is likely to have in its prefix cache."""

from collections import OrderedDict

from scheduler.core.request import Request

REMEMBERED_PREFIXES = 512


class PrefixMemory:
    """The last 512 prefixes that a worker was given, by their keys."""

    def __init__(self) -> None:
        self._tokens: OrderedDict[str, int] = OrderedDict()

    def add(self, request: Request) -> None:
        """The worker gets a request."""
        if not request.prefix:
            return
        self._tokens[request.prefix] = request.prefix_tokens
        self._tokens.move_to_end(request.prefix)
        if len(self._tokens) > REMEMBERED_PREFIXES:
            self._tokens.popitem(last=False)

    def hit_tokens(self, request: Request) -> int:
        """Prompt tokens that need not be computed again there."""
        return min(self._tokens.get(request.prefix, 0), request.prefix_tokens, request.prompt_tokens - 1)
