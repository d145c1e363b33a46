"""The model that the workers serve, as the scheduler needs to know it."""

from dataclasses import dataclass

from scheduler.prompt import PromptTokenizer
from sluice.v1.generation_pb2 import SamplingParams
from sluice.worker.v1 import worker_pb2


@dataclass(slots=True)
class ServedModel:
    """A model's limits, its own sampling values and its tokenizer.

    Attributes:
        name: Its name.
        context_tokens: Tokens of prompt and output together: the most of all workers so far, which may differ in it.
        vocabulary_size: Token ids are below it.
        generation_config: The model's own sampling values; what it does not name is unset.
        tokenizer: Turns inputs into token ids.
        tokenizer_digest: SHA-256 of the tokenizer, in hexadecimal.

    """

    name: str
    context_tokens: int
    vocabulary_size: int
    generation_config: SamplingParams
    tokenizer: PromptTokenizer
    tokenizer_digest: str

    @classmethod
    def from_worker(cls, model: worker_pb2.Model, tokenizer: bytes) -> "ServedModel":
        """Return the model that a worker says it serves; loading the tokenizer blocks, for up to a second.

        Args:
            model: From the worker's Hello.
            tokenizer: From the worker's GetTokenizer.

        Raises:
            TokenizerError: The tokenizer cannot be used.

        """
        return cls(
            name=model.name,
            context_tokens=model.context_tokens,
            vocabulary_size=model.vocabulary_size,
            generation_config=model.generation_config,
            tokenizer=PromptTokenizer(tokenizer),
            tokenizer_digest=model.tokenizer_digest,
        )
