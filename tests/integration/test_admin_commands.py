"""The operators' commands as a person meets them."""

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from common.client import ask
from tests.integration.grpcurl import Ran, run
from tests.integration.house import House, house
from tests.integration.stream import LONG, Stream, reason
from tests.processes import free_port

SLUICE = Path(sys.executable).parent / "sluice"


@pytest_asyncio.fixture
async def running() -> AsyncIterator[House]:
    async with house(scheduler={"policy": "fcfs"}) as built:
        yield built


async def sluice(built: House, *arguments: str) -> Ran:
    return await run(SLUICE, *arguments, "--address", f"127.0.0.1:{built.scheduler.admin.port}")


async def begun(built: House, tenant: str) -> Stream:
    stream = Stream(built, ask("hello", sampling=LONG), timeout_s=60, tenant=tenant)
    await stream.until("chunk")
    return stream


async def test_requests_are_a_table_for_people_and_json_for_programs(running: House) -> None:
    stream = await begun(running, "acme")
    assert stream.answer.accepted is not None
    request_id = stream.answer.accepted.request_id
    shown, parsed = await sluice(running, "requests"), await sluice(running, "requests", "--format", "json")
    head, row = shown.out.splitlines()
    assert head.split()[:4] == ["REQUEST", "TENANT", "CLASS", "STATE"]
    assert row.split()[:4] == [request_id, "acme", "high", "running"]
    (message,) = json.loads(parsed.out)["requests"]
    assert (message["request_id"], message["state"]) == (request_id, "REQUEST_STATE_RUNNING")
    none = await sluice(running, "requests", "--tenant", "other")
    assert none.out.splitlines() == ["REQUEST  TENANT  CLASS  STATE  WORKER  BEFORE  WAIT  AGE  LEFT  TOKENS"]
    stream.cancel()


async def test_cancel_ends_what_it_names_and_says_how_many(running: House) -> None:
    hit, spared = await begun(running, "acme"), await begun(running, "other")
    cancelled = await sluice(running, "cancel", "--tenant", "acme")
    assert (cancelled.status, cancelled.out) == (0, "1 cancelled\n")
    assert reason(await hit.error()) == "CANCELLED_BY_OPERATOR"
    await spared.until("chunk")
    spared.cancel()


async def test_cancel_without_a_word_about_what_cancels_nothing(running: House) -> None:
    stream = await begun(running, "acme")
    refused = await sluice(running, "cancel")
    assert (refused.status, refused.out) == (1, "")
    assert "INVALID_REQUEST" in refused.err
    await stream.until("chunk")
    stream.cancel()


async def test_a_worker_is_listed_drained_and_taken_back(running: House) -> None:
    listed = await sluice(running, "workers")
    worker = listed.out.splitlines()[1].split()[0]
    assert " ready " in listed.out
    assert " closed " in listed.out
    assert " draining " in (await sluice(running, "drain", worker)).out
    assert " draining " in (await sluice(running, "workers")).out
    assert " ready " in (await sluice(running, "drain", "--undo", worker)).out
    unknown = await sluice(running, "drain", "nobody")
    assert (unknown.status, unknown.err) == (
        1,
        "sluice: NOT_FOUND (WORKER_NOT_FOUND): there is no worker nobody\n",
    )


async def test_limits_are_shown_and_changed(running: House) -> None:
    assert (await sluice(running, "limits")).out == "max_queued_requests  1024\nmax_tokens_cap       2048\n"
    changed = await sluice(running, "limits", "--max-queued-requests", "0")
    assert changed.out == "max_queued_requests  0\nmax_tokens_cap       2048\n"
    refused = await sluice(running, "limits", "--max-tokens-cap", "0")
    assert refused.status == 1
    assert "limits.max_tokens_cap" in refused.err


async def test_tenants_limits_are_shown_and_changed(running: House) -> None:
    changed = await sluice(running, "tenants", "acme", "--tokens-per-minute", "600", "--weight", "2.5")
    assert [line.split() for line in changed.out.splitlines()[1:]] == [
        ["(others)", "-", "-", "1"],
        ["acme", "600", "-", "2.5"],
    ]
    changed = await sluice(running, "tenants", "acme", "--tokens-per-minute", "none", "--max-requests", "3")
    assert changed.out == (await sluice(running, "tenants")).out
    assert changed.out.splitlines()[2].split() == ["acme", "-", "3", "2.5"]
    refused = await sluice(running, "tenants", "acme", "--weight", "-1")
    assert refused.status == 1
    assert "limits.weight: must be above 0; got -1" in refused.err
    nobodys = await sluice(running, "tenants", "--max-requests", "3")
    assert (nobodys.status, nobodys.out) == (2, "")
    assert "name the tenant" in nobodys.err


async def test_without_a_scheduler_the_address_is_named() -> None:
    address = f"127.0.0.1:{free_port()}"
    ran = await run(SLUICE, "workers", "--address", address)
    assert ran.status == 1
    assert ran.err.startswith(f"sluice: cannot reach the scheduler at {address}: ")
