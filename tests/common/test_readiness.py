"""Waiting that says what for and has an end."""

import asyncio

import pytest

from common.backoff import Backoff
from common.readiness import TookTooLong, patiently


async def test_a_wait_says_what_for_until_it_is_over() -> None:
    said: list[str] = []
    over = asyncio.Event()

    def say(text: str) -> None:
        said.append(text)
        if len(said) == 3:
            over.set()

    await patiently(over.wait(), lambda: "worker-0 (loading)", say, every_s=0.01, limit_s=60)
    assert said == ["waiting for worker-0 (loading), 0 s"] * 3


async def test_a_wait_that_lasts_too_long_is_given_up() -> None:
    with pytest.raises(TookTooLong, match=r"waited 0 s for worker-0 \(loading\), which is the limit"):
        await patiently(
            asyncio.Event().wait(), lambda: "worker-0 (loading)", lambda _: None, every_s=0.01, limit_s=0.05
        )


async def test_what_fails_while_it_is_waited_for_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await patiently(fail(), lambda: "", lambda _: None, every_s=1, limit_s=1)


def test_a_backoff_doubles_up_to_its_bound_and_begins_anew_after_health() -> None:
    backoff = Backoff(first_s=1, most_s=30, forgets_s=60)
    assert [backoff.after(0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    assert backoff.after(59.9) == 30
    assert [backoff.after(60), backoff.after(1)] == [1, 2]
