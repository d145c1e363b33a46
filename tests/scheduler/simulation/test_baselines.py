from scheduler.simulation.driver import End
from scheduler.simulation.result import is_good
from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import PROMISES
from tests.scheduler.simulation.runs import serve

# Three seconds of prefill in documents, and then a chat.
FLOOD = [Arrival(0.0, 20_000, 50, "document", "t") for _ in range(6)]
CHAT = Arrival(0.1, 100, 10, "chat", "t")


def test_an_engine_alone_serves_in_order_of_arrival() -> None:
    *documents, chat = serve("vllm-fcfs", [*FLOOD, CHAT])
    assert chat.first_s is not None
    assert all(document.first_s is not None and document.first_s <= chat.first_s for document in documents)


def test_an_engine_with_priorities_lets_the_urgent_pass_those_that_wait_but_not_the_one_that_runs() -> None:
    first, *documents, chat = serve("vllm-priority", [*FLOOD, CHAT])
    assert first.first_s is not None
    assert chat.first_s is not None
    assert first.first_s <= chat.first_s < min(document.first_s or 0 for document in documents)


def test_with_a_limit_what_finds_sixteen_waiting_is_refused() -> None:
    outcomes = serve("vllm-priority-429", [FLOOD[0]] * 20)
    assert [outcome.end for outcome in outcomes].count(End.REFUSED) == 4


def test_pushed_requests_spread_over_the_workers() -> None:
    outcomes = serve("vllm-fcfs", [FLOOD[0]] * 4, workers=4)
    assert len({outcome.first_s for outcome in outcomes}) == 1


def test_earliest_latest_start_goes_first_and_late_ones_are_dropped() -> None:
    first, *documents, chat = serve("edf-drop-late", [*FLOOD * 3, CHAT])
    assert is_good(chat, PROMISES["chat"])
    assert first.end is End.DONE
    ends = [document.end for document in documents]
    assert ends == sorted(ends, key=lambda end: end is End.EXPIRED)
    assert End.EXPIRED in ends
