import pytest

from scheduler.core.kv_share import KvShare


def test_preemptions_before_the_first_report_are_old_news() -> None:
    share = KvShare()
    share.report(70, now=5.0)
    assert share.value == 0.97


def test_a_storm_of_preemptions_shrinks_the_share_once_a_second() -> None:
    share = KvShare()
    for step in range(20):
        share.report(step, now=step * 0.1)
    assert share.value == pytest.approx(0.97 * 0.9 * 0.9)


def test_the_share_never_falls_below_half() -> None:
    share = KvShare()
    for second in range(100):
        share.report(second, now=float(second))
    assert share.value == 0.5


def test_the_share_recovers_with_time_however_many_reports_there_are() -> None:
    often, rarely = KvShare(), KvShare()
    for share in (often, rarely):
        share.report(0, now=0.0)
        share.report(1, now=1.0)
    for step in range(1, 41):
        often.report(1, now=1.0 + step * 0.1)
    rarely.report(1, now=5.0)
    assert often.value == pytest.approx(rarely.value) == pytest.approx(0.97 * 0.9 + 0.04)
    rarely.report(1, now=100.0)
    assert rarely.value == 0.97
