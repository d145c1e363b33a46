"""Which prompts' beginnings a worker is likely to have in its prefix cache."""

from collections import OrderedDict

from scheduler.core.request import SHORTEST_PREFIX_TOKENS, Request

REMEMBERED_PREFIXES = 4096


class PrefixMemory:
    """The last 4,096 prefixes that a worker was given, by their keys."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def add(self, request: Request) -> None:
        """The worker gets a request."""
        for key in request.prefixes:
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > REMEMBERED_PREFIXES:
            self._keys.popitem(last=False)

    def hit_tokens(self, request: Request) -> int:
        """Prompt tokens that need not be computed again there."""
        for place in reversed(range(len(request.prefixes))):
            if request.prefixes[place] in self._keys:
                return min(SHORTEST_PREFIX_TOKENS << place, request.prompt_tokens - 1)
        return 0
