"""The documentation is true: its commands run, its settings and errors exist, its links lead."""

import ast
import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from scripts import cli_reference, file_tree, settings_table
from src.analysis.kinds import KINDS
from src.cli import app
from src.paths import ROOT
from src.runs.spawn import Worker
from src.store.tables import NoticeKind
from tests.helpers import live

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^([ ]*)```(\w*)\n(.*?)^\1```", re.DOTALL | re.MULTILINE)


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """(language, text) of each code block of a page."""
    for indent, language, text in FENCE.findall(page.read_text(encoding="utf-8")):
        yield language, re.sub(f"^{indent}", "", text, flags=re.MULTILINE)


def commands(page: Path, name: str) -> Iterator[list[str]]:
    """The words of each shell line of a page that begins with `name`, comments aside."""
    for language, text in fences(page):
        if language not in ("bash", "console"):
            continue
        for line in re.sub(r"\\\n", " ", re.sub(r"<<'END'.*?^END$", "", text, flags=re.S | re.M)
                           ).splitlines():  # fmt: skip
            for part in re.split(r"&&|\||;|&$", line):
                words = shlex.split(part, comments=True)
                while words and (words[0] == "!" or "=" in words[0]):
                    words.pop(0)
                if words and words[0] == name:
                    yield words[1:]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 45 s where nothing else runs
