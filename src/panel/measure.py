"""What a run would take, measured beside the Launch page, shown there and kept."""

from concurrent.futures import Future, ThreadPoolExecutor
from html import escape

import streamlit as st

from src.config import RunConfig
from src.runs import launcher, preflight

POLL_SECONDS = 0.5

# One at a time: each takes a slot of the machine.
_pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="preflight")


@st.cache_resource
def _begun() -> dict[str, Future[None]]:
    """By the name of the kept file: measurements that go on, or failed."""
    return {}


def draw(config: RunConfig, *, held: bool) -> None:
    """What is known of the config, and the button that measures it, dead while `held`."""
    begun, name = _begun(), preflight.file_of(config).name
    if (running := begun.get(name)) and not running.done():
        st.fragment(lambda: _look(running), run_every=POLL_SECONDS)()
        return
    found = preflight.kept(config)
    if found and found.fits:
        st.html(f'<p class="quiet">The run {escape(found.sentence(config))}.</p>')
    if running and (error := running.exception()):
        st.html(f'<p class="problem" role="alert">{escape(str(error))}</p>')
    label = "Measure again" if found else "Measure what it takes"
    told = "Three real steps on the longest rows, in about half a minute"
    if st.button(label, width="stretch", disabled=held, help=told):
        begun[name] = _pool.submit(_measure, config)
        st.rerun()


def _measure(config: RunConfig) -> None:
    preflight.measure(config)
    launcher.fill_slots()  # what was launched meanwhile had to wait


def _look(running: Future[None]) -> None:
    if running.done():
        st.rerun()
    st.html('<p class="quiet" role="status">Measuring three steps on the longest rows …</p>')
