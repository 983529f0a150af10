"""The tab from which a run's model is taken home: its adapter, one model, a GGUF file, the hub."""

from collections.abc import Sequence
from html import escape
from urllib.parse import quote, urlencode

import streamlit as st

from src import paths, store
from src.analysis import model_files, snippets
from src.config import stored_config
from src.errors import UserError, explain_os_error
from src.files import bytes_of
from src.format import data_size
from src.panel.downloads import ADAPTER, MODELFILE
from src.panel.ui import choices, guarded, html, navigation
from src.panel.ui.assets import EXPORTS
from src.runs import exporting
from src.runs.exporting import HUB, Form
from src.store.tables import Checkpoint, Run, Status
from src.training.checkpointing import step_dir

POLL_SECONDS = 1.0

TITLES = {
    Form.MERGED: "One model",
    Form.F16: "GGUF, 16 bits",
    Form.Q8_0: "GGUF, 8 bits",
}
PURPOSES = {
    Form.MERGED: "Base model and adapter as one folder for transformers and vLLM.",
    Form.F16: "One file for llama.cpp, Ollama and LM Studio, as exact as the model.",
    Form.Q8_0: "One file of half that size; its rounding changes a few answers.",
}
BYTES_A_PARAMETER = {Form.F16: 2, Form.Q8_0: 34 / 32}  # blocks of 32, each with a scale of 2 bytes


def draw(run: Run, kept: Sequence[Checkpoint]) -> None:
    """Draw each export of the adapter that is chosen, with what one can do with it now."""
    step = _choose(run, kept)
    if step == "":
        title = "No adapter yet" if not Status(run.status).ended else "No adapter"
        html.draw_empty(title, "A run has one from its first checkpoint on.")
        return
    at = None if step == KEPT else int(step)
    with st.container(key="exports"):
        _draw_adapter(run, at)
        for form in Form:
            _draw_form(run, at, form)
        _draw_hub(run, at)
    if any(exporting.look(run.id, at, what).writing for what in (*Form, HUB)):
        st.fragment(_wait, run_every=POLL_SECONDS)(run.id, at)


KEPT = "kept"


def _choose(run: Run, kept: Sequence[Checkpoint]) -> str:
    """KEPT for the run's own adapter, or the step of a checkpoint; "" where there is neither."""
    steps = [str(checkpoint.step) for checkpoint in reversed(kept)]
    options = [KEPT, *steps] if (paths.output_dir(run.id) / "final").is_dir() else steps
    if not options:
        return ""
    best = "" if run.best_step is None else f" (best, step {run.best_step:,})"

    def words(option: str) -> str:
        return f"the run's adapter{best}" if option == KEPT else f"checkpoint of step {option}"

    return choices.one("Adapter", options, words, key="step", width=320)


def _draw_adapter(run: Run, step: int | None) -> None:
    with _part("Adapter", "LoRA weights for PEFT, on the same base model."):
        final, steps = paths.output_dir(run.id) / "final", paths.checkpoints_dir(run.id)
        folder = final if step is None else step_dir(steps, step)
        try:  # the download verifies it, which takes too long for each refresh
            size = (folder / "adapter_model.safetensors").stat().st_size
        except OSError as error:
            html.draw_problem(explain_os_error(error))
            return
        st.html(_download(run, step, ADAPTER, f"Download zip ({data_size(size)})"))
        _draw_program(run, step, None, "FOLDER OF THE ZIP")


