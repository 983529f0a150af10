"""Questions and answers: the built-in tasks, people's own files, data sets of the hub.

The panel imports this module, so nothing here imports torch or transformers.
"""

import csv
import hashlib
import importlib.resources
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from src.config import BUILT_IN_TASKS
from src.errors import UserError, did_you_mean

SPLITS = ("train", "validation", "test")
COLUMNS = ("question", "answer")
SPELLED_OUT = re.compile(r"\S( \S)+")

# What people call the splits in their own files and columns.
SPLIT_NAMES = {"train": "train", "training": "train", "validation": "validation"} | {
    "valid": "validation", "val": "validation", "dev": "validation", "test": "test"
}  # fmt: skip


class DataError(UserError, ValueError):
    """Data that cannot be trained on: one sentence with what arrived and what to do."""


@dataclass(frozen=True)
class Splits:
    """Frames with the columns question, answer and word (the target, by which splits are cut)."""

    train: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame
    duplicates: int = 0  # rows that stood more than once within a split and were dropped

    def __getitem__(self, split: str) -> pd.DataFrame:
        frame: pd.DataFrame = getattr(self, split)
        return frame

    @property
    def rows(self) -> dict[str, int]:
        return {split: len(self[split]) for split in SPLITS}

    @property
    def leaks(self) -> dict[str, int]:
        """{"train/validation": words that stand in both}, for every pair that shares a word."""
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
    """The split of a word: train (80%), validation or test (10% each), the same for ever."""
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
    """The rows of a built-in task or, with `path` or `hub_id`, of somebody's own data.

    Own data without splits is cut 80/10/10 by `split_of` its answers. DataError says what is wrong.
    """
    if path:
        return _own(_read_path(Path(path)), source=path)
    if hub_id:
        return _own(_read_hub(hub_id, revision), source=hub_id)
    if task not in BUILT_IN_TASKS:
        raise DataError(f"no task {task!r}{did_you_mean(task, BUILT_IN_TASKS)}")
    return {"spell_out": spell_out, "correct": correct}[task]()


# --- built-in tasks -------------------------------------------------------------------------------


@cache
def misspellings() -> list[tuple[str, str]]:
    """(misspelling, word) pairs that people really wrote, from the dictionary of codespell.

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
    """`Spell the word: receive` -> `r e c e i v e`, one row a word."""
    rows = [(f"Spell the word: {word}", " ".join(word), word) for word in target_words()]
    return _cut(rows)


def correct() -> Splits:
    """`Correct the spelling: recieve` -> `receive`.

    Training has every misspelling of its words; validation and test one a word, so that frequently
    misspelled words do not weigh more.
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
    """(question, answer, word) rows, cut by word. In an order by hash: any first N are a sample."""
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "word"])
    frame = frame.iloc[frame["question"].map(_hash).argsort(kind="stable")]
    split = frame["word"].map(split_of)
    return _splits({s: frame[split == s].reset_index(drop=True) for s in SPLITS})


def _splits(frames: dict[str, pd.DataFrame], duplicates: int = 0) -> Splits:
    return Splits(frames["train"], frames["validation"], frames["test"], duplicates)


# --- own data -------------------------------------------------------------------------------------


def load_rows(path: Path) -> pd.DataFrame:
    """All rows of a file or folder, whatever its splits: columns question, answer and word."""
    tables = _read_path(path)
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
                f"{did_you_mean(column, there)} Rename one: question and answer are both needed"
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


def _read_path(path: Path) -> dict[str, pd.DataFrame]:
    """{split: table} of a file or of a folder with a file a split; {"": table} without splits."""
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.suffix.lower() in READERS]
        of_split = [
            (SPLIT_NAMES[f.stem.lower()], f) for f in files if f.stem.lower() in SPLIT_NAMES
        ]
        named = dict(of_split)
        if len(named) < len(of_split):
            found = ", ".join(file.name for _, file in of_split)
            raise DataError(
                f"folder {path} has two files for one split ({found}); keep one of them"
            )
        if not named:
            raise DataError(
                f"folder {path} has no file called train, validation or test with one of the "
                f"endings {', '.join(READERS)}"
            )
        return {split: _read_file(file) for split, file in named.items()}
    table = _read_file(path)
    if "split" not in table.columns:
        return {"": table}
    split = table["split"].map(lambda name: SPLIT_NAMES.get(str(name).strip().lower()))
    if split.isna().any():
        strange = table["split"][split.isna()].iloc[0]
        raise DataError(f"{path}: split {strange!r} is none of {', '.join(SPLITS)}")
    return {name: table[split == name] for name in SPLITS if (split == name).any()}


