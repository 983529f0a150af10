"""How long a sweep may go on: a number of trials, or a time"""

import re
from dataclasses import dataclass

STARTUP_SECONDS = 10  # from the start of a trial to its first step
MAX_LETTERS = 9  # of its number
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True)
class Budget:
    """Limits of a sweep; None where there is none."""

    trials: int | None = None
    seconds: float | None = None

    @staticmethod
    def parse(text: str) -> "Budget":
        """`200 trials` or `200`, `45 minutes`, `1.5h`; ValueError says what is understood."""
        # A comma parts thousands: `1,5h` could be meant as an hour and a half.
        number = r"(\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?|\.\d+)"
        found = re.fullmatch(rf"\s*{number}\s*([A-Za-z]*)\s*", text)
        words = found[2].lower() if found else ""
        if found and len(found[1]) > MAX_LETTERS:
            raise ValueError("the budget is too large; raise it later, as far as it is used")
        short = words.rstrip("s") in {"second", "minute", "hour", "day", "min", "sec", "hr"}
        amount = float(found[1].replace(",", "")) if found else 0.0
        if found and words in ("", "trial", "trials"):
            if amount < 1:
                raise ValueError("the budget is too small for one trial")
            if amount == int(amount):
                return Budget(trials=int(amount))
        if words in UNITS or short:
            seconds = amount * UNITS[words[0]]
            if seconds < STARTUP_SECONDS:
                raise ValueError(
                    "the budget is too small for one trial, which takes about "
                    f"{STARTUP_SECONDS} seconds before its first step"
                )
            return Budget(seconds=seconds)
        raise ValueError(f"must be such as `200 trials` or `45 minutes`; got {text!r}")
