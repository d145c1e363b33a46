"""What is worth telling somebody who waits."""

import pytest

from scheduler.core.decisions import Wait
from scheduler.dispatcher import has_changed
from tests.scheduler.core.builders import make_request

TOLD = Wait(make_request(), 3, 10.0, promised=True)


@pytest.mark.parametrize(
    ("place", "passed_s", "news"),
    [
        (Wait(TOLD.request, 3, 10.0, promised=True), 0.5, False),
        (Wait(TOLD.request, 3, 8.0, promised=True), 2.0, False),
        (Wait(TOLD.request, 2, 8.0, promised=True), 2.0, True),
        (Wait(TOLD.request, 3, 8.0, promised=False), 2.0, True),
        (Wait(TOLD.request, 3, None, promised=True), 2.0, True),
        (Wait(TOLD.request, 3, 12.5, promised=True), 0.5, True),
        (Wait(TOLD.request, 3, 0.4, promised=True), 11.0, False),
        (Wait(TOLD.request, 3, 0.6, promised=True), 11.0, True),
    ],
)
def test_a_change_is_what_the_last_word_did_not_let_expect(place: Wait, passed_s: float, news: bool) -> None:
    assert has_changed(TOLD, place, passed_s=passed_s) is news
