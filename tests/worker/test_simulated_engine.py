import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from common.simulated_batch import SimulatedBatch
from sluice.v1 import generation_pb2
from sluice.worker.v1 import worker_pb2
from tests.worker.collecting import CollectingEngine
from tests.worker.engine_contract import LENGTH, PROMPT, STOP, EngineContract
from worker.config import WorkerSettings
from worker.engine import EngineStartError
from worker.simulated_engine import SimulatedEngine, SimulatedEngineOptions, options_from

AS_FAST_AS_POSSIBLE = 0.0
CORPUS = ["the scheduler keeps a long queue short", "every request waits for its worker", "Größe 漢字 🙂"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a checkpoint has it, less the weights."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "config.json", {"max_position_embeddings": 4096})
    write_json(folder / "generation_config.json", {"temperature": 0.5, "top_k": 20, "eos_token_id": 1})
    write_json(
        folder / "tokenizer_config.json",
        {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None, "chat_template": "{{ messages }}"},
    )
    return folder


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def simulated(**options: object) -> CollectingEngine:
    return CollectingEngine(SimulatedEngine(SimulatedEngineOptions(**{"speed": AS_FAST_AS_POSSIBLE, **options})))  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["built-in tokenizer", "model folder"])
async def engine(request: pytest.FixtureRequest, model_folder: Path) -> AsyncIterator[CollectingEngine]:
    async with simulated(model=str(model_folder) if request.param == "model folder" else None) as engine:
        yield engine


class TestSimulatedEngine(EngineContract):
    """Keeps the contract with either tokenizer."""


@pytest.fixture
async def fresh_engine() -> AsyncIterator[CollectingEngine]:
    async with simulated() as engine:
        yield engine
    assert not any(answer.violations for answer in engine.answers)


async def test_answers_end_by_themselves_at_about_the_median_length(fresh_engine: CollectingEngine) -> None:
    answers = [fresh_engine.submit(fresh_engine.random_prompt(4), max_tokens=30_000) for _ in range(200)]
    await fresh_engine.until(lambda: all(answer.is_complete for answer in answers))
    lengths = sorted(len(answer.token_ids()) for answer in answers)
    assert 100 < lengths[100] < 220
    assert lengths[20] < 80
    assert lengths[180] > 250
    assert {answer.last().finish_reason for answer in answers} == {STOP}
    assert all(answer.token_ids()[-1] == fresh_engine.eos_id for answer in answers)


async def test_the_text_is_made_of_words(fresh_engine: CollectingEngine) -> None:
    answer = await fresh_engine.generate(PROMPT, max_tokens=50, ignore_eos=True)
    words = answer.text().replace(".", "").replace(",", "").split()
    assert len(words) > 40
    assert all(word.isalpha() for word in words)


async def test_an_answer_resumed_from_its_beginning_goes_on_with_the_same_words(fresh_engine: CollectingEngine) -> None:
    prompt = fresh_engine.encode(PROMPT)
    whole = await fresh_engine.generate(prompt, max_tokens=30, ignore_eos=True)
    resumed = await fresh_engine.generate(prompt + whole.token_ids()[:10], max_tokens=20, ignore_eos=True)
    assert resumed.token_ids() == whole.token_ids()[10:]


async def test_engines_with_one_seed_agree_and_with_two_differ() -> None:
    tokens = []
    for seed in (1, 1, 2):
        async with simulated(seed=seed) as engine:
            request = worker_pb2.Submit(
                request_id="the same",
                prompt_token_ids=[1, 2, 3],
                sampling=generation_pb2.SamplingParams(temperature=1.0, max_tokens=20, ignore_eos=True),
            )
            answer = engine.submit_request(request)
            await engine.until(lambda answer=answer: answer.is_complete)  # type: ignore[misc]
            tokens.append(answer.token_ids())
    assert tokens[0] == tokens[1] != tokens[2]


async def test_sequences_of_one_seed_differ_from_each_other(fresh_engine: CollectingEngine) -> None:
    answer = await fresh_engine.generate(PROMPT, seed=3, n=2, temperature=1.0, ignore_eos=True)
    assert answer.token_ids(0) != answer.token_ids(1)


