"""Log lines: one JSON object each, for libraries too; on a terminal, text; never a local variable."""

import io
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from common.log import configure, get_logger
from common.settings import LogSettings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_a_json_object_with_time_level_logger_event_and_keys() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream=stream)
    get_logger("scheduler").info("request finished", tokens=3)
    (line,) = logged(stream)
    time = datetime.fromisoformat(str(line.pop("timestamp")))
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
    assert line == {"level": "info", "logger": "scheduler", "event": "request finished", "tokens": 3}


def test_a_logger_made_before_the_set_up_follows_it() -> None:
    log = structlog.get_logger("early")
    stream = io.StringIO()
    configure(LogSettings(), stream=stream)
    log.warning("now")
    assert logged(stream)[0]["logger"] == "early"


def test_what_libraries_log_looks_the_same() -> None:
    stream = io.StringIO()
    configure(LogSettings(), stream=stream)
    logging.getLogger("grpc.library").warning("lost %d of %s", 3, "them")
    get_logger("ours").warning("lost")
    theirs, ours = logged(stream)
    assert theirs.keys() == ours.keys()
    assert (theirs["logger"], theirs["level"], theirs["event"]) == ("grpc.library", "warning", "lost 3 of them")


def test_below_the_level_nothing_is_logged_by_anyone() -> None:
    stream = io.StringIO()
    configure(LogSettings(level="warning"), stream=stream)
    get_logger("ours").info("no")
    logging.getLogger("theirs").info("no")
    get_logger("ours").error("yes")
    assert [line["event"] for line in logged(stream)] == ["yes"]


@pytest.mark.parametrize("format_", ["json", "console"])
def test_a_traceback_shows_no_local_variables(format_: str) -> None:
    stream = io.StringIO()
    configure(LogSettings.model_validate({"format": format_}), stream=stream)
    prompt = "".join(["my ", "secret"])
    try:
        raise KeyError(len(prompt))
    except KeyError:
        get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")
    text = stream.getvalue()
    assert text.count("KeyError: 9") == 2
    assert text.count("Traceback") == 2
    assert "my secret" not in text


def test_auto_is_text_in_colour_on_a_terminal() -> None:
    terminal = Terminal()
    configure(LogSettings(), stream=terminal)
    get_logger("ours").info("ready", port=1)
    logging.getLogger("theirs").info("ready")
    assert "\x1b[" in terminal.getvalue()
    assert all("{" not in line and "ready" in line for line in terminal.getvalue().splitlines())


def test_console_elsewhere_is_text_without_colour() -> None:
    stream = io.StringIO()
    configure(LogSettings(format="console"), stream=stream)
    get_logger("ours").info("ready", port=1)
    line = stream.getvalue()
    assert "\x1b[" not in line
    assert "[ours] port=1" in line


def test_the_log_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    configure(LogSettings(format="json"))
    get_logger("ours").info("ready")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "ready"
