"""Answers of base models and adapters to typed texts, side by side: loaded once, asked often"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from src.models import metrics, preloaded
from src.models import spelling_model as spelling
from src.models.generation import greedy_answers, likeliest_answers
from src.models.prompt_format import PromptFormat
from src.training.checkpointing import ADAPTER, verify_adapter
from src.training.data_preview import pieces_of
from src.training.prompts import format_of
from src.training.questions import Answer, Likely, Question, QuestionError, Speller, question_of
from src.training.rows import Row
from src.training.scoring import encode, longest_answer, teacher_forced, texts_of
from src.training.trl_arguments import TrlPlan, plan

LIKELIEST = 3  # answers that are shown with their probabilities
FREE_TOKENS = 64  # of an answer of unknown length
MAX_ADAPTERS = 8  # that stay loaded


class Spellers:
    """The base model that was asked last with its adapters, kept loaded for the next question."""

    def __init__(self) -> None:
        self._key: list[Any] | None = None
        self._base: Any = None
        self._model: Any = None  # the base with its adapters; None before the first one
        self._adapters: dict[tuple[str, int], str] = {}  # names, the least recently used first
        self._count = 0

    def ask(
        self,
        speller: Speller,
        texts: Sequence[str],
        *,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[Answer]:
        """The answers of a speller, in the order of the texts. QuestionError where a text is too
        long for its base model."""
        config = speller.config
        asked = plan(config)
        self._load_base(asked)
        form = format_of(config)
        vocabulary = spelling.load_vocabulary(**asked.vocabulary)
        vocabulary.end_answers_with(form.end)
        with self._choose(speller.adapter) as model:
            answering = _Answering(model, vocabulary, asked, form, speller)
            found = answering.answers(texts, progress)
        if speller.adapter is not None and config.lora.bias != "none":
            self._forget()  # its bias terms are in the place of the base's own
        return found

    def _load_base(self, asked: TrlPlan) -> None:
        base = {"backend": "peft", "revision": asked.vocabulary["revision"], **asked.base}
        key = preloaded.key_of(asked.vocabulary["name"], base)
        if key == self._key:
            return
        self._forget()
        vocabulary = spelling.load_vocabulary(**asked.vocabulary)
        self._base = spelling.load_base(asked.vocabulary["name"], vocabulary, **base)
        self._key = key

    @contextmanager
    def _choose(self, folder: Path | None) -> Iterator[Any]:
        """The model with this adapter, or as the base alone."""
        if folder is not None:
            self._use(folder)
            yield self._model
        elif self._model is None:
            yield self._base
        else:
            with self._model.disable_adapter():
                yield self._model

    def _use(self, folder: Path) -> None:
        from peft import PeftModel

        key = str(folder), (folder / ADAPTER[-1]).stat().st_mtime_ns
        name = self._adapters.pop(key, None)
        if name is None:
            verify_adapter(folder)
            self._count += 1
            name = f"adapter-{self._count}"
            if self._model is None:
                self._model = PeftModel.from_pretrained(self._base, str(folder), adapter_name=name)
            else:
                self._model.load_adapter(str(folder), adapter_name=name)
        self._adapters[key] = name
        self._model.set_adapter(name)
        self._model.eval()
        while len(self._adapters) > MAX_ADAPTERS:
            self._model.delete_adapter(self._adapters.pop(next(iter(self._adapters))))

    def _forget(self) -> None:
        """Free the base and its adapters."""
        self._key = self._base = self._model = None
        self._adapters.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class _Answering:
    """The way in which one speller answers: its model and how its prompts are written."""

    def __init__(
        self,
        model: Any,
        vocabulary: spelling.Vocabulary,
        asked: TrlPlan,
        form: PromptFormat,
        speller: Speller,
    ):
        self.model, self.form, self.speller = model, form, speller
        self.tokenizer, self.context = vocabulary.tokenizer, vocabulary.context_tokens
        self.batch_size = asked.evaluation["batch_size"]
        self.max_new_tokens = asked.evaluation["max_new_tokens"]
        self.precision = asked.evaluation["precision"]

    @torch.no_grad()
    def answers(self, texts: Sequence[str], progress: Callable[[int], None]) -> list[Answer]:
        questions = [question_of(self.speller.config, text) for text in texts]
        frame = pd.DataFrame(
            {
                "word": [one.text for one in questions],
                "question": [one.question for one in questions],
                "answer": [one.expected or "" for one in questions],
            }
        )
        rows = encode(self.tokenizer, frame, self.form)
        budget = self._budget(questions, rows)
        found: list[Answer] = []
        for start in range(0, len(rows), self.batch_size):
            end = start + self.batch_size
            found += self._batch(questions[start:end], rows[start:end], budget)
            progress(len(found))
        return found

    def _budget(self, questions: Sequence[Question], rows: Sequence[Row]) -> int:
        """Max tokens of an answer. QuestionError where a prompt leaves no room for any."""
        longest = max(rows, key=lambda row: len(row.prompt_ids))
        if self.context and len(longest.prompt_ids) >= self.context:
            raise QuestionError(
                f"{longest.question[:40]!r}… is {len(longest.prompt_ids):,} tokens with its "
                f"prompt, and {self.speller.config.model.name} reads {self.context:,}; shorten it"
            )
        if self.max_new_tokens:
            return int(self.max_new_tokens)
        free = any(one.expected is None for one in questions)
        return max(longest_answer(rows) + 8, FREE_TOKENS if free else 0)

    def _batch(
        self, questions: Sequence[Question], rows: Sequence[Row], budget: int
    ) -> list[Answer]:
        prompts = [row.prompt_ids for row in rows]
        room = min(budget, self.context - max(map(len, prompts))) if self.context else budget
        end = self.tokenizer.eos_token_id
        options: dict[str, Any] = {
            "max_new_tokens": room,
            "pad_token_id": self.tokenizer.pad_token_id,
            "eos_token_id": end,
            "precision": self.precision,
        }
        began = time.perf_counter()
        greedy = greedy_answers(self.model, prompts, **options)
        seconds = (time.perf_counter() - began) / len(rows)
        beams = likeliest_answers(self.model, prompts, count=LIKELIEST, **options)
        # The greedy answer first, so that it is the one that stands for its text.
        each = [
            list(dict.fromkeys(map(tuple, [first, *more])))
            for first, more in zip(greedy, beams, strict=True)
        ]
        candidates = [
            Row("", "", "", prompt, [*ids, end] if len(ids) < room else list(ids))
            for prompt, found in zip(prompts, each, strict=True)
            for ids in found
        ]
        log_p = iter(self._log_probabilities(candidates))
        return [
            self._answer(question, row, found, [next(log_p) for _ in found], seconds)
            for question, row, found in zip(questions, rows, each, strict=True)
        ]

    def _log_probabilities(self, rows: Sequence[Row]) -> list[float]:
        sums: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            batch = list(rows[start : start + self.batch_size])
            sums += teacher_forced(self.model, self.tokenizer, batch, self.precision)[0]
        return sums

    def _answer(
        self,
        asked: Question,
        row: Row,
        found: Sequence[tuple[int, ...]],
        log_p: Sequence[float],
        seconds: float,
    ) -> Answer:
        texts = texts_of(self.tokenizer, found)
        of_text: dict[str, float] = {}
        for text, total in zip(texts, log_p, strict=True):
            # Several ways to cut one text into tokens: the likeliest one stands for it.
            of_text[text] = max(total, of_text.get(text, -math.inf))
        ordered = sorted(of_text, key=lambda text: -of_text[text])[:LIKELIEST]
        predicted, expected = texts[0], asked.expected
        distance = None
        if expected is not None:
            distance = metrics.judge([predicted], [expected])[0].edit_distance
        backend = self.tokenizer.backend_tokenizer
        return Answer(
            by=self.speller.name,
            text=asked.text,
            question=asked.question,
            expected=expected,
            predicted=predicted,
            correct=asked.is_right(predicted),
            edit_distance=distance,
            probability=_probability(of_text[predicted]),
            likeliest=[
                Likely(text, _probability(of_text[text]), asked.is_right(text)) for text in ordered
            ],
            prompt_tokens=pieces_of(backend, self.form.prompt(asked.question), self.form),
            answer_tokens=_pieces_after(backend, row.prompt_ids, found[0]),
            seconds=seconds,
        )


def _probability(log_p: float) -> float | None:
    value = math.exp(min(log_p, 0.0))  # rounding may lift it above 1
    return value if math.isfinite(value) else None


def _pieces_after(backend: Any, prompt_ids: list[int], ids: Sequence[int]) -> list[str]:
    """The text of each token after a prompt; a letter that takes several stands in one piece."""
    cuts = [prompt_ids + list(ids[:end]) for end in range(len(ids) + 1)]
    before, *texts = backend.decode_batch(cuts, skip_special_tokens=False)
    pieces, done = [], len(before)
    for number, text in enumerate(texts, start=1):
        if number < len(texts) and text.endswith("\N{REPLACEMENT CHARACTER}"):
            continue  # half of a letter
        pieces.append(text[done:])
        done = len(text)
    return pieces