@pytest.mark.parametrize(
    ("constraint", "value"),
    [("json_schema", "{}"), ("regex", "a+"), ("grammar", 'root ::= "a"'), ("json_object", True)],
)
async def test_constraints_other_than_a_choice_are_refused(
    fresh_engine: CollectingEngine, constraint: str, value: str | bool
) -> None:
    structured_output = generation_pb2.StructuredOutput(**{constraint: value})  # type: ignore[arg-type]
    answer = await fresh_engine.generate(PROMPT, structured_output=structured_output)
    assert answer.failure is not None
    assert answer.failure.reason == worker_pb2.FAILURE_REASON_INVALID
    assert answer.failure.field == "sampling.structured_output"
    assert "simulated engine does not constrain output" in answer.failure.message


async def test_a_choice_longer_than_max_tokens_is_cut(fresh_engine: CollectingEngine) -> None:
    choices = generation_pb2.StructuredOutput(choice=generation_pb2.Choices(values=["abcdef"]))
    answer = await fresh_engine.generate(PROMPT, structured_output=choices, max_tokens=3)
    assert (answer.text(), answer.last().finish_reason) == ("abc", LENGTH)


async def test_more_new_tokens_than_the_context_has_room_for_are_refused(fresh_engine: CollectingEngine) -> None:
    answer = await fresh_engine.generate([1, 2, 3], max_tokens=fresh_engine.context_tokens - 2)
    assert answer.failure is not None
    assert answer.failure.reason == worker_pb2.FAILURE_REASON_INVALID
    assert answer.failure.field == "sampling.max_tokens"


@pytest.mark.parametrize("prompt", [[], [2**31]])
async def test_an_empty_prompt_and_an_unknown_id_are_refused(fresh_engine: CollectingEngine, prompt: list[int]) -> None:
    answer = await fresh_engine.generate(prompt)
    assert answer.failure is not None
    assert answer.failure.field == "prompt_token_ids"


async def test_an_id_in_use_is_refused_and_the_first_request_goes_on(fresh_engine: CollectingEngine) -> None:
    first = fresh_engine.submit(PROMPT, ignore_eos=True)
    second = fresh_engine.submit_request(first.request)
    await fresh_engine.until(lambda: first.is_complete)
    assert second.failure is not None
    assert second.failure.reason == worker_pb2.FAILURE_REASON_INVALID
    assert len(first.token_ids()) == 16
    assert first.failure is None


async def test_an_id_can_be_used_again(fresh_engine: CollectingEngine) -> None:
    first = fresh_engine.submit(PROMPT, max_tokens=1000, ignore_eos=True)
    await fresh_engine.until(lambda: bool(first.outputs))
    fresh_engine.abort(first)
    again = fresh_engine.submit_request(first.request)
    await fresh_engine.until(lambda: again.is_complete)
    assert len(again.token_ids()) == 1000
    assert first.violations == []


async def test_an_idle_engine_makes_no_steps(fresh_engine: CollectingEngine) -> None:
    await fresh_engine.generate(PROMPT, max_tokens=5, ignore_eos=True)
    loads = len(fresh_engine.loads)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(fresh_engine.loads) == loads
    assert fresh_engine.load.steps == 5


async def test_an_abort_that_empties_the_engine_is_reported_once(fresh_engine: CollectingEngine) -> None:
    answer = fresh_engine.submit(PROMPT, max_tokens=1000, ignore_eos=True)
    await fresh_engine.until(lambda: fresh_engine.load.running == 1)
    loads = len(fresh_engine.loads)
    fresh_engine.abort(answer)
    for _ in range(50):
        await asyncio.sleep(0)
    assert [load.running for load in fresh_engine.loads[loads:]] == [0]
    assert fresh_engine.load.kv_cache_usage == 0


async def test_sequences_beyond_the_batch_wait() -> None:
    async with simulated(max_sequences=2) as engine:
        answers = [engine.submit(PROMPT, ignore_eos=True) for _ in range(5)]
        await engine.until(lambda: engine.load.running == 2)
        assert engine.load.waiting == 3
        await engine.until(lambda: all(answer.is_complete for answer in answers))
        assert all(load.running <= 2 for load in engine.loads)


async def test_preempted_requests_complete_without_a_gap() -> None:
    async with simulated(context_tokens=320, kv_cache_tokens=640) as engine:
        answers = [engine.submit(engine.random_prompt(20), max_tokens=300, ignore_eos=True) for _ in range(4)]
        alone = [
            await engine.generate(list(a.request.prompt_token_ids), max_tokens=300, ignore_eos=True) for a in answers
        ]
        await engine.until(lambda: all(answer.is_complete for answer in answers))
        assert engine.load.preemptions > 0
        assert [answer.token_ids() for answer in answers] == [answer.token_ids() for answer in alone]


