"""Share a result: on the Hugging Face Hub, as a merged model, as a capsule."""

import re
import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from src import paths, store
from src.cli.lookup import find_checkpoint, find_run
from src.cli.options import AsJson, CheckpointArgument, RunArgument
from src.cli.output import err, out, print_json
from src.config import stored_config
from src.runs.attempts import adapter_folder
from src.runs.locks import FileLock


def push(
    run: RunArgument,
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
    """Upload a run's final adapter to the Hugging Face Hub, with a model card."""
    from src.analysis import misspellings, model_card

    row = find_run(run)
    adapter = adapter_folder(row, None)
    with store.reading() as session:
        about = store.show(session, row)
        evaluation = store.final_evaluation(session, row, split="test")
    folder = paths.output_dir(row.id) / "hub"
    with err.status("writing"):
        files = model_card.write(
            stored_config(row.config),
            adapter,
            folder,
            merged=merged,
            about=about,
            predictions=misspellings.read(evaluation.path) if evaluation else None,
        )
    address = None if dry_run else model_card.push(folder, repo, private=not public)
    if as_json:
        names = [str(file.relative_to(folder)) for file in files]
        return print_json({"id": row.id, "folder": str(folder), "files": names, "url": address})
    for file in files:
        out.print(f"{file.stat().st_size:>12,} {file.relative_to(folder)}", highlight=False)
    if address:
        out.print(f"uploaded to {address}", highlight=False)
    else:
        out.print(f"{folder} would be uploaded to {repo}", highlight=False)


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
    adapter = adapter_folder(row, step)
    if to and to.exists():
        raise typer.BadParameter(
            f"{to} already exists; name another {'file' if gguf else 'folder'}"
        )
    if gguf and to and to.suffix != ".gguf":
        raise typer.BadParameter(f"{to} does not end in .gguf; name a file that does")
    own = paths.gguf_file(row.id, step, gguf) if gguf else paths.merged_dir(row.id, step)
    target = to or own
    lock = FileLock(paths.merge_lock(row.id))
    if not lock.acquire():
        raise typer.BadParameter(f"a merged model of {row.id} is already being written")
    config = stored_config(row.config)

    from src.training import merge as merging

    with err.status("loading the model"):
        if gguf is None:
            merging.merge(config, adapter, target.absolute())
        else:
            modelfile = merging.export_gguf(config, adapter, target.absolute(), gguf)
    told = {"id": row.id, "step": step, "path": str(target)}
    if gguf is None:
        if as_json:
            return print_json(told)
        return out.print(f"{target} holds the merged model", highlight=False)
    size, beside = target.stat().st_size, target.with_name(modelfile.name)
    command = f"ollama create {_ollama_name(config.name)} -f {shlex.quote(str(beside))}"
    if as_json:
        more = {"modelfile": str(beside), "size_bytes": size, "command": command}
        return print_json(told | more)
    out.print(f"{target} holds the merged model, {size / 2**20:.1f} MiB", highlight=False)
    out.print(f"for Ollama: {command}", highlight=False)


def _ollama_name(name: str) -> str:
    """The name of a run as Ollama takes it for a model."""
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._") or "speller"


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
    if as_json:
        return print_json({"id": row.id, "path": str(target), "size_bytes": target.stat().st_size})
    out.print(f"{target} holds {row.id}, {target.stat().st_size / 2**20:.1f} MiB", highlight=False)
