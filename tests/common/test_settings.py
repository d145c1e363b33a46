"""Settings: which source wins, what an error says, and that --help tells everything."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError

from common.address import Address
from common.setting_field import setting_fields
from common.settings import LogSettings, ServerSettings, Settings, SettingsSection
from scheduler.config import SchedulerSettings
from worker.config import WorkerSettings


class Oven(SettingsSection):
    """What bakes."""

    heat: float | Literal["model"] = Field(0.7, description="How hot, 100% at most.")
    minutes: int | None = Field(None, ge=1, description="How long.")


class Bakery(Settings):
    """Settings of a bakery.

    With a second paragraph.
    """

    environment_prefix: ClassVar[str] = "BAKERY_"

    listen: Address = Field("127.0.0.1:1", description="Where to knock.")
    door: list[str] = Field(["front"], description="A door; repeat it.")
    loaves: int = Field(3, ge=0, description="Loaves.")
    open_late: bool = Field(True, description="Open late.")
    extras: dict[str, Any] = Field({}, description="The rest.")
    left: Oven = Oven(minutes=10)
    right: Oven = Oven()


def load(*argv: str) -> Bakery:
    return Bakery.load(argv, prog="bakery")


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        load(*argv)
    assert exit_.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "bakery.toml"
    path.write_text('loaves = 10\ndoor = ["attic", "cellar"]\n[left]\nheat = 1.5\nminutes = 20\n[extras]\njam = 1\n')
    return path


def test_without_sources_the_defaults_hold() -> None:
    assert load() == Bakery()


def test_the_command_line_wins_over_the_environment_over_the_file(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("--config", str(config)).loaves == 10
    monkeypatch.setenv("BAKERY_LOAVES", "11")
    monkeypatch.setenv("BAKERY_LEFT__MINUTES", "21")
    settings = load("--config", str(config), "--loaves", "12")
    assert (settings.loaves, settings.left.minutes, settings.left.heat) == (12, 21, 1.5)


def test_the_environment_can_name_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKERY_CONFIG", str(config))
    assert load().extras == {"jam": 1}


def test_one_value_of_a_nested_default_can_be_changed_alone() -> None:
    assert load("--left.heat", "model").left == Oven(heat="model", minutes=10)


def test_a_list_that_is_given_replaces_the_default_and_that_of_a_weaker_source(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load("--config", str(config)).door == ["attic", "cellar"]
    monkeypatch.setenv("BAKERY_DOOR", "side, [::1]:5")
    assert load("--config", str(config)).door == ["side", "[::1]:5"]
    assert load("--config", str(config), "--door", "[::1]:5", "--door", "b:2").door == ["[::1]:5", "b:2"]


def test_texts_become_the_setting_s_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKERY_OPEN_LATE", "false")
    monkeypatch.setenv("BAKERY_LEFT__MINUTES", "none")
    settings = load("--extras", '{"jam": [1]}')
    assert (settings.open_late, settings.left.minutes, settings.extras) == (False, None, {"jam": [1]})
    assert load("--open-late").open_late
    assert not load("--no-open-late").open_late


def test_constructing_settings_directly_reads_no_source(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKERY_LOAVES", "11")
    monkeypatch.setenv("BAKERY_CONFIG", str(config))
    monkeypatch.setattr("sys.argv", ["bakery", "--loaves", "12"])
    assert Bakery(door=["x:1"]).loaves == 3
    assert Bakery.load(prog="bakery").loaves == 12


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Bakery().loaves = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--loaves", "-1"], "loaves: should be greater than or equal to 0, not '-1' (from --loaves)"),
        (["--loaves", "many"], "loaves: should be a valid integer, not 'many' (from --loaves)"),
        (
            ["--left.heat", "hot"],
            "left.heat: should be a valid number or should be 'model', not 'hot' (from --left.heat)",
        ),
        (["--left.heat", "nan"], "left.heat: should be a finite number or should be 'model', not 'nan'"),
        (["--listen", "5"], "listen: should be HOST:PORT or [IPv6]:PORT, not '5' (from --listen)"),
        (["--extras", "{"], "extras: should be a valid dictionary, not '{' (from --extras)"),
        (["--lofes", "1"], "unrecognized arguments: --lofes 1"),
        (["--loaf", "1"], "unrecognized arguments: --loaf 1"),
        (["--loaves"], "argument --loaves: expected one argument"),
        (["--config", "/no/such/file"], "cannot read /no/such/file: No such file or directory"),
    ],
)
def test_an_error_is_one_line_with_setting_bound_value_and_origin(
    capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    error = refusal(capsys, *argv)
    assert error.startswith(f"bakery: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("loaves = -1", "loaves: should be greater than or equal to 0, not '-1' (from {path})"),
        ("[left]\nheet = 1", "left.heet: there is no such setting (from {path})"),
        ("[middle]\nheat = 1", "middle.heat: there is no such setting (from {path})"),
        ("left = 1", "left: is a table (from {path})"),
        ('door = "front"', "door: should be a valid list, not 'front' (from {path})"),
        ("door = [1]", "door: should be a valid string, not '1' (from {path})"),
        ("loaves =", "{path} is not a TOML file: Invalid value (at end of document)"),
        ("loaves = 'é", "{path} is not a TOML file: "),
    ],
)
def test_an_error_in_the_file_names_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, toml: str, message: str
) -> None:
    path = tmp_path / "bakery.toml"
    path.write_text(toml, encoding="latin-1")
    error = refusal(capsys, "--config", str(path))
    assert error.startswith("bakery: " + message.format(path=path))
    assert error.count("\n") == 1


def test_an_error_in_the_environment_names_the_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKERY_LEFT__MINUTES", "0")
    message = "left.minutes: should be greater than or equal to 1, not '0' (from BAKERY_LEFT__MINUTES)"
    assert refusal(capsys) == f"bakery: {message}\n"
    monkeypatch.setenv("BAKERY_LOFES", "1")
    assert refusal(capsys) == "bakery: BAKERY_LOFES: there is no such setting (from the environment)\n"


def test_every_setting_at_fault_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert refusal(capsys, "--loaves", "-1", "--left.minutes", "x").count("\n") == 2


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_no_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT", "PORT_50051_TCP", "PORT_50051_TCP_ADDR"):
        monkeypatch.setenv(f"BAKERY_{name}", "tcp://10.0.0.1:50051")
    assert load() == Bakery()


def test_a_required_setting_that_nobody_gives_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    class Demanding(Settings):
        """Settings with a required one."""

        environment_prefix: ClassVar[str] = "DEMANDING_"
        model: str = Field(description="The model.")

    with pytest.raises(SystemExit):
        Demanding.load([], prog="demanding")
    assert capsys.readouterr().err == "demanding: model: is required (--model)\n"
    assert Demanding.load(["--model", "m"], prog="demanding").model == "m"


def fields_by_name(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Walk the models independently of the code under test."""
    for name, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            yield from fields_by_name(info.annotation, f"{path}{name}.")
        else:
            yield f"{path}{name}"


