from dataclasses import dataclass

import pytest

from scheduler.relay import Relay
from scheduler.resumption import SequenceReceiver
from scheduler.suspicion import Death, Scene, Suspicion, scene_of
from tests.scheduler.test_relay import Outlet, token


@dataclass
class Request:
    """A request at a worker."""

    awaits_token: bool = True
    ended: bool = False

    @property
    def request(self) -> object:
        return self


def suspicion_after(*scenes: Scene) -> Suspicion:
    suspicion = Suspicion()
    for scene in scenes:
        suspicion.add(scene)
    return suspicion


@pytest.mark.parametrize("death", Death)
def test_a_request_that_was_alone_at_a_death_of_any_kind_gets_no_other_worker(death: Death) -> None:
    assert suspicion_after(scene_of(death, [Request()])).is_grave
    assert suspicion_after(scene_of(death, [Request(), Request(ended=True)])).is_grave


@pytest.mark.parametrize(
    ("death", "is_grave"),
    [(Death.ENGINE, True), (Death.STREAM, False), (Death.HANG, False)],
    ids=lambda each: getattr(each, "name", ""),
)
def test_who_alone_awaited_a_token_among_others_is_it_where_the_worker_says_that_its_engine_died(
    death: Death, is_grave: bool
) -> None:
    scene = scene_of(death, [Request(), Request(awaits_token=False), Request(awaits_token=False)])
    assert suspicion_after(scene).is_grave is is_grave


@pytest.mark.parametrize("death", Death)
def test_one_of_several_that_awaited_a_token_goes_on_once_and_not_twice(death: Death) -> None:
    scene = scene_of(death, [Request(), Request()])
    assert not suspicion_after(scene).is_grave
    twice = suspicion_after(scene, scene)
    assert twice.is_grave
    assert twice.deaths == 2


def test_a_token_between_two_deaths_clears_a_request() -> None:
    scene = scene_of(Death.STREAM, [Request(), Request()])
    suspicion = suspicion_after(scene)
    suspicion.clear()
    suspicion.add(scene)
    assert not suspicion.is_grave


def test_the_sequences_of_one_request_are_no_company() -> None:
    relay = Relay(3, Outlet(), on_first_token=lambda: None, on_stall=lambda: None)
    receivers = [SequenceReceiver(relay, index) for index in range(3)]
    assert scene_of(Death.STREAM, receivers) == Scene(Death.STREAM, requests=1, without_token=1)
    receivers[1].push(token(1), "w")
    assert scene_of(Death.STREAM, receivers).without_token == 0
    relay.go_on()
    assert scene_of(Death.STREAM, [*receivers, Request()]) == Scene(Death.STREAM, requests=2, without_token=2)
