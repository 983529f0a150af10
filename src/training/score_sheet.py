"""The scores of answers to some rows: metrics, and a table of predictions"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from src.models import metrics
from src.tasks import TASKS, task_of
from src.tasks.task import same_text
from src.text import composed
from src.training.dictionary import asked_right, correction_shares
from src.training.rows import Row

Scores = tuple[dict[str, float], pa.Table]  # metrics by name, one prediction per row
Checker = Callable[[str, str, str], bool]  # see `Task.is_right`

PREDICTIONS = (
    "word", "question", "expected", "predicted", "correct", "edit_distance", "answer_tokens",
    "log_probability", "task",
)  # fmt: skip


@dataclass(frozen=True)
class ScoreSheet:
    """The right answers to some rows, and how those of any model are judged by them."""

    expected: list[str]
    questions: list[str]
    checkers: list[Checker | None]  # who takes other answers than the right one itself
    mends: list[bool | None]  # see `dictionary.asked_right`
    places: dict[str, list[int]]  # of each task's rows; empty where they are all of one task
    columns: dict[str, pa.Array]  # of the predictions

    @staticmethod
    def of(rows: Sequence[Row]) -> "ScoreSheet":
        expected = [composed(row.answer).strip() for row in rows]
        questions = [row.question for row in rows]
        tasks = [row.task or task_of(answer) for row, answer in zip(rows, expected, strict=True)]
        # Where a task is told from the answer alone, one of a single letter looks the same in both.
        pairs = zip(rows, tasks, expected, strict=True)
        places: dict[str, list[int]] = {}
        if len({task for row, task, answer in pairs if row.task or len(answer) > 1}) > 1:
            for place, task in enumerate(tasks):
                places.setdefault(task, []).append(place)
        columns = {
            "word": pa.array([row.word for row in rows], pa.string()),
            "question": pa.array(questions, pa.string()),
            "expected": pa.array(expected, pa.string()),
            "answer_tokens": pa.array([len(row.answer_ids) for row in rows], pa.int64()),
            "task": pa.array(tasks, pa.string()),
        }
        own = [TASKS[task].is_right if task in TASKS else same_text for task in tasks]
        checkers = [None if checker is same_text else checker for checker in own]
        mends = asked_right(questions, expected)
        return ScoreSheet(expected, questions, checkers, mends, places, columns)

    def summary(
        self, log_p: Sequence[float], predicted: list[str], *, hits: int, tokens: int
    ) -> Scores:
        """The metrics and predictions that `score` returns, from each row's sum of log p and
        decoded answer and from how many of all answer tokens the arg max hits."""
        judged = metrics.judge(predicted, self.expected)
        right = [
            one.correct or (checker is not None and checker(question, answer, said))
            for one, checker, question, answer, said in zip(
                judged, self.checkers, self.questions, self.expected, predicted, strict=True
            )
        ]
        columns = self.columns | {
            "predicted": pa.array(predicted, pa.string()),
            "correct": pa.array(right, pa.bool_()),
            "edit_distance": pa.array([one.edit_distance for one in judged], pa.int64()),
            "log_probability": pa.array(log_p, pa.float64()),
        }
        values = {
            "loss": -sum(log_p) / tokens if tokens else float("nan"),
            "token_accuracy": metrics.token_accuracy(hits, tokens),
            **_distances(judged, right),
            **correction_shares(self.mends, [one.correct for one in judged]),
        }
        for task, own in sorted(self.places.items()):
            found = _distances([judged[at] for at in own], [right[at] for at in own])
            ending = task.replace(" ", "_")
            values |= {f"{name}/{ending}": value for name, value in found.items()}
        return values, pa.table({name: columns[name] for name in PREDICTIONS})


def _distances(judged: Sequence[metrics.Judgement], right: list[bool]) -> dict[str, float]:
    """Metrics of the generated answers of some rows."""
    return {
        "exact_match": metrics.share_right(right),
        "cer": metrics.character_error_rate(judged),
        "edit_distance": metrics.mean_edit_distance(judged),
    }
