"""The commands as a person meets them: what is printed where, exit statuses, help."""

import asyncio
import json
import math
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from common.client import ask
from common.setting_field import setting_fields
from common.settings import Settings
from scheduler.config import SchedulerSettings
from sluice.v1 import inference_pb2, inference_pb2_grpc
from tests.integration.grpcurl import Ran, run
from tests.integration.house import House, eventually, house
from tests.processes import free_port
from worker.config import WorkerSettings

COMMANDS = Path(sys.executable).parent
GENERATE_OPTIONS = [
    *("address", "raw", "system", "priority", "timeout", "time-budget", "max-tokens", "temperature"),
    *("top-p", "top-k", "seed", "stop", "json-schema", "receipt", "service-class", "tenant"),
]
UP_OPTIONS = [
    *("engine", "model", "workers", "tensor-parallel-size", "listen"),
    *("worker-port", "metrics-port", "admin-port", "cache"),
]
SHORT = ["--max-tokens", "12", "--seed", "7"]


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[House]:
    async with house() as built:
        yield built


async def generate(address: str, *arguments: str, stdin: bytes | None = None) -> Ran:
    return await run(COMMANDS / "sluice", "generate", *arguments, "--address", address, stdin=stdin)


def one_line(text: str) -> str:
    """Return a text without its line's end; it must be one line."""
    assert text.count("\n") == 1, text
    assert text.endswith("\n")
    return text[:-1]


class Recorder(inference_pb2_grpc.InferenceServiceServicer):
    """Remembers what it was asked, says one word, and fails when told to."""

    def __init__(self) -> None:
        self.requests: list[inference_pb2.GenerateRequest] = []
        self.time_left_s: list[float | None] = []
        self.fails = False

    async def Generate(self, request: inference_pb2.GenerateRequest, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.requests.append(request)
        self.time_left_s.append(context.time_remaining())
        yield inference_pb2.GenerateResponse(chunk=inference_pb2.Chunk(text="word"))
        if self.fails:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "gone\nfor good")


