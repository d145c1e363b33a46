"""Front ends compared: tokens per second between clients and the same engine, in one run.

    python -m tests.bench.frontends [--engines NAME ...] [--concurrency N ...] [--rounds N] [--model M] [--json FILE]
        [--plot FILE] [-- WORKER-OPTIONS]

Engines with the same settings, each with its own front end (in-process AsyncLLM, vLLM's HTTP servers in Python and in
Rust, vLLM's gRPC server, smg's gateway in front of it, Sluice), are started some at a time, side by side, and asked in
turn, so that only one works at once. All get the same explicit sampling values, prompts of token ids, and a closed
loop of streams from several client processes; in-process, the one process is client and front end at once. At each
concurrency every arm warms up, then the rounds follow, each in another order. Tokens are counted by the server's usage.
What cannot be started is skipped, with the reason; what fails ends its own arm only. Worker options apply to all.
"""

import argparse
import signal
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.bench import engines
from tests.bench.cost import cpu_by_name, family
from tests.bench.engines import ENGINES, Arm, Site
from tests.bench.load import Load
from tests.bench.report import Panel, draw, percentile, save, say, table
from tests.processes import demo_model

Row = dict[str, Any]


def main() -> None:
    """Measure, save as figures come, and print."""
    options = arguments().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    chosen = [name for name in options.engines if not is_missing(name)]
    bench = Bench(options)
    try:
        with engines.site(worker_options(options), options.clients, options.logs) as site:
            for start in range(0, len(chosen), options.side_by_side):
                bench.run(chosen[start : start + options.side_by_side], site)
    finally:
        report(bench.rows)
        draw(panels(bench.rows), options.plot)


def arguments() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=ENGINES, help="in order of starting")
    parser.add_argument("--side-by-side", type=int, default=2, help="engines that are up at once")
    parser.add_argument("--concurrency", type=int, nargs="*", default=[8, 16, 64], help="streams at once")
    parser.add_argument("--prompt-tokens", type=int, default=128, help="length of each prompt")
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--answers", type=int, default=2, help="answers of each stream in a round")
    parser.add_argument("--rounds", type=int, default=2, help="measured rounds of each arm")
    parser.add_argument("--clients", type=int, default=2, help="client processes of each arm")
    parser.add_argument("--model", help="folder or hub name (default: the demo model)")
    parser.add_argument("--arm-limit-s", type=float, default=120.0, help="longest that a round of an arm may take")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="no round begins later than so many seconds")
    parser.add_argument("--json", type=Path, help="also write the figures there, as they come")
    parser.add_argument("--plot", type=Path, help="also draw them there")
    parser.add_argument("--logs", type=Path, help="keep the logs in this folder")
    parser.add_argument("worker_options", nargs="*", help="options of sluice-worker, after --")
    return parser


def worker_options(options: argparse.Namespace) -> list[str]:
    """Return what every engine is started with."""
    return ["--model", options.model or str(demo_model()), *options.worker_options]


def is_missing(name: str) -> bool:
    """Whether an engine cannot be started; says why."""
    reason = engines.missing(name)
    if reason:
        say(f"skipped: {name}: {reason}")
    return reason is not None


