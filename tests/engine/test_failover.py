"""A worker of the real engine is killed in the middle of its answers."""

import asyncio
from pathlib import Path

from common.client import Client, ask
from common.collector import settle
from sluice.v1 import inference_pb2
from tests.faults.callers import GenerateCaller
from tests.faults.history import History
from tests.integration.apart import until_workers
from tests.observer import Observer
from tests.processes import START_S, Sluice
from worker.demo_model import QUESTIONS

ASKED = [question for question, _ in QUESTIONS[:16]]
TIMES = 12  # each of them, so that there is still much to say when the client has heard and done something
TIMEOUT_S = 120.0
GREEDY = {"temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 96}


def chat(question: str) -> inference_pb2.GenerateRequest:
    """Ask one of the questions that the demo model has learnt."""
    return ask(messages=[{"role": "user", "content": question}], sampling=GREEDY)


def processes_of(session: int) -> list[int]:
    """Return the processes of a session that are alive."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it has ended meanwhile
            continue
        if int(of) == session and state != "Z":
            found.append(int(folder.name))
    return found


async def answers(client: Client, histories: list[History]) -> None:
    """Ask all questions at once; the histories fill meanwhile."""

    async def hear(question: str, history: History) -> None:
        async for response in client.stream(chat(question), timeout_s=TIMEOUT_S):
            history.add(response)

    await asyncio.gather(*(hear(*each) for each in zip(ASKED * TIMES, histories, strict=True)))


async def test_a_killed_real_workers_answers_go_on_elsewhere_word_for_word(demo_model: Path) -> None:
    sluice = Sluice(engine="vllm", model=str(demo_model), workers=2, scheduler_arguments=["--policy", "fcfs"])
    try:
        await asyncio.to_thread(sluice.__enter__)
        async with Client(sluice.address) as client:
            await until_workers(client, 2, START_S)
            caller = GenerateCaller(client)
            undisturbed = [await caller.ask(chat(question), TIMEOUT_S) for question in ASKED]
            observers = [Observer() for _ in sluice.workers]
            watching = [
                asyncio.create_task(observer.watch(f"127.0.0.1:{port}"))
                for observer, port in zip(observers, sluice.worker_ports, strict=True)
            ]
            settle()  # A collection of all that pytest holds would take longer than the answers.
            histories = [History() for _ in ASKED * TIMES]
            asking = asyncio.create_task(answers(client, histories))
            async with asyncio.timeout(TIMEOUT_S):
                while (
                    sum(bool(history.said) for history in histories) < len(ASKED)
                    or max(observer.load.running for observer in observers) < 2
                ):
                    await asyncio.sleep(0)
            # Questions begin alike, so one worker may have them all: where its prefix cache knows their beginning.
            running = [observer.load.running for observer in observers]
            killed = sluice.workers[running.index(max(running))].popen
            killed.kill()
            await asking
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        for history, other in zip(histories, undisturbed * TIMES, strict=True):
            assert other.finished is not None
            assert history.check(other.said) == []
        async with asyncio.timeout(TIMEOUT_S):
            while processes_of(killed.pid):  # its engine core ends, too
                await asyncio.sleep(0.05)
        moved = [history.finished.failovers for history in histories if history.finished is not None]
        assert len(moved) == len(histories)
        assert sum(moved) > 0
    finally:
        sluice.__exit__(None, None, None)