def _draw_form(run: Run, step: int | None, form: Form) -> None:
    found = exporting.look(run.id, step, form)
    with _part(TITLES[form], PURPOSES[form]):
        if found.writing:
            st.html('<p class="quiet" role="status">Being written …</p>')
            return
        if found.path is None:
            if found.problem:
                html.draw_problem(found.problem)
            parameters = run.used.get("parameters")
            about = (
                f" (≈ {data_size(parameters * BYTES_A_PARAMETER[form])})"
                if parameters and form in BYTES_A_PARAMETER else ""
            )  # fmt: skip
            guarded.button(
                f"Write it{about}", key=f"write {form} {step}", on_click=exporting.start,
                args=(run.id, step, form), disabled=exporting.is_busy(run.id),
            )  # fmt: skip
            return
        size = data_size(bytes_of(found.path))
        ending = "" if form.is_gguf else " zip"
        st.html(_download(run, step, form, f"Download{ending} ({size})"))
        if form.is_gguf:
            st.html(_download(run, step, f"{form}{MODELFILE}", "Modelfile for Ollama"))
        st.html(f'<p class="quiet">On this machine: <code>{escape(str(found.path))}</code></p>')
        _draw_program(run, step, form, str(found.path))


def _draw_hub(run: Run, step: int | None) -> None:
    found = exporting.look(run.id, step, HUB)
    with _part("Hugging Face Hub", "A repository of your own, with a model card from this run."):
        if found.writing:
            st.html('<p class="quiet" role="status">Being uploaded …</p>')
            return
        if found.url:
            url = escape(found.url)
            st.html(f'<p role="status">Uploaded to <a href="{url}">{url}</a></p>')
        if found.problem:
            html.draw_problem(found.problem)
        repo = st.text_input("Repository", placeholder="me/speller", key="hub repository")
        merged = st.checkbox("One model instead of the adapter", key="hub merged")
        public = st.checkbox("Public", key="hub public")
        options = {"repo": repo.strip(), "merged": str(int(merged)), "public": str(int(public))}
        busy = exporting.is_busy(run.id)
        guarded.button("Upload", key=f"upload {step}", on_click=exporting.start,
                  args=(run.id, step, HUB), kwargs=options,
                  disabled=busy or not repo.strip())  # fmt: skip
        st.html('<p class="quiet">With the token of <code>hf auth login</code> on this machine, or '
                "HF_TOKEN.</p>")  # fmt: skip


def _part(title: str, purpose: str) -> "st.delta_generator.DeltaGenerator":
    part = st.container(border=True, gap="small")
    part.html(f'<h3>{escape(title)}</h3><p class="quiet">{escape(purpose)}</p>')
    return part


def _draw_program(run: Run, step: int | None, form: Form | None, place: str) -> None:
    with st.expander("Use it in Python"):
        if (text := _program(run.id, run.created_at, step, form, place, run.status)) is None:
            st.html('<p class="quiet">The base model of this run is not on this machine.</p>')
        else:
            st.code(text, language="python", wrap_lines=True)
    if form is not None and form.is_gguf:
        with st.expander("Use it in Ollama"):
            name = f"{exporting.path_of(run.id, step, form).stem}.Modelfile"
            st.code(
                snippets.ollama(stored_config(run.config), name), language="bash", wrap_lines=True
            )


@st.cache_data(max_entries=64, show_spinner=False)
def _program(
    run_id: str, created_at: float, step: int | None, form: Form | None, place: str, status: str
) -> str | None:
    """A program that asks an export; None where the base's files are needed for it and gone. It has
    a question of the test, which comes with the run's last status."""
    with store.reading() as session:
        run = store.find(session, run_id)
    try:
        return model_files.program(run, step, form, place)
    except (UserError, OSError):
        return None


def _download(run: Run, step: int | None, what: str, text: str) -> str:
    """HTML of a link that downloads."""
    query = "" if step is None else f"?{urlencode({'step': step})}"
    href = f"{EXPORTS}/{quote(run.id)}/{what}{query}"
    return f'<a class="button" href="{escape(href)}" download>{escape(text)}</a>'


def _wait(run_id: str, step: int | None) -> None:
    """Draw the page anew once no export is under way."""
    if not any(exporting.look(run_id, step, what).writing for what in (*Form, HUB)):
        navigation.rerun_page()
