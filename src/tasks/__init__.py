"""The built-in tasks: questions about words with their checkers, each in a module of `built_in`"""

from src.tasks.mixture import mixed
from src.tasks.registry import TASKS, examples, find, task_of
from src.tasks.task import SEPARATORS, Asked, Example, Separator, Task, TaskError, TaskSettings

__all__ = [
    "SEPARATORS",
    "TASKS",
    "Asked",
    "Example",
    "Separator",
    "Task",
    "TaskError",
    "TaskSettings",
    "examples",
    "find",
    "mixed",
    "task_of",
]
