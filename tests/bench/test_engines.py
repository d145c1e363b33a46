"""vLLM's own servers are started with the engine arguments that a worker has."""

from fractions import Fraction

from tests.bench.engines import flag


def test_an_argument_is_written_as_vllms_command_line_reads_it() -> None:
    assert flag("max_model_len", 512) == ["--max-model-len", "512"]
    assert flag("enforce_eager", True) == ["--enforce-eager"]
    assert flag("enable_prefix_caching", False) == ["--no-enable-prefix-caching"]
    assert flag("hf_overrides", {"a": [1]}) == ["--hf-overrides", '{"a": [1]}']
    assert flag("distributed_executor_backend", Fraction) == ["--distributed-executor-backend", "fractions.Fraction"]
