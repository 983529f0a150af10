"""Runs of a pack: the same numbers, files and ends as the TRL engine gives them one by one."""

import gc
import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from src.config import RunConfig
from src.models import utils
from src.models.multi_lora.base import CannotPack
from src.models.multi_lora.step import Options, Pack
from src.models.prompt_format import raw_format
from src.training import checkpointing, scoring
from src.training.data_files import DataError
from src.training.early_stopping import Diverged
from src.training.packed import shared_base
from src.training.packed.arrays import ExampleArrays, epoch_of
from src.training.packed.asked import AskedRows
from src.training.packed.eligibility import EngineChoice, choose_engine, packed_problems
from src.training.packed.engine import train_pack
from src.training.packed.run import Outcome, PackedRun, RunSpec
from src.training.packed.scorer import Scorer
from src.training.train import train
from src.training.utils import TrainingResult
from tests.helpers import tiny


def trial_config(base: Path, shape: str = "gpt2", **changes: object) -> RunConfig:
    values = {"model.name": str(base / shape), "lora.dropout": 0.0}
    return tiny.config_of(base, **(values | {k.replace("__", "."): v for k, v in changes.items()}))


def spec(config: RunConfig, folder: Path, stop_at: int | None = None, **more: Any) -> RunSpec:
    reporter = tiny.Recorder(stop_at)
    return RunSpec(config, reporter, folder / "out", folder / "steps", **more)


def result(outcome: Outcome) -> TrainingResult:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def recorder(one: RunSpec) -> tiny.Recorder:
    assert isinstance(one.reporter, tiny.Recorder)
    return one.reporter


def difference(one: Path, other: Path) -> float:
    """The L2 norm of the difference of two saved adapters, relative to the other's."""
    here, there = (load_file(path / "adapter_model.safetensors") for path in (one, other))
    assert here.keys() == there.keys()
    a, b = (torch.cat([t[key].flatten() for key in sorted(t)]) for t in (here, there))
    return ((a - b).norm() / b.norm()).item()


@pytest.mark.parametrize(("shape", "options"), [("gpt2", None), ("llama", Options(flat=True))])
def test_a_pack_leaves_what_solo_runs_leave(
    base: Path, tmp_path: Path, shape: str, options: Options | None
) -> None:
    """On a CPU, and with the steps of a GPU."""
    configs = {
        "one": trial_config(base, shape, lora__r=4, training__learning_rate=3e-3),
        "longer": trial_config(
            base, shape, lora__r=8, lora__alpha=8, training__seed=7, training__max_steps=15,
            training__per_device_train_batch_size=3, training__label_smoothing=0.1,
            evaluation__eval_steps=5, scheduler__name="linear", training__logging_steps=2,
        ),
        "impatient": trial_config(
            base, shape, lora__r=2, training__learning_rate=1e-6, evaluation__eval_steps=2,
            early_stopping__patience=1, early_stopping__min_delta=10.0, training__max_steps=40,
        ),
    }  # fmt: skip
    packed = {name: spec(config, tmp_path / "packed" / name) for name, config in configs.items()}
    outcomes = {id(one): outcome for one, outcome in train_pack(packed.values(), options=options)}
    for name, config in configs.items():
        alone = tmp_path / "alone" / name
        seen = tiny.Recorder()
        solo = train(config, seen, output_dir=alone / "out", checkpoints_dir=alone / "steps")
        mine, there = result(outcomes[id(packed[name])]), recorder(packed[name])
        assert (mine.stopped, mine.reason, mine.step, mine.best_step) == (
            solo.stopped, solo.reason, solo.step, solo.best_step
        )  # fmt: skip
        assert mine.metrics == pytest.approx(solo.metrics, rel=1e-4)
        for curve in ("train/loss", "lr", "grad_norm", "val/loss", "val/cer", "test/loss"):
            assert there.curve(curve) == pytest.approx(seen.curve(curve), rel=1e-4), curve
        assert [(s, split) for s, split, _ in there.evaluations] == [
            (s, split) for s, split, _ in seen.evaluations
        ]
        for (_, _, here), (_, _, other) in zip(there.evaluations, seen.evaluations, strict=True):
            assert list(here.columns) == list(other.columns)
            assert here["predicted"].tolist() == other["predicted"].tolist()
        assert [(s, best) for s, _, best in there.checkpoints] == [
            (s, best) for s, _, best in seen.checkpoints
        ]
        assert there.removed == seen.removed
        folder = tmp_path / "packed" / name
        assert difference(folder / "out/final", alone / "out/final") < 1e-5
        for step in checkpointing.steps(folder / "steps"):
            names = [
                {f.name for f in (at / f"steps/step-{step}").iterdir()} for at in (folder, alone)
            ]
            assert names[1] - names[0] <= {"training_args.bin", "README.md"}
        for file in ("adapter_config.json", "tokenizer.json", "tokenizer_config.json"):
            assert (folder / "out/final" / file).read_text() == (
                alone / "out/final" / file
            ).read_text()
        assert there.values["engine"] == "packed"
        assert set(seen.values) - {"trainer"} <= set(there.values)


