"""The questions and answers of a run: built-in tasks, own files, data sets of the hub.

The panel imports this module, so nothing here imports torch or transformers.
"""

import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from src.config import BUILT_IN_TASKS
from src.errors import did_you_mean
from src.training.data_files import SPLITS, DataError, read_hub, read_path

COLUMNS = ("question", "answer")
SPELLED_OUT = re.compile(r"\S( \S)+")


@dataclass(frozen=True)
class Splits:
    """Frames with the columns question, answer and word (the target, by which splits are cut)."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    duplicates: int = 0  # rows that were dropped because they repeat within a split

    def __getitem__(self, split: str) -> pd.DataFrame:
        frame: pd.DataFrame = getattr(self, split)
        return frame

    @property
    def rows(self) -> dict[str, int]:
        return {split: len(self[split]) for split in SPLITS}

    @property
    def leaks(self) -> dict[str, int]:
        """{"train/validation": number of words in both}, for every pair that shares a word."""
        words = {split: set(self[split]["word"].str.casefold()) for split in SPLITS}
        pairs = (("train", "validation"), ("train", "test"), ("validation", "test"))
        shared = {f"{a}/{b}": len(words[a] & words[b]) for a, b in pairs}
        return {pair: count for pair, count in shared.items() if count}

    @cached_property  # every trial of a pack asks for it
    def fingerprint(self) -> str:
        """sha256 of all questions and answers in their order."""
        digest = hashlib.sha256()
        for split in SPLITS:
            digest.update(json.dumps(self[split][list(COLUMNS)].values.tolist()).encode())
        return digest.hexdigest()


def split_of(word: str) -> str:
    """The split of a word by its hash: train (80%), validation or test (10% each)."""
    bucket = _hash(word) % 10
    return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.strip().casefold().encode()).digest()[:8])


def task_of(answer: str) -> str:
    """`spell out` where an answer is letters with a space between, else `word`."""
    return "spell out" if SPELLED_OUT.fullmatch(answer) else "word"


def fill(template: str, question: str) -> str:
    """The prompt: `template` with its {question} replaced. Other braces stay as they are."""
    return template.replace("{question}", question)


def load_splits(
    *, task: str, path: str | None = None, hub_id: str | None = None, revision: str | None = None
) -> Splits:
    """The rows of a built-in task or, with `path` or `hub_id`, of the user's own data.

    Own data without splits is cut 80/10/10 by `split_of` its answers. Raises DataError.
    """
    if path:
        return _own(read_path(Path(path)), source=path)
    if hub_id:
        return _own(read_hub(hub_id, revision), source=hub_id)
    if task not in BUILT_IN_TASKS:
        raise DataError(f"no task {task!r}{did_you_mean(task, BUILT_IN_TASKS)}")
    return {"spell_out": spell_out, "correct": correct}[task]()


# --- built-in tasks -------------------------------------------------------------------------------


@cache
def misspellings() -> list[tuple[str, str]]:
    """(misspelling, word) pairs of real misspellings, from the dictionary of codespell.

    Only pairs with one clear correction, in plain lower-case letters, 3 to 20 of them; no
    misspelling that is itself the correction of another one.
    """
    file = importlib.resources.files("codespell_lib") / "data" / "dictionary.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    # `wrong->right, other,` offers several corrections: not a question with one answer.
    pairs = [tuple(line.split("->")) for line in lines if "," not in line]
    letters = re.compile("[a-z]{3,20}")
    plain = [(w, r) for w, r in pairs if letters.fullmatch(w) and letters.fullmatch(r)]
    words = {right for _, right in plain}
    return sorted({(wrong, right) for wrong, right in plain if wrong not in words})


def target_words() -> list[str]:
    """Every word that the built-in tasks ask for."""
    return sorted({right for _, right in misspellings()})


def spell_out() -> Splits:
    """`Spell the word: receive` -> `r e c e i v e`, one row per word."""
    rows = [(f"Spell the word: {word}", " ".join(word), word) for word in target_words()]
    return _cut(rows)


def correct() -> Splits:
    """`Correct the spelling: recieve` -> `receive`.

    Training has every misspelling of its words; validation and test have one per word, so that
    frequently misspelled words do not weigh more.
    """
    held_out: dict[str, str] = {}
    rows = []
    for wrong, word in misspellings():
        if split_of(word) == "train":
            rows.append((wrong, word))
        elif word not in held_out or _hash(wrong) < _hash(held_out[word]):
            held_out[word] = wrong
    rows += [(wrong, word) for word, wrong in held_out.items()]
    return _cut([(f"Correct the spelling: {wrong}", word, word) for wrong, word in rows])


def _cut(rows: list[tuple[str, str, str]]) -> Splits:
    """Splits of (question, answer, word) rows by word, sorted by hash: the first N are a sample."""
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "word"])
    frame = frame.iloc[frame["question"].map(_hash).argsort(kind="stable")]
    split = frame["word"].map(split_of)
    return _splits({s: frame[split == s].reset_index(drop=True) for s in SPLITS})


def _splits(frames: dict[str, pd.DataFrame], duplicates: int = 0) -> Splits:
    return Splits(frames["train"], frames["validation"], frames["test"], duplicates)


# --- own data -------------------------------------------------------------------------------------


def load_rows(path: Path) -> pd.DataFrame:
    """All rows of a file or folder, whatever its splits: columns question, answer and word."""
    tables = read_path(path)
    checked = [_check(table, f"{path} {name}".strip()) for name, table in tables.items()]
    return pd.concat(checked, ignore_index=True)


def _own(tables: dict[str, pd.DataFrame], *, source: str) -> Splits:
    """Splits of checked rows; one unnamed table ("") is cut by the words of its answers."""
    checked = {name: _check(table, f"{source} {name}".strip()) for name, table in tables.items()}
    if "" in checked:
        splits = _cut(list(checked[""].itertuples(index=False, name=None)))
    else:
        none = pd.DataFrame(columns=[*COLUMNS, "word"], dtype=object)
        splits = _splits({split: checked.get(split, none) for split in SPLITS})
    unique = {split: splits[split].drop_duplicates(ignore_index=True) for split in SPLITS}
    dropped = sum(len(splits[split]) - len(unique[split]) for split in SPLITS)
    for split, frame in unique.items():
        if frame.empty:
            found = ", ".join(f"{n:,} {s}" for s, n in splits.rows.items())
            advice = "or give no splits at all and they are cut 80/10/10"
            if "" in checked:
                advice = "too few were there to cut 80/10/10 by their answers"
            raise DataError(f"{source} has 0 {split} rows ({found}); add rows, {advice}")
    return _splits(unique, dropped)


def _check(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The columns question, answer and word of a table, every cell a text that is not empty."""
    for column in COLUMNS:
        if column not in table.columns:
            there = [str(name) for name in table.columns]
            raise DataError(
                f"{source} has no column {column!r}; it has {', '.join(there) or 'none'}"
                f"{did_you_mean(column, there) or '.'} Rename one: question and answer are both "
                "needed"
            )
    for column in COLUMNS:
        for number, cell in enumerate(table[column], start=1):
            if not isinstance(cell, str):
                kind = (
                    "nothing"
                    if cell is None or cell != cell
                    else f"the {type(cell).__name__} {cell}"
                )
                raise DataError(f"{source}, row {number}: {column} holds {kind}; it must be text")
            if not cell.strip():
                raise DataError(f"{source}, row {number}: {column} is empty")
            # JSON can escape half a character, which no tokenizer and no file takes.
            if any("\ud800" <= letter <= "\udfff" for letter in cell):
                raise DataError(f"{source}, row {number}: {column} holds half a character")
    answers = table["answer"].str.strip()
    return pd.DataFrame({"question": table["question"], "answer": answers, "word": answers})