class Bench:
    """Runs batches of engines.

    Attributes:
        rows: One for each round of each arm.

    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.rows: list[Row] = []
        self._options = options
        self._end_s = time.monotonic() + options.limit_s

    def run(self, names: list[str], site: Site) -> None:
        """Start engines together, ask them in turn, end them."""
        say(f"starting {', '.join(names)}")
        with ExitStack() as stack:
            with ThreadPoolExecutor(len(names)) as pool:
                started = [pool.submit(start, name, site) for name in names]
            arms: dict[str, Arm] = {}
            for name, future in zip(names, started, strict=True):
                if error := future.exception():
                    say(f"{name} failed to start: {error}")
                    self._note({"arm": name, "error": str(error)[-300:]})
                else:
                    own_stack, own_arms = future.result()
                    stack.push(own_stack)
                    arms.update(own_arms)
            for arm, load in self._plan(arms):
                self._measure(arm, arms, load)
            say(f"ending {', '.join(names)}")

    def _plan(self, arms: dict[str, Arm]) -> Iterator[tuple[str, tuple[int, Load]]]:
        """Yield arms and loads in their order: at each concurrency a warm-up (round 0) and the rounds, turning."""
        options = self._options
        for streams in options.concurrency:
            for number in range(options.rounds + 1):
                answers, tokens = (options.answers, options.tokens) if number else (1, max(8, options.tokens // 4))
                load = Load(streams, options.prompt_tokens, tokens, answers=answers)
                names = list(arms)
                shift = number % max(1, len(names))
                for name in [*names[shift:], *names[:shift]]:
                    if name in arms:
                        yield name, (number, load)

    def _measure(self, name: str, arms: dict[str, Arm], numbered: tuple[int, Load]) -> None:
        number, load = numbered
        if time.monotonic() > self._end_s:
            say(f"no time left for {name} at {load.streams}")
            return
        try:
            row = measure(arms[name], load, self._options.arm_limit_s)
        except RuntimeError as error:
            say(f"{name} at {load.streams} failed: {error}")
            self._note({"arm": name, "concurrency": load.streams, "error": str(error)[-300:]})
            del arms[name]
            return
        say(f"{name} at {load.streams}, round {number}: {row['tokens_per_s']:,.0f} tokens/s, failed: {row['failed']}")
        if number:
            self._note({"arm": name, "concurrency": load.streams, "round": number, **row})

    def _note(self, row: Row) -> None:
        self.rows.append(row)
        save(self.rows, self._options.json)


def start(name: str, site: Site) -> tuple[ExitStack, dict[str, Arm]]:
    """Start one engine; what was started of one that fails is ended at once."""
    began_s = time.monotonic()
    with ExitStack() as stack:
        arms = ENGINES[name](stack, site)
        say(f"{name} is up after {time.monotonic() - began_s:.0f} s")
        return stack.pop_all(), arms


def measure(arm: Arm, load: Load, limit_s: float) -> Row:
    """Run one round; CPU time is in microseconds per token, by the names of processes."""
    served = {pid: name for root in arm.roots for pid, name in family(root).items()}
    before, clients_before_s = cpu_by_name(served), arm.clients.cpu_s
    seen = arm.clients.run(load, limit_s)
    after, tokens = cpu_by_name(served), max(1, seen.tokens)
    return {
        "tokens_per_s": seen.tokens_per_s,
        "requests": seen.requests,
        "failed": dict(seen.failures),
        "events": seen.messages,
        "ttft_p50_ms": percentile(seen.ttft_s, 0.5) * 1e3,
        "ttft_p99_ms": percentile(seen.ttft_s, 0.99) * 1e3,
        "itl_p99_ms": percentile(seen.itl_s, 0.99) * 1e3,
        "cpu_us": {name: (after[name] - before[name]) / tokens * 1e6 for name in before},
        "clients_us": (arm.clients.cpu_s - clients_before_s) / tokens * 1e6,
    }


def report(rows: Sequence[Row]) -> None:
    """Print a table for each concurrency: medians of the rounds."""
    reference = "in-process AsyncLLM"
    for streams in dict.fromkeys(row["concurrency"] for row in rows if "round" in row):
        rates = medians(rows, streams, "tokens_per_s")
        print(f"\n{streams} at once")
        table(
            ["front end", "tokens/s", "of in-process", "TTFT p50 ms", "p99 ms", "ITL p99 ms", "front end CPU us/token"],
            (
                [
                    *(arm, rate, f"{rate / rates[reference]:.2f}" if reference in rates else "-"),
                    *(medians(rows, streams, name)[arm] for name in ("ttft_p50_ms", "ttft_p99_ms", "itl_p99_ms")),
                    statistics.median(front_end_us(row) for row in of(rows, streams, arm)),
                ]
                for arm, rate in sorted(rates.items(), key=lambda each: -each[1])
            ),
        )
    for row in rows:
        if row.get("error") or row.get("failed"):
            print(f"failed: {row['arm']}: {row.get('error') or row['failed']}")


def front_end_us(row: Row) -> float:
    """Return the CPU time per token of all that serves, less the engine's own processes."""
    return sum(us for name, us in row["cpu_us"].items() if not name.startswith("VLLM::Engine"))


def of(rows: Sequence[Row], streams: int, arm: str) -> list[Row]:
    """Return the rounds of an arm."""
    return [row for row in rows if "round" in row and row["concurrency"] == streams and row["arm"] == arm]


def medians(rows: Sequence[Row], streams: int, name: str) -> dict[str, float]:
    """Return the median of each arm's rounds."""
    arms = dict.fromkeys(row["arm"] for row in rows if "round" in row and row["concurrency"] == streams)
    return {arm: statistics.median(row[name] for row in of(rows, streams, arm)) for arm in arms}


def panels(rows: Sequence[Row]) -> list[Panel]:
    """Return what is drawn."""
    concurrencies = dict.fromkeys(row["concurrency"] for row in rows if "round" in row)
    found = []
    for title, name in (("tokens/s", "tokens_per_s"), ("median time to first token, ms", "ttft_p50_ms")):
        points: dict[str, dict[str, float]] = {}
        for streams in concurrencies:
            for arm, value in medians(rows, streams, name).items():
                points.setdefault(arm, {})[str(streams)] = value
        found.append(Panel(title, "streams at once", points))
    return found


if __name__ == "__main__":
    main()
