"""The metrics of an evaluation: their formulas, and how each is named, shown and compared.

A formula gives nan for empty lists: no words is not a score. Imports neither torch nor, until a
distance is computed, rapidfuzz: command line and supervisors read the names here.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from src.format import number, percent, spread
from src.memo import Memo
from src.text import composed


@dataclass(frozen=True)
class MetricInfo:
    """How a metric is shown, and which of two values is better."""

    name: str  # as recorded; a metric of an evaluation as val/NAME and test/NAME
    title: str
    unit: str
    lower_is_better: bool | None = None  # None: neither is
    format: str = ",.3~g"  # of a value, in d3's and (without ~) Python's notation

    @property
    def is_share(self) -> bool:
        """True if it is shown in percent."""
        return self.format.endswith("%")


MAX_JUDGED = 300_000  # answers whose judgement is remembered

# Of an evaluation, in the order in which they are offered and shown.
METRICS = {
    metric.name: metric
    for metric in (
        MetricInfo("exact_match", "accuracy (exact match)", "share of words", False, ".1%"),
        MetricInfo("token_accuracy", "token accuracy", "share of tokens", False, ".1%"),
        MetricInfo("cer", "character error rate", "edits per character", True, ".1%"),
        MetricInfo("edit_distance", "edit distance", "edits per word", True),
        MetricInfo("loss", "loss", "nats per token", True),
        # Recorded only where the data ask misspelled words and right ones.
        MetricInfo("mends", "misspelled words mended", "share of misspelled words", False, ".1%"),
        MetricInfo("leaves_alone", "right words left alone", "share of right words", False, ".1%"),
        # Of running text, which the suite `general` is.
        MetricInfo("bits_per_character", "bits per character", "bits per character", True),
    )
}
PARTIAL = ("mends", "leaves_alone", "bits_per_character")
# What is recorded while training.
TRAINING_METRICS = {
    metric.name: metric
    for metric in (
        MetricInfo("train/loss", "loss", "nats per token", True),
        MetricInfo("lr", "learning rate", "learning rate"),
        MetricInfo("grad_norm", "gradient norm", "L2 norm before clipping", True),
        MetricInfo("tokens_per_second", "speed", "tokens per second", None, ",.0f"),
    )
}
SPLITS = {"val": "validation", "test": "test"}  # as metrics are recorded -> in words
SUITE = "suite/"  # before the name of a suite, in its split and in its metrics
TOKENS = "tokens"  # seen since the first step; the axis of comparisons, no metric to choose by
# What is recorded of a process rather than of its model, in words.
OF_PROCESSES = {
    TOKENS: "tokens seen",
    "cpu/memory_gib": "CPU memory",
    "gpu/memory_gib": "GPU memory",
}
# Names of the metrics that may select the best checkpoint: those of every evaluation, and what
# training logged last before it.
MONITORED = (*(f"val/{name}" for name in METRICS if name not in PARTIAL), *TRAINING_METRICS)


def metric_info(recorded: str) -> MetricInfo | None:
    """The metric that is recorded under this name, such as val/cer, val/cer/word for one task, or
    suite/count/cer; None for one that is not listed here."""
    if recorded.startswith(SUITE):
        return METRICS.get(recorded.rpartition("/")[2])
    split, _, rest = recorded.partition("/")
    if split in ("val", "test"):
        return METRICS.get(rest.partition("/")[0])
    return TRAINING_METRICS.get(recorded)


def suite_of(recorded: str) -> str | None:
    """The suite that a metric is recorded of, or None."""
    if not recorded.startswith(SUITE):
        return None
    return recorded.removeprefix(SUITE).rpartition("/")[0]


def metric_label(recorded: str) -> str:
    """A recorded metric in words: `validation loss`, `suite count, accuracy (exact match)`; one
    that is not listed here as it is."""
    info = metric_info(recorded)
    if info is None:
        return OF_PROCESSES.get(recorded, recorded)
    if recorded in TRAINING_METRICS:
        return f"training {info.title}" if recorded == "train/loss" else info.title
    if recorded.startswith(SUITE):
        return f"{split_label(recorded.rpartition('/')[0])}, {info.title}"
    split, _, rest = recorded.partition("/")
    task = rest.partition("/")[2].replace("_", " ")
    return f"{SPLITS[split]} {info.title}{f', {task}' if task else ''}"


def short_label(recorded: str) -> str:
    """`metric_label` where there is little room, without what it has in brackets."""
    return re.sub(r" \([^)]*\)", "", metric_label(recorded))


_RECORDED = re.compile(r"\b(?:val|test|train|suite)/[a-z0-9_/]*[a-z0-9]")


def in_words(text: str) -> str:
    """A sentence, such as a run's reason, with the recorded names in it as `metric_label` has
    them."""
    return _RECORDED.sub(lambda found: metric_label(found[0]), text)


def split_label(split: str) -> str:
    """A split in words: `validation`, `suite count` of suite/count."""
    kind, _, name = split.partition("/")
    return f"{kind} {name}".strip()


def lower_is_better(recorded: str) -> bool:
    """True if a lower value of the metric of this recorded name is better."""
    info = metric_info(recorded)
    return info is not None and info.lower_is_better is True


def is_share(recorded: str) -> bool:
    """True if the metric of this recorded name is shown in percent."""
    info = metric_info(recorded)
    return info is not None and info.is_share


def value_text(recorded: str, value: float | None, sd: float | None = None) -> str:
    """The value of a metric, such as `87.5%` or `0.213`, and with a standard deviation also that,
    such as `87.5% ± 1.2`; a dash for None and nan."""
    share = is_share(recorded)
    told = percent(value) if share else number(value)
    return told if sd is None else f"{told} ± {spread(sd, is_share=share)}"


class Judgement(NamedTuple):
    """One answer beside the right one; both without surrounding spaces."""

    correct: bool  # as of `same`
    edit_distance: int
    """Fewest insertions, deletions, substitutions and swaps of neighbours that turn one into the
    other (optimal string alignment)."""
    edits: int
    """The same without swaps (Levenshtein)."""
    characters: int  # of the right answer


_judged: Memo[tuple[str, str], Judgement] = Memo(MAX_JUDGED)


def judge(predicted: list[str], expected: list[str]) -> list[Judgement]:
    """Each answer beside the right one; equal answers are judged once in the life of a process."""
    return _judged.of(list(zip(predicted, expected, strict=True)), _judge)


def _judge(pairs: list[tuple[str, str]]) -> list[Judgement]:
    from rapidfuzz.distance import OSA, Levenshtein
    from rapidfuzz.process import cpdist

    answers, right = [_plain(p) for p, _ in pairs], [_plain(e) for _, e in pairs]
    swaps, plain = (
        cpdist(answers, right, scorer=distance).tolist()
        for distance in (OSA.distance, Levenshtein.distance)
    )
    return [
        Judgement(p == e, swap, edits, len(e))
        for p, e, swap, edits in zip(answers, right, swaps, plain, strict=True)
    ]


def share_right(right: list[bool]) -> float:
    """Share of right answers, in [0, 1]."""
    return sum(right) / len(right) if right else math.nan


def same(predicted: str, expected: str) -> bool:
    """True if an answer is right: equal but for surrounding spaces and the Unicode form."""
    return predicted == expected or _plain(predicted) == _plain(expected)


def _plain(text: str) -> str:
    """An answer as it is compared: in one Unicode form, without surrounding spaces."""
    return composed(text).strip()


def token_accuracy(hits: int, tokens: int) -> float:
    """Fraction of the answers' tokens that the model ranks first, each after the true tokens before
    it."""
    return hits / tokens if tokens else math.nan


def edit_distance(predicted: str, expected: str) -> int:
    """`Judgement.edit_distance` of one answer."""
    return judge([predicted], [expected])[0].edit_distance


def mean_edit_distance(judged: Sequence[Judgement]) -> float:
    """Mean of `Judgement.edit_distance` over the words."""
    return sum(one.edit_distance for one in judged) / len(judged) if judged else math.nan


def character_error_rate(judged: Sequence[Judgement]) -> float:
    """Insertions, deletions and substitutions over all words, for each expected character; above 1
    where much is added.

    nan when no character is expected.
    """
    characters = sum(one.characters for one in judged)
    return sum(one.edits for one in judged) / characters if characters else math.nan
