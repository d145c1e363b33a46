"""What the benchmark of ten thousand checks, with some hundreds."""

from tests.bench.mass_cancel import MassCancel


async def test_hundreds_of_requests_cancelled_while_workers_die_leave_nothing() -> None:
    run = MassCancel(requests=500, at_once=60, workers=2, kill_every_s=1.5, seed=1)
    figures = await run.run()
    assert figures["findings"] == []
    assert figures["endings"]["cancelled"] >= 500
    assert figures["kills"] > 0
