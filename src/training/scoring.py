"""Scores a model on questions: loss and token accuracy of the true answers, generated answers."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pyarrow as pa
import torch

from src.format import capital
from src.memo import Memo
from src.models.decoding import GREEDY, Decoding
from src.models.generation import greedy_answers, sampled_answers
from src.models.losses import IGNORED, answer_log_probabilities
from src.models.prompt_format import PromptFormat, raw_format
from src.models.utils import autocast, dtype_of
from src.text import composed
from src.training.data_files import DataError
from src.training.rows import Row
from src.training.score_sheet import Scores, ScoreSheet

if TYPE_CHECKING:
    import pandas as pd

MAX_KNOWN_TEXTS = 300_000  # answers of a tokenizer whose text is remembered


def encode(tokenizer: Any, frame: "pd.DataFrame", form: PromptFormat | str) -> list[Row]:
    """Tokenize the rows of a frame with columns question, answer and word, by a prompt format or by
    a raw template with {question}."""
    if frame.empty:
        return []
    if isinstance(form, str):
        form = raw_format(form)
    prompts = [form.prompt(question) for question in frame["question"]]
    answers = [form.before_answer + answer for answer in frame["answer"]]
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    begin = {"add_special_tokens": not form.is_chat}
    asked: list[list[int]] = tokenizer(prompts, **begin)["input_ids"]
    completions: list[list[int]] = []
    for answer, prompt, text in zip(
        answers, asked, tokenizer(texts, **begin)["input_ids"], strict=True
    ):
        if text[: len(prompt)] != prompt:
            # The answer merged into the prompt's last token, which it never does at inference.
            text = prompt + tokenizer([answer], add_special_tokens=False)["input_ids"][0]
        completions.append(text[len(prompt) :] + [tokenizer.eos_token_id])
    given = texts_of(tokenizer, [until(ids, tokenizer.eos_token_id) for ids in completions])
    tasks = frame["task"] if "task" in frame else [None] * len(frame)
    parts = zip(frame["word"], frame["question"], given, asked, completions, tasks, strict=True)
    return [Row(*part) for part in parts]


def until(ids: list[int], end: int) -> list[int]:
    """The tokens before the first `end`; all where there is none."""
    return ids[: ids.index(end)] if end in ids else ids


def check_lengths(
    rows: Sequence[Row],
    split: str,
    *,
    max_length: int | None,
    context: int | None,
    advice: str = "shorten or remove them",
) -> None:
    """Raise DataError if a row exceeds `max_length` or the model's context: none is truncated.
    `advice` says what makes rows shorter."""
    limit = min((limit for limit in (max_length, context) if limit), default=None)
    long = [row for row in rows if limit and len(row) > limit]
    if long:
        longest = max(long, key=len)
        by_setting = limit == max_length
        name = "model.max_length" if by_setting else "the base model's context"
        advice = f"raise model.max_length or {advice}" if by_setting else advice
        raise DataError(
            f"{len(long)} of {len(rows)} {split} rows are longer than {name} of {limit} tokens; "
            f"the longest has {len(longest)}: {longest.question[:80]!r}. "
            f"{capital(advice)}."
        )


def longest_answer(rows: Sequence[Row]) -> int:
    return max((len(row.answer_ids) for row in rows), default=0)


@torch.no_grad()
def score(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    batch_size: int,
    max_new_tokens: int | None,
    precision: str,
    context: int | None = None,
    first_line: bool = False,
    decoding: Decoding = GREEDY,
    progress: Callable[[int], None] = lambda done: None,
    stop: Callable[[], bool] = lambda: False,
) -> Scores | None:
    """Metrics (loss, token_accuracy, exact_match, cer, edit_distance) and one prediction per row in
    the order of `rows`; None if `stop` returned True meanwhile.

    With rows of several tasks the last three are given for each task too, such as
    exact_match/spell_out; a row is right where the checker of its task says so. The loss is the
    mean cross-entropy of the answers' tokens in nats, EOS included, without label smoothing.
    `max_new_tokens` None is the longest expected answer plus 8.
    `first_line` takes an answer up to its line end: after examples a model goes on with another.
    With several samples a row has as many predictions, one after the other, and the last three
    metrics are means over them; loss and token accuracy are of the true answers.

    Greedy answers that are right at each token by more than rounding are not decoded: they are the
    true ones (`losses.clearly_first`).
    """
    was_training = model.training
    model.eval()
    budget = max_new_tokens or longest_answer(rows) + 8
    samples = decoding.num_samples
    log_p = [0.0] * len(rows)
    predicted = [""] * (len(rows) * samples)
    hits = tokens = done = 0
    # Longest first: rows of similar length share a batch, and memory runs out at once or never.
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
    try:
        for indices in _batches(order, batch_size):
            if stop():
                return None
            batch = [rows[i] for i in indices]
            sums, clear, batch_hits, counts = teacher_forced(model, tokenizer, batch, precision)
            hits, tokens = hits + batch_hits, tokens + counts
            for index, total in zip(indices, sums, strict=True):
                log_p[index] = total
            limits: dict[str, Any] = {"budget": budget, "context": context, "precision": precision}
            decoded = _decoded(model, tokenizer, batch, indices, clear, decoding, **limits)
            for sample, answers in enumerate(decoded):
                for index, text in zip(indices, texts_of(tokenizer, answers), strict=True):
                    text = text.partition("\n")[0].strip() if first_line else text
                    predicted[index * samples + sample] = text
            done += len(batch)
            progress(done)
    finally:
        model.train(was_training)
    if decoding.is_greedy:
        return ScoreSheet.of(rows).summary(log_p, predicted, hits=hits, tokens=tokens)
    return _of_samples(rows, log_p, predicted, samples, hits=hits, tokens=tokens)


def _of_samples(
    rows: Sequence[Row],
    log_p: Sequence[float],
    predicted: list[str],
    samples: int,
    *,
    hits: int,
    tokens: int,
) -> Scores:
    """The summary of rows with several answers each, whose number is in the column `sample`."""
    sheet = ScoreSheet.of([row for row in rows for _ in range(samples)])
    values, table = sheet.summary(
        [total for total in log_p for _ in range(samples)],
        predicted,
        hits=hits * samples,
        tokens=tokens * samples,
    )
    numbers = list(range(samples)) * len(rows)
    return values, table.append_column("sample", pa.array(numbers, pa.int64()))


_texts: WeakKeyDictionary[Any, Memo[tuple[int, ...], str]] = WeakKeyDictionary()


def texts_of(tokenizer: Any, answers: Sequence[Sequence[int]]) -> list[str]:
    """The text of each answer, without special tokens and surrounding spaces, in the Unicode form
    of `src.text.composed`."""
    backend = tokenizer.backend_tokenizer
    cleans = tokenizer.clean_up_tokenization_spaces and type(backend.model).__name__ != "BPE"
    # In one call: transformers' own decodes one by one, which takes eight times as long.
    decode = tokenizer.batch_decode if cleans else backend.decode_batch

    def decoded(new: list[tuple[int, ...]]) -> list[str]:
        texts = decode([list(ids) for ids in new], skip_special_tokens=True)
        return [composed(text).strip() for text in texts]

    known = _texts.setdefault(tokenizer, Memo(MAX_KNOWN_TEXTS))
    return known.of([tuple(ids) for ids in answers], decoded)


def _batches(order: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _decoded(
    model: Any,
    tokenizer: Any,
    batch: list[Row],
    numbers: list[int],
    clear: list[bool],
    decoding: Decoding,
    *,
    budget: int,
    context: int | None,
    precision: str,
) -> Iterator[list[list[int]]]:
    """For each sample the answers to a batch, of up to `budget` tokens that fit into the context.
    `numbers` are those of the rows; `clear` is True where the greedy answer is the true one."""
    room = budget
    if context:
        room = max(1, min(budget, context - max(len(row.prompt_ids) for row in batch)))
    end = tokenizer.eos_token_id
    options: dict[str, Any] = {
        "max_new_tokens": room,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": end,
        "precision": precision,
    }
    if decoding.is_greedy:
        answers = [until(row.answer_ids[:room], end) for row in batch]
        if missed := [index for index, known in enumerate(clear) if not known]:
            prompts = [batch[index].prompt_ids for index in missed]
            found = greedy_answers(model, prompts, **options)
            for index, answer in zip(missed, found, strict=True):
                answers[index] = answer
        yield answers
        return
    prompts = [row.prompt_ids for row in batch]
    for sample in range(decoding.num_samples):
        draws = decoding.draws(numbers, sample, room)
        yield sampled_answers(model, prompts, draws, decoding=decoding, **options)


def teacher_forced(
    model: Any, tokenizer: Any, batch: list[Row], precision: str
) -> tuple[list[float], list[bool], int, int]:
    """Of each row, the sum of its answer's log p and True where its answer is the greedy one; how
    many of all answer tokens the arg max hits, and their number."""
    longest = max(map(len, batch))
    ids, labels, mask = [], [], []
    for row in batch:
        pad = longest - len(row)
        ids.append(row.prompt_ids + row.answer_ids + [tokenizer.pad_token_id] * pad)
        labels.append([IGNORED] * len(row.prompt_ids) + row.answer_ids + [IGNORED] * pad)
        mask.append([1] * len(row) + [0] * pad)
    place = model.device
    with autocast(precision):
        logits = model(
            input_ids=torch.tensor(ids, device=place),
            attention_mask=torch.tensor(mask, device=place),
            use_cache=False,
        ).logits
    total, hits, counts, clear = answer_log_probabilities(
        logits, torch.tensor(labels, device=place), dtype=dtype_of(precision)
    )
    return total.tolist(), clear.tolist(), int(hits.sum()), int(counts.sum())