@pytest.mark.parametrize("stop_at", [2, 5])
def test_a_run_resumes_alone_in_another_pack(base: Path, tmp_path: Path, stop_at: int) -> None:
    config = trial_config(base, lora__dropout=0.2, engine="packed")
    whole = spec(config, tmp_path / "whole")
    train_pack(
        [whole, spec(trial_config(base, engine="packed", training__seed=5), tmp_path / "neighbour")]
    )
    first = spec(config, tmp_path / "parts", stop_at=stop_at)
    others = [
        spec(trial_config(base, engine="packed", training__seed=s), tmp_path / f"n{s}")
        for s in (8, 9)
    ]
    found = train_pack([*others, first])
    stopped = next(result(outcome) for one, outcome in found if one is first)
    assert (
        stopped.stopped
        and stopped.step < 12
        and stopped.reason == f"stopped at step {stopped.step}"
    )
    assert [result(o).step for one, o in found if one is not first] == [12, 12]
    again = spec(
        config, tmp_path / "parts", resume_from=tmp_path / f"parts/steps/step-{stopped.step}"
    )
    ((_, outcome),) = train_pack([again])
    assert result(outcome).step == 12
    assert recorder(again).values["resume"] == f"warm from step-{stopped.step}: in a pack"
    for folder in ("out/final", "steps/step-12"):
        assert difference(tmp_path / "parts" / folder, tmp_path / "whole" / folder) < 1e-5


def test_each_engine_resumes_the_checkpoints_of_the_other(base: Path, tmp_path: Path) -> None:
    config = trial_config(base)
    whole = tmp_path / "whole"
    train(config, tiny.Recorder(), output_dir=whole / "out", checkpoints_dir=whole / "steps")
    packed = spec(config, tmp_path / "packed", stop_at=5)
    ((_, stopped),) = train_pack([packed])
    at = result(stopped).step
    one = train(
        config, tiny.Recorder(), output_dir=tmp_path / "packed/out",
        checkpoints_dir=tmp_path / "packed/steps",
        resume_from=tmp_path / f"packed/steps/step-{at}",
    )  # fmt: skip
    alone = tmp_path / "alone"
    half = train(
        config, tiny.Recorder(5), output_dir=alone / "out", checkpoints_dir=alone / "steps"
    )
    again = spec(config, alone, resume_from=alone / f"steps/step-{half.step}")
    ((_, other),) = train_pack([again])
    assert one.step == result(other).step == 12 and 0 < at < 12 and half.step < 12
    for folder in (tmp_path / "packed", alone):
        assert difference(folder / "steps/step-12", whole / "steps/step-12") < 1e-5


def test_a_run_fails_alone(base: Path, tmp_path: Path) -> None:
    good = trial_config(base)
    alone = spec(good, tmp_path / "alone")
    mild = spec(good, tmp_path / "mild")
    train_pack([alone, spec(trial_config(base, training__seed=3), tmp_path / "n")])
    wild = trial_config(base, training__learning_rate=10.0, training__max_grad_norm=1e30,
                     scheduler__warmup_steps=0, optimizer__name="adamw_torch")  # fmt: skip
    broken = spec(wild, tmp_path / "broken")
    original = Pack.run

    def poisoned(self: Pack, steps: Any) -> torch.Tensor:
        run = original(self, steps)
        if self.slots > 1 and self.params[1].abs().sum() > 0:
            self.params[1, 3] = self.compute_params[1, 3] = math.nan
        return run

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pack, "run", poisoned)
        found = train_pack([mild, broken])
    (_, failure), (_, ended) = found
    assert isinstance(failure, Diverged) and "training loss is nan at step" in str(failure)
    assert result(ended).step == 12
    assert difference(tmp_path / "mild/out/final", tmp_path / "alone/out/final") == 0
    assert not (tmp_path / "broken/out/final").exists()


