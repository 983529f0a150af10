"""The language of a table's Find field: words, and conditions such as `val/loss < 0.5`."""

import operator
import re
from dataclasses import dataclass

from src.text import caseless

# The name of a suite may have a hyphen.
_CONDITION = re.compile(r"([\w/.-]+)\s*(<=|>=|<|>)\s*(-?[\d.]+(?:[eE][-+]?\d+)?%?)")
_COMPARE = {"<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}


@dataclass(frozen=True)
class Condition:
    """A bound on a column, as typed."""

    column: str
    sign: str  # one of < > <= >=
    bound: str  # a number, or a percentage such as 50%

    def holds(self, value: float | None) -> bool:
        """True if the value is within the bound; False for None, nan and a bound that is no
        number."""
        if value is None:
            return False
        try:
            bound = float(self.bound.rstrip("%")) / (100 if self.bound.endswith("%") else 1)
        except ValueError:
            return False
        return bool(_COMPARE[self.sign](value, bound))


def parse(text: str) -> tuple[list[str], list[Condition]]:
    """The words of a query, case-folded, and its conditions."""
    conditions = [Condition(*found) for found in _CONDITION.findall(text)]
    return caseless(_CONDITION.sub(" ", text)).split(), conditions
