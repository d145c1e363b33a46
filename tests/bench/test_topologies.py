"""The comparison of topologies, on the simulated engine."""

import argparse

import pytest

from tests.bench.topologies import Bench, Topology


def test_a_topology_is_written_as_people_say_it() -> None:
    assert str(Topology.parse("2x4")) == "2 x TP4"
    assert str(Topology.parse("1x2-ray")) == "1 x TP2, Ray"
    assert Topology.parse("1x2-ray").arguments()[-2:] == ["--distributed-executor-backend", "ray"]


async def test_two_workers_share_the_streams_and_the_death_of_one_loses_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = {"concurrency": [16], "prompt_tokens": 64, "tokens": 600, "clients": 2}
    bench = Bench(argparse.Namespace(model="", engine="simulated", worker_options=[], json=None, **sizes))
    await bench.run(Topology.parse("2x1"))
    undisturbed, with_one_killed = bench.rows
    assert undisturbed["answers"] == with_one_killed["answers"] == 16
    assert undisturbed["lost"] == with_one_killed["lost"] == {}
    assert all(0.4 < share < 0.6 for share in undisturbed["shares"])
    bench.report()
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[-1] == "shares"
    assert [row.split("  ")[0] for row in rows] == ["2 x TP1", "2 x TP1, one killed"]
