"""What `spelltune doctor` imports is what a training imports."""

import ast
import sys

from src.cli import doctor
from src.paths import ROOT
from src.runs import imports
from src.runs.imports import Imported
from src.workers import import_check as check

# Of the panel and the command line, of tools beside a training, or parts of one that is listed.
NOT_OF_A_TRAINING = {
    "annotated_types", "httpx", "optuna", "plotly", "ray", "rich", "scipy", "starlette",
    "streamlit", "tsdownsample", "typer", "openpyxl", "unsloth", "triton", "apprise", "requests",
    "mcp", "anyio", "uvicorn",
}  # fmt: skip


def test_every_library_of_the_sources_is_tried() -> None:
    found = set()
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    libraries = found - set(sys.stdlib_module_names) - {"src"}
    tried = {name.partition(".")[0] for name in check.LIBRARIES + check.TRACKERS}
    assert libraries - tried - NOT_OF_A_TRAINING == set(), "doctor must try these"


# Libraries that take over a second to load, and who loads them whenever it is loaded itself.
SLOW = {
    "trl": {"src/training/trl.py"},
    "datasets": {"src/training/trl.py"},
    "transformers": {"src/training/trl.py"},
    "peft": set(),
    "wandb": set(),
    "trackio": set(),
    "tensorboard": set(),
    "unsloth": set(),
    "src.training.trl": set(),
}


def test_a_packed_trainer_loads_no_library_that_only_the_other_engine_or_a_tracker_uses() -> None:
    found: dict[str, set[str]] = {name: set() for name in SLOW}
    for file in (ROOT / "src").rglob("*.py"):
        body: list[ast.stmt] = ast.parse(file.read_text()).body
        for node in body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for name in names:
                for slow in SLOW:
                    if name == slow or name.startswith(f"{slow}."):
                        found[slow].add(str(file.relative_to(ROOT)))
    assert found == SLOW, "import these where they are used"


def test_a_module_that_cannot_be_imported_has_a_reason_on_one_line() -> None:
    assert check.tried("yaml") == {
        "module": "yaml", "version": check.importlib.metadata.version("PyYAML"), "problem": None
    }  # fmt: skip
    gone = check.tried("no_such_module")
    assert gone["problem"] == "ModuleNotFoundError: No module named 'no_such_module'"
    assert gone["version"] is None


def test_a_module_that_ends_the_process_prevents_a_launch_though_it_is_optional() -> None:
    # Nothing after it was tried, and a training would end with it too.
    found = {"unsloth": Imported("unsloth", None, "ended the process: Aborted", ended_process=True)}
    assert [one.module for one in imports.missing(found)] == ["unsloth"]
    assert doctor.would_use(found, ["a GPU"]).startswith(
        "nothing, as training cannot import unsloth"
    )
    assert doctor.usable(found, "peft") == "no: unsloth: ended the process: Aborted"


def test_a_tracker_that_cannot_be_imported_prevents_no_launch() -> None:
    found = {"wandb": Imported("wandb", None, "OSError: broken")}
    assert imports.missing(found) == []
    assert doctor.would_use(found, []) == "peft on the CPU, without W&B (OSError: broken)"