async def test_a_step_takes_the_step_models_time() -> None:
    async with simulated(speed=1.0) as engine:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await engine.generate(engine.random_prompt(100), max_tokens=40, ignore_eos=True)
        modelled_s = 40 * 5.5e-3 + 139 * 25.6e-6
        assert loop.time() - began > modelled_s


async def test_speed_divides_the_time() -> None:
    async with simulated(speed=1000.0) as fast, simulated(speed=1.0) as usual:
        slow_one = usual.submit(PROMPT, max_tokens=200, ignore_eos=True)
        await fast.generate(PROMPT, max_tokens=200, ignore_eos=True)
        assert len(slow_one.outputs) < 200
        usual.abort(slow_one)


async def test_a_death_fails_every_request_and_then_tells(fresh_engine: CollectingEngine) -> None:
    answers = [fresh_engine.submit(PROMPT, max_tokens=1000, ignore_eos=True, n=2, temperature=1.0) for _ in range(3)]
    await fresh_engine.until(lambda: all(answer.outputs for answer in answers))
    assert isinstance(fresh_engine.engine, SimulatedEngine)
    fresh_engine.engine.die("the card fell off the bus")
    fresh_engine.engine.die("again")
    assert fresh_engine.deaths == ["the card fell off the bus"]
    assert all(answer.failure and answer.failure.reason == worker_pb2.FAILURE_REASON_ENGINE_DEAD for answer in answers)
    late = fresh_engine.submit(PROMPT)
    assert late.failure is not None
    assert late.failure.reason == worker_pb2.FAILURE_REASON_ENGINE_DEAD


async def test_an_error_inside_the_engine_is_its_death(
    fresh_engine: CollectingEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("the ledger is off")

    answer = fresh_engine.submit(PROMPT, max_tokens=1000, ignore_eos=True)
    await fresh_engine.until(lambda: bool(answer.outputs))
    monkeypatch.setattr(SimulatedBatch, "step", fail)
    await fresh_engine.until(lambda: bool(fresh_engine.deaths))
    assert fresh_engine.deaths == ["RuntimeError: the ledger is off"]
    assert answer.failure is not None
    assert answer.failure.reason == worker_pb2.FAILURE_REASON_ENGINE_DEAD


async def test_a_closed_engine_is_silent() -> None:
    async with simulated() as engine:
        answer = engine.submit(PROMPT, max_tokens=1000, ignore_eos=True)
        await engine.until(lambda: bool(answer.outputs))
    outputs, loads = len(answer.outputs), len(engine.loads)
    for _ in range(50):
        await asyncio.sleep(0)
    assert (len(answer.outputs), len(engine.loads)) == (outputs, loads)


async def test_describes_the_model_folder(model_folder: Path) -> None:
    async with simulated(model=str(model_folder)) as engine:
        model = engine.description.model
        assert (model.name, model.context_tokens) == ("tiny", 4096)
        assert model.generation_config == generation_pb2.SamplingParams(temperature=0.5, top_k=20)
        assert engine.tokenizer_document["chat_template"] == "{{ messages }}"
        assert engine.tokenizer_document["special_tokens"] == {"bos_token": "<s>", "eos_token": "</s>"}


async def test_the_built_in_tokenizer_keeps_any_text(fresh_engine: CollectingEngine) -> None:
    text = "<|im_start|>user\nWhat is a “lease”, 先生? 🙂\tÅ\n"
    assert fresh_engine.tokenizer.decode(fresh_engine.encode(text), skip_special_tokens=False) == text
    assert len(fresh_engine.encode(" the scheduler keeps the queue short")) == 6


async def test_a_folder_without_a_tokenizer_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match=r"tokenizer\.json"):
        async with simulated(model=str(tmp_path)):
            pass


async def test_a_context_beyond_the_caches_whole_blocks_cannot_be_served() -> None:
    async with simulated(context_tokens=2000, kv_cache_tokens=2005) as engine:
        assert len((await engine.generate([1], max_tokens=1999, ignore_eos=True)).token_ids()) == 1999
    with pytest.raises(EngineStartError, match="lower context_tokens"):
        async with simulated(context_tokens=2001, kv_cache_tokens=2005):
            pass


def test_options_follow_the_workers_settings() -> None:
    settings = WorkerSettings(engine="simulated", context_tokens=1000, max_sequences=7, max_step_tokens=99)
    options = options_from(settings)
    assert (options.context_tokens, options.max_sequences, options.max_step_tokens) == (1000, 7, 99)
    assert (options.model, options.served_model_name) == (None, None)
    assert (options.speed, options.kv_cache_tokens) == (1.0, 1_000_000)
