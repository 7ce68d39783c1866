"""The board in a real browser: what moves, what stays text, on a phone, in the dark, in Chinese, by keyboard."""

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import NONE, program
from conftest import Child

from llmkit.training.folder.holding import held

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'llmkit-train[dev]'")
expect = sync_api.expect
expect.set_options(timeout=30_000)
if program() is None:
    pytest.skip(NONE, allow_module_level=True)

EVIL = "<script>document.title = 'run'</script><img src=x onerror=alert(1)>"
OLD = Path(__file__).parents[2] / "older" / "0.1.0"


def train(step: int) -> str:
    return json.dumps({"event": "train", "step": step, "tokens": 10 * step, "loss": 5 / step, "learning_rate": 0.1,
                       "grad_norm": 1.0, "tokens_per_second": 5.0}) + "\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that goes on, one whose every text would run as a script, and one that somebody will take away."""
    folder = tmp_path_factory.mktemp("board") / "runs"
    for name, title in (("going", "going"), ("evil", EVIL), ("short", "short")):
        place = folder / name
        (place / "checkpoints").mkdir(parents=True)
        (place / "recipe.yaml").write_text(json.dumps({
            "name": title, "backbone": {"family": "gpt2", "size": EVIL if name == "evil" else "tiny"},
            "data": {"train": EVIL}, "objective": {"name": "causal_lm"}, "training": {"max_steps": 40}}))
        evaluated = json.dumps({"event": "evaluate", "step": 10, "loss": 2.0, EVIL: 1.0}) + "\n"
        (place / "metrics.jsonl").write_text("".join(map(train, range(1, 11))) + evaluated)
        (place / "samples.jsonl").write_text(json.dumps({"event": "samples", "step": 10, "about": EVIL, "rows": [
            {EVIL: [[EVIL, "wrong", EVIL]], "label": EVIL, "near": [EVIL]}]}) + "\n")
        (place / "summary.json").write_text(json.dumps({
            "status": "running" if name == "going" else "stopped", "why": EVIL, "steps": 10, "one_answer": EVIL,
            "evaluation": {EVIL: 1.0, "loss": 2.0}, "floors": {EVIL: {"loss": 1.0}}, "device": EVIL,
            "versions": {EVIL: EVIL}}))
    shutil.copytree(OLD / "lora", folder / "lora")
    return folder


@pytest.fixture(scope="module")
def url(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    said = tmp_path_factory.mktemp("said") / "said.log"
    child = Child(["board", str(runs), "--port", "0"], said)
    deadline = time.monotonic() + 60
    while not (found := re.search(r": (http://\S+);", said.read_text() if said.exists() else "")):
        assert child.poll() is None, said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield found[1]
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait(20) == 0


@pytest.fixture
def visit(visited: Any, url: str) -> Any:
    """Open a part of the board."""
    return lambda path="", **how: visited(f"{url}/{path}", **how)


def test_whatever_anybody_wrote_is_text(visit, url):
    page = visit()
    expect(page.locator("main")).to_contain_text(EVIL)
    page.get_by_role("link", name=EVIL).click()
    expect(page.locator("h2")).to_have_text(EVIL)
    expect(page.locator("mark.wrong")).to_have_text(EVIL)
    assert page.locator("main").inner_text().count(EVIL) > 10
    assert page.locator("main script, main img").count() == 0
    assert page.title().startswith(EVIL)  # its own text, and not what the script would make of it
    page.goto(f"{url}/report?run=evil")
    expect(page.locator("h1")).to_have_text(EVIL)
    assert page.locator("body script").count() == 0


def test_numbers_and_curves_move_while_a_run_goes_on(visit, runs):
    with held(runs / "going"):
        page = visit("#run=going")
        expect(page.locator(".status")).to_have_text("running")
        expect(page.locator(".tile", has_text="step")).to_contain_text("10")
        before = page.locator("svg .curve").first.get_attribute("points")
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        with (runs / "going" / "metrics.jsonl").open("a") as file:
            file.write(train(20))
        expect(page.locator(".tile", has_text="step")).to_contain_text("20")
        expect(page.locator(".tile", has_text="time left")).to_be_visible()
        assert page.locator("svg .curve").first.get_attribute("points") != before
        assert all(int(re.search(r"since=(\d+)", one)[1]) > 500 for one in asked if "lines" in one)  # only new ones
        expect(page.locator("#said")).not_to_be_empty()
        assert "highest 5" in page.locator("svg").first.get_attribute("aria-label")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_room_for_it(visit, scheme):
    for path in ("", "#run=lora", "#run=evil"):
        page = visit(path, viewport={"width": 375, "height": 700}, color_scheme=scheme)
        expect(page.locator(".list tr, h3").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (int(re.findall(r"\d+", ground)[0]) < 128) == (scheme == "dark")


def test_it_speaks_chinese_by_the_browsers_language_and_by_a_switch(visit):
    page = visit("#run=lora", locale="zh-CN")
    expect(page.locator("h3").first).to_have_text("曲线")
    expect(page.locator(".status")).to_have_text("已完成")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    page.get_by_role("button", name="English").click()
    expect(page.locator("h3").first).to_have_text("Curves")
    page.reload()
    expect(page.locator("h3").first).to_have_text("Curves")


def test_it_goes_by_keyboard(visit):
    page = visit()
    page.get_by_label("Filter by name").fill("LOR")
    expect(page.locator(".list tbody tr")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("h2")).to_have_text("before-lora")
    predict = page.get_by_role("button", name="Predict a text")
    predict.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("text", exact=True)).to_be_focused()
    expect(page.get_by_role("link", name="Report (in a new tab)")).to_have_attribute("target", "_blank")


def test_a_run_that_is_taken_away_is_told_and_the_list_goes_on(visit, runs):
    page = visit("#run=short")
    expect(page.locator("h2")).to_have_text("short")
    shutil.rmtree(runs / "short")
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text(re.compile("is gone|no run is called"))
    page.get_by_role("link", name="All runs").click()
    expect(page.locator(".list")).to_be_visible()
    expect(page.get_by_role("alert")).to_be_empty()
