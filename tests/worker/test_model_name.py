from pathlib import Path

import pytest

from worker.model_name import folder_name

COMMIT = "989aa7980e4cf806f80c7fef2b1adb7bc71aa306"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("qwen", "qwen"),
        (f"models--Qwen--Qwen2.5-1.5B/snapshots/{COMMIT}", "Qwen/Qwen2.5-1.5B"),
        (f"models--gpt2/snapshots/{COMMIT}", "gpt2"),
        (f"models--a--b--c/snapshots/{COMMIT}", "a/b--c"),
        (f"backups/snapshots/{COMMIT}", COMMIT),
        ("models--Qwen--Qwen2.5-1.5B", "models--Qwen--Qwen2.5-1.5B"),
    ],
)
def test_a_folder_names_its_model_and_a_hubs_snapshot_its_repository(tmp_path: Path, folder: str, name: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    assert folder_name(str(tmp_path / folder)) == name


def test_a_link_to_a_snapshot_names_the_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / f"models--Org--Name/snapshots/{COMMIT}"
    snapshot.mkdir(parents=True)
    (tmp_path / "current").symlink_to(snapshot)
    assert folder_name(str(tmp_path / "current")) == "Org/Name"


def test_a_hubs_name_is_no_folders(tmp_path: Path) -> None:
    assert folder_name(str(tmp_path / "not there")) is None
