"""Share a result: its adapter, a merged model, on the Hugging Face Hub, as a capsule."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from src import paths
from src.cli.lookup import find_checkpoint, find_run
from src.cli.options import AsJson, CheckpointArgument, RunArgument
from src.cli.output import err, out, print_json
from src.config import stored_config
from src.files import bytes_of
from src.format import data_size
from src.runs import exporting
from src.runs.exporting import Form
from src.runs.locks import FileLock
from src.store.tables import Run


def push(
    checkpoint: CheckpointArgument,
    repo: Annotated[str, typer.Option(help="Model repository on the Hub, such as me/speller.")],
    merged: Annotated[
        bool,
        typer.Option(
            "--merged", help="Upload the base model with the adapter merged into it instead."
        ),
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Create the repository public (default: private).")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Upload nothing; only write the folder that would be uploaded."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Upload an adapter to the Hugging Face Hub, with a model card."""
    from src.analysis import model_files

    row, step = find_checkpoint(checkpoint)
    folder = paths.output_dir(row.id) / exporting.HUB
    with _exporting(row), err.status("writing"):
        files = model_files.write_repository(row, step, folder, merged=merged)
        address = None if dry_run else model_files.push(folder, repo, private=not public)
    if as_json:
        names = [str(file.relative_to(folder)) for file in files]
        return print_json({"id": row.id, "folder": str(folder), "files": names, "url": address})
    for file in files:
        out.print(f"{file.stat().st_size:>12,} {file.relative_to(folder)}", highlight=False)
    if address:
        out.print(f"uploaded to {address}", highlight=False)
    else:
        out.print(f"{folder} would be uploaded to {repo}", highlight=False)


def adapter(
    checkpoint: CheckpointArgument,
    to: Annotated[
        Path | None, typer.Option(help="Zip file to write; by default RUN-adapter.zip.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write an adapter as one zip file in PEFT's format, with its tokenizer and a model card."""
    from src.analysis import model_files

    row, step = find_checkpoint(checkpoint)
    target = to or Path(model_files.file_name(row, step, "adapter", ".zip"))
    if target.exists():
        raise typer.BadParameter(f"{target} already exists; name another file")
    with err.status("packing"):
        model_files.write_adapter(row, step, target)
    folder = target.absolute().with_suffix("")
    program = model_files.program(row, step, None, folder / row.id)
    _tell(row, step, target, f"the adapter; unpack it into {folder}", program, {}, as_json)


def merge(
    checkpoint: CheckpointArgument,
    to: Annotated[
        Path | None,
        typer.Option(help="Folder, or with --gguf the file, to write; it must not exist yet."),
    ] = None,
    gguf: Annotated[
        Literal["f16", "q8_0"] | None,
        typer.Option(
            help="Write one GGUF file, in 16 bits or quantized to 8, for llama.cpp, Ollama and LM "
            "Studio, and a Modelfile beside it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the base model with an adapter merged into it, to be used without Spelltune."""
    row, step = find_checkpoint(checkpoint)
    if to and to.exists():
        raise typer.BadParameter(
            f"{to} already exists; name another {'file' if gguf else 'folder'}"
        )
    if gguf and to and to.suffix != ".gguf":
        raise typer.BadParameter(f"{to} does not end in .gguf; name a file that does")
    form = Form(gguf or "merged")
    target = to or exporting.path_of(row.id, step, form)
    with _exporting(row):
        from src.analysis import model_files, snippets

        with err.status("loading the model"):
            modelfile = model_files.write(row, step, form, target)
    program = model_files.program(row, step, form, target.absolute())
    more = {}
    if modelfile:
        beside = str(target.with_name(modelfile.name))
        command = snippets.ollama(stored_config(row.config), beside)
        more = {"modelfile": beside, "command": command}
    _tell(row, step, target, "the merged model", program, more, as_json)


@contextmanager
def _exporting(row: Run) -> Iterator[None]:
    """Keep other processes from writing an export of the run meanwhile."""
    lock = FileLock(paths.export_lock(row.id))
    if not lock.acquire():
        raise typer.BadParameter(f"an export of {row.id} is already being written")
    try:
        yield
    finally:
        lock.release()


def _tell(
    row: Run,
    step: int | None,
    target: Path,
    what: str,
    program: str,
    more: dict[str, str],
    as_json: bool,
) -> None:
    """Print where an export lies, its size and how it is loaded."""
    size = bytes_of(target)
    if as_json:
        told = {"id": row.id, "step": step, "path": str(target), "size_bytes": size}
        return print_json(told | more | {"program": program})
    out.print(f"{target} holds {what}, {data_size(size)}", highlight=False)
    if "command" in more:
        out.print(f"for Ollama: {more['command']}", highlight=False)
    out.print("\nin Python:\n", highlight=False)
    out.print(program, highlight=False, markup=False, soft_wrap=True)


def capsule(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option(help="File to write; by default RUN.zip.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a completed run as one zip file that another machine can check.

    It holds settings, data, adapter, predictions, verdicts, and a script that scores the adapter
    and trains it again, and compares.
    """
    from src.analysis import capsule as capsules

    row = find_run(run)
    target = output or Path(f"{row.id}.zip")
    if target.exists():
        raise typer.BadParameter(f"{target} already exists; name another file")
    with err.status("packing"):
        capsules.write(row, target)
    size = bytes_of(target)
    if as_json:
        return print_json({"id": row.id, "path": str(target), "size_bytes": size})
    out.print(f"{target} holds {row.id}, {data_size(size)}", highlight=False)
