"""What two real processes tell Prometheus and the log about requests that end in every way."""

import asyncio
import json
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from common.client import Client, ask
from sluice.v1 import inference_pb2
from tests.integration.apart import address_of, lone_scheduler, lone_worker
from tests.integration.house import eventually
from tests.integration.stream import LONG, Stream, tokens
from tests.processes import Sluice, free_port

SECRET = "Xylophon"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@dataclass
class Day:
    """A scheduler and a worker after a day's work, and what their callers saw.

    Attributes:
        outcomes: How many requests ended how, by priority and outcome.
        ids: Ids of the requests that were accepted.
        texts: The answers, and token ids of prompts and answers as a log would show them.
        idle, busy, over: The samples of both endpoints at the begin, while a request waits, and in the end.

    """

    sluice: Sluice
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    ids: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)
    output_tokens: Counter[str] = field(default_factory=Counter)
    first_tokens: Counter[str] = field(default_factory=Counter)
    prompt_tokens: Counter[str] = field(default_factory=Counter)
    started: Counter[str] = field(default_factory=Counter)
    idle: Samples = field(default_factory=dict)
    busy: Samples = field(default_factory=dict)
    over: Samples = field(default_factory=dict)

    async def note(self, priority: str, outcome: str, stream: Stream) -> None:
        """Read a stream to its end and remember how that was."""
        try:
            await stream.finished()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            assert outcome != "ok"
        self.outcomes[priority, outcome] += 1
        answer = stream.answer
        self.texts += answer.texts.values()
        self.texts += [str(ids)[1:-1] for ids in answer.token_ids.values()]
        self.output_tokens[priority] += sum(map(len, answer.token_ids.values()))
        if answer.accepted is not None:
            self.ids.add(answer.accepted.request_id)
            if answer.token_ids or (stream.answer.finished is not None and stream.answer.finished.worker):
                self.started[priority] += 1
                self.prompt_tokens[priority] += answer.accepted.prompt_tokens
        if answer.token_ids:
            self.first_tokens[priority] += 1


async def scraped(*ports: int) -> Samples:
    """Read the endpoints as Prometheus does."""
    samples: Samples = {}
    for port in ports:
        with await asyncio.to_thread(urllib.request.urlopen, f"http://127.0.0.1:{port}/metrics") as reply:
            text = reply.read().decode()
        for family in text_string_to_metric_families(text):
            assert family.documentation
            assert family.type in ("counter", "gauge", "histogram")
            for sample in family.samples:
                samples[sample.name, frozenset(sample.labels.items())] = sample.value
    return samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def secret(priority: str, **fields: Any) -> Any:
    return ask(f"{SECRET} {priority}", priority=priority, **fields)


BAD: Mapping[str, Any] = {
    "temperature": ask(SECRET, sampling={"temperature": 7.0}),
    "stop": ask(SECRET, sampling={"stop": [SECRET] * 100}),
    "schema": ask(SECRET, sampling={"structured_output": {"json_schema": f'{{"type": "{SECRET}"'}}),
    "role": ask(messages=[{"role": SECRET, "content": SECRET}]),
    "too long": ask(SECRET * 40_000),
}


@pytest_asyncio.fixture(scope="module")
async def day() -> AsyncIterator[Day]:
    ports = free_port(), free_port()
    with Sluice(
        worker_arguments=["--max-sequences", "2", "--metrics-listen", f"127.0.0.1:{ports[0]}", "--log.level", "debug"],
        scheduler_arguments=[
            *("--max-queued-requests", "1", "--metrics-listen", f"127.0.0.1:{ports[1]}", "--log.level", "debug"),
            *("--policy", "strict-priority"),  # it lets deadlines come that another would have foreseen
        ],
    ) as sluice:
        day = Day(sluice)
        day.idle = await scraped(*ports)
        async with Client(sluice.address) as client:
            await run(day, client, ports)
            counting = inference_pb2.CountTokensRequest(prompt=f"{SECRET} high", return_ids=True)
            day.texts.append(str(list((await client.stub.CountTokens(counting)).token_ids))[1:-1])
            await until_over(client)
        day.over = await scraped(*ports)
        sluice.scheduler.popen.terminate()
        await asyncio.to_thread(sluice.scheduler.popen.wait, 20)
        yield day


