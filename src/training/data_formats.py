"""Formats that people have questions and answers in, each found from the content of a file.

A format of records (JSON, CSV, Excel, Parquet) makes a pair of a record's fields; a format of lines
makes pairs of a text. The panel imports this module, so nothing here imports torch.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from src.errors import did_you_mean
from src.text import caseless

# Names that people give to the columns of a question and its answer, the likeliest first.
QUESTION_NAMES = (
    "question", "prompt", "instruction", "input", "query", "source", "misspelling", "wrong",
    "incorrect", "text",
)  # fmt: skip
ANSWER_NAMES = (
    "answer", "completion", "response", "output", "target", "expected", "correction", "right",
    "correct", "label",
)  # fmt: skip

Pair = tuple[str, str]
Fields = Mapping[str, Any]


class NoPair(ValueError):
    """A record that holds no question with an answer; says what it lacks."""


class BadLine(ValueError):
    """A line that is not of its format: what it has, and what it should have."""


# --- records --------------------------------------------------------------------------------------


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if isinstance(value, list) and value and isinstance(value[-1], Mapping):
        return _content(value[-1])  # a list of messages where a text would do
    if isinstance(value, list):
        if len(value) > 1:
            raise NoPair(f"several texts in {name}")
        value = value[0] if value else None
    if isinstance(value, Mapping | list):
        raise NoPair(f"no text in {name}")
    if value is None or isinstance(value, float) and value != value:
        return ""
    return str(value).strip()


def _needed(fields: Fields, name: str) -> str:
    if text := _text(fields, name):
        return text
    raise NoPair(f"no {name}")


def _content(message: Any) -> str:
    """The text of a message of a chat, whatever its library calls it."""
    if isinstance(message, str):
        return message.strip()
    if not isinstance(message, Mapping):
        return ""
    content = message.get("content", message.get("value", message.get("text")))
    if isinstance(content, list):  # parts, of which some may be pictures
        content = "".join(_content(p) for p in content if _is_text(p))
    return content.strip() if isinstance(content, str) else ""


def _is_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, Mapping) and part.get("type") == "text")


USERS, ASSISTANTS = {"user", "human"}, {"assistant", "gpt", "model", "bot", "chatgpt"}
SYSTEMS = {"system", "developer"}


def conversation(messages: Any) -> Pair:
    """The first question of a chat and its answer."""
    question = ""
    for message in messages if isinstance(messages, list) else ():
        role = ""
        if isinstance(message, Mapping):
            role = str(message.get("role", message.get("from", ""))).lower()
        if role in USERS and not question:
            question = _content(message)
        elif role in ASSISTANTS and question:
            if answer := _content(message):
                return question, answer
            raise NoPair("no answer")
    raise NoPair("no answer" if question else "no message of a user")


def system_message(fields: Fields) -> str:
    """The system message of a record: in its chat, or in a field of its own; empty for none."""
    for name in ("messages", "conversations", "prompt"):
        chat = fields.get(name)
        for message in chat if isinstance(chat, list) else ():
            if isinstance(message, Mapping):
                role = str(message.get("role", message.get("from", ""))).lower()
                if role in SYSTEMS and (text := _content(message)):
                    return text
    system = fields.get("system")
    return system.strip() if isinstance(system, str) else ""


def alpaca(fields: Fields) -> Pair:
    """`instruction`, an `input` that may be empty, and `output`."""
    question = _needed(fields, "instruction")
    if extra := _text(fields, "input"):
        question = f"{question}\n{extra}"
    return question, _needed(fields, "output")


def prompt_completion(fields: Fields) -> Pair:
    """`prompt` and `completion`, each a text or a list of messages."""
    return _needed(fields, "prompt"), _needed(fields, "completion")


# The tasks of CUTE by the names of their files (Edman et al. 2024), in our words.
CUTE = {
    "spell": "Spell the word: {0}",
    "spell_inverse": "Which word is spelled {0}?",
    "contains_char": "Is the letter {0} in the word {1}? Yes or No:",
    "contains_word": "Is the word {0} in the sentence {1}? Yes or No:",
    "orth": "Which of {1} and {2} is spelled more like {0}?",
    "sem": "Which of {1} and {2} means something more like {0}?",
    "ins_char": "Insert {0} after each {1} in the word: {2}",
    "ins_word": "Insert {0} after each {1} in the sentence: {2}",
    "del_char": "Delete each {0} from the word: {1}",
    "del_word": "Delete each {0} from the sentence: {1}",
    "sub_char": "Replace each {0} by {1} in the word: {2}",
    "sub_word": "Replace each {0} by {1} in the sentence: {2}",
    "swap_char": "Swap {0} and {1} in the word: {2}",
    "swap_word": "Swap {0} and {1} in the sentence: {2}",
}


def cute(fields: Fields, stem: str) -> Pair:
    """`input1` to `inputN` and `label`; the file's name is the task that the question asks for."""
    names = sorted((int(n[5:]), n) for n in fields if re.fullmatch(r"input\d+", n))
    given = [_needed(fields, name) for _, name in names]
    if template := CUTE.get(stem):
        try:
            return template.format(*given), _needed(fields, "label")
        except IndexError:
            raise NoPair(f"fewer inputs than {stem} needs") from None
    return f"{stem.replace('_', ' ')}: {', '.join(given)}", _needed(fields, "label")


