"""What a run or a sweep would take, measured beside its form, shown there and kept."""

import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from html import escape

import streamlit as st
import yaml

from src import paths
from src.config import RunConfig
from src.panel.ui import html, navigation
from src.runs import estimate

POLL_SECONDS = 0.5

# One at a time: each takes a slot of the machine.
_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preflight")


@st.cache_resource
def _begun() -> dict[str, Future[None]]:
    """By the name of the kept file: measurements that go on, or failed."""
    return {}


def draw(config: RunConfig, *, held: bool) -> None:
    """What is known of the config, and the button that measures it, dead while `held`."""
    found = estimate.kept(config)
    if found and found.fits:
        st.html(f'<p class="quiet">The run {escape(found.sentence(config))}.</p>')
    label = "Measure again" if found else "Measure what it takes"
    text = yaml.safe_dump(config.model_dump(mode="json"))
    offer(estimate.file_of(config).name, label, ["preflight"], text, held=held)


def offer(name: str, label: str, command: list[str], text: str, *, held: bool = False) -> None:
    """A button that has `spelltune COMMAND` measure what a file with this text asks for; while that
    goes on, or failed, a line says so under the same `name`."""
    begun = _begun()
    if (running := begun.get(name)) and not running.done():
        st.fragment(lambda: _look(running), run_every=POLL_SECONDS)()
        return
    if running and (error := running.exception()):
        html.draw_problem(str(error))
    told = "Three real steps on the longest rows, in about half a minute"
    if st.button(label, width="stretch", disabled=held, help=told):
        begun[name] = _pool.submit(_measure, command, text)
        st.rerun()


def _measure(command: list[str], text: str) -> None:
    """By a process: a lock belongs to one, and the panel's own looks at the slots would let go of
    one that it held."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        command = [sys.executable, "-m", "src.cli", *command, file.name, "--json"]
        done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    if not done.stdout:
        raise estimate.CannotMeasure(done.stderr.strip().removeprefix("error: "))


def _look(running: Future[None]) -> None:
    if running.done():
        navigation.rerun_page()
    st.html('<p class="quiet" role="status">Measuring three steps on the longest rows …</p>')