def test_what_a_run_cannot_read_ends_only_that_run(base: Path, tmp_path: Path) -> None:
    good = spec(trial_config(base), tmp_path / "good")
    bad = {
        "no file /nowhere.csv": trial_config(base, data__path="/nowhere.csv"),
        "another lora.target_modules than its pack": trial_config(
            base, lora__target_modules=["c_attn"]
        ),
        "no 4-bit base": trial_config(base, model__load_in_4bit=True),
        "lora.bias: the packed engine trains no biases": trial_config(base, lora__bias="all"),
    }
    specs = [spec(config, tmp_path / str(n)) for n, config in enumerate(bad.values())]
    ends = []
    found = train_pack([good, *specs], ended=lambda some: ends.extend(one for one, _ in some))
    errors = [str(outcome) for one, outcome in found if one is not good]
    assert len(errors) == 4
    assert all(text in error for text, error in zip(bad, errors, strict=True))
    assert result(next(outcome for one, outcome in found if one is good)).step == 12
    assert ends == [one for one, _ in found]


def test_the_first_of_a_pack_is_refused_alone_too(base: Path, tmp_path: Path) -> None:
    """Also where its files cannot be read in a way that nobody thought of."""
    wrong: list[dict[str, Any]] = [{"model__load_in_4bit": True}, {"lora__bias": "all"}, {}, {}]
    specs = [spec(trial_config(base, **own), tmp_path / str(n)) for n, own in enumerate(wrong)]
    original = PackedRun.__post_init__

    def broken(run: PackedRun) -> None:
        if run.spec is specs[2]:
            raise KeyError("momentum")
        original(run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedRun, "__post_init__", broken)
        found = train_pack(specs)
    assert [one for one, _ in found] == specs
    texts = ["load_in_4bit", "lora.bias", "momentum"]
    assert all(text in str(end) for text, (_, end) in zip(texts, found, strict=False))
    assert result(found[-1][1]).step == 12


