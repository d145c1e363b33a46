"""The plan's figures against numbers worked out by hand, for Qwen2.5-7B on the reference box of 24 GB cards.

By hand, from the published shape (hidden 3584, MLP 18944, 28 layers, 28 heads of 128, 4 of keys and values, vocabulary
152064, bias on queries, keys and values, output layer of its own):

    matrices of a layer  3584 x (2 x 3584 + 2 x 512) + 3 x 3584 x 18944    =   233,046,016; x 28 = 6,525,288,448
    embedding, output    2 x 152064 x 3584                                 = 1,089,994,752
    norms and biases     28 x (2 x 3584 + 3584 + 2 x 512) + 3584           =       333,312
    all parameters                                                         = 7,615,616,512
    weights    BF16 x 2 = 15.2312 GB; FP8 6.5253 + 2 x 1.0903 = 8.7059; INT4 6.5253 x (0.5 + 2/128) + 2.1807 = 5.5453
    read per step, without the embedding's 1.0900 GB:  14.1412, 7.6160, 4.4554 GB
    KV cache of a token  2 x 28 x 512 x 2 bytes = 57,344; at FP8 28,672
    reserve of a GPU     sampler 256 x 152064 x 22 bytes = 0.8564 GB, runtime 1.0737, with others 0.3221 more
    budget of a GPU      0.95 x 24 GiB = 24.4813 GB
"""

import json
import shlex

import pytest

from common.cli import parser
from common.model_config import read_model_config
from common.model_shape import ModelShape
from common.plan.box import Box, Demand
from common.plan.choice import choose
from common.plan.commands import commands
from common.plan.formats import KV, WEIGHTS
from common.plan.gpu import GIB, GPUS
from common.plan.option import Option, options
from scheduler.config import SchedulerSettings
from worker.config import WorkerSettings

QWEN = "Qwen/Qwen2.5-7B-Instruct"
SHAPE = ModelShape.from_config(read_model_config(QWEN))
CARD = GPUS["rtx4090d"]


def option(tensor_parallel: int, weights: str, kv: str, *, context: int = 4096, gpus: int = 4) -> Option:
    box = Box(CARD, gpus, 24 * GIB, 0.95)
    demand = Demand(context, 256, 256, None)
    workers = gpus // tensor_parallel
    return Option(SHAPE, box, demand, workers, tensor_parallel, WEIGHTS[weights], KV[kv])


@pytest.mark.parametrize(("weights", "gigabytes"), [("bf16", 15.23), ("fp8", 8.71), ("int4", 5.55)])
def test_weights_take_what_the_published_checkpoints_do(weights: str, gigabytes: float) -> None:
    assert WEIGHTS[weights].weight_bytes(SHAPE) / 1e9 == pytest.approx(gigabytes, abs=0.005)


# (budget - reserve - weights / TP) x TP / bytes of a token: 24.4813 - 1.9302 = 22.5511 alone, 22.2290 with others.
KV_TOKENS = [
    (1, "bf16", "16bit", (22.5511e9 - 15.2312e9) / 57_344),  # 127,649
    (1, "bf16", "fp8", (22.5511e9 - 15.2312e9) / 28_672),  # 255,298
    (1, "fp8", "16bit", (22.5511e9 - 8.7059e9) / 57_344),  # 241,441
    (1, "int4", "16bit", (22.5511e9 - 5.5453e9) / 57_344),  # 296,558
    (1, "int4", "fp8", (22.5511e9 - 5.5453e9) / 28_672),  # 593,115
    (2, "bf16", "16bit", (2 * 22.2290e9 - 15.2312e9) / 57_344),  # 509,675
    (2, "fp8", "16bit", (2 * 22.2290e9 - 8.7059e9) / 57_344),  # 623,467
    (2, "int4", "16bit", (2 * 22.2290e9 - 5.5453e9) / 57_344),  # 678,584
    (4, "bf16", "16bit", (4 * 22.2290e9 - 15.2312e9) / 57_344),  # 1,284,962
    (4, "fp8", "fp8", (4 * 22.2290e9 - 8.7059e9) / 28_672),  # 2,797,510
    (4, "int4", "16bit", (4 * 22.2290e9 - 5.5453e9) / 57_344),  # 1,453,871
]


@pytest.mark.parametrize(("tensor_parallel", "weights", "kv", "by_hand"), KV_TOKENS)
def test_kv_tokens_are_those_worked_out_by_hand(tensor_parallel: int, weights: str, kv: str, by_hand: float) -> None:
    assert option(tensor_parallel, weights, kv).kv_tokens == pytest.approx(by_hand, rel=2e-4)


