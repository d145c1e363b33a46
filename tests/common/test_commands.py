import argparse
import sys
from importlib.metadata import EntryPoint, EntryPoints
from types import ModuleType

import pytest

from common import cli

GREET = EntryPoint("greet", "added_command", cli.COMMANDS)
BROKEN = EntryPoint("broken", "no_such_module", cli.COMMANDS)


@pytest.fixture(autouse=True)
def _added(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages add a command; the second cannot be loaded."""
    module = ModuleType("added_command")
    monkeypatch.setattr(module, "SUMMARY", "greet somebody", raising=False)
    monkeypatch.setattr(module, "add_arguments", lambda parser: parser.add_argument("name"), raising=False)
    monkeypatch.setattr(module, "run", greet, raising=False)
    monkeypatch.setitem(sys.modules, "added_command", module)
    add(monkeypatch, GREET, BROKEN)


def add(monkeypatch: pytest.MonkeyPatch, *points: EntryPoint) -> None:
    monkeypatch.setattr(cli, "entry_points", lambda **of: EntryPoints(points).select(**of))


def greet(options: argparse.Namespace) -> int:
    sys.stdout.write(f"Hello, {options.name}.\n")
    return 3


def sluice(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    monkeypatch.setattr(sys, "argv", ["sluice", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_an_added_command_runs_and_no_other_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sluice(monkeypatch, "greet", "Ada") == 3
    assert capsys.readouterr().out == "Hello, Ada.\n"


def test_a_command_of_its_own_loads_none_of_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sluice(monkeypatch, "generate", "--help") == 0
    assert "stream an answer" in capsys.readouterr().out.lower()


def test_help_lists_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    add(monkeypatch, GREET)
    assert sluice(monkeypatch, "--help") == 0
    assert "greet somebody" in capsys.readouterr().out
