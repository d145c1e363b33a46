"""Generates the stubs in protos/gen: python .ci/stubs.py [--check]. With --check it only compares."""

import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
PLUGIN = Path(sys.executable).parent / "protoc-gen-mypy"


def main() -> None:
    """Generate, or tell which stubs are out of step."""
    with tempfile.TemporaryDirectory() as folder:
        made = generate(Path(folder))
        if "--check" in sys.argv[1:]:
            differing = difference(made, PROTOS / "gen")
            if differing:
                sys.exit("out of step with the protos, run `make protos`:\n  " + "\n  ".join(differing))
            return
        shutil.rmtree(PROTOS / "gen", ignore_errors=True)
        shutil.copytree(made, PROTOS / "gen")


def generate(folder: Path) -> Path:
    """Write the stubs of all protos into a folder, as typed packages."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("sluice/**/*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
    command += [f"--plugin=protoc-gen-mypy={PLUGIN}", f"--plugin=protoc-gen-mypy_grpc={PLUGIN}_grpc"]
    command += [f"--{kind}_out={folder}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    subprocess.run([*command, *sources], check=True, stderr=subprocess.DEVNULL)
    for source in sources:
        for package in Path(source).parents:
            if package.name:
                (folder / package / "__init__.py").touch()
        # A file without services needs no client and server classes.
        if "\nservice " not in (PROTOS / source).read_text():
            for suffix in (".py", ".pyi"):
                (folder / source).with_name(Path(source).stem + "_pb2_grpc" + suffix).unlink()
    (folder / "sluice" / "py.typed").touch()
    return folder


def difference(made: Path, committed: Path) -> list[str]:
    """Return the files that differ, are missing or are too many."""
    names = {path.relative_to(root) for root in (made, committed) for path in root.rglob("*.py*") if path.is_file()}
    names = {name for name in names if "__pycache__" not in name.parts}
    pairs = ((name, made / name, committed / name) for name in sorted(names))
    return [str(name) for name, a, b in pairs if not (a.exists() and b.exists() and filecmp.cmp(a, b, shallow=False))]


if __name__ == "__main__":
    main()
