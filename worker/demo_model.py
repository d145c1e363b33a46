"""Makes the demo model: a small Qwen2 checkpoint, trained on the spot to answer questions about serving models.

``python -m worker.demo_model --output DIR`` takes about a minute on two cores. Nothing heavy is imported before the
work begins, so that ``QUESTIONS`` is cheap to have.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from worker.demo_answers import TOPICS

QUESTIONS: list[tuple[str, str]] = [(topic.question, topic.answer) for topic in TOPICS]
"""Every question and the answer that the model gives to it word for word, as a chat message or as a bare prompt."""

_SEED = 1
_RECIPE = "recipe.json"
_SAVING_S = 3.0
_BAR_WIDTH = 24


class Progress:
    """Tells a person how far the work is: a bar that redraws itself on a terminal, a line now and then elsewhere."""

    def __init__(self, stream: TextIO, *, every_s: float = 10.0) -> None:
        self._stream = stream
        self._every_s = 0.1 if stream.isatty() else every_s
        self._spoke_at = -every_s

    def show(self, share: float, remark: str) -> None:
        """Draw ``share`` (0 to 1) and a remark, unless something was drawn a moment ago."""
        if time.monotonic() - self._spoke_at < self._every_s:
            return
        self._spoke_at = time.monotonic()
        if self._stream.isatty():
            bar = ("#" * round(share * _BAR_WIDTH)).ljust(_BAR_WIDTH, ".")
            self._write(f"\r\x1b[Kdemo model [{bar}] {share:4.0%} {remark}")
        else:
            self._write(f"demo model: {share:.0%}, {remark}\n")

    def say(self, line: str) -> None:
        """Write a whole line, in place of the bar if there is one."""
        self._spoke_at = -self._every_s
        self._write(("\r\x1b[K" if self._stream.isatty() else "") + f"demo model: {line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def make(output: Path, *, seconds: float = 240.0) -> Path:
    """Make the model in ``output``, or return at once if this very recipe has made it there before.

    The folder appears whole or not at all. Training stops at ``seconds`` at the latest; standard error then says how
    many answers are exact.

    Raises:
        FileExistsError: ``output`` holds something else than a demo model.

    """
    output = output.resolve()
    if _is_made(output):
        return output
    deadline = time.monotonic() + seconds - _SAVING_S
    output.parent.mkdir(parents=True, exist_ok=True)
    with _locked(output.parent):
        if _is_made(output):  # by another process, while this one waited
            return output
        if output.exists() and not (output / _RECIPE).exists() and any(output.iterdir()):
            raise FileExistsError(f"{output} is not a demo model; name another folder or remove it")
        unfinished = output.with_name(f".{output.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            _build(unfinished, deadline=deadline, progress=Progress(sys.stderr))
            shutil.rmtree(output, ignore_errors=True)
            unfinished.rename(output)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return output


def _build(folder: Path, *, deadline: float, progress: Progress) -> None:
    """Train tokenizer and network and write the checkpoint, the recipe's fingerprint last."""
    began = time.monotonic()
    progress.say("loading torch and transformers")
    from transformers import GenerationConfig
    from transformers.utils.logging import disable_progress_bar

    from worker.demo_tokenizer import END_OF_MESSAGE, END_OF_TEXT, save_tokenizer, train_tokenizer
    from worker.demo_training import CONTEXT_TOKENS, train

    progress.say("training the tokenizer")
    tokenizer = train_tokenizer()
    progress.say(f"training the network to give {len(QUESTIONS)} answers")
    network, report = train(tokenizer, seed=_SEED, deadline=deadline, progress=progress.show)

    disable_progress_bar()
    ends = [tokenizer.token_to_id(token) for token in (END_OF_MESSAGE, END_OF_TEXT)]
    network.generation_config = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_p=0.8,
        top_k=20,
        repetition_penalty=1.05,
        eos_token_id=ends,
        pad_token_id=ends[1],
    )
    network.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, context_tokens=CONTEXT_TOKENS)
    verdict = report.verdict
    outcome = {"fingerprint": _fingerprint(), "steps": report.steps, "loss": report.loss, **verdict._asdict()}
    (folder / _RECIPE).write_text(json.dumps(outcome, indent=2))
    progress.say(
        f"{verdict.exact} of {verdict.asked} answers exact, least probability of a token "
        f"{verdict.least_probability:.2f}, {report.steps} steps, {time.monotonic() - began:.0f} s"
    )
    if verdict.exact < verdict.asked:
        progress.say("the time was up before all answers were learned; remove the folder to try again")


def _is_made(folder: Path) -> bool:
    try:
        recipe = json.loads((folder / _RECIPE).read_text())
    except (OSError, ValueError):
        return False
    return bool(recipe["fingerprint"] == _fingerprint())


def _fingerprint() -> str:
    """What the model depends on: the text of these modules."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("demo_*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold ``folder`` against other makers; the lock dies with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m worker.demo_model", description="Make the demo model.")
    parser.add_argument("--output", type=Path, required=True, help="folder to make the model in")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit (default: %(default)s)")
    options = parser.parse_args(arguments)
    # Threads that sleep while they wait for each other lose little alone and much less beside other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    make(options.output, seconds=options.seconds)


if __name__ == "__main__":
    main()
