"""A logger for tests that remembers what it was told; of lower levels than the tests' own log shows, too."""

from typing import Any


class RecordedLog:
    """Takes the place of a module's ``log``."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def _record(self, event: str, **facts: Any) -> None:
        self.events.append({"event": event, **facts})

    debug = info = warning = error = exception = _record

    def told(self, event: str) -> list[dict[str, Any]]:
        """Return the events of that name."""
        return [each for each in self.events if each["event"] == event]
