"""How long to wait before something is tried again: twice as long each time, up to a bound."""


class Backoff:
    """Counts tries that failed; what went well for long enough begins anew."""

    def __init__(self, *, first_s: float, most_s: float, forgets_s: float) -> None:
        """Wait ``first_s`` at first and ``most_s`` at most; forget what went before ``forgets_s`` of health."""
        self._first_s, self._most_s, self._forgets_s = first_s, most_s, forgets_s
        self._next_s = first_s

    def after(self, healthy_s: float) -> float:
        """Return the seconds to wait after a try that was healthy for so long, 0 if it never was."""
        if healthy_s >= self._forgets_s:
            self._next_s = self._first_s
        delay_s, self._next_s = self._next_s, min(self._most_s, 2 * self._next_s)
        return delay_s