# {format: the columns by which it is known}, the most telling first.
RECORDS = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "alpaca": ("instruction", "output"),
    "prompt-completion": ("prompt", "completion"),
    "cute": ("input1", "label"),
}


def record_format(columns: Sequence[str]) -> str:
    """The format of records with these columns; `columns` where a question and its answer have a
    column each."""
    known = (name for name, needed in RECORDS.items() if set(needed) <= set(columns))
    return next(known, "columns")


def pair_of(kind: str, mapping: Mapping[str, str], stem: str) -> Callable[[Fields], Pair]:
    """The function that makes a pair of a record's fields.

    `mapping` has the columns of question and answer for the format `columns`; `stem` is the name
    of the file without its ending.
    """
    if kind == "messages":
        return lambda fields: conversation(fields.get("messages"))
    if kind == "sharegpt":
        return lambda fields: conversation(fields.get("conversations"))
    if kind == "cute":
        return lambda fields: cute(fields, stem)
    if kind == "columns":
        one, other = mapping["question"], mapping["answer"]
        return lambda fields: (_needed(fields, one), _needed(fields, other))
    return {"alpaca": alpaca, "prompt-completion": prompt_completion}[kind]


def plain_name(name: str) -> str:
    """The name of a column without the spaces and capitals that people write, in one Unicode
    form."""
    return caseless(name.strip()).replace(" ", "_")


