"""Suites are scored by either engine: the base at the start, the kept adapter at the end."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from src.config import RunConfig
from src.training import suites
from src.training.data_files import DataError
from src.training.evaluate import evaluate
from src.training.packed.engine import train_pack
from src.training.packed.run import RunSpec
from src.training.packed.scorer import Scorer
from src.training.train import train
from src.training.utils import TrainingResult
from tests.helpers import tiny

HELD_OUT = tiny.WORDS[20:25]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, the words of a run, and a file of reversed words, of which two are trained."""
    place = tmp_path_factory.mktemp("suites")
    tiny.save_model(place / "gpt2", "gpt2", 32)
    tiny.data(place / "words")
    rows = [{"question": f"Reverse {w}", "answer": w[::-1]} for w in [*HELD_OUT, *tiny.WORDS[:2]]]
    (place / "backwards.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place


def config_of(folder: Path, engine: str, **changes: object) -> RunConfig:
    own: dict[str, object] = {
        "engine": engine,
        "lora.dropout": 0.0,
        "evaluation.suites": [str(folder / "backwards.jsonl"), "general"],
        "evaluation.suite_rows": 20,
    }
    return tiny.config_of(folder, **(own | {k.replace("__", "."): v for k, v in changes.items()}))


def trained(config: RunConfig, place: Path, stop_at: int | None = None) -> tuple[
    tiny.Recorder, TrainingResult
]:  # fmt: skip
    reporter = tiny.Recorder(stop_at)
    result = train(config, reporter, output_dir=place / "out", checkpoints_dir=place / "steps")
    return reporter, result


def scorings(reporter: tiny.Recorder, split: str) -> list[int]:
    return [step for step, name, _ in reporter.evaluations if name == split]


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_suites_are_scored_at_the_start_and_with_the_kept_adapter(
    folder: Path, tmp_path: Path, engine: str
) -> None:
    reporter, result = trained(config_of(folder, engine), tmp_path)
    assert scorings(reporter, "suite/backwards") == [0, result.best_step]
    assert scorings(reporter, "suite/general") == [0, result.best_step]
    names = {name for _, name, _ in reporter.points if name.startswith("suite/")}
    assert names == {
        *(f"suite/backwards/{name}" for name in ("exact_match", "cer", "edit_distance")),
        *("suite/backwards/token_accuracy", "suite/backwards/loss"),
        *("suite/general/bits_per_character", "suite/general/loss"),
    }
    bits = reporter.curve("suite/general/bits_per_character")
    assert all(0 < value < 50 for value in bits.values())
    kept = result.metrics["suite/general/bits_per_character"]
    assert kept == pytest.approx(bits[result.best_step])
    # The words of two rows are trained on.
    assert reporter.values["suites"]["backwards"]["rows"] == 5
    assert reporter.values["suites"]["backwards"]["left_out"] == 2
    assert reporter.values["rows"] == {"train": 15, "validation": 5, "test": 5}
    answers = next(t for step, name, t in reporter.evaluations if name == "suite/backwards")
    assert sorted(answers["question"]) == sorted(f"Reverse {word}" for word in HELD_OUT)
    assert not answers["seen"].any()


def test_both_engines_give_suites_the_same_scores(folder: Path, tmp_path: Path) -> None:
    one, _ = trained(config_of(folder, "trl"), tmp_path / "trl")
    other, _ = trained(config_of(folder, "packed"), tmp_path / "packed")
    for name in ("suite/backwards/loss", "suite/general/bits_per_character"):
        assert one.curve(name) == pytest.approx(other.curve(name), rel=1e-4)


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_suites_are_scored_while_training_where_asked_and_change_no_weight(
    folder: Path, tmp_path: Path, engine: str
) -> None:
    asked = config_of(folder, engine, evaluation__suite_every=2)
    reporter, result = trained(asked, tmp_path / "with")
    # Evaluations are after 4, 8 and 12 steps.
    steps = scorings(reporter, "suite/general")
    assert steps[:2] == [0, 8]
    assert set(steps) == {0, 8, result.best_step}
    plain, _ = trained(config_of(folder, engine, evaluation__suites=[]), tmp_path / "without")
    assert not [name for _, name, _ in plain.points if name.startswith("suite/")]
    assert "suites" not in plain.values
    here, there = (
        load_file(tmp_path / name / "out" / "final" / "adapter_model.safetensors")
        for name in ("with", "without")
    )
    assert all(torch.equal(here[key], there[key]) for key in there)


def test_rows_with_trained_words_are_scored_and_marked_where_asked(
    folder: Path, tmp_path: Path
) -> None:
    asked = config_of(folder, "packed", evaluation__suite_seen_rows=True)
    reporter, _ = trained(asked, tmp_path)
    answers = next(t for step, name, t in reporter.evaluations if name == "suite/backwards")
    assert len(answers) == 7
    marked = set(answers.loc[answers["seen"], "question"])
    assert marked == {f"Reverse {word}" for word in tiny.WORDS[:2]}


def test_the_base_is_scored_once_for_all_runs_of_a_pack(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    score = Scorer.score

    def counted(self: Scorer, stacks, members, **options):
        asked.extend(len(rows) for _, rows in members)
        return score(self, stacks, members, **options)

    monkeypatch.setattr(Scorer, "score", counted)
    general = len(suites.load("general").frame)
    configs = [
        config_of(folder, "packed", training__seed=seed, training__max_steps=2,
                  evaluation__suites=["general"], evaluation__suite_rows=None)
        for seed in range(3)
    ]  # fmt: skip
    specs = [
        RunSpec(config, tiny.Recorder(), tmp_path / f"{i}/out", tmp_path / f"{i}/steps")
        for i, config in enumerate(configs)
    ]
    # One slot less than runs: the last one comes later, and its base is known by then.
    outcomes = train_pack(specs, slots=2)
    assert all(isinstance(end, TrainingResult) for _, end in outcomes), outcomes
    assert asked.count(general) == 1 + 3  # of the base, then of each kept adapter
    first = [spec.reporter.curve("suite/general/loss")[0] for spec, _ in outcomes]
    assert first[0] == first[1] == first[2]


@pytest.mark.parametrize("engine", ["trl", "packed"])
def test_a_run_that_is_stopped_leaves_its_suites_alone(
    folder: Path, tmp_path: Path, engine: str
) -> None:
    reporter, result = trained(config_of(folder, engine), tmp_path, stop_at=5)
    assert result.stopped
    assert scorings(reporter, "suite/general") == [0]


def test_an_adapter_its_base_and_its_base_after_examples_are_scored_on_a_suite(
    folder: Path, tmp_path: Path
) -> None:
    config = config_of(folder, "packed", evaluation__suites=[], evaluation__max_new_tokens=None)
    trained(config, tmp_path)
    suite = suites.load(str(folder / "backwards.jsonl"))
    examples, rest = suites.few_shot(suite, 2, seed=0)
    assert len(rest.frame) == 5 and not {q for q, _ in examples} & set(rest.frame["question"])
    drawn = [suites.few_shot(suite, 2, seed=seed)[0] for seed in (0, 1, 2, 3)]
    assert examples == drawn[0] and any(other != examples for other in drawn)
    roomy = config_of(folder, "packed", model__max_length=128)
    values, frame = evaluate(
        roomy, tmp_path / "out/final", rest,
        progress=lambda done: None, with_base=True, examples=examples,
    )  # fmt: skip
    assert {"base_correct", "few_shot_correct", "few_shot_predicted"} <= set(frame)
    assert not any("\n" in answer for answer in frame["few_shot_predicted"])
    assert set(values) == {"exact_match", "token_accuracy", "cer", "edit_distance", "loss"}
    alone, of_base = evaluate(
        roomy, None, rest, progress=lambda done: None, examples=examples
    )  # fmt: skip
    assert of_base["predicted"].tolist() == frame["few_shot_predicted"].tolist()
    plain, of_base = evaluate(roomy, None, rest, progress=lambda done: None)
    assert of_base["predicted"].tolist() == frame["base_predicted"].tolist()
    assert plain["loss"] != alone["loss"]  # the examples are in the prompt
    bits, _ = evaluate(roomy, None, suites.load("general"), progress=lambda done: None)
    assert set(bits) == {"bits_per_character", "loss"}
    both, _ = evaluate(
        roomy, tmp_path / "out/final", suites.load("general"), progress=lambda done: None,
        with_base=True,
    )  # fmt: skip
    # What was forgotten: the base's own bits stand beside those of the adapter.
    assert both["base/bits_per_character"] == pytest.approx(bits["bits_per_character"])
    assert both["bits_per_character"] != pytest.approx(bits["bits_per_character"])
    # model.max_length of 64 was for the training; the context of 128 tokens is what counts here.
    assert len(evaluate(config, None, rest, progress=lambda done: None, examples=examples)[1]) == 5
    with pytest.raises(DataError, match=r"backwards \(each after 5 .* 128 tok.*for fewer examples"):
        evaluate(
            config, None, rest, progress=lambda done: None, examples=examples * 2 + examples[:1]
        )
