"""Teaches a small Qwen2 network its answers by heart: rows of questions and answers, a training loop, a check."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForCausalLM

from worker.demo_answers import TOPICS, Topic
from worker.demo_tokenizer import DEFAULT_SYSTEM, END_OF_MESSAGE, END_OF_TEXT, START_OF_MESSAGE

CONTEXT_TOKENS = 8192
STEPS = 160
BATCH_ROWS = 28
PEAK_LEARNING_RATE = 3e-3
WARM_UP_STEPS = 20
CHECK_EVERY_STEPS = 20
SURE = 0.8  # Probability that every token of every answer must reach before training may stop.
IGNORED = -100  # cross_entropy's own mark for a position without a target.

SYSTEM_PROMPTS = (DEFAULT_SYSTEM, DEFAULT_SYSTEM, DEFAULT_SYSTEM, "You answer questions about serving language models.")


class Row(NamedTuple):
    """Token ids of one training text, and which of them the network must learn to predict."""

    ids: list[int]
    targets: list[int]


class Verdict(NamedTuple):
    """How well the answers are known: exact ones of all asked, and the least probability of any answer's token."""

    exact: int
    asked: int
    least_probability: float


class Report(NamedTuple):
    """How a training went."""

    steps: int
    loss: float
    verdict: Verdict


