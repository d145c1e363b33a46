import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from scheduler.errors import EngineFailed, SlowReader
from scheduler.mailbox import MESSAGE_BYTES, MOST_WAITING_EVENTS, Mailbox
from scheduler.outlet import STALL_S, Outgoing, StreamOutlet
from scheduler.pace import Pace
from scheduler.relay import MOST_HELD_OUTPUTS, Relay
from sluice.v1 import generation_pb2, inference_pb2
from sluice.worker.v1 import worker_pb2


class FixedPace(Pace):
    """A pace that a test sets."""

    fixed_s = 0.0

    def gap_s(self, now_s: float) -> float:
        return self.fixed_s


class Outlet:
    """An outlet that notes what is offered and lets it leave when a test says."""

    def __init__(self) -> None:
        self.offers: list[bool] = []
        self.stalled = False

    def offer(self, outgoing: Outgoing, *, urgent: bool) -> None:
        self.offers.append(urgent)

    def is_stalled(self) -> bool:
        return self.stalled

    def close(self) -> None:
        pass


def token(number: int, *, index: int = 0, last: bool = False) -> worker_pb2.Output:
    finish_reason = generation_pb2.FINISH_REASON_LENGTH if last else generation_pb2.FINISH_REASON_UNSPECIFIED
    return worker_pb2.Output(index=index, text=f"{number} ", token_ids=[number], finish_reason=finish_reason)


def relay(outlet: object, sequences: int = 1, stalls: list[str] | None = None) -> Relay:
    noted = [] if stalls is None else stalls
    return Relay(sequences, outlet, on_first_token=lambda: None, on_stall=lambda: noted.append("stall"))  # type: ignore[arg-type]


def taken(filled: Relay) -> list[inference_pb2.Chunk]:
    return list(filled.take(inference_pb2.Chunk))


async def test_only_the_first_output_is_urgent_and_what_waits_becomes_one_chunk_for_each_sequence() -> None:
    outlet = Outlet()
    filled = relay(outlet, sequences=2)
    for number in range(4):
        filled.push(token(number), "w")
        filled.push(token(10 + number, index=1), "w")
    assert outlet.offers == [True] + [False] * 7
    first, second = taken(filled)
    assert (first.index, first.first_token, first.text, list(first.token_ids)) == (0, 0, "0 1 2 3 ", [0, 1, 2, 3])
    assert (second.index, second.text) == (1, "10 11 12 13 ")
    filled.push(token(4), "w")
    assert [chunk.first_token for chunk in taken(filled)] == [4]
    assert taken(filled) == []


async def test_the_last_output_and_an_error_leave_at_once_whatever_the_outlet_says() -> None:
    finished, failed = relay(Outlet()), relay(Outlet())
    finished.push(token(1), "w")
    finished.push(token(2, last=True), "w")
    failed.push(token(1), "w")
    failed.fail(EngineFailed("w", "no memory"))
    assert [list(each.chunk.token_ids) async for each in finished.responses()] == [[1, 2]]
    responses = failed.responses()
    assert (await anext(responses)).chunk.token_ids == [1]
    with pytest.raises(EngineFailed):
        await anext(responses)


async def test_a_reader_that_takes_nothing_ends_its_own_request_once_much_is_held() -> None:
    outlet, stalls = Outlet(), list[str]()
    filled = relay(outlet, stalls=stalls)
    for number in range(2 * MOST_HELD_OUTPUTS):
        filled.push(token(number), "w")
    assert stalls == []  # the loop is slow, not the reader
    outlet.stalled = True
    filled.push(token(0), "w")
    assert stalls == ["stall"]
    filled.drop()
    filled.fail(SlowReader())
    with pytest.raises(SlowReader):
        await anext(filled.responses())


class Sender:
    """An outgoing that counts how often it was woken, and sends at once."""

    def __init__(self, outlet: StreamOutlet) -> None:
        self._outlet = outlet
        self.woken = 0

    def wake(self) -> None:
        self.woken += 1
        self._outlet.sending()
        self._outlet.sent()

    def take(self, new_chunk: object) -> list[inference_pb2.Chunk]:
        return []


