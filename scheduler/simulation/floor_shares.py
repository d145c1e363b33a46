"""How much of the engines' time each class had when it could have done with more."""

from collections.abc import Iterator, Mapping, Sequence

from common.simulated_batch import StepModel
from scheduler.core.service_class import ServiceClass
from scheduler.simulation.driver import Outcome

SLOT_S = 10.0
WINDOW_SLOTS = 6
AT_ONCE_S = 1.0
BATCH_SEQUENCES = 64


def least_shares(
    outcomes: Sequence[Outcome], promises: Mapping[str, ServiceClass], step_model: StepModel, duration_s: float
) -> dict[str, float]:
    """Return each class's least share of the engine seconds spent in any minute in which it was backlogged throughout.

    A class is backlogged in ten seconds when in them one of its requests is turned away, or has waited for over a
    second. Classes that never are for a minute are left out. Engine seconds are counted when they are spent: a prompt's
    with the first token, an answer's evenly until its end.
    """
    slots = int(duration_s / SLOT_S)
    spent_s = {name: [0.0] * slots for name in promises}
    backlogged: dict[str, set[int]] = {name: set() for name in promises}
    for outcome in outcomes:
        name = outcome.arrival.service_class
        backlogged[name].update(_unserved_slots(outcome))
        for slot, engine_s in _spent_s(outcome, step_model):
            if slot < slots:
                spent_s[name][slot] += engine_s
    shares = {name: [*_window_shares(name, spent_s, backlogged[name])] for name in promises}
    return {name: min(each) for name, each in shares.items() if each}


def _window_shares(name: str, spent_s: Mapping[str, Sequence[float]], backlogged: set[int]) -> Iterator[float]:
    for first in range(len(spent_s[name]) - WINDOW_SLOTS + 1):
        window = range(first, first + WINDOW_SLOTS)
        if backlogged.issuperset(window):
            total_s = sum(each[slot] for each in spent_s.values() for slot in window)
            yield sum(spent_s[name][slot] for slot in window) / total_s


def _unserved_slots(outcome: Outcome) -> range:
    """The slots in which the request is turned away or waits, if it has to."""
    arrival_s = outcome.arrival.arrival_s
    until_s = outcome.end_s if outcome.first_s is None else outcome.first_s
    if outcome.first_s is not None and until_s - arrival_s < AT_ONCE_S:
        return range(0)
    return range(int(arrival_s / SLOT_S), int(until_s / SLOT_S) + 1)


def _spent_s(outcome: Outcome, model: StepModel) -> Iterator[tuple[int, float]]:
    """Engine seconds by slot; a step's base time is shared by as many sequences as a busy batch has."""
    if outcome.first_s is None:
        return
    arrival = outcome.arrival
    yield int(outcome.first_s / SLOT_S), arrival.prompt_tokens * model.per_token_s
    decoded_tokens = max(0, outcome.computed_tokens - arrival.prompt_tokens)
    context_tokens = arrival.prompt_tokens + arrival.output_tokens / 2
    share_of_base_s = model.base_s / BATCH_SEQUENCES
    token_s = share_of_base_s + model.per_token_s + model.per_sequence_s + model.per_context_token_s * context_tokens
    decode_s = max(outcome.end_s - outcome.first_s, 1e-9)
    for slot in range(int(outcome.first_s / SLOT_S), int(outcome.end_s / SLOT_S) + 1):
        within_s = min(outcome.end_s, (slot + 1) * SLOT_S) - max(outcome.first_s, slot * SLOT_S)
        yield slot, decoded_tokens * token_s * within_s / decode_s
