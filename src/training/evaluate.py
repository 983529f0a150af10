"""Scores a trained adapter on a file of questions and answers."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from src.config import RunConfig
from src.training.data_loaders import load_rows


def evaluate(
    config: RunConfig, adapter: Path, data: Path, *, progress: Callable[[int], None]
) -> tuple[dict[str, float], pd.DataFrame]:
    """Metrics by name and one prediction per row, as `scoring.score` returns them.

    The base model and the prompt are those of `config`; PEFT loads adapters of both engines.
    """
    # Before the libraries load: a wrong file is reported at once.
    frame = load_rows(data)

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
    base = spelling.load_base(backend="peft", **arguments)
    model = PeftModel.from_pretrained(base, str(adapter))
    found = scoring.score(
        model, vocabulary.tokenizer, rows, context=context, progress=progress, **asked.evaluation
    )
    assert found is not None  # nothing here asks it to stop
    return found
