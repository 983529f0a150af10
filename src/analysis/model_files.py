"""Writes a run's model as files that others load: its adapter, merged into its base, as GGUF, and
as a repository of the Hugging Face hub."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from src import store
from src.analysis import misspellings, model_card, snippets
from src.config import RunConfig, stored_config
from src.errors import UserError
from src.files import read_text
from src.runs import exporting
from src.runs.attempts import adapter_folder
from src.runs.exporting import Form
from src.store.tables import Run
from src.training import checkpointing, merge
from src.training.packed.eligibility import files_of

CHUNK_BYTES = 2**20

# PEFT's README is an empty form; the manifest is of the file that is changed here; the rest of a
# checkpoint is for a resume alone.
NOT_COPIED = ("README.md", checkpointing.MANIFEST, *checkpointing.OF_TRAINING)


class CannotPush(UserError, ValueError):
    """Nothing was pushed to the hub; the text says why and what to do."""


def write(run: Run, step: int | None, form: Form, target: Path | None = None) -> Path | None:
    """Write the model of a run's step (None: the kept adapter) in a form to `target`, by default to
    its place in the home; returns the Modelfile that lies beside a GGUF file."""
    config, adapter = stored_config(run.config), adapter_folder(run, step)
    path = (target or exporting.path_of(run.id, step, form)).absolute()
    if form.is_gguf:
        return merge.export_gguf(config, adapter, path, form)
    merge.merge(config, adapter, path)
    return None


def copy_adapter(adapter: Path, target: Path, config: RunConfig) -> None:
    """Copy a PEFT adapter, verified, without a path of this machine in it."""
    checkpointing.verify_adapter(adapter)
    shutil.copytree(adapter, target, ignore=shutil.ignore_patterns(*NOT_COPIED))
    file = target / "adapter_config.json"
    values = json.loads(read_text(file))
    values["base_model_name_or_path"] = model_card.public_name(config)
    file.write_text(json.dumps(values, indent=2) + "\n")


def write_repository(run: Run, step: int | None, target: Path, *, merged: bool) -> list[Path]:
    """Write the files of a hub repository, with a model card, into the folder `target`; returns
    their paths."""
    config, adapter = stored_config(run.config), adapter_folder(run, step)
    with store.reading() as session:
        about = store.show(session, run)
        evaluation = store.final_evaluation(session, run, split="test")
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    if merged:
        merge.merge(config, adapter, target)
    else:
        copy_adapter(adapter, target, config)
    # The scores and words are those of the kept adapter.
    predictions = misspellings.read(evaluation.path) if evaluation and step is None else None
    if step is not None:
        about = about | {"metrics": {}, "best": None, "step": step}
    text = model_card.card(config, merged=merged, about=about, predictions=predictions)
    (target / "README.md").write_text(text, encoding="utf-8")
    return sorted(path for path in target.rglob("*") if path.is_file())


def write_adapter(run: Run, step: int | None, target: Path) -> None:
    """Write the adapter of a step with its model card to the zip file `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.writing")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / run.id
        write_repository(run, step, root, merged=False)
        with open(staged, "wb") as file:
            file.writelines(zipped(root))
    staged.replace(target)


def file_name(run: Run, step: int | None, what: str, ending: str) -> str:
    """The name under which an export leaves this machine."""
    return f"{run.id}{'' if step is None else f'-step-{step}'}-{what}{ending}"


def zipped(folder: Path) -> Iterator[bytes]:
    """The parts of a zip file of a folder, not compressed, as weights hardly can be."""
    parts = _Parts()
    with zipfile.ZipFile(parts, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = zipfile.ZipInfo.from_file(file, f"{folder.name}/{file.relative_to(folder)}")
            with open(file, "rb") as source, archive.open(name, "w", force_zip64=True) as entry:
                while chunk := source.read(CHUNK_BYTES):
                    entry.write(chunk)
                    yield parts.take()
    yield parts.take()


class _Parts:
    """A file of which what is written is taken again."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, part: bytes) -> int:
        self._written.append(bytes(part))
        return len(part)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def take(self) -> bytes:
        taken, self._written = b"".join(self._written), []
        return taken


def program(run: Run, step: int | None, form: Form | None, path: Path | str) -> str:
    """A program that asks the export at `path` the first test question of the run; of the adapter,
    with None for the form, on the base model of this machine."""
    config = stored_config(run.config)
    question = _question(run)
    if form is not None and form.is_gguf:
        return snippets.llama_cpp(config, str(path), question=question)
    files = files_of(config)
    base = str(files.gguf or files.name) if form is None else None
    return snippets.transformers(config, str(path), base=base, question=question)


def _question(run: Run) -> str:
    """A question as the run was tested on; that of any model where it was not."""
    with store.reading() as session:
        evaluation = store.final_evaluation(session, run, split="test")
    try:
        frame = None if evaluation is None else misspellings.read(evaluation.path)
    except (OSError, UserError):
        frame = None
    return snippets.QUESTION if frame is None or frame.empty else str(frame["question"].iloc[0])


def push(folder: Path, repo: str, *, private: bool) -> str:
    """Upload a folder to a model repository, created if missing; returns its URL.

    CannotPush says what is missing.
    """
    import httpx
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if get_token() is None:
        raise CannotPush("no token for the hub here: `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    try:
        made = api.create_repo(repo, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=made.repo_id, folder_path=folder, commit_message="Add a Spelltune adapter"
        )
    except HFValidationError as error:
        raise CannotPush(f"{repo!r} is no name of a repository: {error}") from None
    except HfHubHTTPError as error:
        raise CannotPush(f"the hub refused {repo!r}: {error}") from None
    except (httpx.HTTPError, OSError) as error:
        raise CannotPush(f"the hub cannot be reached: {error}") from None
    return str(made)