def test_every_command_that_needs_no_gpu_runs(
    home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All `bash` blocks, page by page in one home; a `text` block is output of the one before."""
    scratch = tmp_path_factory.mktemp("docs")
    (scratch / "bin").mkdir()
    (scratch / "configs").symlink_to(ROOT / "configs")
    for name, starts in (("spelltune", f"{sys.executable} -m src.cli"), ("python", sys.executable)):
        command = scratch / "bin" / name
        command.write_text(f'#!/bin/sh\nexec {starts} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    ran = 0
    first = ROOT / "docs" / "training.md"  # the others look at its run
    try:
        for page in sorted(PAGES, key=lambda page: page != first):
            said = ""
            for language, text in fences(page):
                if language == "text" and said:
                    for line in text.splitlines():
                        assert line in said, f"{page.name} promises {line!r}; it was {said}"
                elif language == "bash":
                    done = subprocess.run(
                        ["bash", "-euo", "pipefail", "-c", text],
                        cwd=scratch, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    )  # fmt: skip
                    said = " ".join(done.stdout.split())
                    assert done.returncode == 0, f"{page.name}:\n{text}\n{done.stdout}"
                    ran += 1
    finally:
        live.kill_all(home)
    assert ran >= 5


def test_every_shown_command_and_option_exists() -> None:
    seen = set()
    for page in PAGES:
        for words in commands(page, "spelltune"):
            found: Any = typer.main.get_command(app)
            while words and hasattr(found, "commands") and not words[0].startswith("-"):
                assert words[0] in found.commands, f"{page.name}: spelltune {words[0]}"
                seen.add(words[0])
                found = found.commands[words.pop(0)]
            options = {option for parameter in found.params for option in parameter.opts}
            given = {word.partition("=")[0] for word in words if word.startswith("--")}
            missing = given - options - {"--help"}
            assert not missing, f"{page.name}: spelltune {found.name} has no {missing}"
    assert len(seen) > 10


def test_every_command_of_the_readme_runs_in_some_block() -> None:
    """All but those that stay until they are ended."""
    run = {
        name
        for page in PAGES
        for language, text in fences(page)
        if language == "bash"
        for name in re.findall(r"\bspelltune ((?:sweep )?[a-z]+)", text)
    }
    shown = {
        " ".join(words[: 1 + (words[0] == "sweep")])
        for words in commands(ROOT / "README.md", "spelltune")
    }
    assert len(shown) > 20 and shown - run <= {"panel"}, shown - run


def test_every_shown_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        wanted = {words[0] for words in commands(page, "make") if words}
        wanted |= set(re.findall(r"`make ([a-z-]+)", page.read_text()))
        assert wanted <= targets, page.name


def test_the_file_tree_of_the_readme_is_true() -> None:
    (tree,) = [text for _, text in fences(ROOT / "README.md") if text.startswith("app.py")]
    folders: list[str] = []
    for line in tree.splitlines():
        path = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [path]
        assert (ROOT / "".join(folders)).exists(), line
    there = {f.name for f in (ROOT / "src").iterdir() if not f.name.startswith("__")}
    assert there <= {line.split()[0].rstrip("/") for line in tree.splitlines()}, "src/ has more"


def test_each_file_that_the_documentation_names_exists() -> None:
    named = re.compile(r"\b(?:src|pages|tests|scripts|benchmarks|configs|notebooks)/[\w./-]+\.\w+")
    for page in PAGES:
        missing = {name for name in named.findall(page.read_text()) if not (ROOT / name).exists()}
        assert {name for name in missing if "NAME" not in name} == set(), page.name


def test_the_settings_table_is_what_run_config_says() -> None:
    assert settings_table.FILE.read_text() == settings_table.table(), "run `make settings`"


def test_the_command_reference_is_what_the_commands_say() -> None:
    assert cli_reference.FILE.read_text() == cli_reference.page(), "run `make commands`"


def test_each_tool_for_agents_is_in_their_page_and_the_skill_names_no_other() -> None:
    pytest.importorskip("mcp")
    from src.mcp.server import TOOLS

    page, skill = ((ROOT / "docs" / name).read_text() for name in ("agents.md", "SKILL.md"))
    told = {}
    rows = page.partition("## The tools")[2].splitlines()
    for names, _, reads in (row.strip("|").split("|") for row in rows if row.startswith("| `")):
        told |= dict.fromkeys(re.findall(r"`(\w+)`", names), "yes" in reads)
    assert told == {name: tool.reads for name, tool in TOOLS.items()}
    head, body = skill.removeprefix("---\n").split("\n---\n", 1)
    about = yaml.safe_load(head)
    assert about.keys() == {"name", "description"} and len(about["description"]) < 1024
    table = body.partition("## What to use when")[2].partition("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("|")][2:]
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row.split("|")[2])}
    assert len(named) > 10 and named - TOOLS.keys() <= {"vs"}


def test_the_tree_of_the_architecture_is_what_the_files_say() -> None:
    assert file_tree.FILE.read_text() == file_tree.page(), "run `make tree`"


def test_the_help_of_each_command_begins_with_one_short_sentence() -> None:
    """Rich keeps a line break inside it in the table of `spelltune --help`."""
    root: Any = typer.main.get_command(app)
    for command in [*root.commands.values(), *root.commands["sweep"].commands.values()]:
        first = command.help.partition("\n\n")[0]
        assert first.endswith(".") and "\n" not in first, command.name


def test_each_recipe_has_five_lines_and_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().partition("## To add something")[2]
    recipes = re.findall(r"^\*\*(.+?)\.\*\*\n\n(.+?)(?=^\*\*|\Z)", text, re.DOTALL | re.MULTILINE)
    assert len(recipes) == 6
    folders = [ROOT / name for name in ("src", "pages", "tests")]
    source = "".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))
    for name, recipe in recipes:
        assert re.findall(r"^(\d)\. ", recipe, re.MULTILINE) == list("12345"), name
        for quoted in re.findall(r"`([^`]+)`", recipe):
            if "/" in quoted and "NAME" not in quoted:
                assert (ROOT / quoted).exists(), f"{name}: {quoted}"
            elif re.fullmatch(r"[\w.@]+(\(\))?", quoted):
                last = quoted.removesuffix("()").lstrip("@").rpartition(".")[2]
                assert re.search(rf"\b{last}\b", source), f"{name}: {quoted}"


def test_the_table_of_architectures_is_what_the_packed_engine_computes() -> None:
    from transformers import CONFIG_MAPPING

    from src.models.multi_lora.families import FAMILIES

    text = (ROOT / "docs" / "model.md").read_text().partition("## Architectures\n")[2]
    text = text.partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" |")]
        for line in text.splitlines()
        if line.startswith("|") and "`" in line and "model_type" not in line
    ]
    told = {}
    for name, kinds, trl, unsloth, packed, targets in rows:
        for kind in re.findall(r"`(\w+)`", kinds):
            assert kind in CONFIG_MAPPING, name
            assert trl == "yes" and unsloth in ("own code", "generic"), name
            told[kind] = packed, tuple(re.findall(r"`(\w+)`", targets))
    computed = {kind: targets for kind, (packed, targets) in told.items() if packed[:2] != "no"}
    assert computed == {kind: family.targets for kind, family in FAMILIES.items()}
    windowed = {kind for kind, (packed, _) in told.items() if "window" in packed}
    # By their own defaults, or by the configurations that their authors publish (Phi-3).
    own = {k for k, f in FAMILIES.items() if f.window and not f.window_switch}
    assert windowed == own | {"phi3"}


# What each layer may import beside itself; tasks are below config, and config and the small
# modules of src are below all.
LAYERS = {
    "tasks": set(),
    "models": set(),
    "training": {"tasks", "models"},
    "store": set(),
    "runs": {"tasks", "models", "training", "store"},
    "analysis": {"tasks", "models", "training", "store", "runs"},
    "sweeps": {"tasks", "models", "training", "store", "runs", "analysis"},
    "panel": {"tasks", "models", "training", "store", "runs", "analysis", "sweeps"},
    "mcp": {"tasks", "models", "training", "store", "runs", "analysis", "sweeps", "panel"},
    "workers": {"tasks", "models", "training", "store", "runs", "analysis", "sweeps"},
}

FORBIDDEN = {"models": ("config", "paths"), "tasks": ("config",)}


# Which layers start which processes. Nobody starts the command line.
STARTED_BY = {
    "SUPERVISOR": {"runs"},
    "TRAINER": {"workers"},
    "SWEEP_DRIVER": {"runs"},
    "RECONCILE": {"workers"},
    "MEASURE": {"panel"},
    "MEMORY_PROBE": {"runs"},
    "IMPORT_CHECK": {"runs"},
    "EXPORT": {"runs"},
    "CONVERT": {"runs"},
    "RAY_NODES": {"runs", "workers"},
    "NODE_AGENT": {"workers"},
    "CALLS": {"workers"},
    "ANSWER": {"runs"},
    "EVALUATE": {"mcp"},
    "NOTIFY": {"runs"},
    "IDLE": {"runs"},
}
# `run_experiment`, whose place and behaviour users rely on, is `spelltune launch --wait`; a capsule
# holds its replay as a script of its own, which has the installed command train.
STARTS_THE_COMMAND_LINE = {"training/train.py", "analysis/capsule_replay.py"}
# The panel's server; the others start nothing, or not Python.
OTHER_SUBPROCESSES = {"cli/panel.py"}


def test_imports_point_down_as_the_layers_are_drawn() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    drawing = text.partition("flowchart TD")[2].partition("```")[0]
    assert set(LAYERS) <= set(re.findall(r"\[src/(\w+)\]", drawing))
    imports = re.compile(r"^\s*from src[. ](?:import )?(\w+)", re.MULTILINE)
    wrong = set()
    for layer, below in LAYERS.items():
        for file in (ROOT / "src" / layer).rglob("*.py"):
            for imported in imports.findall(file.read_text()):
                above = imported in LAYERS and imported not in below | {layer}
                if above or imported in FORBIDDEN.get(layer, ()):
                    wrong.add((str(file.relative_to(ROOT / "src")), imported))
    # A name of a base model means a folder of the home where its file was converted.
    assert wrong == {("models/gguf/files.py", "paths")}
    for file in (ROOT / "src" / "cli").rglob("*.py"):
        assert "workers" not in imports.findall(file.read_text()), file


def test_processes_are_started_by_name_and_nobody_starts_the_command_line() -> None:
    for worker in Worker:
        assert (ROOT / f"{worker.value.replace('.', '/')}.py").exists()
    assert set(STARTED_BY) == {worker.name for worker in Worker}
    starts: dict[str, set[str]] = {name: set() for name in STARTED_BY}
    for file in (ROOT / "src").rglob("*.py"):
        place, source = str(file.relative_to(ROOT / "src")), file.read_text()
        if place == "runs/spawn.py":
            continue
        for name in re.findall(r"\bWorker\.([A-Z_]+)", source):
            starts[name].add(place.partition("/")[0])
        if place not in STARTS_THE_COMMAND_LINE | OTHER_SUBPROCESSES:
            assert not re.search(r"sys\.executable|[\"']-m[\"']", source), place
        assert ('"src.cli"' in source) == (place in STARTS_THE_COMMAND_LINE), place
    assert starts == STARTED_BY


def test_each_process_is_in_the_table_of_the_processes() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text.partition("## The processes\n")[2].partition("\n#")[0]
    listed = re.findall(r"^\| (\w+)", table, re.MULTILINE)
    assert {*listed} == {"process", *(w.value.rpartition(".")[2] for w in Worker)}
    top = {file.stem for file in (ROOT / "src" / "workers").glob("*.py")}
    parts = {"__init__", "reporter", "standby", "call_pool", "sampler", "table_writer"}
    assert top - parts == set(listed) - {"process"}


def test_the_documents_name_each_kind_of_error_and_of_notice() -> None:
    assert f"one of {len(KINDS)} kinds of error" in (ROOT / "README.md").read_text()
    told = (ROOT / "docs" / "training.md").read_text().partition("as JSON: `event` (")[2]
    events = re.findall(r"`([a-z-]+)`", told.partition(")")[0])
    assert {*events} == {*NoticeKind, "test"} - {NoticeKind.SET_UP}


def test_each_dependency_that_asks_more_than_attribution_is_in_the_notice() -> None:
    named = set(re.findall(r"[\w-]+", (ROOT / "NOTICE").read_text()))
    asking = {}
    for package in importlib.metadata.distributions():
        about = package.metadata
        said = [about.get("License-Expression") or (about.get("License") or "").partition("\n")[0]]
        said += [c for c in about.get_all("Classifier") or [] if c.startswith("License ::")]
        if re.search(r"GPL|MPL|EUPL|CDDL|EPL|SSPL|CC-?BY|Proprietary|Commons", " ".join(said)):
            asking[package.name] = said
    assert "codespell" in asking
    missing = {name: said for name, said in asking.items() if name not in named}
    assert not {name for name in missing if not name.startswith("nvidia-")}, missing


def test_each_error_in_the_table_is_one_that_the_code_or_a_library_says() -> None:
    """Strings that stand in two lines of the source are joined first."""
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    # Said by the kernel, torch and torchvision.
    foreign = ("CUDA out of memory", "No space left", "operator torchvision::nms does not exist")
    text = (ROOT / "docs" / "training.md").read_text().partition("## Common errors")[2]
    errors = re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)
    assert len(errors) > 8
    for error in errors:
        assert error in source or error.startswith(foreign), error


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Without --quiet, under which mkdocs does not count what --strict is to end on."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Runs that cannot be lost" in (tmp_path / "index.html").read_text()
    assert 'class="mermaid"' in (tmp_path / "architecture.html").read_text()


def test_no_two_modules_import_each_other() -> None:
    """Imports inside functions and those for type checkers count too."""
    sources = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in (ROOT / "src").rglob("*.py")
    }
    needs: dict[str, set[str]] = {}
    for name, file in sources.items():
        needs[name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                needs[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                needs[name] |= inner & set(sources) or {node.module}
    circles = {
        tuple(sorted((name, other)))
        for name, wanted in needs.items()
        for other in wanted
        if name != other and name in needs.get(other, ())
    }
    assert circles == set()
