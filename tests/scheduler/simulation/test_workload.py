import math
from statistics import fmean, pstdev

import pytest

from scheduler.simulation.trace import Arrival
from scheduler.simulation.workload import CLASSES, MIX, Mix, Trace, envelope_inverse
from scheduler.simulation.workloads import open_workload

HOUR_S = 3600.0


def hour(workload: str) -> list[Arrival]:
    return open_workload(workload).arrivals(12.0, HOUR_S, 1)


def test_a_request_has_the_documented_length_on_average() -> None:
    arrivals = hour("bursty")
    assert fmean(each.prompt_tokens for each in arrivals) == pytest.approx(2060, rel=0.03)
    assert fmean(each.output_tokens for each in arrivals) == pytest.approx(214, rel=0.03)


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_has_its_share_and_its_median_lengths(name: str) -> None:
    arrivals = hour("bursty")
    of_class = sorted((each for each in arrivals if each.service_class == name), key=lambda each: each.prompt_tokens)
    kind = CLASSES[name]
    assert len(of_class) / len(arrivals) == pytest.approx(kind.share, rel=0.03)
    assert of_class[len(of_class) // 2].prompt_tokens == pytest.approx(kind.prompt.median, rel=0.08)
    outputs = sorted(each.output_tokens for each in of_class)
    assert outputs[len(outputs) // 2] == pytest.approx(kind.output.median, rel=0.08)


@pytest.mark.parametrize("workload", ["bursty", "poisson"])
def test_arrivals_come_at_the_rate_and_in_order(workload: str) -> None:
    times = [each.arrival_s for each in hour(workload)]
    assert len(times) / HOUR_S == pytest.approx(12.0, rel=0.03)
    assert times == sorted(times)


def test_bursts_bring_2_2_times_the_mean_for_a_quarter_of_the_time() -> None:
    in_burst = sum(50 <= each.arrival_s % 100 < 75 for each in hour("bursty"))
    assert in_burst / (12.0 * HOUR_S / 4) == pytest.approx(2.2, rel=0.03)


@pytest.mark.parametrize(("workload", "variation"), [("bursty", 2.0), ("poisson", 1.0)])
def test_gaps_vary_as_documented(workload: str, variation: float) -> None:
    times = [each.arrival_s for each in hour(workload) if each.arrival_s % 100 < 50]
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False) if later - earlier < 50]
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(variation, rel=0.08)


def test_the_envelope_neither_adds_nor_takes_requests() -> None:
    assert envelope_inverse(0.0) == 0.0
    assert envelope_inverse(500.0) == 500.0
    middle = envelope_inverse(50 * 0.6 + 10 * 2.2)
    assert middle == pytest.approx(60.0)


def test_tenants_are_zipf() -> None:
    tenants = [each.tenant for each in hour("bursty")]
    assert len(set(tenants)) == 12
    assert tenants.count("tenant-1") / tenants.count("tenant-4") == pytest.approx(4.0, rel=0.1)


def test_another_seed_gives_other_requests_and_the_same_seed_the_same() -> None:
    first, again, other = (Mix(bursty=True).arrivals(12.0, 60.0, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_a_higher_rate_brings_the_same_requests_sooner() -> None:
    slow, fast = (Mix(bursty=True).arrivals(rate, 100.0, 3) for rate in (5.0, 10.0))
    assert len(fast) > len(slow)
    assert [each[1:] for each in slow] == [each[1:] for each in fast[: len(slow)]]


def test_shares_add_up() -> None:
    assert math.isclose(sum(kind.share for kind in MIX), 1.0)


def test_any_other_name_is_a_file() -> None:
    assert isinstance(open_workload("requests.jsonl"), Trace)