class Rows:
    """Writes topics as token rows, in ChatML or as bare text; the seed decides the wording."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._random = random.Random(seed)
        vocabulary = tokenizer.get_vocab()
        self._end_of_message, self._end_of_text = vocabulary[END_OF_MESSAGE], vocabulary[END_OF_TEXT]

    def canonical(self, topic: Topic, *, chat: bool) -> Row:
        """The topic's own question, as a caller with default settings asks it."""
        start = self._system(DEFAULT_SYSTEM) if chat else []
        prompt, answer = self._turn(topic.question, topic.answer, chat=chat)
        return Row(start + prompt + answer, [IGNORED] * len(start + prompt) + answer)

    def batches(self) -> Iterator[list[Row]]:
        """Endless batches: chat and bare text in turn, and now and then two questions in a row."""
        topics = self._shuffled()
        while True:
            for kind in range(10):
                chat, turns = kind % 2 == 0, 2 if kind >= 8 else 1
                yield [self._row([next(topics) for _ in range(turns)], chat=chat) for _ in range(BATCH_ROWS // turns)]

    def _shuffled(self) -> Iterator[Topic]:
        while True:
            yield from self._random.sample(TOPICS, len(TOPICS))

    def _row(self, topics: Sequence[Topic], *, chat: bool) -> Row:
        ids = self._system(self._random.choice(SYSTEM_PROMPTS)) if chat and self._random.random() < 0.9 else []
        targets = [IGNORED] * len(ids)
        for number, topic in enumerate(topics):
            prompt, answer = self._turn(self._wording(topic), topic.answer, chat=chat)
            if number and chat:
                prompt = self._encode("\n") + prompt
            ids += prompt + answer
            # A later question is learned too: a caller who ignores the end gets another question and answer.
            targets += (prompt if number else [IGNORED] * len(prompt)) + answer
        return Row(ids, targets)

    def _wording(self, topic: Topic) -> str:
        text = self._random.choice((topic.question, topic.question, *topic.paraphrases))
        text = text.rstrip("?.!") if self._random.random() < 0.2 else text
        return text.lower() if self._random.random() < 0.2 else text

    def _turn(self, question: str, answer: str, *, chat: bool) -> tuple[list[int], list[int]]:
        if not chat:
            return self._encode(question), [*self._encode(answer), self._end_of_text]
        text = f"{START_OF_MESSAGE}user\n{question}{END_OF_MESSAGE}\n{START_OF_MESSAGE}assistant\n"
        return self._encode(text), [*self._encode(answer), self._end_of_message]

    def _system(self, text: str) -> list[int]:
        return self._encode(f"{START_OF_MESSAGE}system\n{text}{END_OF_MESSAGE}\n")

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)


def train(
    tokenizer: Tokenizer, *, seed: int, deadline: float, progress: Callable[[float, str], None]
) -> tuple[Any, Report]:
    """Train until every answer is exact and sure, or until ``deadline`` on the monotonic clock.

    Two runs that end before their deadlines on one machine give the same weights. ``progress`` gets the share done and
    a remark. Returns the network in bfloat16 and the report.
    """
    with _reproducible(seed):
        network = Qwen2ForCausalLM(_config(tokenizer))
        rows = Rows(tokenizer, seed)
        exam = [rows.canonical(topic, chat=chat) for topic in TOPICS for chat in (True, False)]
        steps, loss = _fit(network, rows, exam, deadline=deadline, progress=progress)
        # The weights are examined as saved, but in float32: many processors only emulate bfloat16, slowly.
        verdict = examine(network.bfloat16().float(), exam)
        return network.bfloat16(), Report(steps, loss, verdict)


def examine(network: Any, exam: Sequence[Row]) -> Verdict:
    """See which answers the network gives exactly, greedily, and how sure it is of its least sure token."""
    exact, least = 0, 1.0
    with torch.no_grad():
        ids, targets = _tensors(exam)
        logits, wanted = _predict(network, ids, targets)
        probability = logits.float().softmax(-1).gather(-1, wanted[:, None])[:, 0]
        right = logits.argmax(-1) == wanted
        lengths = (targets[:, 1:] != IGNORED).sum(-1).tolist()
        exact = sum(bool(answer.all()) for answer in right.split(lengths))
        least = float(probability.min())
    return Verdict(exact, len(exam), least)


def _fit(
    network: Any, rows: Rows, exam: Sequence[Row], *, deadline: float, progress: Callable[[float, str], None]
) -> tuple[int, float]:
    """Run the training loop; returns the steps taken and the last loss."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)
    began = time.monotonic()
    for step, batch in enumerate(rows.batches(), start=1):
        spent = (time.monotonic() - began) / max(deadline - began, 1e-9)
        # A slow machine hurries the cooling, so that it ends in time with what it has.
        share = min(1.0, max(step / STEPS, 1.5 * spent - 0.5))
        optimizer.param_groups[0]["lr"] = _learning_rate(step, share)
        loss = _step(network, optimizer, batch)
        progress(share, f"step {step}, loss {loss:.3f}")
        if spent >= 1.0 or (step >= STEPS and step % CHECK_EVERY_STEPS == 0 and _is_learned(network, exam)):
            return step, loss
    raise AssertionError("batches are endless")


def _step(network: Any, optimizer: Any, batch: Sequence[Row]) -> float:
    logits, wanted = _predict(network, *_tensors(batch))
    loss = cross_entropy(logits, wanted)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def _is_learned(network: Any, exam: Sequence[Row]) -> bool:
    verdict = examine(network, exam)
    return verdict.exact == verdict.asked and verdict.least_probability >= SURE


def _predict(network: Any, ids: Any, targets: Any) -> tuple[Any, Any]:
    """Logits at the positions that have a target, and the targets; padding is on the right, so no mask is needed."""
    hidden = network.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    is_wanted = targets[:, 1:] != IGNORED
    return network.lm_head(hidden[is_wanted]), targets[:, 1:][is_wanted]


def _tensors(rows: Sequence[Row]) -> tuple[Any, Any]:
    length = max(len(row.ids) for row in rows)
    ids = [row.ids + [0] * (length - len(row.ids)) for row in rows]
    targets = [row.targets + [IGNORED] * (length - len(row.targets)) for row in rows]
    return torch.tensor(ids), torch.tensor(targets)


def _learning_rate(step: int, share: float) -> float:
    warm_up = min(1.0, step / WARM_UP_STEPS)
    return PEAK_LEARNING_RATE * warm_up * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def _config(tokenizer: Tokenizer) -> Any:
    """Qwen2 in small: one layer learns by heart fastest; two heads of keys and values permit tensor parallelism."""
    return Qwen2Config(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END_OF_MESSAGE),
        pad_token_id=tokenizer.token_to_id(END_OF_TEXT),
    )


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Fix the seed and the number of threads, on which sums depend; both are given back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
