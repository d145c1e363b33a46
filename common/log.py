"""Logging: events with keys, as JSON lines or, on a terminal, for people.

What libraries log through the standard library goes through the same renderer.
"""

import logging
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from common.settings import LogSettings


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of that name; it may be made before ``configure`` is called, and used after."""
    return cast(FilteringBoundLogger, structlog.get_logger(name))


def configure(settings: LogSettings, *, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging; ``stream`` defaults to standard error.

    Call it once, first thing in the process: a logger keeps the set-up of its first use.
    """
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    render = _renderers(settings, stream)
    describe: list[Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[_add_name, *describe, *render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *names: _NamedLogger(stream, *names),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *describe],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("grpc._cython.cygrpc").addFilter(_is_about_us)


class _NamedLogger(structlog.WriteLogger):
    """Writes lines to a stream and knows its name."""

    def __init__(self, stream: TextIO, name: str = "") -> None:
        super().__init__(stream)
        self.name = name


def _is_about_us(record: logging.LogRecord) -> bool:
    """Leave out gRPC's tracebacks about what clients do.

    A message that could not be sent says that the client has just left. Metadata that is no ASCII would be quoted, and
    may be a token.
    """
    return not record.getMessage().startswith(("ExecuteBatchError", "Invalid encoding on"))


def _add_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event["logger"] = logger.name
    return event


def _renderers(settings: LogSettings, stream: TextIO) -> list[Processor]:
    if settings.format == "json" or (settings.format == "auto" and not stream.isatty()):
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # The plain traceback: the richer ones print local variables, and those hold prompts and answers.
    traceback = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=traceback)]