@asynccontextmanager
async def recording() -> AsyncIterator[tuple[Recorder, str]]:
    recorder, server = Recorder(), grpc.aio.server()  # type: ignore[abstract]
    inference_pb2_grpc.add_InferenceServiceServicer_to_server(recorder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield recorder, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_the_answer_goes_to_standard_output_and_nothing_else_does(running: House) -> None:
    sampling = {"max_tokens": 12, "seed": 7}
    answer = await running.client.generate(ask(messages=[{"role": "user", "content": "hello"}], sampling=sampling))
    assert await generate(running.address, "hello", *SHORT) == Ran(0, answer.text + "\n", "")


async def test_terms_and_receipt_go_to_standard_error_as_lines_of_json(running: House) -> None:
    ran = await generate(running.address, "hello", *SHORT, "--receipt")
    accepted, finished = map(json.loads, ran.err.splitlines())
    assert accepted["accepted"]["max_tokens"] == 12
    assert finished["finished"]["usage"]["output_tokens"] > 0
    assert ran.out.count("\n") == 1


async def test_every_option_reaches_the_request() -> None:
    options = {
        "--system": "be brief",
        "--priority": "low",
        "--timeout": "33",
        "--time-budget": "2.5",
        "--max-tokens": "9",
        "--temperature": "0.5",
        "--top-p": "0.25",
        "--top-k": "7",
        "--seed": "-3",
        "--json-schema": '{"type": "object"}',
    }
    arguments = [part for option in options.items() for part in option]
    async with recording() as (recorder, address):
        ran = await asyncio.gather(
            generate(address, "hello", *arguments, "--stop", "a", "--stop", "b"),
            generate(address, "to be", "--raw"),
        )
    assert [each.status for each in ran] == [0, 0]
    schema = {"json_schema": '{"type": "object"}'}
    chat = ask(
        messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        sampling={"max_tokens": 9, "temperature": 0.5, "top_p": 0.25, "top_k": 7, "seed": -3, "stop": ["a", "b"]}
        | {"structured_output": schema},
        priority="low",
        time_budget_s=2.5,
    )
    raw, full = sorted(recorder.requests, key=lambda request: request.HasField("chat"))
    assert (raw, full) == (ask("to be", sampling={}), chat)
    (time_left_s,) = (left for left in recorder.time_left_s if left is not None)
    assert 20 < time_left_s <= 33


async def test_a_dash_reads_the_prompt_from_standard_input() -> None:
    async with recording() as (recorder, address):
        ran = await generate(address, "-", stdin="zwölf\nlines".encode())
        assert ran == Ran(0, "word\n", "")
        assert recorder.requests[0].chat.messages[0].content == "zwölf\nlines"
        refused = await generate(address, "-", stdin=b"ab\xff")
    assert (refused.status, refused.out, len(recorder.requests)) == (1, "", 1)
    assert "0xff in position 2" in one_line(refused.err)


async def test_the_address_can_come_from_the_environment() -> None:
    async with recording() as (_, address):
        environment = {**os.environ, "SLUICE_ADDRESS": address}
        assert await run(COMMANDS / "sluice", "generate", "hello", env=environment) == Ran(0, "word\n", "")


async def test_an_error_is_one_line_that_says_what_is_wrong_and_status_1(running: House) -> None:
    bad = await generate(running.address, "hello", "--temperature", "9")
    assert (bad.status, bad.out) == (1, "")
    assert one_line(bad.err) == (
        "sluice: INVALID_ARGUMENT (INVALID_REQUEST): sampling.temperature: must be in [0, 2]; got 9"
    )


async def test_a_scheduler_that_is_not_there_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    lost = await generate(address, "hello")
    assert (lost.status, lost.out) == (1, "")
    assert one_line(lost.err) == f"sluice: cannot reach the scheduler at {address}: Connection refused"


async def test_an_error_after_some_text_begins_on_a_line_of_its_own() -> None:
    async with recording() as (recorder, address):
        recorder.fails = True
        broken = await generate(address, "hello")
    assert (broken.status, broken.out) == (1, "word\n")
    assert one_line(broken.err) == f"sluice: cannot reach the scheduler at {address}: gone for good"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--max-tokens", "-1"],
        ["--top-k", "4294967296"],
        ["--timeout", "0"],
        ["--time-budget", "nan"],
        ["--priority", "x"],
    ],
)
async def test_what_no_request_can_hold_is_a_usage_error(arguments: list[str]) -> None:
    refused = await generate("127.0.0.1:1", "hello", *arguments)
    assert (refused.status, refused.out) == (2, "")
    assert f"error: argument {arguments[0]}" in refused.err.splitlines()[-1]


# Undoes what a shell does for tests that it runs in the background: their children would ignore interrupts. Not by a
# function in the child, between fork and exec: among gRPC's threads that now and then ends it before it begins.
HEEDS_INTERRUPTS = ["env", "--default-signal=INT"]


@asynccontextmanager
async def begun(built: House) -> AsyncIterator[asyncio.subprocess.Process]:
    """A long answer whose first words have been printed."""
    command = [
        *HEEDS_INTERRUPTS,
        COMMANDS / "sluice",
        "generate",
        "hello",
        "--max-tokens",
        "2048",
        "--address",
        built.address,
    ]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    try:
        assert await process.stdout.read(1)
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest_asyncio.fixture(scope="module")
async def endless() -> AsyncIterator[House]:
    async with house(worker={"simulated": {"output_tokens_median": 1e6, "output_tokens_sigma": 0}}) as built:
        yield built


async def test_ctrl_c_cancels_the_request_and_is_quiet(endless: House) -> None:
    aborted = len(endless.engine.aborted)
    async with begun(endless) as process:
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
    assert (process.returncode, err) == (130, b"")
    await eventually(endless.is_idle)
    assert len(endless.engine.aborted) == aborted + 1