@pytest.mark.parametrize("settings", [SchedulerSettings, WorkerSettings, Bakery])
def test_help_has_every_setting_with_its_description_and_default(
    settings: type[Settings], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit_:
        settings.load(["--help"], prog="bakery")
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    names = list(fields_by_name(settings))
    assert len(names) > 5
    for name in names:
        assert f"--{name.replace('_', '-')}" in text
    for field in setting_fields(settings):
        assert field.info.description, f"{field.name} has no description"
        assert f"{field.info.description} (default: " in text, field.name
    assert "--config FILE" in text
    assert f"{settings.environment_prefix}LOG__LEVEL" in text


def test_help_shows_a_nested_default_of_its_own_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "--left.minutes INT|none How long. (default: 10)" in text
    assert "--right.minutes INT|none How long. (default: none)" in text
    assert "second paragraph" not in text


def test_the_shipped_scheduler_settings_load_from_all_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scheduler.toml"
    path.write_text('worker = ["a:1"]\n[high]\nmax_tokens_cap = 7\n[server]\nmax_message_bytes = 4096\n')
    monkeypatch.setenv("SLUICE_SCHEDULER_SAMPLING__TEMPERATURE", "0.2")
    argv = ["--config", str(path), "--max-queued-requests", "10", "--worker", "a:1", "--worker", "b:2"]
    settings = SchedulerSettings.load(argv, prog="sluice-scheduler")
    assert settings.worker == ["a:1", "b:2"]
    assert settings.max_queued_requests == 10
    assert settings.sampling.temperature == 0.2
    assert (settings.high.max_tokens_cap, settings.high.prompt_tokens_below) == (7, 128)
    assert settings.server == ServerSettings(max_message_bytes=4096)
    assert settings.log == LogSettings()