async def run(day: Day, client: Client, ports: tuple[int, int]) -> None:
    """Let requests end in every way."""
    for priority, count in (("high", 12), ("normal", 7), ("low", 30)):
        await day.note(priority, "ok", Stream(client, secret(priority, sampling=tokens(count))))
    await day.note("low", "ok", Stream(client, secret("low", sampling={"n": 2, **tokens(40)})))
    await day.note("high", "ok", Stream(client, secret("high", sampling=LONG, time_budget_s=0.2)))
    await day.note("high", "deadline_while_running", Stream(client, secret("high", sampling=LONG), timeout_s=0.5))

    for request in BAD.values():
        await day.note("unknown", "invalid_request", Stream(client, request))
    unserved = secret("high")
    unserved.model = SECRET
    await day.note("unknown", "model_not_found", Stream(client, unserved))
    unable = secret("high", sampling={"structured_output": {"regex": SECRET}})
    await day.note("high", "invalid_request", Stream(client, unable))
    await day.note("high", "too_large", Stream(client, secret("high", sampling={"n": 3})))

    running = Stream(client, secret("normal", sampling={"n": 2, **LONG}))
    await running.until("chunk")
    late = Stream(client, secret("low", sampling=tokens(3)), timeout_s=0.5)
    await late.accepted()
    day.busy = await scraped(*ports)
    await day.note("high", "queue_full", Stream(client, secret("high")))
    await day.note("low", "deadline_in_queue", late)
    waits = Stream(client, secret("low"))
    await waits.accepted()
    waits.cancel()
    await day.note("low", "cancelled", waits)
    async with asyncio.timeout(20):  # else it might get the place that the next cancel frees
        while value(await scraped(*ports), "sluice_queue_requests", service_class="low"):
            await asyncio.sleep(0.02)
    running.cancel()
    await day.note("normal", "cancelled", running)


async def until_over(client: Client) -> None:
    """Wait until the scheduler has noted the cancelled ones: one more request takes their place."""
    async with asyncio.timeout(20):
        await Stream(client, ask("last", priority="normal", sampling={"n": 2, **tokens(2)})).finished()


def finished_events(day: Day) -> list[dict[str, Any]]:
    return [event for event in day.sluice.scheduler.log() if event["event"] == "request finished"]


async def test_requests_are_counted_by_class_and_outcome(day: Day) -> None:
    expected = day.outcomes + Counter({("normal", "ok"): 1})
    for (priority, outcome), count in expected.items():
        assert value(day.over, "sluice_requests_total", service_class=priority, outcome=outcome) == count, outcome
    counted = sum(number for (name, _), number in day.over.items() if name == "sluice_requests_total")
    assert counted == expected.total()


async def test_tokens_and_first_tokens_are_those_that_the_callers_got(day: Day) -> None:
    for priority in ("high", "low"):
        assert value(day.over, "sluice_output_tokens_total", service_class=priority) == day.output_tokens[priority]
        first = value(day.over, "sluice_time_to_first_token_seconds_count", service_class=priority)
        assert first == day.first_tokens[priority]
        assert value(day.over, "sluice_time_to_first_token_seconds_sum", service_class=priority) > first * 0.005
        per_token = value(day.over, "sluice_time_per_output_token_seconds_count", service_class=priority)
        assert per_token == first
        assert value(day.over, "sluice_time_per_output_token_seconds_sum", service_class=priority) > per_token * 0.0048