def test_what_the_packed_engine_cannot_wrap_is_refused_and_auto_takes_trl(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert packed_problems(trial_config(base)) == {}
    wrong = packed_problems(trial_config(base, lora__target_modules=["wte"]))
    assert "no adapters at wte" in wrong["lora.target_modules"]
    assert packed_problems(trial_config(base, backend="unsloth")).keys() == {"backend"}
    assert choose_engine(trial_config(base, engine="packed")) == (True, None)
    assert choose_engine(trial_config(base, engine="trl")) == (False, None)
    auto = trial_config(base, engine="auto")
    assert choose_engine(auto) == (True, None)
    for settings in ({"lora__bias": "all"}, {"backend": "unsloth"}, {"model__load_in_4bit": True}):
        assert not choose_engine(trial_config(base, engine="auto", **settings)).packed
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(utils, "resolve_precision", lambda asked: "bf16")
    assert choose_engine(auto) == (True, None)
    bits = trial_config(base, engine="auto", model__load_in_4bit=True)
    assert "no 4-bit base" in (choose_engine(bits)[1] or "")
    named = trial_config(base, engine="auto", lora__target_modules=["wte"])
    assert "no adapters at wte" in (choose_engine(named)[1] or "")


def test_auto_goes_on_with_trl_where_the_base_turns_out_to_be_another(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(*args: Any) -> None:
        raise CannotPack("the packed engine has no output head with a bias")

    monkeypatch.setattr(shared_base, "read_base", other)
    taken = EngineChoice(True, None)
    auto = spec(trial_config(base, engine="auto", training__max_steps=2), tmp_path / "auto")
    outcome = train(**vars(auto), engine=taken)
    assert outcome.step == 2 and (tmp_path / "auto/out/final").is_dir()
    used = recorder(auto).values
    assert used["engine"] == "trl" and used["engine_note"].endswith("output head with a bias")
    assert used["backend"] == "peft"
    with pytest.raises(CannotPack):
        train(**vars(spec(trial_config(base, engine="packed"), tmp_path / "packed")), engine=taken)


def test_a_run_of_auto_says_what_is_wrong_with_its_data(base: Path, tmp_path: Path) -> None:
    wrong = spec(trial_config(base, engine="auto", data__path="/nowhere.csv"), tmp_path)
    with pytest.raises(DataError, match=r"no file /nowhere\.csv"):
        train(**vars(wrong))


def test_untrained_adapters_are_scored_once_for_all(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step each is the base model; a run that is asked other rows is not shared,
    and one that is stopped meanwhile takes no other along."""
    changes: list[dict[str, Any]] = [
        {}, {"lora__r": 4, "training__seed": 3}, {"evaluation__max_rows": 3}, {}
    ]  # fmt: skip
    specs = [
        spec(trial_config(base, **own, training__max_steps=4), tmp_path / str(n), stop_at=stop)
        for n, (own, stop) in enumerate(zip(changes, (None, None, None, 0), strict=True))
    ]
    alone = spec(specs[1].config, tmp_path / "alone")
    train_pack([alone])
    original, asked = Scorer.score, []

    def score(self: Scorer, stacks: Any, members: Any, **options: Any) -> Any:
        asked.append([len(rows) for _, rows in members])
        return original(self, stacks, members, **options)

    monkeypatch.setattr(Scorer, "score", score)
    found = train_pack([specs[3], *specs[:3]])
    assert asked[0] == [5, 3]
    ends = {id(one): result(outcome).step for one, outcome in found}
    assert [ends[id(one)] for one in specs[:3]] == [4, 4, 4]
    mine, there = recorder(specs[1]), recorder(alone)
    for name in ("val/loss", "val/exact_match", "val/cer"):
        assert mine.curve(name)[0] == pytest.approx(there.curve(name)[0], rel=1e-5)
    (first, *_), (other, *_) = mine.evaluations, there.evaluations
    assert first[:2] == other[:2] == (0, "validation")
    assert first[2]["predicted"].tolist() == other[2]["predicted"].tolist()
    assert len(recorder(specs[2]).evaluations[0][2]) == 3

    def stopped_once(self: Scorer, stacks: Any, members: Any, **options: Any) -> Any:
        monkeypatch.setattr(Scorer, "score", original)
        return None

    monkeypatch.setattr(Scorer, "score", stopped_once)
    pair = [spec(one.config, tmp_path / f"again{n}") for n, one in enumerate(specs[:2])]
    (_, stopped), (_, other_end) = sorted(train_pack(pair), key=lambda end: end[0] is pair[1])
    assert result(stopped).stopped and result(other_end).step == 4
    assert recorder(pair[1]).curve("val/loss")[0] == mine.curve("val/loss")[0]


def test_a_solo_run_by_the_packed_engine(base: Path, tmp_path: Path) -> None:
    found = {}
    for engine in ("trl", "packed"):
        seen, folder = tiny.Recorder(), tmp_path / engine
        config = trial_config(base, engine=engine)
        found[engine] = train(
            config, seen, output_dir=folder / "out", checkpoints_dir=folder / "steps"
        )
        assert seen.values["engine"] == engine
    assert found["packed"].metrics == pytest.approx(found["trl"].metrics, rel=1e-4)
    assert difference(tmp_path / "packed/out/final", tmp_path / "trl/out/final") < 1e-5


def test_a_stop_in_an_evaluation_cuts_it_short_and_the_resume_owes_it(
    base: Path, tmp_path: Path
) -> None:
    config = trial_config(base, evaluation__batch_size=1)
    whole = spec(config, tmp_path / "whole")
    train_pack([whole])

    class Impatient(tiny.Recorder):
        def stop_requested(self) -> bool:
            return self.phases[-1].startswith("validation 2") and bool(self.curve("train/loss"))

    cut = RunSpec(config, Impatient(), tmp_path / "cut/out", tmp_path / "cut/steps")
    ((_, outcome),) = train_pack([cut])
    assert result(outcome).stopped and result(outcome).step == 4
    assert set(recorder(cut).curve("val/loss")) == {0}
    again = spec(config, tmp_path / "cut", resume_from=tmp_path / "cut/steps/step-4")
    ((_, outcome),) = train_pack([again])
    assert recorder(again).curve("val/loss") == pytest.approx(
        {s: v for s, v in recorder(whole).curve("val/loss").items() if s}, rel=1e-4
    )
    assert difference(tmp_path / "cut/out/final", tmp_path / "whole/out/final") < 1e-5


def test_a_stop_before_the_first_step(base: Path, tmp_path: Path) -> None:
    early = spec(trial_config(base), tmp_path / "early", stop_at=0)
    other = spec(trial_config(base), tmp_path / "other")
    found = {id(one): result(outcome) for one, outcome in train_pack([early, other])}
    assert found[id(early)].stopped and found[id(early)].step == 0
    assert found[id(early)].metrics == {}
    assert (tmp_path / "early/out/final/adapter_model.safetensors").is_file()
    assert found[id(other)].step == 12


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
@pytest.mark.parametrize(
    ("batch_size", "max_new_tokens", "rows_at_once"),
    [(2, None, None), (100, 3, None), (2, None, 100), (2, None, 8)],
)
def test_scores_are_those_of_scoring(
    base: Path,
    tmp_path: Path,
    shape: str,
    batch_size: int,
    max_new_tokens: int | None,
    rows_at_once: int | None,
) -> None:
    """Of adapters that have learned something, near the end of the model's context too, and where
    several batches are computed at once, as on a GPU."""
    from peft import PeftModel

    from src.models import spelling_model as spelling
    from src.models.multi_lora.adapters import from_peft
    from src.models.multi_lora.base import read_base
    from src.models.multi_lora.optimizer import AdamW
    from src.training.packed.files import fresh_state
    from src.training.packed.scorer import Scorer

    specs = [
        spec(
            trial_config(base, shape, lora__r=r, training__learning_rate=2e-2,
                         training__max_steps=30, evaluation__eval_steps=30,
                         checkpointing__save_steps=30),
            tmp_path / str(r),
        )
        for r in (4, 8)
    ]  # fmt: skip
    train_pack(specs)
    vocabulary = spelling.load_vocabulary(str(base / shape), revision=None)
    model = spelling.load_base(
        str(base / shape), vocabulary, revision=None, load_in_4bit=False, max_length=64,
        precision="fp32", backend="peft", gradient_checkpointing=False, seed=0,
    )  # fmt: skip
    tokenizer = vocabulary.tokenizer
    form = raw_format("<human>: {question}\n<assistant>:")
    rows = scoring.encode(tokenizer, tiny.frame(tiny.WORDS[:7]), form)
    rows += scoring.encode(tokenizer, tiny.frame(["a" * 60]), form)
    packed = read_base(model, spelling.resolve_targets(model, None), torch.float32)
    pack = Pack(packed, 2, 8)
    for slot, one in enumerate(specs):
        tensors = load_file(one.output_dir / "final" / "adapter_model.safetensors")
        weights = from_peft([layer.name for layer in packed.adapted_layers], tensors)
        pack.put(slot, fresh_state(weights, AdamW), 32 / (4, 8)[slot])
    options = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
    # The second adapter has fewer rows.
    members = [(0, rows), (1, rows[2:])]
    scorer = Scorer(packed, tokenizer, 128)
    found = scorer.score(pack.stacks, members, rows_at_once=rows_at_once, **options)
    assert found is not None
    (nothing,) = scorer.score(pack.stacks, [(0, [])], **options) or []
    assert math.isnan(nothing[0]["loss"]) and len(nothing[1]) == 0
    for (metrics, table), one, (_, own) in zip(found, specs, members, strict=True):
        adapted = PeftModel.from_pretrained(model, str(one.output_dir / "final"))
        expected = scoring.score(adapted, tokenizer, own, precision="fp32", context=128, **options)
        assert expected is not None
        assert metrics == pytest.approx(expected[0], rel=1e-4)
        assert table["predicted"].to_pylist() == expected[1]["predicted"].to_pylist()
        assert table["log_probability"].to_pylist() == pytest.approx(
            expected[1]["log_probability"].to_pylist(), rel=1e-4
        )
        adapted.unload()
    assert len(set(found[0][1]["predicted"].to_pylist())) > 1


def test_rows_stay_laid_out_in_parts_of_one_size() -> None:
    """However many adapters were asked at once, and however much memory was free."""
    tokenizer = tiny.tokenizer()
    rows = scoring.encode(tokenizer, tiny.frame(tiny.WORDS[:9]), "{question}:")
    asked = AskedRows.of(rows, tokenizer, 128, 2, None)
    for size in (2, 4, 8, 4):
        parts = [asked.part(start, size) for start in range(0, len(rows), size)]
        assert [asked.part(start, size) for start in range(0, len(rows), size)] == parts
        assert list(asked._parts.values()) == parts
        assert sum(part.count for part in parts) == len(rows)
    assert asked.part(0, 100) is asked.part(0, 65_536)
    assert asked.part(0, 100).count == len(rows) and asked.part(100, 100).count == 0


def test_an_epoch_is_laid_out_once_for_the_runs_that_share_it_and_goes_with_them() -> None:
    """A pack may live for weeks, and see thousands of seeds."""
    rows = scoring.encode(tiny.tokenizer(), tiny.frame(tiny.WORDS[:5]), "{question}:")
    arrays = ExampleArrays.of(rows, 0)
    first = epoch_of(arrays, 1, 0, 2)
    assert epoch_of(arrays, 1, 0, 2) is first and epoch_of(arrays, 2, 0, 2) is not first
    assert sorted(first.order.tolist()) == list(range(5)) and len(first.longest) == 3
    kept = weakref.ref(first)
    del first
    gc.collect()
    assert kept() is None
