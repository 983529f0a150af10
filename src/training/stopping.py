"""Which evaluation is the best so far, and whether to go on."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class BestSoFar:
    """The best evaluation of a metric, and how many came after it without a better one.

    The adapter before training takes no part: step 0 is the baseline, not a candidate.
    """

    mode: str  # min or max
    min_delta: float = 0.0
    patience: int | None = None
    value: float | None = None
    step: int | None = None
    without_better: int = 0

    def update(self, step: int, value: float) -> bool:
        """Whether `value` is a new best. nan never is."""
        better = value == value and (
            self.value is None
            or (value < self.value - self.min_delta if self.mode == "min" else False)
            or (value > self.value + self.min_delta if self.mode == "max" else False)
        )
        if better:
            self.value, self.step, self.without_better = value, step, 0
        else:
            self.without_better += 1
        return better

    @property
    def patience_is_over(self) -> bool:
        return self.patience is not None and self.without_better >= self.patience

    def state(self) -> dict[str, Any]:
        return asdict(self)
