"""Cards of the presets: what each teaches and needs, and what it comes to, here or elsewhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from pydantic import Field
from sqlmodel import Session

from src import store
from src.config import RunConfig, Section, config_key, load_config, read_yaml
from src.format import counted, duration
from src.runs.time_left import NEAR, Earlier

FILE = Path(__file__).with_suffix(".yaml")
METRIC = "val/exact_match"


class Measured(Section):
    """A run of a preset, elsewhere."""

    seconds: float = Field(gt=0)
    """From launch to end."""
    exact_match: float = Field(ge=0, le=1)
    """On the validation set."""
    hardware: str
    """What it was trained on."""


class Card(Section):
    """A preset as a person chooses between them."""

    teaches: str
    """A sentence."""
    model: str
    """The base model and its size."""
    needs_gpu: bool
    """True if it is made for an NVIDIA GPU."""
    measured: Measured | None = None
    """None: it was never measured."""


@dataclass(frozen=True)
class Expected:
    """Score and time that a preset comes to, and by what; None where nothing is known."""

    score: float | None
    score_by: str
    time: str | None


def cards() -> dict[str, Card]:
    """The card of each preset, those that need no GPU first."""
    found = {name: Card.model_validate(values) for name, values in read_yaml(FILE).items()}
    return dict(sorted(found.items(), key=lambda item: item[1].needs_gpu))


def expected(session: Session, shown: Mapping[str, Card]) -> dict[str, Expected]:
    """The score and the time that each preset comes to here."""
    configs = {name: load_config(preset=name) for name in shown}
    keys = {name: config_key(config.model_dump()) for name, config in configs.items()}
    scores = store.scores_of_configs(session, list(keys.values()), METRIC)
    earlier = Earlier(session)
    found = {}
    for name, card in shown.items():
        own, measured = scores.get(keys[name], []), card.measured
        score, by = None, ""
        if own:
            score, by = (
                fmean(own),
                f"mean of {counted(len(own), 'run')} here" if own[1:] else "1 run here",
            )
        elif measured:
            score, by = measured.exact_match, f"on {measured.hardware}"
        seconds, exact = earlier.of_config(configs[name])
        time = None
        if seconds is not None:
            time = f"{'≈' if exact else 'at most'} {duration(seconds)} here"
        elif measured:
            time = f"{duration(measured.seconds)} on {measured.hardware}"
        found[name] = Expected(score, by, time)
    return found


def elsewhere(config: RunConfig) -> tuple[float, str] | None:
    """Seconds that a run of the config may take, by what was measured of a preset of its model and
    data whose steps are not far fewer or more, and what that was measured on; None where nothing
    was."""
    for name, card in cards().items():
        preset = load_config(preset=name)
        alike = config.model.name == preset.model.name and config.data == preset.data
        rows = config.training.max_steps * config.rows_per_step
        longer = rows / (preset.training.max_steps * preset.rows_per_step)
        if card.measured and alike and 1 / NEAR <= longer <= NEAR:
            return card.measured.seconds * longer, card.measured.hardware
    return None
