"""Which text a quantisation learns from, and which it is measured on."""

import json
from pathlib import Path

import pytest

from worker.quantize.calibration import CalibrationError, cut, read_texts


def test_no_window_is_both_learned_from_and_measured_on() -> None:
    windows = cut([list(range(10_000))], 100)
    learned, held_out = ({token for window in part for token in window} for part in windows)
    assert learned.isdisjoint(held_out)
    assert learned | held_out == set(range(10_000))
    assert len(windows.held_out) == 20
    assert max(map(len, windows.calibration)) == 100


def test_short_material_is_cut_finer_so_that_some_can_be_held_out() -> None:
    windows = cut([list(range(600))], 2048)
    assert len(windows.held_out) >= 3
    assert len(windows.calibration) >= 12


def test_too_little_text_is_an_error_with_the_number() -> None:
    with pytest.raises(CalibrationError, match="has 511 tokens; at least 512"):
        cut([[0] * 511], 2048)


def test_a_plain_file_is_one_text_and_json_lines_are_one_each(tmp_path: Path) -> None:
    plain, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    plain.write_text("One.\n\nTwo.\n")
    assert read_texts(plain) == ["One.\n\nTwo.\n"]
    talk = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "Two."}]
    lines.write_text(f"{json.dumps({'text': 'One.'})}\n\n{json.dumps({'messages': talk})}\n")
    assert read_texts(lines) == ["One.", talk]


def test_without_a_file_there_are_conversations_to_try_it_with() -> None:
    assert all(isinstance(text, list) and len(text) == 2 for text in read_texts(None))


@pytest.mark.parametrize("line", ['{"texts": "secret"}', '{"messages": []}', '{"messages": [{"role": "user"}]}', "[1]"])
def test_a_line_of_another_form_is_named_by_its_number_and_not_quoted(tmp_path: Path, line: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "One."}\n' + line)
    with pytest.raises(CalibrationError, match=r"a\.jsonl, line 2, has neither") as raised:
        read_texts(file)
    assert "secret" not in str(raised.value)


def test_a_file_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"cannot read .*nothing\.txt: No such file"):
        read_texts(tmp_path / "nothing.txt")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="is not UTF-8 text"):
        read_texts(tmp_path / "bytes")
    (tmp_path / "b.jsonl").write_text("{")
    with pytest.raises(CalibrationError, match="line 1, is not JSON"):
        read_texts(tmp_path / "b.jsonl")
