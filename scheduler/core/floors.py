"""The least that each class gets of the engines' time."""

import math
from collections.abc import Iterable

from scheduler.core.service_class import ServiceClass

PATIENCE_S = 20.0


class Floors:
    """What classes are owed, in engine seconds.

    Of every engine second that is given out, a class with a floor of g is owed g; what it is given itself is taken off,
    down to nothing. Once that comes to g times 20 s of all workers it grows no more, and the class comes first: in the
    queue, and where room must be made. So a class of which some request waits, or comes, that can still be in time has,
    but for one request, at least g/2 of what busy workers give out in any 60 s. Classes that have their floor anyway
    never notice, and one that nobody has asked for in 20 s is owed nothing: it has gone without by itself. The floors'
    sum must be below 1. A request's engine seconds count when it starts.

    Attributes:
        due: The classes that come first now.

    """

    def __init__(self, classes: Iterable[ServiceClass]) -> None:
        self._floors = {each.name: each.floor for each in classes if each.floor}
        self._owed_s = dict.fromkeys(self._floors, 0.0)
        self._wanted_s = dict.fromkeys(self._floors, -math.inf)
        self.due: list[str] = []

    def want(self, class_name: str, now: float, *, waiting: bool) -> None:
        """A request of that class comes; ``waiting``: others of it wait already."""
        if class_name not in self._floors:
            return
        if not waiting and now > self._wanted_s[class_name] + PATIENCE_S:
            self._owed_s[class_name] = 0.0
            self.due = [each for each in self.due if each != class_name]
        self._wanted_s[class_name] = now

    def give(self, class_name: str, service_s: float, workers: int) -> None:
        """A request of that class starts on one of so many workers."""
        self.due = []
        for name, floor in self._floors.items():
            own_s = service_s if name == class_name else 0.0
            owed_s = max(0.0, self._owed_s[name] + floor * service_s - own_s)
            limit_s = floor * PATIENCE_S * workers
            self._owed_s[name] = min(owed_s, limit_s)
            if owed_s >= limit_s:
                self.due.append(name)
