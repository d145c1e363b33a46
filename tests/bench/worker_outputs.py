"""What a token costs between the engine core and the wire: the worker's way out against vLLM's own OutputProcessor.

    python -m tests.bench.worker_outputs [--streams N] [--tokens N] [--rounds N] [--json FILE]

Both get the same bytes, as the engine core sends them: one message for each step, one token for each stream. vLLM's
side decodes them and makes a RequestOutput for each token, and no more: waking whoever waits for it and writing it to
a socket come on top. The worker's side goes on to the serialised message for the scheduler. CPU time of this one
thread, in microseconds for each token; the median of the rounds, in which the arms take turns.
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from transformers import PreTrainedTokenizerFast
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest
from vllm.v1.engine.output_processor import OutputProcessor, RequestOutputCollector
from vllm.v1.metrics.stats import IterationStats, PrefillStats, SchedulerStats
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from worker.answers import AnswerChecker
from worker.demo_model import QUESTIONS
from worker.demo_tokenizer import train_tokenizer
from worker.detokenizer import Detokenizer
from worker.engine import Emit
from worker.session import Session
from worker.vllm_load import EngineLoad
from worker.vllm_requests import VllmRequests

TOKENIZER = train_tokenizer()
PROMPT = [5, 6, 7]
MODES: dict[str, dict[str, list[str]]] = {"plain": {}, "stop strings": {"stop": ["never seen", "\n\n#"]}}

Arm = Callable[[list[bytes], int, dict[str, list[str]]], None]
"""Carries so many streams' steps."""


def main() -> None:
    """Measure and print a table, and JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=256, help="streams at once")
    parser.add_argument("--tokens", type=int, default=200, help="tokens of each stream")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds of each arm")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    messages = list(engine_core_messages(options.streams, options.tokens))
    arms = {"decode alone": decode_alone, "vllm": vllm, "worker": worker}
    result = {mode: measure(arms, messages, options, sampling) for mode, sampling in MODES.items()}
    report(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


def measure(
    arms: dict[str, Arm], messages: list[bytes], options: argparse.Namespace, sampling: dict[str, list[str]]
) -> dict[str, float]:
    """Return microseconds per token by arm; the first round is a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(options.rounds + 1):
        for name, arm in arms.items():
            began = time.thread_time()
            arm(messages, options.streams, sampling)
            times[name].append((time.thread_time() - began) / (options.streams * options.tokens) * 1e6)
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def engine_core_messages(streams: int, tokens: int) -> Iterator[bytes]:
    """Make the messages of a run: each stream says the demo model's answers, each beginning somewhere else."""
    text = TOKENIZER.encode(" ".join(answer for _, answer in QUESTIONS), add_special_tokens=False).ids
    encoder = MsgpackEncoder()
    for step in range(tokens):
        outputs = [
            EngineCoreOutput(
                request_id=str(stream),
                new_token_ids=[text[(stream * 31 + step) % len(text)]],
                prefill_stats=PrefillStats() if step == 0 else None,
            )
            for stream in range(streams)
        ]
        stats = SchedulerStats(num_running_reqs=streams)
        (frame,) = encoder.encode(EngineCoreOutputs(outputs=outputs, scheduler_stats=stats, timestamp=step + 1.0))
        yield bytes(frame)


def decoded(messages: Iterable[bytes]) -> Iterator[EngineCoreOutputs]:
    decoder = MsgpackDecoder(EngineCoreOutputs)
    return (decoder.decode(message) for message in messages)


def decode_alone(messages: list[bytes], streams: int, sampling: dict[str, list[str]]) -> None:
    for _ in decoded(messages):
        pass


def vllm(messages: list[bytes], streams: int, sampling: dict[str, list[str]]) -> None:
    """Do what AsyncLLM's output handler does, and take what it puts into each request's collector."""
    processor = OutputProcessor(PreTrainedTokenizerFast(tokenizer_object=TOKENIZER), log_stats=True)
    collectors = []
    for stream in range(streams):
        params = SamplingParams(output_kind=RequestOutputKind.DELTA, max_tokens=1000, **sampling)
        request = EngineCoreRequest(str(stream), PROMPT, None, params, None, 0.0, None, None, None)
        request.external_req_id = request.request_id
        collectors.append(RequestOutputCollector(params.output_kind, request.request_id))
        processor.add_request(request, None, None, 0, collectors[-1])
    for outputs in decoded(messages):
        processor.process_outputs(outputs.outputs, outputs.timestamp, IterationStats())
        for collector in collectors:
            assert collector.get_nowait() is not None


def worker(messages: list[bytes], streams: int, sampling: dict[str, list[str]]) -> None:
    """Do what the worker does, from the engine core's message to the scheduler's."""
    asyncio.run(_worker(messages, streams, generation_pb2.SamplingParams(max_tokens=1000, **sampling)))  # type: ignore[arg-type]


class Outputs:
    """An engine without its core."""

    def __init__(self) -> None:
        self.requests = VllmRequests(Detokenizer(TOKENIZER), AnswerChecker(None), lambda core_ids: None)

    def submit(self, request: worker_pb2.Submit, emit: Emit) -> None:
        self.requests.begin(request, [request.request_id], emit)

    def abort(self, request_id: str) -> None:
        self.requests.drop(request_id)


async def _worker(messages: list[bytes], streams: int, sampling: generation_pb2.SamplingParams) -> None:
    engine, load = Outputs(), EngineLoad()
    session = Session(engine)  # type: ignore[arg-type]
    submits = [
        worker_pb2.Submit(request_id=str(stream), prompt_token_ids=PROMPT, sampling=sampling)
        for stream in range(streams)
    ]
    for submit in submits:
        submit.time_left.FromSeconds(1000)
    session.receive(worker_pb2.AttachRequest(submits=submits))
    steps = session.steps()
    for outputs in decoded(messages):
        session.tell(load.take(outputs, engine.requests.take(outputs.outputs)))
        response = worker_pb2.AttachResponse(step=await anext(steps))
        assert len(response.step.outputs) == streams
        response.SerializeToString()
    session.close()


def report(result: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    print(f"{'CPU us per token':16} {'decode alone':>14} {'vllm':>8} {'worker':>8} {'vllm / worker':>14}")
    for mode, times in result.items():
        ratio = times["vllm"] / times["worker"]
        print(f"{mode:16} {times['decode alone']:14.2f} {times['vllm']:8.2f} {times['worker']:8.2f} {ratio:14.1f}")


if __name__ == "__main__":
    main()
