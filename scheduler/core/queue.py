"""The requests that wait, in order of service."""

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import count

from scheduler.core.request import Request

# A sort key, a serial number that decides ties and is never equal, and the request, which is never compared.
_Entry = tuple[float, int, Request]
RELEGATED = 1e12


class WaitingQueue:
    """Waiting requests, ordered by a key that is computed once, first come first served where keys are equal.

    Two sorted lists: one in order of service, one by deadline. Adding and removing take O(log n) comparisons and one
    shift of pointers, which is below a microsecond at a thousand requests.
    """

    def __init__(self, key: Callable[[Request], float]) -> None:
        """Order requests by ``key``, lowest first."""
        self._key = key
        self._serials = count()
        self._entries: dict[str, tuple[_Entry, _Entry]] = {}
        self._by_service: list[_Entry] = []
        self._by_deadline: list[_Entry] = []
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._entries

    def __iter__(self) -> Iterator[Request]:
        """In order of service."""
        return (request for _, _, request in self._by_service)

    def push(self, request: Request) -> None:
        """Add a request whose id is not in the queue."""
        self.push_at(self._key(request), request)

    def push_at(self, key: float, request: Request) -> None:
        """Add a request whose id is not in the queue, with a key of its own."""
        serial = next(self._serials)
        by_service = (key, serial, request)
        by_deadline = (request.deadline_s, serial, request)
        insort(self._by_service, by_service)
        insort(self._by_deadline, by_deadline)
        self._entries[request.request_id] = (by_service, by_deadline)
        self._counts[request.class_name] += 1

    def get(self, request_id: str) -> Request:
        """The request of that id. KeyError when it is not there."""
        return self._entries[request_id][0][2]

    def head(self) -> Request | None:
        """The request to be served next; None when nothing waits."""
        return self._by_service[0][2] if self._by_service else None

    def remove(self, request_id: str) -> Request | None:
        """Take a request out, wherever it stands; None when it is not there."""
        if request_id not in self._entries:
            return None
        by_service, by_deadline = self._entries.pop(request_id)
        del self._by_service[bisect_left(self._by_service, by_service)]
        del self._by_deadline[bisect_left(self._by_deadline, by_deadline)]
        request = by_service[2]
        self._counts[request.class_name] -= 1
        return request

    def remove_expired(self, now: float) -> list[Request]:
        """Take out the requests whose deadline has come, earliest deadline first."""
        expired = []
        while self._by_deadline and self._by_deadline[0][0] <= now:
            request = self._by_deadline[0][2]
            self.remove(request.request_id)
            expired.append(request)
        return expired

    def relegate(self, request_id: str) -> None:
        """Move a request that is there behind all that have not been moved, among those by deadline."""
        by_service, by_deadline = self._entries[request_id]
        del self._by_service[bisect_left(self._by_service, by_service)]
        moved = (RELEGATED + by_deadline[0], by_service[1], by_service[2])
        insort(self._by_service, moved)
        self._entries[request_id] = (moved, by_deadline)

    def position(self, request_id: str) -> int:
        """How many requests are served before this one. KeyError when it is not there."""
        by_service, _ = self._entries[request_id]
        return bisect_left(self._by_service, by_service)

    def position_for(self, request: Request) -> int:
        """How many requests would be served before one that is not there, if it joined now."""
        return self.position_at(self._key(request))

    def position_at(self, key: float) -> int:
        """How many requests would be served before one with this key that joined now."""
        return bisect_left(self._by_service, (math.nextafter(key, math.inf),))

    def next_deadline_s(self) -> float | None:
        """The earliest deadline; None when nothing waits."""
        return self._by_deadline[0][0] if self._by_deadline else None

    def counts(self) -> Mapping[str, int]:
        """How many requests of each class wait; classes that none has waited of are not named."""
        return self._counts
