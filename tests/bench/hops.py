"""What the two hops cost: CPU and memory of each process, and the time they add, with an engine that costs little.

    python -m tests.bench.hops [--streams N ...] [--arms NAME ...] [--seconds S] [--json FILE] [--plot FILE]

Scheduler, worker (the simulated engine) and clients are processes of their own, new for each row. Two measurements for
each way to call and each number of streams (GenerateByHand is Generate by a client that takes a fifth of grpc.aio's
time, so that a machine of few cores measures Sluice and not its clients):

- *full speed*: the engine makes tokens as fast as it can, in a closed loop. Tokens per second by the server's count;
  CPU microseconds per token of each process, with all it takes to begin and end requests. The engine in the worker is
  also run alone, so that its share can be taken off the worker's.
- *paced*: the engine takes 40 ms a step, so that each stream gets 25 tokens a second (fewer where that would be more
  than 25,600 in all). Time to first token and between tokens, as the clients see them, minus the same load's on the
  engine alone: median minus median, p99 minus p99. Memory that the processes hold more than before, for each stream.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.simulated_batch import H200
from tests.bench import callers, callers_frames
from tests.bench.clients import Clients
from tests.bench.cost import cpu_s, resident_bytes
from tests.bench.load import Load, Seen
from tests.bench.report import Panel, draw, percentile, save, say, table
from tests.processes import Sluice

ARMS = {
    **{name: f"{callers.__name__}:{name}" for name in callers.SLUICE},
    "GenerateByHand": f"{callers_frames.__name__}:GenerateByHand",
}
STREAMS = (1, 64, 256, 1024, 4096)
PROMPT_TOKENS = 16
PACE_TOKENS_PER_S, PACED_TOKENS_PER_S = 25.0, 25_600.0
LONG_ANSWER_S, SHORT_ANSWER_S = 5.0, 0.4  # of many streams, and of so few that answers would be too few to tell
ROW_LIMIT_S = 240.0
WARM_UP = Load(streams=8, prompt_tokens=PROMPT_TOKENS, tokens=16)

Row = dict[str, Any]


def main() -> None:
    """Measure row by row; what fails is a row too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="*", default=STREAMS, help="streams at once")
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=ARMS, help="ways to call")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each measurement")
    parser.add_argument("--clients", type=int, default=2, help="client processes")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--plot", type=Path, help="also draw them there")
    options = parser.parse_args()
    rows: list[Row] = []
    for streams in options.streams:
        for measure in (full_speed, paced):
            for row in measure(streams, options.arms, options.seconds, options.clients):
                rows.append(row)
                save(rows, options.json)
    report(rows)
    draw(panels(rows), options.plot)


