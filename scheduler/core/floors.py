"""The least that each class gets of the engines' time."""

from collections.abc import Iterable

from scheduler.core.service_class import ServiceClass

PATIENCE_S = 20.0


class Floors:
    """What classes are owed, in engine seconds.

    Of every engine second that is given out, a class with a floor of g is owed g; what it is given itself is taken off,
    down to nothing. Once that comes to g times 20 s of all workers it grows no more, and the class comes first: in the
    queue, and where room must be made. So a class of which some request waits, or comes, that can still be in time has,
    but for one request, at least g/2 of what busy workers give out in any 60 s. Classes that have their floor anyway
    never notice. The floors' sum must be below 1. A request's engine seconds count when it starts.

    Attributes:
        due: The classes that come first now.

    """

    def __init__(self, classes: Iterable[ServiceClass]) -> None:
        self._floors = {each.name: each.floor for each in classes if each.floor}
        self._owed_s = dict.fromkeys(self._floors, 0.0)
        self.due: list[str] = []

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
