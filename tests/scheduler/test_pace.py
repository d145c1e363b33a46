import time

import pytest

from scheduler.pace import CROWD, FULL_PERIODS, GAPS_S, PERIOD_S, Pace, thread_busy_s


class Loop:
    """An event loop that is as busy as a test says."""

    def __init__(self, requests: int) -> None:
        self.busy_s = 0.0
        self.pace = Pace(lambda: self.busy_s)
        self.pace.requests = requests
        self._now_s = time.monotonic()

    def run(self, seconds: float, share: float) -> float:
        """Send messages for so long; return the gap at the end."""
        gap_s = 0.0
        for _ in range(round(seconds / PERIOD_S)):
            self._now_s += PERIOD_S * 1.001
            self.busy_s += PERIOD_S * share
            gap_s = self.pace.gap_s(self._now_s)
        return gap_s


def test_while_the_loop_has_time_every_token_may_leave_at_once() -> None:
    assert Loop(requests=64).run(5, share=0.8) == 0


def test_the_longer_the_loop_is_busy_the_rarer_messages_become_up_to_a_bound() -> None:
    loop = Loop(requests=500)
    gaps = [loop.run(PERIOD_S, share=0.9) for _ in range(20)]
    assert gaps[0] == 0
    assert gaps[1:4] == list(GAPS_S[1:4])
    assert gaps[-1] == GAPS_S[-2]


def test_one_measurement_alone_changes_nothing() -> None:
    loop = Loop(requests=500)
    for share, gap_s in ((0.7, 0.0), (0.9, GAPS_S[-2])):
        loop.run(2, share=share)
        assert loop.run(PERIOD_S, share=1.0) == loop.run(PERIOD_S, share=0.7) == gap_s
        assert loop.run(PERIOD_S, share=0.1) == loop.run(PERIOD_S, share=0.7) == gap_s


def test_the_longest_gap_is_for_a_loop_that_stays_full() -> None:
    loop = Loop(requests=500)
    loop.run(2, share=0.9)
    assert loop.run((FULL_PERIODS - 1) * PERIOD_S, share=1.0) == GAPS_S[-2]
    assert loop.run(PERIOD_S, share=1.0) == GAPS_S[-1]


def test_messages_become_more_once_twice_of_them_would_not_make_the_loop_busy() -> None:
    loop = Loop(requests=500)
    loop.run(5, share=1.0)
    assert loop.run(5, share=0.5) == GAPS_S[-1]
    assert loop.run(2 * PERIOD_S, share=0.4) == GAPS_S[-2]


def test_a_second_of_calm_is_enough_whether_messages_are_sent_meanwhile_or_not() -> None:
    sending, silent = Loop(requests=500), Loop(requests=500)
    for loop in (sending, silent):
        assert loop.run(5, share=1.0) == GAPS_S[-1]
    assert sending.run(1, share=0.3) == 0
    assert silent.pace.gap_s(silent._now_s + 1) == 0


def test_few_requests_send_at_once_however_busy_the_loop_is_and_thousands_share_what_it_can_send() -> None:
    assert Loop(requests=1).run(5, share=1.0) == 0.001
    assert Loop(requests=10 * CROWD).run(5, share=1.0) == 10 * GAPS_S[-1]


def test_the_place_in_the_queue_is_told_more_rarely_than_tokens_are() -> None:
    loop = Loop(requests=500)
    assert loop.pace.update_gap_s() == 0
    loop.run(5, share=1.0)
    assert loop.pace.update_gap_s() == pytest.approx(20 * GAPS_S[-1], rel=0.5)


def test_a_threads_busy_time_grows_while_it_works() -> None:
    before_s, until_s = thread_busy_s(), time.thread_time() + 0.05
    while time.thread_time() < until_s:
        pass
    assert thread_busy_s() - before_s > 0.04