async def test_a_reader_that_has_had_enough_cancels_the_request_and_is_no_error(endless: House) -> None:
    command = f"'{COMMANDS / 'sluice'}' generate hello --max-tokens 2048 --address {endless.address} | head -c 5"
    ran = await run("bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}")
    assert (ran.status, len(ran.out), ran.err) == (141, 5, "")
    await eventually(endless.is_idle)


@pytest.mark.parametrize(
    ("command", "settings"), [("sluice-scheduler", SchedulerSettings), ("sluice-worker", WorkerSettings)]
)
async def test_the_help_of_a_process_has_every_setting_with_its_meaning_and_default(
    command: str, settings: type[Settings]
) -> None:
    ran = await run(COMMANDS / command, "--help")
    assert ran.status == 0, ran.err
    shown = "".join(ran.out.split())  # lines break at hyphens too
    for field in setting_fields(settings):
        assert field.flag in shown
        assert field.info.description
        assert "".join(field.help.replace("%%", "%").split()) in shown
    assert settings.environment_prefix in shown


async def test_the_help_of_sluice_has_every_command_and_option() -> None:
    top, asking, starting, version = await asyncio.gather(
        *(run(COMMANDS / "sluice", *words) for words in (["-h"], ["generate", "-h"], ["up", "-h"], ["--version"]))
    )
    assert "generate " in top.out
    assert "up " in top.out
    assert [option for option in GENERATE_OPTIONS if f"--{option} " not in asking.out] == []
    assert [option for option in UP_OPTIONS if f"--{option} " not in starting.out] == []
    assert version.out.startswith("sluice 0.")


async def test_a_command_without_its_arguments_says_how_it_is_used() -> None:
    for words in ([], ["generate"], ["nonsense"]):
        ran = await run(COMMANDS / "sluice", *words)
        assert (ran.status, ran.out) == (2, "")
        assert ran.err.startswith("usage: sluice")


async def explain(address: str, *arguments: str) -> Ran:
    return await run(COMMANDS / "sluice", "explain", *arguments, "--address", address)


async def test_explain_tells_a_person_terms_and_outlook(running: House) -> None:
    ran = await explain(running.address, "hello", "--service-class", "low", "--tenant", "acme", "--timeout", "60")
    assert (ran.status, ran.err) == (0, "")
    verdict, *lines = ran.out.splitlines()
    assert verdict.startswith("It would start at once, on worker-")
    told = {line[:13].strip(): line[13:] for line in lines}
    assert told["class"] == "low (requested); promised: first token 20 s"
    assert told["tenant"] == "acme"
    assert told["deadline"].endswith(" (call)")
    assert "tokens expected, 2048 at most" in told["output"]
    assert told["queue"] == "0 waiting, 1 worker(s)"
    assert told["estimate"].startswith("first token in 0.0")


async def test_explain_tells_why_a_request_would_be_refused(running: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.core.feasible_edf.PROBE_AFTER_S", math.inf)  # who is unserved for long is let in
    async with house(worker={"simulated": {"speed": 0.05}}) as slow:
        learnt_from = ask(token_ids=[300] * 2_000, sampling={"max_tokens": 3}, priority="high")
        await slow.client.generate(learnt_from)
        hopeless = await explain(slow.address, "word " * 20_000, "--priority", "high")
    assert hopeless.status == 1
    assert "It would be refused: INFEASIBLE" in hopeless.out
    wrong = await explain(running.address, "hello", "--service-class", "none")
    assert wrong.status == 1
    assert one_line(wrong.err).startswith("sluice: INVALID_ARGUMENT")
    assert "service_class" in wrong.err


async def test_explain_tells_a_program_the_same_as_json(running: House) -> None:
    ran = await explain(running.address, "hello", "--format", "json")
    told = json.loads(ran.out)
    assert told["terms"]["service_class"] == "high"
    assert told["worker"].startswith("worker-")