def full_speed(streams: int, arms: list[str], seconds: float, clients: int) -> Iterator[Row]:
    """Yield a row for each arm, with the engine's own CPU time in it."""
    load = Load(streams, PROMPT_TOKENS, min(512, max(128, 2**18 // streams)), seconds=seconds)
    engine = engine_options(streams, 0.0)
    alone_us = attempt(lambda: engine_us(load, engine))
    for arm in arms:
        say(f"full speed, {streams} streams, {arm}")
        row = attempt(lambda arm=arm: through_full(arm, load, engine, clients))
        yield {"kind": "full speed", "arm": arm, "streams": streams, "tokens": load.tokens, **alone_us, **row}


def engine_us(load: Load, engine: list[str]) -> Row:
    """Measure the engine alone."""
    with folder() as logs, Clients(1, "tests.bench.engine_alone:SilentEngine", {"worker_options": engine}, logs) as own:
        own.run(WARM_UP, ROW_LIMIT_S)
        before_s = own.cpu_s
        seen = own.run(load, ROW_LIMIT_S)
        return {"engine_us": (own.cpu_s - before_s) / seen.tokens * 1e6}


def through_full(arm: str, load: Load, engine: list[str], clients: int) -> Row:
    """Measure one arm at full speed."""
    with house(engine) as sluice, client_processes(arm, sluice, clients) as callers:
        pids = {"scheduler": sluice.scheduler.popen.pid, "worker": sluice.workers[0].popen.pid}
        callers.run(WARM_UP, ROW_LIMIT_S)
        before_s = {"clients": callers.cpu_s, **{name: cpu_s(pid) for name, pid in pids.items()}}
        seen = callers.run(load, ROW_LIMIT_S)
        after_s = {"clients": callers.cpu_s, **{name: cpu_s(pid) for name, pid in pids.items()}}
        return {
            "tokens_per_s": seen.tokens_per_s,
            "tokens_per_message": seen.tokens / max(1, seen.messages),
            **{f"{name}_us": (after_s[name] - before_s[name]) / max(1, seen.tokens) * 1e6 for name in before_s},
            "lost": dict(seen.failures),
        }


def paced(streams: int, arms: list[str], seconds: float, clients: int) -> Iterator[Row]:
    """Yield a row for the engine alone and one for each arm."""
    rate = min(PACE_TOKENS_PER_S, PACED_TOKENS_PER_S / streams)
    answer_s = LONG_ANSWER_S if streams > 16 else SHORT_ANSWER_S
    tokens = round(rate * answer_s)
    step_s = H200.duration_s(streams, streams * (PROMPT_TOKENS + tokens // 2), streams)
    engine = engine_options(streams, step_s * rate)
    until_s = answer_s + seconds
    load = Load(streams, PROMPT_TOKENS, tokens, seconds=until_s, spread_s=answer_s, record_from_s=answer_s)
    common = {"kind": "paced", "streams": streams, "tokens_per_s_each": rate}
    say(f"paced, {streams} streams, the engine alone")
    yield {**common, "arm": "engine alone", **attempt(lambda: alone_paced(load, engine))}
    for arm in arms:
        say(f"paced, {streams} streams, {arm}")
        yield {**common, "arm": arm, **attempt(lambda arm=arm: through_paced(arm, load, engine, clients))}


def alone_paced(load: Load, engine: list[str]) -> Row:
    """Measure what the engine itself takes."""
    with folder() as logs, Clients(1, "tests.bench.engine_alone:EngineAlone", {"worker_options": engine}, logs) as own:
        own.run(WARM_UP, ROW_LIMIT_S)
        return times(own.run(load, ROW_LIMIT_S))


def through_paced(arm: str, load: Load, engine: list[str], clients: int) -> Row:
    """Measure one arm's times, and its memory in the middle."""
    with house(engine) as sluice, client_processes(arm, sluice, clients) as callers:
        pids = {"scheduler": sluice.scheduler.popen.pid, "worker": sluice.workers[0].popen.pid}
        callers.run(WARM_UP, ROW_LIMIT_S)
        before = {name: resident_bytes(pid) for name, pid in pids.items()}
        count = callers.begin(load)
        time.sleep(load.seconds - 1.0)
        held = {name: resident_bytes(pid) - before[name] for name, pid in pids.items()}
        seen = callers.collect(count, ROW_LIMIT_S)
        return {
            **times(seen),
            **{f"{name}_kib_per_stream": held[name] / 1024 / load.streams for name in pids},
            "lost": dict(seen.failures),
        }


def times(seen: Seen) -> Row:
    """Return the times of a paced load in milliseconds."""
    return {
        f"{name}_{label}_ms": percentile(values, share) * 1e3
        for name, values in (("ttft", seen.ttft_s), ("itl", seen.itl_s))
        for label, share in (("p50", 0.5), ("p99", 0.99))
    }


def engine_options(streams: int, speed: float) -> list[str]:
    """Return the worker's options for an engine that never is the reason to wait."""
    return [
        *("--max-sequences", str(max(64, 2 * streams)), "--max-step-tokens", str(max(2048, 4 * streams))),
        *("--simulated.kv-cache-tokens", "100000000", "--simulated.speed", str(speed)),
    ]


def house(engine: list[str]) -> Sluice:
    """Return a scheduler and a worker that are ready when entered."""
    return Sluice(worker_arguments=engine, scheduler_arguments=list(callers.SERVE_ALL))


def client_processes(arm: str, sluice: Sluice, clients: int) -> Clients:
    """Return the clients of an arm, ready when entered."""
    return Clients(clients, ARMS[arm], {"address": sluice.address}, sluice.folder)


@contextmanager
def folder() -> Iterator[Path]:
    """Give a folder for logs."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def attempt(measure: Any) -> Row:
    """Return what was measured, or why not."""
    try:
        return measure()
    except Exception as error:
        say(f"failed: {error}")
        return {"error": str(error)[:300]}


def report(rows: list[Row]) -> None:
    """Print both tables."""
    nan = float("nan")
    full = [row for row in rows if row["kind"] == "full speed"]
    print("full speed; CPU in microseconds per token")
    names = ["tokens_per_s", "scheduler_us", "worker_us", "engine_us", "clients_us", "tokens_per_message"]
    head = ["way to call", "streams", "tokens/s", "scheduler", "worker", "its engine", "clients", "tokens/message"]
    cells = ([row["arm"], row["streams"], *(row.get(name, nan) for name in names), lost(row)] for row in full)
    table([*head, "lost"], cells)
    print("\npaced; added to the engine's own time in ms, and KiB for each stream")
    table(
        ["way to call", "streams", "TTFT p50", "p99", "ITL p50", "p99", "scheduler KiB", "worker KiB", "lost"],
        (
            [
                *(row["arm"], row["streams"]),
                *(added(row, rows).get(name, nan) for name in TIMES),
                *(row.get(f"{name}_kib_per_stream", nan) for name in ("scheduler", "worker")),
                lost(row),
            ]
            for row in rows
            if row["kind"] == "paced" and row["arm"] in ARMS
        ),
    )


TIMES = ("ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms")


def added(row: Row, rows: list[Row]) -> dict[str, float]:
    """Return a paced row's times less those of the engine alone; none where one of them failed."""
    for alone in rows:
        if alone["arm"] == "engine alone" and alone["streams"] == row["streams"] and "error" not in {*row, *alone}:
            return {name: row[name] - alone[name] for name in TIMES}
    return {}


def lost(row: Row) -> str:
    """Say what did not come whole."""
    return row.get("error", "")[:40] or ", ".join(f"{number} {why}" for why, number in row["lost"].items()) or "none"


def panels(rows: list[Row]) -> list[Panel]:
    """Return what is drawn: each figure over the number of streams."""
    full = [row for row in rows if row["kind"] == "full speed" and "error" not in row]
    arms = dict.fromkeys(row["arm"] for row in full)
    late = {arm: {} for arm in arms}
    for row in rows:
        if row["kind"] == "paced" and row["arm"] in arms:
            late[row["arm"]][str(row["streams"])] = added(row, rows).get("itl_p99_ms", float("nan"))

    def by_arm(name: str) -> dict[str, dict[str, float]]:
        return {arm: {str(row["streams"]): row[name] for row in full if row["arm"] == arm} for arm in arms}

    return [
        Panel("tokens/s at full speed", "streams", by_arm("tokens_per_s")),
        Panel("scheduler, CPU us per token", "streams", by_arm("scheduler_us")),
        Panel("p99 ITL added, ms", "streams", late),
    ]


if __name__ == "__main__":
    main()
