"""The filter of runs and their lists: each condition against runs that were made for it."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from typer.testing import CliRunner

from src import paths, store
from src.analysis import comparison
from src.cli import app
from src.config import load_config
from src.runs import deletion, launcher
from src.store.tables import Run, Status
from tests.helpers import live
from tests.helpers.store import fill_run

NOW = datetime(2026, 11, 20, 12).timestamp()
DAY = 86_400

# Name -> status, days since the launch, settings, metrics, tags and notes.
RUNS: dict[str, tuple[Status, float, dict[str, Any], dict[str, float], list[str], str | None]] = {
    "small": (Status.COMPLETED, 9, {"lora.r": 4}, {"val/exact_match": 0.2}, ["base line"], None),
    "large": (Status.COMPLETED, 5, {"lora.r": 32}, {"val/exact_match": 0.8}, ["Keep", "x"], None),
    "Café": (Status.FAILED, 3, {"training.learning_rate": 0.5}, {}, [], "ran hot"),
    "waits": (Status.QUEUED, 1, {"engine": "trl"}, {}, ["keeper"], None),
    "old": (Status.STOPPED, 30, {"lora.r": 32}, {"val/exact_match": 0.5}, [], None),
}


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)], scope="module"
)
def ids(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """{name: id} of RUNS, in either database; `old` is archived."""
    home: Path = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPELLTUNE_HOME", str(home))
        patch.delenv("SPELLTUNE_DATABASE_URL", raising=False)
        if request.param == "sqlite":
            yield fill()
            return
        with live.postgresql(home / "pg") as folder:
            url = f"postgresql+psycopg://postgres@/postgres?host={folder}"
            patch.setenv("SPELLTUNE_DATABASE_URL", url)
            yield fill()


def fill() -> dict[str, str]:
    found = {}
    with store.writing() as session:
        for name, (status, days, settings, metrics, tags, notes) in RUNS.items():
            config = load_config(overrides={"name": name, **settings})
            run = store.enqueue(session, config, now=NOW - days * DAY)
            store.record_metrics(session, run.id, 1, [(5, n, v, NOW) for n, v in metrics.items()])
            store.set_notes(session, run.id, tags=tags, notes=notes)
            times = {"started_at": NOW, "ended_at": NOW + 60 * days} if status.ended else {}
            session.execute(update(Run).where(Run.id == run.id).values(status=status, **times))
            found[name] = run.id
        session.execute(update(Run).where(Run.id == found["old"]).values(archived_at=NOW))
    return found


def names(text: str, **order: Any) -> list[str]:
    with store.reading() as session:
        return [r.name for r in store.page_of_runs(session, store.parse_filter(text), **order)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ["waits", "Café", "large", "small"]),
        ("status:failed", ["Café"]),
        ("status:failed,queued", ["waits", "Café"]),
        ("status:FAILED status:completed", ["Café", "large", "small"]),
        ("status:ended -status:failed", ["large", "small"]),
        ("-status:completed", ["waits", "Café"]),
        ("tag:keep", ["large"]),
        ('tag:"base line"', ["small"]),
        ("-tag:keep", ["waits", "Café", "small"]),
        ("lora.r>=32", ["large"]),
        ("r = 4", ["small"]),
        ("r!=4 status:completed", ["large"]),
        ("lr>0.1", ["Café"]),
        ("lr=0.5", ["Café"]),
        ("engine=trl", ["waits"]),
        ("engine:TR", ["waits"]),
        ("-engine:trl status:completed", ["large", "small"]),
        ("val/exact_match>50%", ["large"]),
        ("val/exact_match < 0.5", ["small"]),
        ("-val/exact_match<0.5", ["waits", "Café", "large"]),
        ("val/exact_match=none", ["waits", "Café"]),
        ("training.gradient_checkpointing=true", []),
        ("early_stopping.target=none r=4", ["small"]),
        ("duration>=5m", ["large", "small"]),
        ("duration<200", ["Café"]),
        ("until:2026-11-11", ["small"]),
        ("since:2026-11-15 until:2026-11-17", ["Café", "large"]),
        ("since:2026-11-19", ["waits"]),
        ("CAFE\u0301", ["Café"]),
        ("hot", ["Café"]),
        ("-hot r=32", ["large"]),
        ('"ran hot"', ["Café"]),
        ("name:LAR", ["large"]),
        ("keep", ["waits", "large"]),
        ("100%", []),
        ("la_ge", []),
        ("sweep:none-such", []),
        ("archived:yes", ["old"]),
        ("archived:any r=32", ["large", "old"]),
        ("attempt=1 step<1 seed=42 archived:yes", ["old"]),
    ],
)
def test_a_filter_finds_the_runs_that_it_says(
    ids: dict[str, str], text: str, found: list[str]
) -> None:
    assert names(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("status:faild", "did you mean 'failed'?"),
        ("status:", "status: needs a word after the colon"),
        ("statsu:failed", "did you mean 'status'?"),
        ("ab:cd", "Words with a colon stand in quotation marks"),
        ("name>3", "name is a text: it takes = or !="),
        ("lora.rank>3", "did you mean"),
        ("revision=main", "may be model.revision or data.revision"),
        ("lr>fast", "lr is compared with a number, such as 0.001 or 50%; got fast"),
        ("lr>nan", "with a number"),
        ("duration>soon", "such as 10m"),
        ("since:tomorow", "tomorow is no time: write 2d"),
        ("since:2026-13-01", "is no time"),
        ("held_out_phrasings=perhaps", "it takes true, yes, false, no"),
        ("archived:often", "it takes no, yes, any"),
        ('"half', "no other half"),
        ("a" * 3000, "at most 2,000 characters"),
        ("a " * 100, "at most 40 parts"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(text: str, said: str) -> None:
    with pytest.raises(store.BadFilter) as error:
        store.parse_filter(text)
    assert said.removeprefix("lr is") in str(error.value)


@pytest.mark.parametrize(
    ("sort", "ascending", "found"),
    [
        ("launched", False, ["waits", "Café", "large", "small"]),
        ("launched", True, ["small", "large", "Café", "waits"]),
        ("val/exact_match", False, ["large", "small", "waits", "Café"]),
        ("val/exact_match", True, ["small", "large", "waits", "Café"]),
        ("duration", False, ["small", "large", "Café", "waits"]),
        ("lr", False, ["Café", "waits", "large", "small"]),
        ("r", True, ["small", "waits", "Café", "large"]),
        ("engine", False, ["waits", "Café", "large", "small"]),
        ("status", True, ["large", "small", "Café", "waits"]),
    ],
)
def test_runs_are_sorted_by_any_column_and_come_page_by_page(
    ids: dict[str, str], sort: str, ascending: bool, found: list[str]
) -> None:
    order = {"sort": sort, "ascending": ascending}
    assert names("", **order) == found
    assert names("", **order, limit=3) == found[:3]
    assert names("", **order, limit=3, offset=3) == found[3:]
    with store.reading() as session:
        everything = store.parse_filter("")
        groups = store.page_of_configs(session, everything, **order, limit=10)
        assert [run.name for group in groups for run in group] == found
        assert store.count_configs(session, everything) == 4


def test_counts_and_tags_are_of_what_is_listed(ids: dict[str, str]) -> None:
    with store.reading() as session:
        counts = store.count_runs(session, store.parse_filter("status:failed"))
        assert counts == {Status.COMPLETED: 2, Status.FAILED: 1, Status.QUEUED: 1}
        assert store.tags_in_use(session) == ["Keep", "base line", "keeper", "x"]
        assert [s.id for s in store.states(session, store.parse_filter("r=4"))] == [ids["small"]]
        assert store.recorded_metrics(session) == ["val/exact_match"]


def test_an_archived_run_is_out_of_the_lists_and_loses_nothing(ids: dict[str, str]) -> None:
    everywhere = store.parse_filter("archived:any")
    with store.reading() as session:
        before = {r.id: r.model_dump() for r in store.page_of_runs(session, everywhere)}
    with store.writing() as session:
        run = store.find(session, ids["small"])
        assert store.archive(session, [run], archived=True) == [run.id]
        assert ids["small"] not in store.run_labels(session, limit=10)
        assert store.find(session, "small").id == ids["small"]
        with pytest.raises(store.InvalidState, match="is QUEUED; only runs that have ended"):
            store.archive(session, [store.find(session, "waits"), run], archived=True)
    assert names("") == ["waits", "Café", "large"]
    with store.writing() as session:
        store.archive(session, [store.find(session, "small")], archived=False)
    with store.reading() as session:
        after = {r.id: r.model_dump() for r in store.page_of_runs(session, everywhere)}
    assert before == after
    assert names("") == ["waits", "Café", "large", "small"]


def test_seeds_of_one_config_are_together_and_others_are_not(home: Path) -> None:
    def add(**settings: Any) -> None:
        overrides = {k.replace("__", "."): v for k, v in settings.items()}
        with store.writing() as session:
            run = store.enqueue(session, load_config(overrides=overrides))
            score = 0.1 * run.config["training"]["seed"]
            store.record_metrics(session, run.id, 1, [(1, "val/exact_match", score, 0.0)])

    for seed in (1, 2, 3):
        add(name="a", training__seed=seed)
        add(name=f"b{seed}", training__seed=seed + 3, lora__r=32)
    add(name="c", training__seed=9, tracking__mode="off", lora__r=32)  # of the config of b
    everything = store.parse_filter("")
    with store.reading() as session:
        groups = store.page_of_configs(session, everything, sort="val/exact_match", limit=9)
        assert [[r.config["training"]["seed"] for r in g] for g in groups] == [
            [4, 5, 6, 9], [1, 2, 3]
        ]  # fmt: skip
        # As the verdicts see them.
        runs = store.list_runs(session)
        found = {frozenset(r.id for r in g.runs) for g in comparison.grouped(runs)}
        assert {frozenset(r.id for r in g) for g in groups} == found
        few = store.page_of_configs(session, store.parse_filter("seed<3"), limit=9)
        assert [len(group) for group in few] == [2]


def call(*arguments: str) -> tuple[int, str]:
    """Exit code, and standard output with standard error, of one command."""
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.output


@pytest.mark.usefixtures("busy")
def test_the_command_line_filters_archives_and_tells_what_a_deletion_frees(home: Path) -> None:
    done = fill_run(name="done", lora__r=4)
    fill_run(name="bad", status=Status.FAILED, steps=20)
    waits = fill_run(name="waits", status=Status.QUEUED)
    found = json.loads(call("runs", "--filter", "r=4 status:completed", "--json")[1])
    assert [one["id"] for one in found] == [done]
    assert call("runs", "--filter", "statsu:x")[0] == 2
    code, text = call("runs", "--sort", "lora.r", "--limit", "1")
    assert code == 0 and "lora.r" in text and "1 of 3 runs; --limit shows more" in text
    assert call("archive", waits)[0] == 2
    assert json.loads(call("archive", done, "bad", "--json")[1])[0] == {
        "id": done,
        "archived": True,
    }
    kept = json.loads((paths.output_dir(done) / "run.json").read_text())["run"]
    assert kept["archived_at"] is not None  # also where the table is lost
    assert [one["name"] for one in json.loads(call("runs", "--json")[1])] == ["waits"]
    assert {one["name"] for one in json.loads(call("runs", "--archived", "--json")[1])} == {
        "done", "bad"
    }  # fmt: skip
    with store.reading() as session:
        assert list(store.run_labels(session, limit=9)) == [waits]
        assert store.newest_scored(session) is None
    assert call("unarchive", done)[0] == 0
    result = CliRunner().invoke(app, ["delete", done], input="n\n")
    (plan,) = [deletion.plan([run]) for run in runs_of(done)]
    assert plan.size_bytes > 10_000 and plan.sentence in result.output
    assert call("delete", done, "--yes")[0] == 0
    assert not paths.checkpoints_dir(done).exists()


def test_a_deletion_leaves_what_waits_or_trains(home: Path) -> None:
    done = [fill_run(name=f"done {n}", training__seed=n) for n in range(3)]
    active = [fill_run(name="a", status=Status.RUNNING, steps=9), fill_run(status=Status.QUEUED)]
    plan = deletion.plan(runs_of(*done, *active))
    assert [run.id for run in plan.runs] == done
    told = f"2 runs stay: {active[0]} is RUNNING, {active[1]} is QUEUED; stop them first."
    assert plan.sentence.endswith(told) and "deletes 3 runs and frees" in plan.sentence
    on_disk = sum(f.stat().st_size for f in home.rglob("*") if f.is_file() and done[0] in str(f))
    assert deletion.plan(runs_of(done[0])).size_bytes == on_disk
    # One began to train after the plan was made.
    with store.writing() as session:
        session.execute(update(Run).where(Run.id == done[0]).values(status=Status.STARTING))
    assert deletion.delete_all(plan.runs) == done[1:]
    with store.reading() as session:
        assert {run.id for run in store.list_runs(session)} == {done[0], *active}
    assert paths.checkpoints_dir(done[0]).exists() and not paths.log_file(done[1]).exists()


def test_a_run_that_goes_on_is_in_the_lists_again(home: Path) -> None:
    run_id = fill_run(status=Status.STOPPED, steps=9)
    launcher.archive([run_id], archived=True)
    with store.writing() as session:
        assert store.requeue(session, store.find(session, run_id), resume_step=None, config=None)
        assert store.find(session, run_id).archived_at is None


def runs_of(*ids: str) -> list[Run]:
    with store.reading() as session:
        return store.runs_of(session, ids)
