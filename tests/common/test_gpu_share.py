"""Each worker of a machine has GPUs of its own."""

import pytest

from common.gpu_share import TooFewGpus, environment_for, share, visible_gpus

NO_PROGRAMS = {"PATH": "/nowhere"}


@pytest.mark.parametrize(
    ("workers", "each", "expected"),
    [
        (4, 1, [["0"], ["1"], ["2"], ["3"]]),
        (2, 2, [["0", "1"], ["2", "3"]]),
        (1, 4, [["0", "1", "2", "3"]]),
        (3, 1, [["0"], ["1"], ["2"]]),
    ],
)
def test_gpus_are_dealt_out_and_none_twice(workers: int, each: int, expected: list[list[str]]) -> None:
    assert share(["0", "1", "2", "3"], workers=workers, gpus_each=each) == expected


def test_too_few_is_an_error_with_both_numbers() -> None:
    with pytest.raises(TooFewGpus, match=r"2 worker\(s\) with 4 GPU\(s\) each need 8, and 4 can be seen"):
        share(["0", "1", "2", "3"], workers=2, gpus_each=4)


def test_the_gpus_that_were_chosen_are_the_ones_there_are() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "3, GPU-1a,MIG-2b"}) == ["3", "GPU-1a", "MIG-2b"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert visible_gpus(NO_PROGRAMS) == []


def test_without_gpus_or_with_one_worker_the_environment_stays_as_it_is() -> None:
    assert environment_for(1, NO_PROGRAMS, workers=2, gpus_each=1) == NO_PROGRAMS
    chosen = {"CUDA_VISIBLE_DEVICES": "2,3"}
    assert environment_for(0, chosen, workers=1, gpus_each=1) == chosen
    assert environment_for(1, chosen, workers=2, gpus_each=1) == {"CUDA_VISIBLE_DEVICES": "3"}
