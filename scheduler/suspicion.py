"""Whether a request may be what ends workers, so that it does not end the next one too.

A worker's death says the more of a request without a token there, the fewer others can be to blame. Who had a token
there has shown that it can run. Three rules, whatever the request asks for:

- It was alone at the worker: nothing else was there to end it.
- It alone waited for its first token when the engine died and the worker lived to tell: nobody's kill, no lost network.
- It waited for its first token at two deaths: chance seldom does that, since a first token takes little time.

A stream that breaks, or a silence, among neighbours with tokens is half a proof: whoever kills a worker under load does
so while some request begins there, and that one is to go on. So a poison pill ends two workers at most, and a request
that was alone when its worker was killed from outside is lost. A token from any worker clears a request.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

MOST_DEATHS = 2


class Death(Enum):
    """How a worker was lost that had not said that it would leave."""

    ENGINE = auto()  # the worker said so
    STREAM = auto()  # crash, kill or network
    HANG = auto()


class Present(Protocol):
    """What runs at a worker; a request may have several, one for each sequence."""

    @property
    def ended(self) -> bool:
        """Whether it awaits nothing more."""
        ...

    @property
    def awaits_token(self) -> bool:
        """Whether its request has had no token of this worker."""
        ...

    @property
    def request(self) -> object:
        """What stands for its request: the same for all that belong to one."""
        ...


@dataclass(frozen=True, slots=True)
class Scene:
    """A worker's death and how many requests were there.

    Attributes:
        death: How it was lost.
        requests: Requests that had not ended.
        without_token: Those of them that waited for their first token there.

    """

    death: Death
    requests: int
    without_token: int

    @property
    def convicts_one(self) -> bool:
        """Whether a request without a token has to have been it."""
        return self.requests == 1 or (self.death is Death.ENGINE and self.without_token == 1)


def scene_of(death: Death, present: Collection[Present]) -> Scene:
    """Count who was there, before anyone of them hears of it."""
    running = [each for each in present if not each.ended]
    requests = {id(each.request) for each in running}
    without_token = {id(each.request) for each in running if each.awaits_token}
    return Scene(death, len(requests), len(without_token))


class Suspicion:
    """What is held against one request.

    Attributes:
        deaths: Workers that died, one after another, while it waited for its first token there.

    """

    def __init__(self) -> None:
        self.deaths = 0
        self._is_convicted = False

    @property
    def is_grave(self) -> bool:
        """Whether no other worker may have the request."""
        return self._is_convicted or self.deaths >= MOST_DEATHS

    def add(self, scene: Scene) -> None:
        """It was there without a token."""
        self.deaths += 1
        self._is_convicted = scene.convicts_one

    def clear(self) -> None:
        """It has had a token of a worker."""
        self.deaths = 0
