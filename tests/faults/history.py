"""One request's whole stream as its client heard it, and what is wrong with it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sluice.v1 import inference_pb2


@dataclass(frozen=True, slots=True)
class Said:
    """What one sequence said."""

    text: str
    token_ids: tuple[int, ...]


@dataclass(slots=True)
class History:
    """Takes in everything in the order in which it is heard, whatever it is; nothing is dropped for being wrong.

    Attributes:
        errors: Names of the errors that the request ended with; one that went well has none.
        finished: The receipt of an answer that is whole.
        findings: What was wrong with the order of things so far.

    """

    errors: list[str] = field(default_factory=list)
    finished: inference_pb2.Finished | None = None
    findings: list[str] = field(default_factory=list)
    _accepted: int = 0
    _endings: int = 0
    _texts: dict[int, list[str]] = field(default_factory=dict)
    _token_ids: dict[int, list[int]] = field(default_factory=dict)

    @property
    def was_accepted(self) -> bool:
        """Whether it was let in; what is refused at the door is not."""
        return self._accepted > 0

    @property
    def has_ended(self) -> bool:
        """Whether an ending has been heard."""
        return self._endings > 0

    @property
    def said(self) -> dict[int, Said]:
        """What each sequence has said, by index."""
        return {index: Said("".join(self._texts[index]), tuple(ids)) for index, ids in self._token_ids.items()}

    def add(self, response: inference_pb2.GenerateResponse) -> None:
        """Take in a message of the stream."""
        event = response.WhichOneof("event")
        if self.has_ended:
            self.findings.append(f"{event} after the end")
        elif event != "accepted" and not self.was_accepted:
            self.findings.append(f"{event} before it was accepted")
        match event:
            case "accepted":
                self._accept()
            case "chunk":
                self._append(response.chunk)
            case "finished":
                self.finished = response.finished
                self._end()

    def fail(self, error: str) -> None:
        """Take in the error, by name, that the request ended with."""
        self.errors.append(error)
        self._end()

    def check(self, undisturbed: Mapping[int, Said]) -> list[str]:
        """Return all that is wrong, now that nothing more can come; ``undisturbed`` is what it should have said."""
        findings = [*self.findings]
        if not self.has_ended:
            findings.append("no ending")
        if self.finished is not None:
            findings += self._check_receipt(self.finished) + self._check_said(undisturbed)
        return findings

    def _accept(self) -> None:
        self._accepted += 1
        if self._accepted > 1:
            self.findings.append("accepted again")

    def _append(self, chunk: inference_pb2.Chunk) -> None:
        ids = self._token_ids.setdefault(chunk.index, [])
        if chunk.first_token != len(ids):
            kind = "duplicated" if chunk.first_token < len(ids) else "missing"
            self.findings.append(
                f"sequence {chunk.index}: tokens {kind}, a chunk begins at {chunk.first_token} after {len(ids)}"
            )
        ids.extend(chunk.token_ids)
        self._texts.setdefault(chunk.index, []).append(chunk.text)

    def _end(self) -> None:
        self._endings += 1
        if self._endings > 1:
            self.findings.append("ended again")

    def _check_receipt(self, finished: inference_pb2.Finished) -> list[str]:
        counted = {each.index: each.output_tokens for each in finished.sequences}
        brought = {index: len(ids) for index, ids in self._token_ids.items()}
        return [] if counted == brought else [f"the receipt counts tokens {counted}, the stream brought {brought}"]

    def _check_said(self, undisturbed: Mapping[int, Said]) -> list[str]:
        findings = []
        said = self.said
        if said.keys() != undisturbed.keys():
            return [f"sequences {sorted(said)}, undisturbed {sorted(undisturbed)}"]
        for index, each in said.items():
            if each.token_ids != undisturbed[index].token_ids:
                findings.append(f"sequence {index}: other tokens than undisturbed")
            if each.text != undisturbed[index].text:
                findings.append(f"sequence {index}: other text than undisturbed")
        return findings
