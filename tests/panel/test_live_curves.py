"""What the charts of a running run ask the server for, and what they are told."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from starlette.applications import Starlette
from streamlit.testing.v1 import AppTest

from src import store
from src.panel.monitor import picture
from src.panel.server import routes
from src.store.tables import Status
from tests.helpers.pages import charts_of, html, show
from tests.helpers.store import MISSPELLED, add_points, end, fill_predictions, fill_run

pytestmark = pytest.mark.usefixtures("home")


def asked(body: str) -> httpx.Response:
    """The answer of the panel's server to a question about curves."""

    async def get() -> httpx.Response:
        app = httpx.ASGITransport(Starlette(routes=routes()))
        async with httpx.AsyncClient(transport=app, base_url="http://localhost") as browser:
            return await browser.get("/curves", params={"asked": body})

    return asyncio.run(get())


def news(live: dict[str, Any]) -> dict[str, Any]:
    """The answer to charts that have what `live` says."""
    answer = asked(json.dumps({name: live[name] for name in ("source", "shape", "reach")}))
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


def sent(page: str, **query: Any) -> dict[str, Any]:
    """What a page sends to its charts."""
    return charts_of(show(page, **query))


def test_a_running_run_tells_only_what_is_new_and_an_ended_one_is_not_asked():
    run_id = fill_run(status=Status.RUNNING, steps=5000, training__max_steps=100_000)
    live = sent("monitor", run=run_id)["live"]
    none = news(live)
    assert none["live"] and none["reach"] == live["reach"]
    assert not any(curve["x"] for chart in none["news"].values() for curve in chart["curves"])
    add_points(run_id, 5001, 5020)
    told = news(live)["news"]
    for title in ("Learning rate", "Speed", "Memory"):
        assert told[title]["curves"][0]["x"] == list(range(5001, 5021)), title
    assert told["Accuracy"]["curves"][0]["x"] == [5020]
    # The mean over the last points, too.
    train, mean, _ = told["Loss"]["curves"]
    assert (train["x"][-1], len(mean["x"])) == (5020, 20)
    assert [mark["name"] for mark in told["Accuracy"]["shapes"]] == ["best"]
    assert not told["Loss"]["shapes"]
    assert "live" not in sent("monitor", run=fill_run(name="done"))


def test_head_charts_and_words_of_one_refresh_are_of_one_step():
    """The page sends what stands beside its charts once, as the charts; then it comes with them."""
    run_id = fill_run(status=Status.RUNNING, steps=100)
    page = show("monitor", run=run_id)
    assert "step 100 of 600" in html(page) and "stand here from its first" in html(page)
    live = charts_of(page)["live"]
    add_points(run_id, 101, 120)
    fill_predictions(run_id, 120, MISSPELLED)
    page.run()  # as a whole, which reads all anew
    assert "step 120 of 600" in html(page)
    told = news(live)
    assert "step 120 of 600" in told["parts"]["head"]
    assert "Words at step 120" in told["parts"]["words"]
    ends = {title: chart["curves"][0]["x"][-1] for title, chart in told["news"].items()
            if chart["curves"][0]["x"]}  # fmt: skip
    assert {"Loss", "Accuracy", "Speed", "Memory"} <= ends.keys() and set(ends.values()) == {120}


def test_a_refresh_reads_nothing_of_charts_that_ask_by_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = fill_run(status=Status.RUNNING, steps=100)
    read, reads = picture.read, []
    monkeypatch.setattr(
        picture, "read", lambda session, run: reads.append(run.step) or read(session, run)
    )

    def three_refreshes(run_id: str) -> None:
        from src import store
        from src.panel.monitor import picture

        for _ in range(3):
            with store.reading() as session:
                run = store.find(session, run_id)
                live, _ = picture.live(session, run, key="curves", goes_on=True)
            assert live and "step 100 of 600" in live.part("head")

    test = AppTest.from_function(three_refreshes, args=(run_id,)).run()
    assert not test.exception and reads == [100]


def test_at_the_end_it_was_launched_at_the_readers_time() -> None:
    run_id = fill_run(status=Status.RUNNING, steps=100)
    live = sent("monitor", run=run_id)["live"]
    end(run_id, Status.COMPLETED)
    with store.reading() as session:
        launched = datetime.fromtimestamp(store.find(session, run_id).created_at, UTC)
    for zone in ("Asia/Tokyo", "America/Caracas"):
        live["source"]["zone"] = zone
        told = launched.astimezone(ZoneInfo(zone)).strftime("%d %b, %H:%M")
        assert f"<dt>launched</dt><dd>{told}</dd>" in news(live)["parts"]["head"]


def test_a_chart_that_comes_or_a_curve_that_gets_a_mean_is_drawn_anew():
    run_id = fill_run(status=Status.RUNNING, steps=90)
    live = sent("monitor", run=run_id)["live"]
    add_points(run_id, 91, 500)
    told = news(live)
    assert "news" not in told and told["shape"] != live["shape"]
    assert "mean of" in told["figures"]["Loss"]
    assert "news" in news({**live, **told})


@pytest.mark.parametrize("band", [True, False])
def test_seeds_compared_grow_from_the_slowest_one_on(band: bool):
    runs = [fill_run(status=Status.RUNNING, steps=steps, training__seed=seed, name="a")
            for seed, steps in enumerate((300, 400, 500))]  # fmt: skip
    query = {"run": runs, "metrics": "train/loss"} | ({} if band else {"band": "false"})
    live = sent("compare", **query)["live"]
    add_points(runs[0], 301, 310)
    chart = news(live)["news"]["Training loss"]
    if band:
        # Its mean is of three from 301 on: what the browser has of it beyond 300 is replaced.
        area, mean = chart["curves"]
        assert live["reach"]["Training loss"] == [300, 300] and mean["x"][-1] == 500
        assert mean["x"][:10] == list(range(301, 311))
        assert len(area["x"]) == 2 * len([x for x in mean["x"] if x <= 400])
    else:
        assert [curve["x"] for curve in chart["curves"]] == [list(range(301, 311)), [], []]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        '{"source": {"page": "monitor", "run": "nobody"}, "shape": "", "reach": {}}',
        '{"source": {"page": "compare", "runs": [], "shown": {"x": 1}}, "reach": {}}',
        '{"source": {"page": "etc", "run": "../x"}, "shape": "", "reach": {}}',
    ],
)
def test_what_is_no_question_is_refused(body: str):
    assert asked(body).status_code == 400
