"""What readers that stop reading cost the others: live streams beside 64 that stall, and beside 64 that read.

    python -m tests.bench.stalled_readers [--rounds N] [--live N] [--others N] [--json FILE]

Simulated engine, a scheduler and a worker of their own, the others in a process of their own. In each round the live
streams run to their end twice, the order turning: once beside others that read, once beside others that stop after
the first message. The others ask for much (4 sequences, with log-probabilities).
Also printed: how much the scheduler's memory grows beside each, and how those that stalled were ended.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

import grpc

from common.client import Client, ask
from common.rich_status import read_details
from tests.processes import Sluice

LIVE = ask("hello", sampling={"max_tokens": 600, "ignore_eos": True})
WORDY = ask("hello", sampling={"n": 4, "logprobs": 3, "max_tokens": 2048, "ignore_eos": True})
SMALL_WINDOW = [("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1)]
ARMS = ("read", "stall")


def main() -> None:
    """Measure and print a table, and JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds")
    parser.add_argument("--live", type=int, default=256, help="live streams")
    parser.add_argument("--others", type=int, default=64, help="streams beside them")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    result = measure(options.rounds, options.live, options.others)
    report(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


def measure(rounds: int, live: int, others: int) -> list[dict[str, object]]:
    """Return a row for each arm of each round."""
    rows: list[dict[str, object]] = []
    worker = ["--max-sequences", "1024", "--log.level", "warning"]
    scheduler = ["--policy", "fcfs", "--default-deadline-s", "600", "--log.level", "warning"]
    with Sluice(worker_arguments=worker, scheduler_arguments=scheduler) as sluice:
        asyncio.run(run_live(sluice.address, live))  # warms up
        for number in range(rounds):
            for arm in ARMS if number % 2 else reversed(ARMS):
                rows.append(beside(sluice, arm, live, others))
    return rows


def beside(sluice: Sluice, arm: str, live: int, others: int) -> dict[str, object]:
    """Run the live streams beside others of one kind."""
    pid = sluice.scheduler.popen.pid
    before = resident_mib(pid)
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=run_others, args=(sluice.address, arm, others, theirs)
    )
    process.start()
    ours.recv()
    rate, grown = asyncio.run(run_live(sluice.address, live)), resident_mib(pid) - before
    ours.send("end")
    endings = ours.recv()
    process.join()
    return {"arm": arm, "tokens_per_s": rate, "grown_mib": grown, "endings": endings}


async def run_live(address: str, count: int) -> float:
    """Run the live streams; return their tokens per second."""
    async with Client(address) as client:
        began = time.perf_counter()
        answers = await asyncio.gather(*(client.generate(LIVE, timeout_s=600) for _ in range(count)))
    return sum(len(answer.token_ids[0]) for answer in answers) / (time.perf_counter() - began)


def run_others(address: str, arm: str, count: int, pipe: Connection) -> None:
    """Open the others, say so, and end them when told."""
    asyncio.run(_run_others(address, arm, count, pipe))


async def _run_others(address: str, arm: str, count: int, pipe: Connection) -> None:
    async with Client(address, options=SMALL_WINDOW) as client:
        calls = [client.stub.Generate(WORDY, timeout=600) for _ in range(count)]
        await asyncio.gather(*(call.read() for call in calls))
        pipe.send("open")
        reading = [asyncio.create_task(ending(call)) for call in calls] if arm == "read" else []
        await asyncio.to_thread(pipe.recv)
        if arm == "read":
            for call in calls:
                call.cancel()
            await asyncio.wait(reading)
            pipe.send({})
            return
        pipe.send(Counter(await asyncio.gather(*map(ending, calls))))


async def ending(call: "grpc.aio.UnaryStreamCall[object, object]") -> str:
    """Read to the end; return the error's reason, or ``ok``."""
    try:
        while await call.read() != grpc.aio.EOF:
            pass
    except asyncio.CancelledError:
        return "cancelled"
    except grpc.aio.AioRpcError as error:
        return next((each.reason for each in read_details(error) if hasattr(each, "reason")), error.code().name)
    return "ok"


def resident_mib(pid: int) -> float:
    """Return a process's resident memory."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def report(rows: list[dict[str, object]]) -> None:
    """Print the table."""
    print(f"{'beside others that':20}{'live tokens/s':>15}{'scheduler grows by':>20}   endings")
    for row in rows:
        print(f"{row['arm']:20}{row['tokens_per_s']:>15.0f}{row['grown_mib']:>16.0f} MiB   {dict(row['endings'])}")
    rates = {arm: [row["tokens_per_s"] for row in rows if row["arm"] == arm] for arm in ARMS}
    ratio = statistics.median(rates["stall"]) / statistics.median(rates["read"])
    print(f"live streams beside stalled readers: {ratio:.3f} of beside readers that read (medians)")


if __name__ == "__main__":
    main()