def find_columns(columns: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """{question: its column, answer: its column}: those of `given`, else those with a usual name.

    `columns` are {plain name: the name as the file has it}. Raises ValueError, in words for people.
    """
    found: dict[str, str] = {}
    there = ", ".join(columns.values()) or "none"
    for role, usual in (("question", QUESTION_NAMES), ("answer", ANSWER_NAMES)):
        name = given.get(role)
        if name is None:
            name = next((n for n in usual if n in columns and n not in found.values()), None)
        elif (plain := plain_name(name)) not in columns:
            near = did_you_mean(name, columns.values())
            raise ValueError(f"there is no column {name!r}{near}; it has {there}")
        else:
            name = plain
        if name is None:
            raise ValueError(
                f"no column is known to hold the {role}; it has {there}. "
                "Name both: --map question=COLUMN --map answer=COLUMN"
            )
        found[role] = name
    return found


def likely_columns(columns: Sequence[str], first: Sequence[Fields]) -> tuple[str, str]:
    """The likeliest columns of question and answer, by a word of their names; else those that hold
    more than numbers. For at least two columns, of which `first` are some rows: what says the same
    in all of them is no question."""
    vary = {c for c in columns if len({str(row.get(c)) for row in first}) > 1} or {*columns}
    words = {name: re.split(r"[^a-z]+", plain_name(name)) for name in columns}

    def named(usual: Sequence[str], there: Sequence[str]) -> str | None:
        return next((c for n in usual for c in there if n in words[c]), None)

    # A word that can name nothing else comes before one such as `source`.
    wrong = [n for n in QUESTION_NAMES if n in ("misspelling", "wrong", "incorrect")]
    texts = [c for c in columns if not all(_is_number(row.get(c)) for row in first)]
    order = [*texts, *(c for c in columns if c not in texts)]
    asked = [c for c in order if c in vary]
    question = named([*wrong, *QUESTION_NAMES], asked)
    answer = named(ANSWER_NAMES, [c for c in order if c != question])
    question = question or next((c for c in asked if c != answer), None)
    question = question or next(c for c in order if c != answer)
    rest = [c for c in columns if c != question]
    # Numbers that stand first are mostly those of the rows.
    usual = sorted((c for c in rest if c in texts), key=lambda c: c not in vary)
    return question, answer or next(iter(usual), rest[-1])


def _is_number(value: Any) -> bool:
    return re.fullmatch(r"\s*-?[\d.,]*\s*", "" if value is None else str(value)) is not None


# --- lines ----------------------------------------------------------------------------------------


def norvig(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    """`right: wrong wrong*3, wrong`; the number is how often a misspelling was seen."""
    for number, line in lines:
        right, colon, wrongs = line.partition(":")
        if not colon:
            raise BadLine(f"line {number:,} has no ':' after the right word: {_shown(line)}")
        for wrong in re.split(r"[\s,]+", wrongs.strip()):
            if word := re.sub(r"\*\d+$", "", wrong):
                yield number, word, right.strip()


def birkbeck(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    """`$right`, then one misspelling a line; `_` stands for a space."""
    right = ""
    for number, line in lines:
        if line.startswith("$"):
            right = line[1:].replace("_", " ").strip()
        elif not right:
            raise BadLine(f"line {number:,} comes before any right word ('$word'): {_shown(line)}")
        else:
            # The lists of Aspell and Wikipedia in this format count: `wrong 3`.
            yield number, re.sub(r"\s+\d+$", "", line).replace("_", " ").strip(), right


def arrow(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    """`wrong->right`; one with several corrections has no one answer and is left out."""
    for number, line in lines:
        wrong, sign, rights = line.partition("->")
        if not sign:
            raise BadLine(f"line {number:,} has no '->' after the misspelling: {_shown(line)}")
        offered = [right.strip() for right in rights.split(",") if right.strip()]
        yield number, wrong.strip(), offered[0] if len(offered) == 1 else ""


def symspell(lines: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str, str]]:
    """`wrong right distance`, between spaces or tabs."""
    for number, line in lines:
        parts = line.split()
        if len(parts) != 3 or not parts[2].isdigit():
            raise BadLine(
                f"line {number:,} is not a misspelling, a word and a number: {_shown(line)}"
            )
        yield number, parts[0], parts[1]


LINES = {"norvig": norvig, "birkbeck": birkbeck, "arrow": arrow, "symspell": symspell}

_TELLS = {
    "birkbeck": re.compile(r"\$\S.*|[^$:>,;\t]+"),
    "arrow": re.compile(r"[^,;\t]+->.+"),
    "norvig": re.compile(r"[^\s:,;\t][^:,;\t]*:\s*[^\s:{\"][^:{]*"),
    "symspell": re.compile(r"\S+\s+\S+\s+\d{1,2}"),
}


def line_format(lines: Sequence[str], *, nearly: bool = False) -> str | None:
    """The format of a text's first lines; None where they are of none. `nearly` takes one that at
    least half of them have."""
    for name, pattern in _TELLS.items():
        having = [line for line in lines if pattern.fullmatch(line)]
        if not lines or len(having) < (len(lines) / 2 if nearly else len(lines)):
            continue
        may_head = lines if nearly else lines[:1]
        if name == "birkbeck" and not any(line.startswith("$") for line in may_head):
            continue
        words = {line.partition(":")[0] for line in having}
        if name == "norvig" and 2 * len(words) <= len(having):
            continue  # the lines begin with no words of their own
        return name
    return None


def _shown(line: str) -> str:
    return repr(line if len(line) <= 60 else f"{line[:57]}...")