# --- preview --------------------------------------------------------------------------------------


def tokenizer_file(model: str, revision: str | None = None) -> Path:
    """tokenizer.json of a base model: a folder's, or the hub's (downloaded once)."""
    folder = Path(model)
    if folder.is_dir():
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise DataError(f"{folder} has no tokenizer.json")
        return file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # the sentence below says it once, not at every retry
    try:
        return Path(hf_hub_download(model, "tokenizer.json", revision=revision))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot load the tokenizer of {model} from the hub ({type(error).__name__}); "
            "check the name, the revision and the network"
        ) from None


def preview(
    splits: Splits, *, tokenizer: Path, template: str, max_length: int, rows: int = 5
) -> dict[str, Any]:
    """A preview of the data for the user before launch.

    rows, leaks and duplicates; tokens (min, median, max of prompt, answer and end); too_long: rows
    beyond `max_length`; examples: {question, answer, pieces}, pieces being how the tokenizer cuts
    prompt and answer, the leading space of a piece shown as it is.
    """
    from tokenizers import Tokenizer

    cutter = Tokenizer.from_file(str(tokenizer))
    lengths = []
    for split in SPLITS:
        frame = splits[split]
        prompts = [fill(template, question) for question in frame["question"]]
        answers = [" " + answer for answer in frame["answer"]]
        cut = zip(cutter.encode_batch(prompts), cutter.encode_batch(answers), strict=True)
        lengths += [len(prompt.ids) + len(answer.ids) + 1 for prompt, answer in cut]
    counts = pd.Series(lengths)
    head = splits.train.head(rows)[list(COLUMNS)].astype(str)
    return {
        "rows": splits.rows,
        "leaks": splits.leaks,
        "duplicates": splits.duplicates,
        "tokens": {
            "min": int(counts.min()),
            "median": float(counts.median()),
            "max": int(counts.max()),
        },
        "max_length": max_length,
        "too_long": int((counts > max_length).sum()),
        "examples": [
            {
                "question": question,
                "answer": answer,
                "pieces": _pieces(cutter, f"{fill(template, question)} {answer}"),
            }
            for question, answer in head.itertuples(index=False, name=None)
        ],
    }


def preview_notes(preview: Mapping[str, Any]) -> list[str]:
    """Warnings about the data of a `preview`; none of them prevents a launch."""
    notes = [
        f"{count:,} words are in both {pair.replace('/', ' and ')}, so scores on them say little"
        for pair, count in preview["leaks"].items()
    ]
    if preview["duplicates"]:
        notes.append(f"{preview['duplicates']:,} duplicate rows are left out")
    return notes


def _pieces(cutter: Any, text: str) -> list[str]:
    """`text` in the pieces that the tokenizer cuts it into; joined they are the text again."""
    return [text[start:end] for start, end in cutter.encode(text).offsets]
