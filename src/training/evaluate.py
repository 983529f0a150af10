"""Scores a trained adapter, or a base model, on a file of questions and answers or a suite."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from src.config import RunConfig
from src.models.decoding import GREEDY, Decoding, DecodingError
from src.training.checkpointing import verify_adapter
from src.training.data_loaders import load_rows
from src.training.prompts import format_of
from src.training.suite_scores import judged
from src.training.suites import Suite

if TYPE_CHECKING:
    from src.models.spelling_model import Vocabulary
    from src.training.rows import Row
    from src.training.trl_arguments import TrlPlan

Examples = Sequence[tuple[str, str]]  # questions with their answers, which a prompt begins with
Scores = tuple[dict[str, float], pd.DataFrame]


def evaluate(
    config: RunConfig,
    adapter: Path | None,
    data: Path | Suite,
    *,
    progress: Callable[[int], None],
    with_base: bool = False,
    examples: Examples = (),
    decoding: Decoding = GREEDY,
) -> Scores:
    """Metrics by name and the predictions for the rows of a file or a suite, of `scoring.score`.

    The base model and the prompt are those of `config`; PEFT loads adapters of both engines.
    Without an adapter the base model is scored, after `examples` in each prompt. `with_base` adds
    the base model's answers beside the adapter's, as the columns base_predicted and base_correct,
    and those after `examples`, where there are any, as few_shot_predicted and few_shot_correct; of
    running text also its metrics, as base/NAME.
    """
    frame = _frame(data, adapter, decoding)

    from peft import PeftModel

    from src.models import spelling_model as spelling
    from src.training.trl_arguments import plan

    asked = plan(config)
    scorer = _Scorer(
        config, asked, spelling.load_vocabulary(**asked.vocabulary), data, frame, decoding
    )
    of_adapter = scorer.encoded(() if adapter else examples)
    of_base = {"base": of_adapter} if adapter and with_base else {}
    if of_base and examples:
        of_base["few_shot"] = scorer.encoded(examples)
    arguments = {"vocabulary": scorer.vocabulary, **asked.vocabulary, **asked.base}
    model = spelling.load_base(backend="peft", **arguments)
    if adapter is None:
        return scorer.scored(model, of_adapter, progress, first_line=bool(examples))
    # The base comes first: an adapter's bias terms take the place of the base's own.
    scored_base, done = {}, 0
    for who, rows in of_base.items():
        told, first_line = partial(_further, progress, done), who == "few_shot"
        scored_base[who] = scorer.scored(model, rows, told, first_line=first_line)
        done += len(rows)
    model = PeftModel.from_pretrained(model, str(adapter))
    values, predictions = scorer.scored(model, of_adapter, partial(_further, progress, done))
    for who, (base_values, own) in scored_base.items():
        columns = {f"{who}_{name}": own[name] for name in ("predicted", "correct")}
        predictions = predictions.assign(**columns)
        if isinstance(data, Suite) and data.is_text:  # of which the answers say little
            values |= {f"{who}/{name}": value for name, value in base_values.items()}
    return values, predictions


def _frame(data: Path | Suite, adapter: Path | None, decoding: Decoding) -> pd.DataFrame:
    """The rows to score. What is wrong with them or with the adapter is reported here, before the
    libraries load."""
    if isinstance(data, Suite) and data.is_text and not decoding.is_greedy:
        raise DecodingError(
            f"the suite {data.name} is running text, which is measured in bits per character; "
            "sampling changes nothing there: leave it out"
        )
    frame = load_rows(data) if isinstance(data, Path) else data.frame
    if adapter is not None:
        verify_adapter(adapter)
    return frame


def _further(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


@dataclass(frozen=True)
class _Scorer:
    """The questions of an evaluation, and the way in which they are scored."""

    config: RunConfig
    asked: "TrlPlan"
    vocabulary: "Vocabulary"
    data: Path | Suite
    frame: pd.DataFrame
    decoding: Decoding

    def encoded(self, examples: Examples) -> "list[Row]":
        """The rows in tokens, each after the examples; DataError where one is too long."""
        from src.training import scoring
        from src.training.examples import encoded_suite

        if isinstance(self.data, Suite) and self.data.is_text:
            return encoded_suite(self.data, self.vocabulary, self.config, format_of(self.config))
        form = format_of(self.config, examples)
        self.vocabulary.end_answers_with(form.end)
        rows = scoring.encode(self.vocabulary.tokenizer, self.frame, form)
        name = str(self.data) if isinstance(self.data, Path) else self.data.name
        name += f" (each after {len(examples)} examples)" if examples else ""
        advice = "ask for fewer examples" if examples else "shorten or remove them"
        # model.max_length limits the rows of a training; here the context is what can be read.
        context = self.vocabulary.context_tokens
        scoring.check_lengths(rows, name, max_length=None, context=context, advice=advice)
        return rows

    def scored(
        self,
        model: Any,
        rows: "list[Row]",
        progress: Callable[[int], None],
        *,
        first_line: bool = False,
    ) -> Scores:
        from src.training import scoring

        found = scoring.score(
            model,
            self.vocabulary.tokenizer,
            rows,
            context=self.vocabulary.context_tokens,
            progress=progress,
            first_line=first_line,
            decoding=self.decoding,
            **self.asked.evaluation,
        )
        assert found is not None  # nothing here asks it to stop
        values, predictions = judged(self.data, *found) if isinstance(self.data, Suite) else found
        return values, predictions.to_pandas()
