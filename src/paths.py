"""Where Spelltune keeps its files. `SPELLTUNE_HOME` moves results/ and checkpoints/;
checkpoints/base stays."""

import json
import os
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
SWEEPS = CONFIGS / "sweeps"
BASE_MODELS = ROOT / "checkpoints" / "base"

# What a home consists of.
FOLDERS = ("results", "checkpoints", "data")


def home() -> Path:
    """The folder that holds results/, checkpoints/ and data/: `SPELLTUNE_HOME`, or the repository.

    A relative one counts from the folder in which it is first read. It is absolute in the
    environment from then on, as child processes run in another folder.
    """
    given = os.environ.get("SPELLTUNE_HOME")
    if not given:
        return ROOT
    folder = Path(given).expanduser()
    if not Path(given).is_absolute():
        folder = folder.absolute()
        os.environ["SPELLTUNE_HOME"] = str(folder)
    return folder.resolve()


def remember_home() -> None:
    """Write down where the home is, so that absolute paths into it are found once it has moved."""
    places = _places()
    if str(home()) in places[-1:]:
        return
    with suppress(OSError):  # it can be read only
        _places_file().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(_places_file(), "a", encoding="utf-8") as file:
            file.write(f"{json.dumps(str(home()))}\n")


def _places() -> list[str]:
    """The folders at which this home was, the latest last."""
    try:
        lines = _places_file().read_text(encoding="utf-8").splitlines()
        return [str(json.loads(line)) for line in lines]
    except (OSError, ValueError):
        return []


def _places_file() -> Path:
    return results() / ".places"


def found_again(path: str) -> str:
    """A path that was kept, in the home as it is now: relative ones count from the home, and one
    inside the home of another time is found in this one. Every kept path is read through this."""
    kept = Path(path)
    if not kept.is_absolute():
        return str(home() / kept)
    try:
        if kept.exists():
            return path
    except OSError:  # such as a name that is too long for the disk
        return path
    for place in reversed(_places()):
        if kept.is_relative_to(place) and (there := home() / kept.relative_to(place)).exists():
            return str(there)
    parts = kept.parts
    tails = (Path(*parts[i:]) for i, part in enumerate(parts) if part in FOLDERS)
    return next((str(home() / tail) for tail in tails if (home() / tail).exists()), path)


def to_keep(path: str) -> str:
    """A path as rows keep it: relative to the home if it is inside, so that the home can move."""
    folder = home()
    return str(Path(path).relative_to(folder)) if Path(path).is_relative_to(folder) else path


def results() -> Path:
    return home() / "results"


def access_dir() -> Path:
    """Folder of what the panel knows of those who may open it: hashes of tokens, and logins."""
    return home() / "access"


def cache_dir() -> Path:
    """Folder of files that later launches and runs need not compute again; it can be deleted."""
    return results() / "cache"


def pack_file(token: str) -> Path:
    """The members of a pack, a line each: [run id, attempt]. Its supervisor appends, its trainer
    reads."""
    return locks_dir() / f"{token}.pack"


def output_dir(run_id: str) -> Path:
    return results() / "runs" / run_id


def result_file(run_id: str) -> Path:
    """The trainer's record of how the run's latest attempt ended."""
    return output_dir(run_id) / "result.json"


def merged_dir(run_id: str, step: int | None) -> Path:
    """Base model and adapter of a step (None: the kept one) as one model."""
    return output_dir(run_id) / ("merged" if step is None else f"merged-step-{step}")


def gguf_file(run_id: str, step: int | None, kind: str) -> Path:
    """The model of `merged_dir` as a GGUF file whose matrices have a type of ggml. Its Modelfile
    and those who download it know it by this name."""
    place = "" if step is None else f"-step-{step}"
    return output_dir(run_id) / f"{run_id}{place}.{kind}.gguf"


def export_lock(run_id: str) -> Path:
    """Held while an export of the run's model is being written or uploaded."""
    return locks_dir() / f"{run_id}.export.lock"


