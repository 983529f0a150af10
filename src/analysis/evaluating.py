"""Evaluations that somebody asks for: of an adapter or a base model, on a file or on a suite.

`evaluate` loads a model, so only the command line and the process that evaluates call it; the rest
of this module imports no torch.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from src import store
from src.analysis import evaluation, exports, misspellings
from src.config import RunConfig, load_config, stored_config, with_absolute_paths
from src.errors import UserError
from src.models.decoding import Decoding
from src.runs.attempts import adapter_folder

if TYPE_CHECKING:
    import pandas as pd

    from src.training.suites import Suite


class CannotEvaluate(UserError, ValueError):
    """An evaluation that contradicts itself: a sentence with what to name."""


@dataclass(frozen=True)
class Order:
    """An evaluation to make, as JSON can hold it."""

    run: str | None = None  # RUN or RUN@STEP
    base: str | None = None  # or a base model alone
    data: str | None = None  # a file of questions
    suite: str | None = None  # or the name of a suite
    baseline: bool = True  # ask the base model of an adapter too
    examples: int = 0  # answered questions in the prompt of the base model
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    num_samples: int | None = None
    seed: int = 0
    seen: bool = False  # ask also rows of a suite that the run was trained on

    def check(self) -> None:
        """CannotEvaluate where it is not clear what is asked."""
        if (self.run is None) == (self.base is None):
            raise CannotEvaluate("name either a run or a base model (base)")
        if (self.data is None) == (self.suite is None):
            raise CannotEvaluate("name either a file of questions (data) or a suite")
        if self.run and self.examples and not self.baseline:
            raise CannotEvaluate("examples are for the base model, which is to be left out")

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Evaluated:
    """The metrics and answers of an evaluation."""

    about: dict[str, Any]  # what was scored, and on what
    decoding: Decoding
    values: dict[str, float]  # {metric: value}
    answers: "pd.DataFrame"
    scores: dict[str, dict[str, Any]]  # of `evaluation.scores`
    note: str | None  # why words seen in training are not told from others
    kinds: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kinds", misspellings.counts(self.answers))

    @property
    def wrong(self) -> "pd.DataFrame":
        return self.answers[~self.answers["correct"]]

    def document(self) -> dict[str, Any]:
        """The document that `spelltune evaluate --json` prints."""
        return self.about | {
            "decoding": self.decoding.document(),
            "rows": len(self.answers) // self.decoding.num_samples,
            "answers": len(self.answers),
            "metrics": self.values,
            "scores": self.scores,
            "kinds": self.kinds,
            "notes": [self.note] if self.note else [],
            "errors": exports.records(self.wrong),
        }


def evaluate(order: Order, progress: Callable[[int], None] = lambda done: None) -> Evaluated:
    """Make an evaluation; `progress` is told how many answers there are."""
    from src.training.evaluate import evaluate as score
    from src.training.suites import Suite, few_shot

    order.check()
    decoding = Decoding.of(
        order.temperature, order.top_p, order.top_k, order.num_samples, seed=order.seed
    )
    config, about = _model_of(order)
    asked: Path | Suite = Path(order.data or "")
    shots: list[tuple[str, str]] = []
    if order.suite is not None or order.examples:
        asked = _suite_of(order, config if order.run else None)
        if order.examples:
            shots, asked = few_shot(asked, order.examples, seed=order.seed)
    values, frame = score(
        config,
        Path(about["adapter"]) if about["adapter"] else None,
        asked,
        progress=progress,
        with_base=order.baseline,
        examples=shots,
        decoding=decoding,
    )
    about |= {
        "data": order.data,
        "suite": order.suite,
        "left_out": asked.seen if isinstance(asked, Suite) else 0,
        "examples": order.examples,
    }
    # Of a suite the rows that a run has seen were left out.
    told = evaluation.unseen_or_note(config, frame) if order.run and order.data else (None, None)
    scores = evaluation.scores(frame, told[0])
    return Evaluated(about, decoding, values, misspellings.with_kinds(frame), scores, told[1])


def _model_of(order: Order) -> tuple[RunConfig, dict[str, Any]]:
    """The config to score under, and the ids of what is scored: an adapter or a base model."""
    if order.run is None:
        config = _base_alone(str(order.base))
        return config, {"id": None, "adapter": None, "model": config.model.name}
    with store.reading() as session:
        row, step = store.find_checkpoint(session, order.run)
    config, adapter = stored_config(row.config), adapter_folder(row, step)
    return config, {"id": row.id, "adapter": str(adapter), "model": config.model.name}


def _base_alone(name: str) -> RunConfig:
    """The config under which a base model is scored: the default prompt, rows of any length."""
    own = {"model.name": name, "model.load_in_4bit": False, "model.max_length": 131_072}
    return with_absolute_paths(load_config(overrides=own))


def _suite_of(order: Order, trained: RunConfig | None) -> "Suite":
    """The suite to score: of a run without the rows whose words it was trained on, unless they are
    asked for. A file is one too, with all its rows."""
    from src.training.data_loaders import load_rows, splits_of
    from src.training.suites import Suite, load

    if order.suite is None:
        return Suite(str(order.data), load_rows(Path(order.data or "")))
    settings = trained or load_config()
    suite = load(order.suite)
    if trained is not None:
        suite = suite.marked(splits_of(trained).train["word"], keep=order.seen)
    return suite.limited(settings.evaluation.suite_rows)
