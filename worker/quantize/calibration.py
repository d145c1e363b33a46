"""Text to calibrate with and text to measure with, which are never the same."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from worker.demo_answers import TOPICS

Conversation = list[dict[str, str]]
Text = str | Conversation

HELD_OUT_EVERY = 5
LEAST_TOKENS = 512
LEAST_WINDOW = 32


class CalibrationError(Exception):
    """The calibration file will not do; the message says why, without its text."""


class Windows(NamedTuple):
    """Token ids: to calibrate with, and held out to measure with."""

    calibration: list[list[int]]
    held_out: list[list[int]]


def read_texts(path: Path | None) -> list[Text]:
    """Read a file of plain text, or of JSON lines with ``text`` or ``messages``; without one, what comes with Sluice.

    Raises:
        CalibrationError: The file cannot be read or has a line of another form.

    """
    if path is None:
        return [
            [{"role": "user", "content": topic.question}, {"role": "assistant", "content": topic.answer}]
            for topic in TOPICS
        ]
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CalibrationError(f"{path} is not UTF-8 text") from None
    if path.suffix != ".jsonl":
        return [content]
    return [_sample(path, number, line) for number, line in enumerate(content.splitlines(), start=1) if line.strip()]


def cut(texts: Sequence[list[int]], window_tokens: int) -> Windows:
    """Cut tokenised texts into windows and hold every fifth out.

    Short material is cut finer, so that there is enough to hold out.

    Raises:
        CalibrationError: There are too few tokens in all.

    """
    total = sum(map(len, texts))
    if total < LEAST_TOKENS:
        raise CalibrationError(f"the calibration text has {total} tokens; at least {LEAST_TOKENS} are needed")
    size = min(window_tokens, max(LEAST_WINDOW, total // (4 * HELD_OUT_EVERY)))
    windows = [ids[start : start + size] for ids in texts for start in range(0, len(ids), size)]
    windows = [window for window in windows if len(window) > 1]
    held_out = windows[::HELD_OUT_EVERY]
    return Windows([window for number, window in enumerate(windows) if number % HELD_OUT_EVERY], held_out)


def _sample(path: Path, number: int, line: str) -> Text:
    """Read one line of a file of JSON lines."""
    try:
        sample = json.loads(line)
    except ValueError:
        raise CalibrationError(f"{path}, line {number}, is not JSON") from None
    if isinstance(sample, dict):
        if isinstance(sample.get("text"), str):
            return str(sample["text"])
        if _is_conversation(sample.get("messages")):
            return list(sample["messages"])
    raise CalibrationError(f'{path}, line {number}, has neither "text" nor "messages" of role and content')


def _is_conversation(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("role", "content"))
