"""Scores a trained adapter, or a base model, on a file of questions and answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from src.config import RunConfig
from src.training.checkpointing import verify_adapter
from src.training.data_loaders import load_rows


def evaluate(
    config: RunConfig,
    adapter: Path | None,
    data: Path,
    *,
    progress: Callable[[int], None],
    with_base: bool = False,
) -> tuple[dict[str, float], pd.DataFrame]:
    """Metrics by name and one prediction per row, those of `scoring.score`.

    The base model and the prompt are those of `config`; PEFT loads adapters of both engines.
    Without an adapter the base model is scored. `with_base` adds the base model's answers beside
    the adapter's, as the columns base_predicted and base_correct.
    """
    # Before the libraries load: a wrong file, or a damaged adapter, is reported at once.
    frame = load_rows(data)
    if adapter is not None:
        verify_adapter(adapter)

    from peft import PeftModel

    from src.models import spelling_model as spelling
    from src.models.utils import resolve_precision
    from src.training import scoring
    from src.training.trl_arguments import plan

    asked = plan(config, precision=resolve_precision(config.training.precision))
    vocabulary = spelling.load_vocabulary(**asked.vocabulary)
    rows = scoring.encode(vocabulary.tokenizer, frame, asked.template)
    context = vocabulary.context_tokens
    length = config.model.max_length
    scoring.check_lengths(rows, str(data), max_length=length, context=context)
    arguments = {"vocabulary": vocabulary, **asked.vocabulary, **asked.base}
    model = spelling.load_base(backend="peft", **arguments)

    def scored(model: Any, before: int = 0) -> tuple[dict[str, float], pd.DataFrame]:
        found = scoring.score(
            model,
            vocabulary.tokenizer,
            rows,
            context=context,
            progress=lambda done: progress(before + done),
            **asked.evaluation,
        )
        assert found is not None  # nothing here asks it to stop
        values, predictions = found
        return values, predictions.to_pandas()

    if adapter is None:
        return scored(model)
    model = PeftModel.from_pretrained(model, str(adapter))
    values, predictions = scored(model)
    if with_base:
        with model.disable_adapter():
            _, of_base = scored(model, before=len(rows))
        predictions = predictions.assign(
            base_predicted=of_base["predicted"], base_correct=of_base["correct"]
        )
    return values, predictions
