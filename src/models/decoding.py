"""How answers are decoded: greedily, or sampled by temperature, top-k and top-p

Free of torch, so that a wrong value is reported before the libraries load.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from src.errors import UserError


class DecodingError(UserError):
    """Answers cannot be decoded as was asked."""


@dataclass(frozen=True)
class Decoding:
    """The way in which answers are decoded, by the names of Hugging Face's GenerationConfig."""

    temperature: float = 0.0  # the logits are divided by it; 0 is greedy
    top_p: float = 1.0  # the most likely tokens that together have this probability are drawn from
    top_k: int | None = None  # so many of the most likely tokens are drawn from; None for all
    num_samples: int = 1  # answers to each question
    seed: int = 0

    def __post_init__(self) -> None:
        problems = (
            (
                not (math.isfinite(self.temperature) and self.temperature >= 0),
                f"temperature is {self.temperature:g}; it is a number from 0 (greedy) up, such as "
                "0.7",
            ),
            (
                not 0 < self.top_p <= 1,
                f"top_p is {self.top_p:g}; it is a probability above 0, up to 1 (all tokens)",
            ),
            (
                self.top_k is not None and self.top_k < 1,
                f"top_k is {self.top_k}; it is a number of tokens from 1 up; leave it out to draw "
                "from all of them",
            ),
            (
                self.num_samples < 1,
                f"num_samples is {self.num_samples}; each question needs at least 1 answer",
            ),
            (
                self.num_samples > 1 and self.temperature == 0,
                f"{self.num_samples} greedy answers to a question are all the same; take a "
                "temperature above 0, or one answer",
            ),
        )
        for wrong, sentence in problems:
            if wrong:
                raise DecodingError(sentence)

    @classmethod
    def of(
        cls,
        temperature: float | None,
        top_p: float | None,
        top_k: int | None,
        num_samples: int | None,
        *,
        seed: int,
    ) -> "Decoding":
        """Greedy where nothing is given. Who gives anything samples, at a temperature of 1 unless
        another one is given. Raises DecodingError."""
        given = {"top_p": top_p, "top_k": top_k, "num_samples": num_samples}
        chosen: dict[str, Any] = {k: value for k, value in given.items() if value is not None}
        if temperature is None:
            temperature = 1.0 if chosen else 0.0
        return cls(temperature=temperature, seed=seed, **chosen)

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    def document(self) -> dict[str, Any]:
        """The method and its values, as JSON; of greedy decoding the others do not matter."""
        if self.is_greedy:
            return {"method": "greedy"}
        return {"method": "sampling", **asdict(self)}

    def __str__(self) -> str:
        if self.is_greedy:
            return "greedy"
        parts = [f"temperature {self.temperature:g}"]
        parts += [f"top_p {self.top_p:g}"] if self.top_p < 1 else []
        parts += [f"top_k {self.top_k}"] if self.top_k is not None else []
        parts += [f"{self.num_samples} answers a question"] if self.num_samples > 1 else []
        return f"sampling ({', '.join(parts)}, seed {self.seed})"

    def draws(self, questions: Sequence[int], sample: int, tokens: int) -> np.ndarray:
        """float64 (questions, tokens) in [0, 1): the draw that each token is chosen by.

        They depend on the seed, the number of the question and that of the sample, so an answer is
        the same in a batch of any size. More tokens begin with the same draws.
        """
        rows = [np.random.default_rng((self.seed, q, sample)).random(tokens) for q in questions]
        return np.array(rows).reshape(len(questions), tokens)


GREEDY = Decoding()
