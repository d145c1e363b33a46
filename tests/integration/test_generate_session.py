"""GenerateSession: many requests over one stream, as good as a call for each."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from common.client import Answer, Client, RequestError, Session, ask
from common.rich_status import read_details
from sluice.v1 import inference_pb2
from sluice.v1.inference_pb2 import GenerateSessionRequest, SessionEvent, SessionSubmit
from tests.integration.house import House, eventually, house
from tests.integration.stream import LONG, reason, tokens, waiting


@pytest_asyncio.fixture(scope="module")
async def running() -> AsyncIterator[House]:
    async with house(worker={"simulated": {"speed": 4.0}}, scheduler={"policy": "fcfs"}) as built:
        yield built


def submit(name: str, request: inference_pb2.GenerateRequest, **fields: Any) -> SessionSubmit:
    return SessionSubmit(id=name, request=request, **fields)


class Talk:
    """A GenerateSession call spoken by hand."""

    def __init__(self, client: Client, **options: Any) -> None:
        self.call = client.stub.GenerateSession(**options)
        self.events: dict[str, list[SessionEvent]] = defaultdict(list)
        self.messages = 0

    async def say(self, *submits: SessionSubmit, cancel: Iterable[str] = ()) -> None:
        await self.call.write(GenerateSessionRequest(submits=submits, cancel_ids=cancel))

    async def until_ended(self, *names: str) -> None:
        """Read until these requests have ended."""
        while not all(self.has_ended(name) for name in names):
            await self.read()

    async def read(self) -> None:
        message = await self.call.read()
        assert isinstance(message, inference_pb2.GenerateSessionResponse), "the session ended"
        self.messages += 1
        for event in message.events:
            assert not self.has_ended(event.id) or not event.id, f"{event.id} has an event after its last"
            self.events[event.id].append(event)

    def has_ended(self, name: str) -> bool:
        events = self.events[name]
        return bool(events) and (events[-1].HasField("status") or events[-1].response.HasField("finished"))

    def answer(self, name: str) -> Answer:
        """Return a whole answer, checked."""
        kinds = [event.response.WhichOneof("event") for event in self.events[name]]
        assert (kinds[0], kinds[-1]) == ("accepted", "finished")
        answer = Answer()
        for event in self.events[name]:
            answer.add(event.response)
        assert answer.finished is not None
        assert sum(map(len, answer.token_ids.values())) == answer.finished.usage.output_tokens
        return answer

    def status(self, name: str) -> inference_pb2.RequestStatus:
        return self.events[name][-1].status

    def reason(self, name: str) -> str:
        return reason(RequestError(self.status(name)))

    async def ends_well(self) -> None:
        await self.call.done_writing()
        while (message := await self.call.read()) != grpc.aio.EOF:
            for event in message.events:
                self.events[event.id].append(event)
        assert await self.call.code() is grpc.StatusCode.OK


async def test_many_requests_share_messages_and_each_is_answered_as_by_generate(running: House) -> None:
    talk = Talk(running.client)
    names = [str(number) for number in range(100)]
    asked = ask("hello", sampling={"temperature": 0, **tokens(20)})
    await talk.say(*(submit(name, asked) for name in names))
    await talk.until_ended(*names)
    alone = await running.client.generate(asked)
    assert {talk.answer(name).text for name in names} == {alone.text}
    assert talk.messages < 100 * 20 / 5
    accepted, finished = talk.answer("0").accepted, talk.answer("0").finished
    assert accepted is not None
    assert finished is not None
    assert (accepted.max_tokens, accepted.service_class, finished.usage.output_tokens) == (20, "high", 20)
    await talk.ends_well()


async def test_half_closing_lets_the_running_requests_end(running: House) -> None:
    talk = Talk(running.client)
    await talk.say(submit("a", ask("hi", sampling=tokens(50))))
    await talk.ends_well()
    assert talk.answer("a").finished is not None


async def test_a_cancel_ends_its_request_alone_and_frees_the_engine() -> None:
    async with house() as built:
        talk = Talk(built.client)
        await talk.say(submit("a", ask("hi", sampling=LONG)), submit("b", ask("hi", sampling=tokens(200))))
        while len(talk.events["a"]) < 3:
            await talk.read()
        await talk.say(cancel=["a", "nobody"])
        await talk.until_ended("a", "b")
        assert talk.status("a").code == grpc.StatusCode.CANCELLED.value[0]
        assert len(talk.answer("b").token_ids[0]) == 200
        assert len(built.engine.aborted) == 1
        await talk.ends_well()


async def test_a_request_cancelled_in_the_message_that_submits_it_ends_cancelled(running: House) -> None:
    talk = Talk(running.client)
    await talk.say(submit("a", ask("hi", sampling=LONG)), cancel=["a"])
    await talk.until_ended("a")
    assert talk.status("a").code == grpc.StatusCode.CANCELLED.value[0]
    await talk.ends_well()


async def test_an_id_may_be_used_again_once_its_request_has_ended(running: House) -> None:
    talk = Talk(running.client)
    for _ in range(3):
        await talk.say(submit("a", ask("hi", sampling=tokens(2))))
        await talk.until_ended("a")
        assert talk.answer("a").finished is not None
        talk.events.clear()
    await talk.ends_well()


@pytest.mark.parametrize("name", ["", "x" * 129, "taken"])
async def test_an_id_that_cannot_be_used_fails_that_submit_alone_and_names_the_field(running: House, name: str) -> None:
    talk = Talk(running.client)
    await talk.say(submit("taken", ask("hi", sampling=tokens(30))))
    await talk.say(submit("other", ask("hi", sampling=tokens(2))), submit(name, ask("hi")))
    await talk.until_ended("taken", "other", "")
    bad = bad_request(talk.status(""))
    assert [each.field for each in bad.field_violations] == ["submits[1].id"]
    assert talk.answer("taken").finished is not None
    assert talk.answer("other").finished is not None
    await talk.ends_well()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"request": ask("")}, "prompt"),
        ({"request": ask("hi", sampling={"top_p": 3.0})}, "sampling.top_p"),
        ({"request": inference_pb2.GenerateRequest()}, "input"),
        ({"request": ask("hi"), "timeout": {"seconds": -1}}, "timeout"),
        ({"request": ask("hi"), "timeout": {"seconds": 1, "nanos": -1}}, "timeout"),
        ({"request": ask("hi"), "tenant": "x" * 65}, "tenant"),
        ({"request": ask("hi"), "tenant": "tab\t"}, "tenant"),
    ],
)
async def test_bad_input_fails_its_request_alone_and_names_the_field(
    running: House, wrong: dict[str, Any], field: str
) -> None:
    talk = Talk(running.client)
    await talk.say(SessionSubmit(id="bad", **wrong), submit("good", ask("hi", sampling=tokens(2))))
    await talk.until_ended("bad", "good")
    assert [each.field for each in bad_request(talk.status("bad")).field_violations] == [field]
    assert talk.answer("good").finished is not None
    await talk.ends_well()


async def test_a_request_beyond_the_bound_of_bytes_fails_alone() -> None:
    async with house(scheduler={"server": {"max_message_bytes": 1024}}) as built:
        talk = Talk(built.client)
        await talk.say(submit("big", ask("x" * 2000)), submit("small", ask("hi", sampling=tokens(2))))
        await talk.until_ended("big", "small")
        assert "at most 1024 are accepted" in talk.status("big").message
        assert talk.answer("small").finished is not None
        await talk.ends_well()


async def test_bytes_that_are_no_message_end_the_session_with_a_typed_error(running: House) -> None:
    async with grpc.aio.insecure_channel(running.address) as channel:
        same = channel.stream_stream("/sluice.v1.InferenceService/GenerateSession", lambda x: x, lambda x: x)
        call = same(
            iter([GenerateSessionRequest(submits=[submit("a", ask("hi", sampling=LONG))]).SerializeToString(), b"\xff"])
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason(caught.value) == "INVALID_REQUEST"
    await eventually(running.is_idle)


async def test_timeouts_are_the_requests_deadlines_and_the_sessions_is_the_latest(running: House) -> None:
    talk = Talk(running.client, timeout=20)
    await talk.say(
        submit("short", ask("hi", sampling=LONG), timeout={"nanos": 300_000_000}),
        submit("long", ask("hi", sampling=tokens(2)), timeout={"seconds": 100}),
        submit("soft", ask("hi", sampling=LONG, time_budget_s=0.2)),
    )
    await talk.until_ended("short", "long", "soft")
    assert talk.reason("short") == "DEADLINE_WHILE_RUNNING"
    assert detail(talk.status("short"), inference_pb2.FailureReceipt).usage.output_tokens > 0
    accepted = talk.answer("long").accepted
    assert accepted is not None
    assert accepted.deadline_rule == inference_pb2.DEADLINE_RULE_CALL
    assert 15 < accepted.time_left.ToTimedelta().total_seconds() <= 20
    assert talk.answer("soft").finished is not None
    await talk.ends_well()


async def test_a_submit_may_name_its_tenant(running: House) -> None:
    talk = Talk(running.client, metadata=(("sluice-tenant", "gateway"),))
    await talk.say(
        submit("own", ask("hi", sampling=tokens(2)), tenant="acme"), submit("session", ask("hi", sampling=tokens(2)))
    )
    await talk.until_ended("own", "session")
    named = {name: accepted.tenant for name in talk.events if (accepted := talk.answer(name).accepted)}
    assert named == {"own": "acme", "session": "gateway"}
    await talk.ends_well()


async def test_the_end_of_the_call_cancels_what_runs_and_what_waits() -> None:
    async with house(worker={"max_sequences": 2}) as built:
        talk = Talk(built.client)
        await talk.say(*(submit(str(number), ask("hi", sampling=LONG)) for number in range(5)))
        await eventually(lambda: len(built.engine.submitted) == 2 and waiting(built) == 3)
        talk.call.cancel()
        await eventually(built.is_idle)
        assert len(built.engine.aborted) == 2


async def test_a_request_that_waits_hears_of_its_place(running: House) -> None:
    async with house(worker={"max_sequences": 1}, scheduler={"policy": "fcfs"}) as built:
        talk = Talk(built.client)
        for name in "abc":  # one by one: prompts are read by several threads
            await talk.say(submit(name, ask("hi", sampling=LONG)))
            while not talk.events[name]:
                await talk.read()
        assert talk.events["c"][0].response.accepted.queue_position == 1
        await talk.say(cancel=["b"])
        while not any(event.response.HasField("queue_update") for event in talk.events["c"]):
            await talk.read()
        talk.call.cancel()


async def test_a_session_ends_with_the_process_once_its_requests_have_ended() -> None:
    async with house() as built:
        talk = Talk(built.client)
        await talk.say(submit("a", ask("hi", sampling=tokens(100))))
        while len(talk.events["a"]) < 2:
            await talk.read()
        draining = asyncio.create_task(built.scheduler.drain())
        await eventually(lambda: built.scheduler.is_draining)
        await talk.say(submit("late", ask("hi")))
        await talk.until_ended("a", "late")
        assert talk.answer("a").finished is not None
        assert talk.reason("late") == "DRAINING"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await talk.read()
        assert reason(caught.value) == "DRAINING"
        await draining


async def test_the_client_runs_requests_side_by_side_and_cancels_those_it_leaves() -> None:
    async with house() as built, built.client.session() as session:
        whole = await asyncio.gather(*(collected(session, 30) for _ in range(20)))
        assert [len(answer.token_ids[0]) for answer in whole] == [30] * 20
        async for response in session.generate(ask("hi", sampling=LONG)):
            if response.HasField("chunk"):
                break
        await eventually(lambda: len(built.engine.aborted) == 1)
        assert len((await collected(session, 3)).token_ids[0]) == 3


async def test_the_client_raises_what_generate_raises(running: House) -> None:
    async with running.client.session() as session:
        with pytest.raises(RequestError) as caught:
            async for _ in session.generate(ask("")):
                pass
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason(caught.value) == "INVALID_REQUEST"
        with pytest.raises(RequestError) as late:
            async for _ in session.generate(ask("hi", sampling=LONG), timeout_s=0.2):
                pass
        assert reason(late.value) == "DEADLINE_WHILE_RUNNING"


async def test_the_clients_requests_fail_when_the_session_breaks() -> None:
    async with house() as built, Client(built.address) as client, client.session() as session:
        asked = asyncio.create_task(collected(session, 2048))
        await eventually(lambda: bool(built.engine.submitted))
        await built.scheduler._server.stop(grace=0)
        with pytest.raises(grpc.RpcError):
            await asked
        with pytest.raises(grpc.RpcError):
            await collected(session, 1)


async def collected(session: Session, count: int) -> Answer:
    answer = Answer()
    async for response in session.generate(ask("hi", sampling=tokens(count))):
        answer.add(response)
    return answer


def detail(status: inference_pb2.RequestStatus, kind: type[Message]) -> Any:
    (found,) = (each for each in read_details(RequestError(status)) if isinstance(each, kind))
    return found


def bad_request(status: inference_pb2.RequestStatus) -> error_details_pb2.BadRequest:
    found = detail(status, error_details_pb2.BadRequest)
    assert isinstance(found, error_details_pb2.BadRequest)
    return found


async def test_an_answer_whose_first_token_is_its_last_ends(running: House) -> None:
    talk = Talk(running.client)
    await talk.say(submit("a", ask("hi", sampling=tokens(1))))
    await talk.until_ended("a")
    assert sum(map(len, talk.answer("a").token_ids.values())) == 1
    talk.call.cancel()