# An estimate for this box that was made apart from this code, in thousands, at 0.95 of the memory.
ELSEWHERE = {
    "bf16": {1: 125, 2: 504, 4: 1270},
    "fp8": {1: 238, 2: 618, 4: 1380},
    "int4": {1: 294, 2: 673, 4: 1440},
}


@pytest.mark.parametrize(("weights", "size"), [(weights, size) for weights in ELSEWHERE for size in ELSEWHERE[weights]])
def test_kv_tokens_are_within_a_twentieth_of_an_estimate_made_elsewhere(weights: str, size: int) -> None:
    assert option(size, weights, "16bit").kv_tokens == pytest.approx(1000 * ELSEWHERE[weights][size], rel=0.05)


# 1008 GB/s over what a step reads: weights alone, and 8 caches of 4096 tokens, 8 x 4096 x 57,344 = 1.8790 GB.
DECODE = [
    ("bf16", 1008 / 14.1412, 8 * 1008 / (14.1412 + 1.8790)),  # 71 and 503 tokens/s
    ("fp8", 1008 / 7.6160, 8 * 1008 / (7.6160 + 1.8790)),  # 132 and 849
    ("int4", 1008 / 4.4554, 8 * 1008 / (4.4554 + 1.8790)),  # 226 and 1,273
]


@pytest.mark.parametrize(("weights", "alone", "of_eight"), DECODE)
def test_decoding_is_bound_by_what_a_step_reads(weights: str, alone: float, of_eight: float) -> None:
    speed = option(1, weights, "16bit").speed
    assert 1 / speed.decode_step_s(1, 0) == pytest.approx(alone, rel=1e-3)
    assert 8 / speed.decode_step_s(8, 4096) == pytest.approx(of_eight, rel=1e-3)


def test_prefill_is_bound_by_two_operations_for_each_weight_and_token() -> None:
    # 1024 tokens: 2 x 6.5253e9 x 1024 / 147e12 = 90.91 ms, attention 2 x 28 x 3584 x 1024^2 / 147e12 = 1.43 ms.
    assert option(1, "bf16", "16bit").speed.prefill_s(1024) == pytest.approx(0.09091 + 0.00143, rel=1e-3)
    assert option(1, "int4", "16bit").speed.prefill_s(1024) == pytest.approx(0.09091 + 0.00143, rel=1e-3)
    # The 8 bit units do 294e12; attention stays at 16 bit.
    assert option(1, "fp8", "16bit").speed.prefill_s(1024) == pytest.approx(0.04546 + 0.00143, rel=1e-3)


def test_gpus_that_share_an_engine_wait_for_two_all_reduces_in_each_layer() -> None:
    # Two GPUs read half each, 14.1412 / 2016 = 7.01 ms, and wait 56 times for 40 us and 7,168 bytes over 32 GB/s.
    step_s = option(2, "bf16", "16bit").speed.decode_step_s(1, 0)
    assert step_s == pytest.approx(0.007015 + 56 * (40e-6 + 7168 / 32e9), rel=1e-3)


@pytest.mark.parametrize(
    ("tensor_parallel", "weights", "kv", "context", "held"),
    [
        (1, "bf16", "16bit", 4096, 4 * 31),  # 127,649 / 4096 = 31.2
        (1, "bf16", "16bit", 32768, 4 * 3),
        (1, "int4", "16bit", 32768, 4 * 9),
        (4, "bf16", "16bit", 131072, 9),  # 1,284,962 / 131,072 = 9.8
        (4, "int4", "fp8", 131072, 22),
        (1, "int4", "fp8", 1024, 4 * 256),  # 579 would fit; a worker has 256 slots
    ],
)
def test_full_length_requests_held_are_whole_ones_within_the_slots(
    tensor_parallel: int, weights: str, kv: str, context: int, held: int
) -> None:
    assert option(tensor_parallel, weights, kv, context=context).full_length_requests == held


def test_what_does_not_hold_one_full_length_request_does_not_fit_and_says_why() -> None:
    assert option(1, "bf16", "16bit", context=131072).verdict == "no: not one full-length request"
    assert option(1, "int4", "16bit", context=131072).fits
    large = ModelShape.from_config(read_model_config("Qwen/Qwen2.5-72B-Instruct"))
    box, demand = Box(CARD, 4, 24 * GIB, 0.95), Demand(4096, 256, 256, None)
    ways = options(large, box, demand, list(WEIGHTS.values()), [KV["16bit"]])
    found = {each.weights.name: each for each in ways if each.tensor_parallel == 4}
    assert found["BF16"].verdict == "no: the weights leave no memory"
    assert found["FP8"].fits
    assert found["INT4"].verdict == "no: 1/4 of the MLP's width of 29568 is not whole groups of 128 quantised weights"


