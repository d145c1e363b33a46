from scheduler.simulation.flood import EXTRA_RATE, FLOODER, Flood
from scheduler.simulation.workload import Mix
from tests.scheduler.simulation.runs import FULL_RATE, mean_flood_cost


def test_a_flood_is_the_bursty_mix_and_six_tenths_of_it_more_in_the_middle_third() -> None:
    arrivals = Flood().arrivals(12.0, 3_600.0, 1)
    flood = [each for each in arrivals if each.tenant == FLOODER]
    calm = [each for each in arrivals if each.tenant != FLOODER]
    assert calm == Mix(bursty=True).arrivals(12.0, 3_600.0, 1)
    assert all(1_200.0 <= each.arrival_s < 2_400.0 for each in flood)
    assert abs(len(flood) / (12.0 * 1_200.0) - EXTRA_RATE) < 0.03
    times = [each.arrival_s for each in arrivals]
    assert times == sorted(times)


def test_a_flooding_tenant_costs_the_others_little_and_itself_much() -> None:
    cost = mean_flood_cost("feasible-edf", FULL_RATE)
    assert cost.others_loss <= 0.03
    assert cost.flooder_attainment < cost.others_attainment - 0.1


def test_without_a_notion_of_tenants_it_costs_them_a_lot() -> None:
    assert mean_flood_cost("edf-drop-late", FULL_RATE).others_loss > 0.05
