"""Seconds to and from google.protobuf.Duration."""

from google.protobuf.duration_pb2 import Duration

LONGEST_DURATION_S = 315_576_000_000  # google.protobuf.Duration's own bound


def duration(seconds: float) -> Duration:
    """Make a Duration; negative times become zero."""
    nanos = max(0, round(seconds * 1e9))
    return Duration(seconds=nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def duration_or_none(seconds: float | None) -> Duration | None:
    """Make a Duration, or none where there is nothing to tell."""
    return None if seconds is None else duration(seconds)


def seconds(duration: Duration) -> float | None:
    """Return a duration in seconds, or None where it is none: nanos out of range or of the other sign."""
    if abs(duration.seconds) > LONGEST_DURATION_S or abs(duration.nanos) > 999_999_999:
        return None
    if duration.seconds * duration.nanos < 0:
        return None
    return duration.seconds + duration.nanos / 1e9
