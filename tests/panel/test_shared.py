"""What the panel's pages share: numbers, links, imports, reruns, presses."""

import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from streamlit.testing.v1 import AppTest

from src import paths
from src.format import duration, number
from src.panel.ui import guarded, navigation
from src.paths import ROOT

# --- the form -------------------------------------------------------------------------------------


def test_a_page_that_draws_itself_anew_does_not_hold_who_goes_elsewhere():
    """A click on another page's link came while the page decided to run anew."""

    def script():
        import streamlit as st
        from streamlit.runtime.scriptrunner import RerunData, RerunException, get_script_run_ctx

        from src.panel.ui import navigation

        if "went" in st.session_state:
            return
        requests = get_script_run_ctx().script_requests
        requests.request_rerun(RerunData(page_script_hash="elsewhere"))
        try:
            navigation.rerun_page()
        except RerunException as asked:
            st.session_state["went"] = asked.rerun_data.page_script_hash

    assert AppTest.from_function(script).run().session_state["went"] == "elsewhere"


# --- what the pages share -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (8, "8 s"), (200, "3 min 20 s"), (7500, "2 h 5 min"), (2e5, "2 d 7 h")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_numbers_have_units_and_nan_is_a_dash():
    assert number(9800.4, ",.0f", "tokens/s") == "9,800 tokens/s"
    assert number(float("nan")) == number(None, unit="GiB") == "–"


def test_links_escape_what_they_hold():
    anchor = navigation.link("monitor", "<b>", {"run": 'x"><script>'})
    assert anchor == (
        '<a class="inner " href="monitor?run=x%22%3E%3Cscript%3E" target="_self">&lt;b&gt;</a>'
    )


def test_no_page_imports_what_trains():
    code = (
        "import sys, runpy, glob\n"
        "import app, pkgutil, importlib, src.panel\n"
        "for module in pkgutil.walk_packages(src.panel.__path__, 'src.panel.'):\n"
        "    if module.name != 'src.panel.main':  # a Streamlit script\n"
        "        importlib.import_module(module.name)\n"
        "for page in glob.glob('pages/*.py'):\n"
        "    runpy.run_path(page)\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'unsloth', 'wandb'} & set(sys.modules)\n"
        "print(heavy or 'light')\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.ROOT
    )
    assert run.stdout.strip().endswith("light"), run.stdout + run.stderr[-2000:]


def test_the_panel_draws_what_changes_things_by_one_module_alone():
    """There it is disabled for a reader who may not; work in threads keeps its reader's role."""
    own = re.compile(
        r"\bst\.(button|data_editor|file_uploader|form_submit_button|chat_input|camera_input)\("
        r"|ThreadPoolExecutor|threading\.Thread\("
    )
    files = [*(ROOT / "src" / "panel").rglob("*.py"), *(ROOT / "pages").glob("*.py")]
    found = {
        str(file.relative_to(ROOT)): sorted({m[0] for m in own.finditer(file.read_text())})
        for file in files
    }
    assert {name: calls for name, calls in found.items() if calls} == {
        "src/panel/ui/guarded.py": [
            "st.button(", "st.data_editor(", "st.file_uploader(", "st.form_submit_button(",
        ],
        "src/panel/access/guard.py": ["ThreadPoolExecutor"],
        "src/panel/server.py": ["threading.Thread("],  # reconciles for nobody
    }  # fmt: skip


# --- presses --------------------------------------------------------------------------------------


def test_a_press_that_comes_while_another_one_launches_waits_for_what_that_makes():
    inside, made = threading.Barrier(2), []

    def create() -> str:
        with suppress(threading.BrokenBarrierError):
            inside.wait(0.5)  # ends at once where both are in here
        made.append("run")
        return f"run {len(made)}"

    press = navigation.Press([], 0, threading.RLock())
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(press.submit, [create] * 2)) == ["run 1"] * 2
    assert len(made) == 1


def test_callbacks_of_a_session_wait_for_each_other():
    inside, together = threading.Barrier(2), []

    def change() -> None:
        with suppress(threading.BrokenBarrierError):
            inside.wait(0.5)
            together.append(True)

    call = guarded._checked({"on_click": change}, "on_click")["on_click"]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(call) for _ in range(2)]:
            done.result()
    assert not together