def test_a_size_that_does_not_divide_the_heads_is_named_as_the_obstacle() -> None:
    box, demand = Box(CARD, 8, 24 * GIB, 0.95), Demand(4096, 256, 256, None)
    ways = list(options(SHAPE, box, demand, [WEIGHTS["bf16"]], [KV["16bit"]]))
    assert {(each.workers, each.tensor_parallel, each.fits) for each in ways} == {
        (8, 1, True),
        (4, 2, True),
        (2, 4, True),
        (1, 8, False),
    }
    assert ways[-1].verdict == "no: 8 does not divide the 28 attention heads"


def test_a_target_bounds_the_batch_and_the_tokens_of_a_step() -> None:
    box = Box(CARD, 1, 24 * GIB, 0.95)
    held = Option(SHAPE, box, Demand(4096, 256, 64, 0.025), 1, 1, WEIGHTS["bf16"], KV["16bit"])
    # 25 ms x 1008 GB/s = 25.2 GB: the weights and (25.2 - 14.1412) / 0.23488 = 47.1 caches. With 64 slots the
    # MLP's 2048 x (3 x 18944 + 4 x 3584) x 2 = 0.2915 GB are the reserve; 7.8849e9 / 57,344 / 4096 = 33.6 caches fit.
    assert held.sequences == 33
    # A step of 33 takes (14.1412 + 33 x 0.23488) / 1008 = 21.72 ms; in the 3.28 ms left half the ceiling's pace, 11,090
    # tokens/s, prefills 18 tokens: fewer than vLLM wants, which is one for each of the 64 sequences.
    assert held.step_tokens == 64
    slower = Option(SHAPE, box, Demand(4096, 256, 64, 0.1), 1, 1, WEIGHTS["bf16"], KV["16bit"])
    # 78.28 ms x 5,545 tokens/s = 434, in steps of 64.
    assert slower.step_tokens == 384
    # 16 ms x 1008 GB/s = 16.128 GB: (16.128 - 14.1412) / 0.23488 = 8.5 caches.
    brisk = Option(SHAPE, box, Demand(4096, 256, 64, 0.016), 1, 1, WEIGHTS["bf16"], KV["16bit"])
    assert brisk.sequences == 8
    hasty = Option(SHAPE, box, Demand(4096, 256, 64, 0.014), 1, 1, WEIGHTS["bf16"], KV["16bit"])
    assert hasty.verdict == "no: misses the TPOT target alone"


def test_without_peer_access_single_cards_are_best_for_throughput_and_all_four_for_one_request() -> None:
    box, demand = Box(CARD, 4, 24 * GIB, 0.95), Demand(4096, 256, 256, None)
    ways = list(options(SHAPE, box, demand, [WEIGHTS["bf16"]], [KV["16bit"]]))
    choices = {each.aim: each.option for each in choose(ways)}
    assert (choices["throughput"].workers, choices["throughput"].tensor_parallel) == (4, 1)
    assert choices["latency"].tensor_parallel == 4
    assert choices["long context"].tensor_parallel == 4


def test_the_commands_are_ones_that_the_programs_take_and_give_each_worker_its_own_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SLUICE_WORKER_CONFIG", "SLUICE_SCHEDULER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    prepare, *workers, scheduler = map(shlex.split, commands(QWEN, option(2, "int4", "fp8")))
    prepared = parser(prepare[1:]).parse_args(prepare[1:])
    assert (prepared.model, prepared.scheme) == (QWEN, "gptq-w4a16")
    assert [words[0] for words in workers] == ["CUDA_VISIBLE_DEVICES=0,1", "CUDA_VISIBLE_DEVICES=2,3"]
    started = [WorkerSettings.load(words[2:], prog=words[1]) for words in workers]
    assert {(each.model, each.tensor_parallel_size, each.context_tokens, each.kv_cache_dtype) for each in started} == {
        (str(prepared.output), 2, 4096, "fp8")
    }
    assert SchedulerSettings.load(scheduler[1:], prog=scheduler[0]).worker == [each.listen for each in started]


def test_a_model_as_it_is_published_needs_no_preparation() -> None:
    assert [shlex.split(line)[0] for line in commands(QWEN, option(4, "bf16", "16bit"))] == [
        "CUDA_VISIBLE_DEVICES=0,1,2,3",
        "sluice-scheduler",
    ]
    assert json.dumps(commands(QWEN, option(4, "bf16", "16bit"))).count(QWEN) == 1