def _read_file(path: Path) -> pd.DataFrame:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        why = (
            " (a pickle can run code)" if path.suffix.lower() in (".pkl", ".pickle", ".pt") else ""
        )
        raise DataError(f"{path} is none of {', '.join(READERS)}{why}; save it as one of them")
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"no file {path}") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    if not content.strip():
        raise DataError(f"{path} is empty; it needs rows with the columns question and answer")
    try:
        table = reader(content)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start:,}); save it as UTF-8"
        ) from None
    except (ValueError, csv.Error, OSError) as error:  # OSError: pyarrow, for a damaged page
        raise DataError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if table.empty:
        raise DataError(f"{path} has no rows")
    return table


def _read_json(content: bytes) -> pd.DataFrame:
    document = _json_of(content.decode("utf-8-sig"))
    by_split = isinstance(document, dict) and set(document) <= set(SPLIT_NAMES)
    parts = document if by_split else {"": document}
    for rows in parts.values():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ValueError(
                'expected a list of objects, as in [{"question": "...", "answer": "..."}], or one '
                "such list a split"
            )
    mark = [{"split": split} if by_split else {} for split in parts]
    rows = [row | m for m, part in zip(mark, parts.values(), strict=True) for row in part]
    return pd.DataFrame(rows, dtype=object)


def _json_of(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply for rows of questions and answers") from None


def _read_jsonl(content: bytes) -> pd.DataFrame:
    rows = []
    # Not splitlines: U+2028 and the like may stand inside a JSON text.
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _json_of(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is not JSON: {error.msg}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object with question and answer")
        rows.append(row)
    return pd.DataFrame(rows, dtype=object)


def _read_csv(content: bytes) -> pd.DataFrame:
    # Not pandas: it takes a row with a cell too many for one with an index, and "null" for nothing.
    text = io.StringIO(content.decode("utf-8-sig"), newline="")
    reader = csv.DictReader(text, strict=True, skipinitialspace=True)
    rows = []
    for row in reader:
        if len(set(reader.fieldnames or [])) < len(reader.fieldnames or []):
            raise ValueError("two columns have the same name")
        if None in row:
            raise ValueError(f"line {reader.line_num} has more cells than the header")
        rows.append(row)
    return pd.DataFrame(rows, columns=list(reader.fieldnames or []), dtype=object)


def _read_parquet(content: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(content)).astype(object)


READERS: dict[str, Callable[[bytes], pd.DataFrame]] = {
    ".json": _read_json, ".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet
}  # fmt: skip

# Builders of the datasets library that only read data. Others unpickle (CVE-2026-57845).
SAFE_BUILDERS = ("json", "csv", "parquet", "text")


def _read_hub(hub_id: str, revision: str | None) -> dict[str, pd.DataFrame]:
    """{split: table} of a data set on the hub; scripts and builders that unpickle are refused."""
    # A bare name can be a builder's: load_dataset("csv") reads the files of the current folder.
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub_id) or Path(hub_id).exists():
        raise DataError(f"{hub_id!r} is not the id of a data set on the hub, such as user/words")
    import datasets  # over a second, and only this source needs it

    try:
        builder = datasets.load_dataset_builder(hub_id, revision=revision)
        kind = type(builder).__module__.split(".")[-1]
        if kind not in SAFE_BUILDERS:
            raise DataError(f"{hub_id} is kept as {kind}; only {', '.join(SAFE_BUILDERS)} are read")
        # By this very builder: asked for again, the hub may give another one.
        builder.download_and_prepare()
        found = builder.as_dataset()
    except DataError:
        raise
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"cannot load {hub_id} from the hub ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}); check the id, the revision and the network"
        ) from None
    tables = {name: split.to_pandas().astype(object) for name, split in found.items()}
    named = {SPLIT_NAMES[n]: t for n, t in tables.items() if n in SPLIT_NAMES}
    # A lone train split is data without splits.
    return {"": next(iter(tables.values()))} if len(tables) == 1 else named


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
    """What a person looks at before launch.

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
