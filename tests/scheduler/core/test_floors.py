from bisect import bisect_left
from random import Random

import pytest

from scheduler.core.floors import PATIENCE_S, Floors
from scheduler.core.service_class import ServiceClass

WINDOW_S = 60.0
FLOORS = {"a": 0.2, "b": 0.1}


def make_class(name: str, floor: float) -> ServiceClass:
    return ServiceClass(name, 1.0, ttft_s=None, tpot_s=None, e2e_s=None, floor=floor)


def make_floors(**floors: float) -> Floors:
    return Floors([make_class(name, floor) for name, floor in floors.items()])


def test_a_class_comes_first_once_it_is_owed_its_floor_of_20_s() -> None:
    floors = make_floors(poor=0.125, rich=0.0)
    for _ in range(int(PATIENCE_S)):
        assert floors.due == []
        floors.give("rich", 1.0, 1)
    assert floors.due == ["poor"]
    floors.give("poor", 0.5, 1)
    assert floors.due == []


def test_what_is_owed_does_not_pile_up_while_nobody_asks() -> None:
    floors = make_floors(poor=0.125, rich=0.0)
    for _ in range(1000):
        floors.give("rich", 1.0, 1)
    floors.give("poor", 0.5, 1)
    assert floors.due == []


def test_a_class_that_has_had_plenty_is_owed_again_as_soon_as_any_other() -> None:
    floors = make_floors(poor=0.125, rich=0.0)
    floors.give("poor", 1000.0, 1)
    for _ in range(int(PATIENCE_S)):
        floors.give("rich", 1.0, 1)
    assert floors.due == ["poor"]


def test_more_workers_give_more_before_a_class_is_due() -> None:
    floors = make_floors(poor=0.125, rich=0.0)
    for _ in range(int(4 * PATIENCE_S)):
        assert floors.due == []
        floors.give("rich", 1.0, 4)
    assert floors.due == ["poor"]


@pytest.mark.parametrize("watched", ["a", "b"])
@pytest.mark.parametrize("largest_s", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(10))
def test_in_any_sixty_seconds_a_backlogged_class_has_half_its_floor_but_for_one_request(
    watched: str, largest_s: float, seed: int
) -> None:
    random = Random(seed)
    floors = make_floors(**FLOORS)
    total_s, own_s = [0.0], [0.0]
    while total_s[-1] < 3 * WINDOW_S:
        due = floors.due
        name = watched if watched in due else random.choice([*due, "rich"])
        cost_s = random.uniform(0.01, largest_s)
        floors.give(name, cost_s, 1)
        total_s.append(total_s[-1] + cost_s)
        own_s.append(own_s[-1] + (cost_s if name == watched else 0.0))
    for first, before_s in enumerate(total_s):
        last = bisect_left(total_s, before_s + WINDOW_S)
        if last < len(total_s):
            assert own_s[last] - own_s[first] + largest_s >= FLOORS[watched] / 2 * WINDOW_S


def test_a_class_that_nobody_has_asked_for_has_nothing_to_catch_up_on() -> None:
    floors = make_floors(poor=0.125, rich=0.0)
    floors.want("poor", 0.0, waiting=False)
    for _ in range(100):
        floors.give("rich", 1.0, 1)
    assert floors.due == ["poor"]
    floors.want("poor", PATIENCE_S, waiting=False)
    assert floors.due == ["poor"]
    floors.want("poor", 3 * PATIENCE_S, waiting=True)
    assert floors.due == ["poor"]
    floors.want("poor", 5 * PATIENCE_S, waiting=False)
    assert floors.due == []
