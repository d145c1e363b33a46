"""How often a stream may get a message, so that messages to clients stay within a budget."""

LONGEST_GAP_S = 0.1


class Pace:
    """Shares a budget of messages per second among the live streams; none waits longer than 0.1 s for its share.

    A gRPC message costs 55-75 us of CPU whatever its size, so many streams are served best by fewer and fuller
    messages. With few streams the interval is below the time of an engine step, and each token travels at once.
    """

    def __init__(self, messages_per_s: float) -> None:
        self._messages_per_s = messages_per_s
        self.streams = 0

    @property
    def interval_s(self) -> float:
        """Least time between two messages of one stream, in seconds."""
        return min(self.streams / self._messages_per_s, LONGEST_GAP_S)
