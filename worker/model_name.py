"""What a model is called that lies in a folder."""

from pathlib import Path

SNAPSHOTS = "snapshots"
REPOSITORY = "models--"


def folder_name(model: str) -> str | None:
    """Name a model by its folder, a hub's snapshot by its repository; None for one that is not in a folder.

    A hub's cache keeps a model in ``models--ORGANISATION--NAME/snapshots/COMMIT``.
    """
    if not Path(model).is_dir():
        return None
    for folder in (Path(model).absolute(), Path(model).resolve()):
        repository = folder.parent.parent.name
        if folder.parent.name == SNAPSHOTS and repository.startswith(REPOSITORY):
            return repository.removeprefix(REPOSITORY).replace("--", "/", 1)
    return Path(model).resolve().name
