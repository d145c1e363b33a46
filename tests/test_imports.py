"""Who may import whom, read from the syntax trees of all that is shipped."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]

# What the core may use of the standard library: nothing that knows the time, chance, the system or other threads.
PURE = {
    "abc",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "statistics",
    "typing",
}


def belongs(module: str, *packages: str) -> bool:
    """Whether a dotted name is one of the packages or lies in one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def within(*folders: str) -> Callable[[PurePosixPath], bool]:
    return lambda path: any(path.is_relative_to(folder) for folder in folders)


def imports(*packages: str) -> Callable[[str], bool]:
    return lambda module: belongs(module, *packages)


@dataclass(frozen=True)
class Rule:
    """In files where ``holds_in`` says so, no import may be one that ``forbids`` names."""

    name: str
    holds_in: Callable[[PurePosixPath], bool]
    forbids: Callable[[str], bool]


RULES = [
    Rule("scheduler-not-worker", within("scheduler"), imports("worker")),
    Rule("worker-not-scheduler", within("worker"), imports("scheduler")),
    Rule("common-neither", within("common"), imports("scheduler", "worker")),
    Rule(
        "stubs-in-common-only-in-client",
        lambda path: (
            path.is_relative_to("common") and path.name not in ("client.py", "client_session.py", "admin_client.py")
        ),
        imports("sluice"),
    ),
    Rule("core-is-pure", within("scheduler/core"), lambda module: not belongs(module, "scheduler.core", *PURE)),
    Rule(
        "vllm-only-in-its-adapter",
        lambda path: not path.is_relative_to("tests") and not path.match("worker/vllm_*.py"),
        imports("vllm"),
    ),
    Rule("scheduler-process-is-light", within("scheduler", "common"), imports("torch", "transformers", "vllm")),
    Rule("nothing-shipped-needs-tests", within("scheduler", "worker", "common"), imports("tests")),
]


@cache
def imported_modules(path: PurePosixPath, source: str) -> tuple[str, ...]:
    return tuple(find_imports(path, source))


def find_imports(path: PurePosixPath, source: str) -> Iterator[str]:
    """Every name that a file imports, at its head or inside a function; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                package = ".".join([*path.parts[: len(path.parts) - level], module or ""] if level else [module or ""])
                yield from (f"{package.strip('.')}.{alias.name}" for alias in names)
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module


def violations(rule: Rule, path: PurePosixPath, source: str) -> list[str]:
    if not rule.holds_in(path):
        return []
    return [f"{path} imports {module}" for module in imported_modules(path, source) if rule.forbids(module)]


@cache
def source_files() -> tuple[PurePosixPath, ...]:
    """Python files of the repository, outside hidden folders and generated code."""
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    files = (PurePosixPath(file.relative_to(ROOT).as_posix()) for folder in folders for file in folder.rglob("*.py"))
    generated = within("protos/gen", "build", "dist")
    return tuple(sorted(path for path in files if not generated(path)))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_no_file_breaks_the_rule(rule: Rule) -> None:
    files = source_files()
    assert any(rule.holds_in(path) for path in files)
    assert [each for path in files for each in violations(rule, path, (ROOT / path).read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    ("name", "path", "source"),
    [
        ("scheduler-not-worker", "scheduler/app.py", "import worker.engine"),
        ("scheduler-not-worker", "scheduler/app.py", "def late():\n    from worker import engine"),
        ("worker-not-scheduler", "worker/app.py", "from scheduler.core.request import Request"),
        ("worker-not-scheduler", "worker/app.py", "import importlib\nimportlib.import_module('scheduler.config')"),
        ("common-neither", "common/cli.py", "from scheduler import app"),
        ("common-neither", "common/cli.py", "import worker as engine_host"),
        ("stubs-in-common-only-in-client", "common/cli.py", "from sluice.v1 import inference_pb2"),
        ("core-is-pure", "scheduler/core/queue.py", "import time"),
        ("core-is-pure", "scheduler/core/queue.py", "import grpc.aio"),
        ("core-is-pure", "scheduler/core/queue.py", "from scheduler import config"),
        ("core-is-pure", "scheduler/core/queue.py", "from .. import config"),
        ("core-is-pure", "scheduler/core/queue.py", "from random import random"),
        ("vllm-only-in-its-adapter", "worker/session.py", "import vllm.sampling_params"),
        ("vllm-only-in-its-adapter", "worker/detokenizer.py", "from vllm.v1.engine import detokenizer"),
        ("vllm-only-in-its-adapter", "tools/probe.py", "from vllm import SamplingParams"),
        ("scheduler-process-is-light", "scheduler/prompt.py", "from transformers import AutoTokenizer"),
        ("scheduler-process-is-light", "common/client.py", "import torch"),
        ("nothing-shipped-needs-tests", "worker/app.py", "from tests.common import serving"),
    ],
)
def test_a_breach_is_seen(name: str, path: str, source: str) -> None:
    (rule,) = (rule for rule in RULES if rule.name == name)
    assert len(violations(rule, PurePosixPath(path), source)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("scheduler/worker_pool.py", "from sluice.worker.v1 import worker_pb2\nfrom scheduler import worker_session"),
        ("scheduler/core/queue.py", "from collections.abc import Callable\nfrom scheduler.core import request"),
        ("scheduler/core/queue.py", "from .request import Request\nfrom . import fleet"),
        ("common/client.py", "from sluice.v1 import inference_pb2"),
        ("worker/vllm_engine.py", "import vllm"),
        ("worker/vllm_load.py", "from vllm.v1.engine import EngineCoreOutputs"),
        ("tests/engine/test_text.py", "import vllm"),
    ],
)
def test_what_is_allowed_is_no_breach(path: str, source: str) -> None:
    assert [each for rule in RULES for each in violations(rule, PurePosixPath(path), source)] == []