@pytest.mark.parametrize(
    ("gap_s", "steps"),
    [(0.0, 1), (0.03, 1), (0.05, 1), (0.07, 2), (0.08, 2), (0.09, 2), (0.12, 3)],
)
async def test_a_stream_sends_with_the_step_nearest_to_its_time(
    monkeypatch: pytest.MonkeyPatch, gap_s: float, steps: int
) -> None:
    clock, step_s, pace = [100.0], 0.04, FixedPace()
    monkeypatch.setattr("scheduler.outlet.time.monotonic", lambda: clock[0])
    pace.fixed_s = gap_s
    outlet = StreamOutlet(pace)
    sender = Sender(outlet)
    sent = []
    for step in range(40):
        before = sender.woken
        outlet.offer(sender, urgent=step == 0)
        if sender.woken > before:
            sent.append(step)
        clock[0] += step_s * (1.2 if step % 8 == 5 else 1)  # that one is late changes nothing
    assert [later - earlier for earlier, later in pairwise(sent[5:])] == [steps] * (len(sent) - 6)
    assert sent[-1] > 30
    outlet.close()


async def test_what_waits_is_sent_where_no_step_comes_and_with_what_is_urgent() -> None:
    pace, loop = FixedPace(), asyncio.get_running_loop()
    pace.fixed_s = 0.2
    outlet = StreamOutlet(pace)
    sender = Sender(outlet)
    for number in range(2):
        outlet.offer(sender, urgent=True)
        sent_s = loop.time()
        await asyncio.sleep(0.02)
        outlet.offer(sender, urgent=False)
        assert sender.woken == 2 * number + 1
        async with asyncio.timeout(5):
            while sender.woken < 2 * number + 2:
                await asyncio.sleep(0.001)
        assert loop.time() - sent_s >= 0.2
    outlet.close()


async def test_a_stream_is_stalled_while_a_message_is_not_taken_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("scheduler.outlet.time.monotonic", lambda: clock[0])
    outlet = StreamOutlet(FixedPace())
    clock[0] += 10 * STALL_S
    assert not outlet.is_stalled()
    outlet.sending()
    assert not outlet.is_stalled()
    clock[0] += 1.1 * STALL_S
    assert outlet.is_stalled()
    outlet.sent()
    assert not outlet.is_stalled()


async def messages_of(mailbox: Mailbox) -> list[inference_pb2.GenerateSessionResponse]:
    mailbox.close()
    return [message async for message in mailbox.messages()]


async def test_a_mailbox_writes_what_came_in_one_turn_into_one_message() -> None:
    mailbox = Mailbox(FixedPace())
    mailbox.post(inference_pb2.SessionEvent(id="a", response={"accepted": {}}))
    for name in "ab":
        filled = relay(Outlet())
        filled.push(token(1), "w")
        filled.push(token(2), "w")
        mailbox.offer(filled, name, urgent=False)
    (message,) = await messages_of(mailbox)
    assert [(event.id, event.response.WhichOneof("event")) for event in message.events] == [
        ("a", "accepted"),
        ("a", "chunk"),
        ("b", "chunk"),
    ]
    assert message.events[2].response.chunk.token_ids == [1, 2]


async def test_a_mailbox_keeps_its_messages_within_what_clients_take() -> None:
    mailbox, count = Mailbox(FixedPace()), 40
    for number in range(count):
        filled = relay(Outlet())
        filled.push(worker_pb2.Output(text="x" * 100_000, token_ids=[number]), "w")
        mailbox.offer(filled, str(number), urgent=False)
    messages = await messages_of(mailbox)
    assert [event.id for message in messages for event in message.events] == [str(number) for number in range(count)]
    assert all(message.ByteSize() < MESSAGE_BYTES + 110_000 for message in messages)


async def test_a_mailbox_lets_no_more_requests_in_while_much_waits_for_its_caller() -> None:
    mailbox = Mailbox(FixedPace())
    for number in range(MOST_WAITING_EVENTS + 1):
        mailbox.post(inference_pb2.SessionEvent(id=str(number)))
    room = asyncio.create_task(mailbox.room())
    await asyncio.sleep(0)
    assert not room.done()
    assert len(await all_events(mailbox)) == MOST_WAITING_EVENTS + 1
    await room


async def all_events(mailbox: Mailbox) -> list[inference_pb2.SessionEvent]:
    messages: AsyncIterator[inference_pb2.GenerateSessionResponse] = mailbox.messages()
    mailbox.close()
    return [event async for message in messages for event in message.events]
