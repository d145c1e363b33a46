"""How long requests stay on a worker: from it, how soon what they hold comes back."""

MEMORY_REQUESTS = 32
FIRST_GUESS_S = 0.5


class Residence:
    """Mean seconds that a sequence's slot, and a KV cache token, are held; over about the last 32 requests.

    By Little's law a full worker gives back its capacity divided by this per second. The first guess is short, since a
    long one would refuse what nothing has been learnt from.

    Attributes:
        of_sequence_s: Mean seconds that a slot is held.
        of_kv_token_s: Mean seconds that a KV cache token is held; large requests count more.

    """

    def __init__(self) -> None:
        self.of_sequence_s = self.of_kv_token_s = FIRST_GUESS_S
        self._sequences = self._kv_tokens = 0.0

    def observe(self, sequences: int, kv_tokens: int, residence_s: float) -> None:
        """A request has left its worker after so long."""
        kept = 1 - 1 / MEMORY_REQUESTS
        self._sequences = self._sequences * kept + sequences
        self._kv_tokens = self._kv_tokens * kept + kv_tokens
        self.of_sequence_s += (residence_s - self.of_sequence_s) * sequences / self._sequences
        self.of_kv_token_s += (residence_s - self.of_kv_token_s) * kv_tokens / self._kv_tokens