async def test_moves_to_another_worker_are_counted() -> None:
    port = free_port()
    async with (
        lone_worker() as (one, dying),
        lone_worker() as (other, _),
        lone_scheduler(address_of(one), address_of(other), metrics_listen=f"127.0.0.1:{port}") as scheduler,
        Client(address_of(scheduler)) as client,
    ):
        await eventually(lambda: scheduler.dispatcher.workers == 2)
        streams = [Stream(client, ask("hi", sampling=tokens(300))) for _ in range(4)]
        for stream in streams:
            await stream.until("chunk")
        dying.die("it was told to")
        moves = sum([(await stream.finished()).failovers for stream in streams])
        assert moves == len(dying.submitted) > 0
        assert value(await scraped(port), "sluice_failovers_total", service_class="high") == moves


async def test_the_time_in_the_queue_is_that_of_requests_that_reached_a_worker(day: Day) -> None:
    assert value(day.over, "sluice_queue_seconds_count", service_class="low") == day.started["low"] == 2
    assert value(day.over, "sluice_prompt_tokens_total", service_class="low") == day.prompt_tokens["low"]
    assert value(day.over, "sluice_request_seconds_count", service_class="low") == day.started["low"] + 2


async def test_gauges_tell_what_waits_and_runs_now(day: Day) -> None:
    assert value(day.busy, "sluice_queue_requests", service_class="low") == 1
    assert value(day.busy, "sluice_queue_requests", service_class="high") == 0
    (running,) = [number for (name, _), number in day.busy.items() if name == "sluice_worker_running_requests"]
    assert running == 1
    for samples in (day.idle, day.busy, day.over):
        assert value(samples, "sluice_workers") == 1
    for samples in (day.idle, day.over):
        assert value(samples, "sluice_queue_requests", service_class="low") == 0


async def test_the_worker_tells_its_engines_load(day: Day) -> None:
    assert value(day.idle, "sluice_engine_running_requests") == 0
    assert value(day.busy, "sluice_engine_running_requests") == 2
    assert value(day.busy, "sluice_engine_kv_cache_usage_ratio") > 0
    assert value(day.over, "sluice_engine_kv_cache_usage_ratio") == 0
    assert value(day.over, "sluice_engine_running_requests") == 0
    assert value(day.over, "sluice_engine_waiting_requests") == 0
    assert value(day.over, "sluice_engine_steps_total") > 100
    assert value(day.over, "sluice_engine_preemptions_total") == 0


async def test_every_request_ends_with_one_line_that_is_its_receipt(day: Day) -> None:
    events = finished_events(day)
    assert len({event["request_id"] for event in events}) == len(events) == day.outcomes.total() + 1
    assert day.ids < {event["request_id"] for event in events}
    outcomes = Counter((event.get("service_class", "unknown"), event["outcome"]) for event in events)
    assert outcomes == day.outcomes + Counter({("normal", "ok"): 1})
    assert sum(event.get("output_tokens", 0) for event in events if event.get("service_class") == "low") == 110
    for event in events:
        assert event["total_s"] >= 0
        if event["outcome"] == "ok":
            assert event["worker"].startswith("worker-")
            assert event["queued_s"] <= event["time_to_first_token_s"] <= event["total_s"]


async def test_no_log_line_holds_a_prompt_or_an_answer(day: Day) -> None:
    texts = [text[:30] for text in day.texts if len(text) >= 12]
    assert len(texts) > 3
    for process in (day.sluice.scheduler, *day.sluice.workers):
        log = process.log_path.read_text()
        assert len(log.splitlines()) > 2
        assert SECRET not in log
        assert not any(text in log or json.dumps(text)[1:-1] in log for text in texts)


async def test_nothing_that_callers_do_is_an_error_of_ours(day: Day) -> None:
    for process in (day.sluice.scheduler, *day.sluice.workers):
        assert [event for event in process.log() if event.get("level") in ("error", "critical")] == []