def export_record(run_id: str, step: int | None, what: str) -> Path:
    """How the latest export of this kind went, of a step (None: the kept adapter)."""
    place = "" if step is None else f"-step-{step}"
    return output_dir(run_id) / "exports" / f"{what}{place}.json"


def checkpoints_dir(run_id: str) -> Path:
    return home() / "checkpoints" / run_id


def log_file(run_id: str) -> Path:
    """Output of the supervisor and the trainer."""
    return results() / "training_logs" / f"{run_id}.log"


def older_log_file(run_id: str) -> Path:
    """The older part of the log file, cut from it when it grew too long."""
    return log_file(run_id).with_suffix(".log.1")


def metrics_log(run_id: str) -> Path:
    """Every recorded metric as one JSON line: {attempt, step, name, value, at}."""
    return results() / "training_logs" / f"{run_id}.jsonl"


def final_metrics(run_id: str) -> Path:
    return results() / "metrics" / f"{run_id}.json"


def predictions_dir(run_id: str) -> Path:
    return results() / "error_analysis" / run_id


def predictions_file(run_id: str, step: int, split: str) -> Path:
    """The predictions of an evaluation. A suite's split has slashes, which no name of it holds as
    the sign that stands for them."""
    ending = "" if split == "validation" else f"-{split.replace('/', '+')}"
    return predictions_dir(run_id) / f"step-{step}{ending}.parquet"


def evaluation_of(file: Path) -> tuple[int, str]:
    """The step and the split of a file of predictions, by its name."""
    _, step, *split = file.stem.split("-", 2)
    return int(step), split[0].replace("+", "/") if split else "validation"


def machine_file() -> Path:
    """Settings of the machine that the home is on, which people edit."""
    return home() / "machine.yaml"


def summary_file() -> Path:
    return results() / "experiment_results_summary.yaml"


def views_file() -> Path:
    """The views of the list of runs that were saved by name."""
    return results() / "views.json"


def changes_lock() -> Path:
    """Held while a file that people change by the panel or a command is read and written anew."""
    return results() / ".changes.lock"


def locks_dir() -> Path:
    return results() / "locks"


def supervisor_lock(run_id: str) -> Path:
    """Held by the run's supervisor while it lives."""
    return locks_dir() / f"{run_id}.supervisor.lock"


def trainer_lock(run_id: str) -> Path:
    """Held by the run's trainer while it lives."""
    return locks_dir() / f"{run_id}.trainer.lock"


def base_model(name: str) -> str:
    """The folder of a base model that ships with Spelltune, else `name` itself: a path or a hub
    id."""
    shipped = BASE_MODELS / name
    return str(shipped) if "/" not in name and (shipped / "config.json").is_file() else name


def notify_urls() -> Path:
    """The services that people are told by: a URL a line, with its secrets, for the owner alone."""
    return home() / "notify.urls"


def idle_lock() -> Path:
    """Held by the process that watches whether the machine is idle."""
    return locks_dir() / "idle.lock"


def idle_file() -> Path:
    """How far that process has got: see src/runs/idle.py."""
    return results() / ".idle.json"


def page_seen() -> Path:
    """Touched while a page of the panel is in front of a reader."""
    return results() / ".page-seen"


def kept_on() -> Path:
    """Touched by whoever wants the machine to stay on though it is idle."""
    return results() / ".kept-on"


def idle_log() -> Path:
    """Output of the command that ran when the machine was idle."""
    return results() / "training_logs" / "when_idle.log"


def notify_lock() -> Path:
    """Held by the process that tells them."""
    return locks_dir() / "notify.lock"


def sweep_file(sweep_id: str) -> Path:
    """The row of a sweep, for the day when the run table is lost."""
    return results() / "sweeps" / f"{sweep_id}.json"


def own_sweeps() -> Path:
    """Sweeps that were edited in the panel, as the files that were launched."""
    return results() / "sweeps" / "own"


def sweep_log(sweep_id: str) -> Path:
    """Output of the sweep's driver."""
    return results() / "training_logs" / f"{sweep_id}.log"


def driver_lock(sweep_id: str) -> Path:
    """Held by the sweep's driver while it lives."""
    return locks_dir() / f"{sweep_id}.driver.lock"
