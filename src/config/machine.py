"""Settings of this machine, not of a run: its price, and what it does when idle (machine.yaml)"""

from collections.abc import Mapping

from pydantic import Field, field_validator

from src import paths
from src.config.fields import by_name
from src.config.loading import (
    ConfigError,
    merge,
    nested,
    parse_settings,
    parse_yaml,
    read_text,
)
from src.config.section import Section
from src.config.values import from_text
from src.config.yaml_text import dump_yaml
from src.errors import did_you_mean
from src.files import alone, write_atomic

MAX_CURRENCY = 8


class WhenIdle(Section):
    after_minutes: float = Field(default=20.0, gt=0, le=100_000)
    """Minutes in which nothing is queued or trained and no page of the panel is in front of a
    reader; then a countdown begins, at whose end `when_idle.command` runs."""
    command: str | None = None
    """Shell command that then runs once, such as `sudo shutdown -h now`; none: nothing runs. The
    panel shows it and does not change it."""


class MachineSettings(Section):
    price_per_hour: float | None = Field(None, gt=0, le=1e9)
    """Money that an hour of this machine costs; without it no money is shown anywhere."""
    currency: str = "USD"
    """What the money is called: a code such as `EUR`, a sign, or a word such as `credits`."""
    budget: float | None = Field(None, gt=0, le=1e9)
    """Money that may be spent from one start of this machine to the next: what is left of it is
    shown, and nothing is stopped."""
    when_idle: WhenIdle = WhenIdle()

    @field_validator("currency")
    @classmethod
    def _short(cls, value: str) -> str:
        word = value.strip()
        if not word or len(word) > MAX_CURRENCY or not word.isprintable():
            raise ValueError(
                f"takes a code such as EUR, a sign or a word of up to {MAX_CURRENCY} characters; "
                f"got {value[:60]!r}"
            )
        return word

    def cost_of(self, machine_seconds: float | None) -> float | None:
        """Money that so many seconds of the whole machine cost; None without a price."""
        if self.price_per_hour is None or machine_seconds is None:
            return None
        return self.price_per_hour * max(0.0, machine_seconds) / 3600


def usable_machine() -> MachineSettings:
    """`load_machine`, or the defaults where that is refused: for whoever only shows money beside
    other things. The page Machine and `spelltune machine` say why."""
    try:
        return load_machine()
    except ConfigError:
        return parse_settings(MachineSettings, {})


def load_machine() -> MachineSettings:
    """The settings in machine.yaml, or the defaults without that file. ConfigError with a sentence
    on each that cannot be used."""
    file = paths.machine_file()
    try:
        text = read_text(file) if file.exists() else ""
        return parse_settings(MachineSettings, parse_yaml(text, file) if text.strip() else {})
    except ConfigError as error:
        told = {f"{file}: {name}": text for name, text in error.problems.items() if name}
        raise ConfigError(told or error.problems) from None


def change_machine(texts: Mapping[str, str]) -> MachineSettings:
    """Write settings, each by its dotted name as a text, into machine.yaml; an empty text or `null`
    is none. ConfigError, and nothing is written, where one cannot be used."""
    known = by_name(MachineSettings)
    with alone(paths.changes_lock()):
        values = load_machine().model_dump()
        for name, text in texts.items():
            if name not in known:
                near = did_you_mean(name, known) or f"; there are {', '.join(known)}"
                raise ConfigError({name: f"no such setting of the machine{near}"})
            merge(values, nested(name, from_text(known[name], text)))
        changed = parse_settings(MachineSettings, values)
        kept = changed.model_dump(exclude_none=True)
        write_atomic(paths.machine_file(), dump_yaml(kept), mode=0o600)
        return changed
