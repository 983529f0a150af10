"""Gives exports of a run's model to a browser, as files of any size."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse

from src import store
from src.analysis import model_files
from src.errors import UserError, explain
from src.format import whole_number
from src.runs import exporting
from src.runs.exporting import Form
from src.store.tables import Run

ADAPTER, MODELFILE = "adapter", "-modelfile"  # what there is besides the forms; f16-modelfile


class NotThere(UserError):
    """An address of an export that there is not."""


def exported(request: Request) -> Response:
    """The export that the address names; 404 with a sentence where there is none."""
    asked = request.query_params.get("step")
    step = None if asked is None else whole_number(asked)
    try:
        if asked is not None and step is None:
            raise NotThere(f"{asked!r} is no step")
        with store.reading() as session:
            run = store.find(session, request.path_params["run"])
        return _response(run, step, request.path_params["what"])
    except (UserError, OSError) as error:
        return PlainTextResponse(f"{explain(error)}\n", status_code=404)


def _response(run: Run, step: int | None, what: str) -> Response:
    if what == ADAPTER:
        folder = tempfile.TemporaryDirectory()
        file = Path(folder.name) / model_files.file_name(run, step, ADAPTER, ".zip")
        model_files.write_adapter(run, step, file)
        return FileResponse(file, filename=file.name, background=BackgroundTask(folder.cleanup))
    name, beside, _ = what.partition(MODELFILE)
    if name not in list(Form):
        raise NotThere(f"there is no export {what!r}")
    form = Form(name)
    path = exporting.path_of(run.id, step, form)
    if not path.exists():
        raise NotThere(f"{run.id} has no export {name!r} yet; write it first")
    if form.is_gguf:
        file = path.with_suffix(".Modelfile") if beside else path
        return FileResponse(file, filename=file.name)
    name = model_files.file_name(run, step, form, ".zip")
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    parts: Iterator[bytes] = model_files.zipped(path)
    return StreamingResponse(parts, media_type="application/zip", headers=headers)
