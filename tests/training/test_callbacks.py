"""A program's own run: what it may give, and what it is told."""

import json
import os
import signal
import threading
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny

import llmkit
from llmkit import recipe as recipes
from llmkit.objectives.masked_lm import MaskedLM
from llmkit.system.errors import PlaceError, RequestError, Stopped
from llmkit.training.callbacks import Callback, View


class Told(Callback):
    """Notes each event, with the step that the run is at."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int]] = []
        self.views: list[View] = []
        self.lines: list[Mapping[str, Any]] = []
        self.summary: Mapping[str, Any] = {}
        self.folders: list[Path] = []

    def note(self, event: str, view: View) -> None:
        self.events.append((event, view.step))
        self.views.append(view)

    def on_start(self, view: View) -> None:
        self.note("start", view)

    def on_step(self, view: View) -> None:
        self.note("step", view)

    def on_log(self, view: View, event: Mapping[str, Any]) -> None:
        self.note("log", view)
        self.lines.append(event)

    def on_evaluate(self, view: View, figures: Mapping[str, float]) -> None:
        self.note("evaluate", view)
        assert view.evaluation == figures

    def on_save(self, view: View, folder: Path) -> None:
        self.note("save", view)
        self.folders.append(folder)

    def on_end(self, view: View, summary: Mapping[str, Any]) -> None:
        self.note("end", view)
        self.summary = summary


@pytest.fixture
def tree(text: Path, tmp_path: Path) -> dict[str, Any]:
    made = tiny("bert", text, tmp_path / "run", max_steps=4, logging_steps=2, save_steps=2)
    made["data"]["validation"] = 0.2
    return made


def test_every_event_of_a_run_is_told_in_its_order(tree: dict[str, Any], tmp_path: Path) -> None:
    told = Told()
    summary = llmkit.fit(tree, callbacks=[told])
    assert told.events == [
        ("start", 0), ("log", 0), ("evaluate", 0), ("step", 1), ("step", 2), ("log", 2), ("save", 2), ("step", 3),
        ("step", 4), ("log", 4), ("log", 4), ("evaluate", 4), ("save", 4), ("end", 4)]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert told.lines == lines
    assert told.summary == summary
    assert [folder.name for folder in told.folders] == ["step-00000002", "step-00000004"]
    assert all((folder / "MANIFEST.json").is_file() for folder in told.folders)
    assert [view.share for view in told.views][-1] == 1.0


def test_what_a_callback_sees_cannot_be_changed(tree: dict[str, Any]) -> None:
    told = Told()
    llmkit.fit(tree, callbacks=[told])
    view = told.views[-1]
    with pytest.raises(FrozenInstanceError):
        view.step = 7  # type: ignore[misc]
    with pytest.raises(TypeError):
        view.evaluation["loss"] = 0.0  # type: ignore[index]


def test_callbacks_change_no_number(tree: dict[str, Any], tmp_path: Path) -> None:
    plain = llmkit.fit(tree)
    told = llmkit.fit({**tree, "output_dir": str(tmp_path / "told")}, callbacks=[Told()])
    assert told["train_loss"] == plain["train_loss"]
    assert told["evaluation"] == plain["evaluation"]


def test_an_error_in_a_callback_ends_the_run_and_what_was_saved_stays(tree: dict[str, Any], tmp_path: Path) -> None:
    class Breaks(Told):
        def on_step(self, view: View) -> None:
            super().on_step(view)
            if view.step == 3:
                raise ZeroDivisionError("mine")

    breaks = Breaks()
    with pytest.raises(ZeroDivisionError, match="mine"):
        llmkit.fit(tree, callbacks=[breaks])
    assert breaks.events[-1] == ("end", 3)
    assert breaks.summary["status"] == "failed"
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["why"] == "mine"
    told = Told()
    llmkit.fit(tree, resume="must", callbacks=[told])
    assert told.events[0] == ("start", 2)


def test_a_run_that_is_stopped_says_so_at_its_end(tree: dict[str, Any]) -> None:
    class Stops(Told):
        def on_step(self, view: View) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    stops = Stops()
    with pytest.raises(Stopped):
        llmkit.fit(tree, callbacks=[stops])
    assert stops.events[-2:] == [("save", 1), ("end", 1)]
    assert stops.summary["status"] == "stopped"


def test_what_is_told_can_be_changed_by_nobody(tree: dict[str, Any]) -> None:
    class Meddles(Told):
        def on_evaluate(self, view: View, figures: Any) -> None:
            figures["loss"] = 0.0

    with pytest.raises(TypeError, match="does not support item assignment"):
        llmkit.fit(tree, callbacks=[Meddles()])


def test_an_error_at_the_end_of_a_whole_run_leaves_it_whole(tree: dict[str, Any], tmp_path: Path) -> None:
    class Breaks(Told):
        def on_end(self, view: View, summary: Mapping[str, Any]) -> None:
            super().on_end(view, summary)
            raise ZeroDivisionError("mine")

    first, breaks = Told(), Breaks()
    with pytest.raises(ZeroDivisionError):
        llmkit.fit(tree, callbacks=[first, breaks])
    assert [event for event, _ in first.events].count("end") == 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"


def test_a_generator_of_callbacks_is_heard_too(tree: dict[str, Any]) -> None:
    told = Told()
    llmkit.fit(tree, callbacks=(one for one in [told]))
    assert told.events[-1] == ("end", 4)


@pytest.mark.parametrize("given", [None, Told()])
def test_callbacks_are_a_list(tree: dict[str, Any], given: Any) -> None:
    with pytest.raises(RequestError, match=r"callbacks: a list of llmkit\.Callback is needed"):
        llmkit.fit(tree, callbacks=given)


@pytest.mark.parametrize("resume", [True, None, 3])
def test_resume_is_a_word_or_a_path(tree: dict[str, Any], resume: Any) -> None:
    with pytest.raises(RequestError, match="resume: auto, must, never or a checkpoint's path is needed"):
        llmkit.fit(tree, resume=resume)


def test_a_folder_has_one_run_at_a_time_in_one_program_too(tree: dict[str, Any], tmp_path: Path) -> None:
    class Nests(Told):
        def on_step(self, view: View) -> None:
            if view.step == 2:
                with pytest.raises(PlaceError, match="in use by another run of this program"):
                    llmkit.fit(tree)
                other = {**tree, "output_dir": str(tmp_path / "inner")}
                self.summary = llmkit.fit(other)

    nests = Nests()
    plain = llmkit.fit({**tree, "output_dir": str(tmp_path / "plain")})
    summary = llmkit.fit(tree, callbacks=[nests])
    assert summary["train_loss"] == plain["train_loss"]
    assert not list((tmp_path / "run").glob(".held-*"))


def test_a_second_thread_waits_or_is_refused(tree: dict[str, Any], tmp_path: Path) -> None:
    said: list[str] = []

    class Starts(Told):
        def on_step(self, view: View) -> None:
            def train() -> None:
                try:
                    llmkit.fit({**tree, "output_dir": str(tmp_path / "other")})
                except RequestError as error:
                    said.append(str(error))

            thread = threading.Thread(target=train)
            thread.start()
            thread.join()

    llmkit.fit(tree, callbacks=[Starts()])
    assert len(said) == 4
    assert said[0].startswith("fit: another thread of this program trains")
    assert llmkit.fit({**tree, "output_dir": str(tmp_path / "after")})["status"] == "completed"


def test_a_finished_run_calls_nobody(tree: dict[str, Any]) -> None:
    first = llmkit.fit(tree)
    told = Told()
    assert llmkit.fit(tree, callbacks=[told])["steps"] == first["steps"]
    assert told.events == []


@pytest.mark.parametrize(("callback", "what"), [(Told, "the class Told"), (print, "a builtin_function_or_method")])
def test_what_is_no_callback_is_refused(tree: dict[str, Any], callback: Any, what: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=f"callbacks: {what} is no llmkit.Callback"):
        llmkit.fit(tree, callbacks=[callback])
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_recipe_is_given_as_a_dict_a_path_or_as_it_was_loaded(tree: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "asked.yaml"
    path.write_text(yaml.safe_dump({**tree, "output_dir": str(tmp_path / "path")}))
    loaded = recipes.load({**tree, "output_dir": str(tmp_path / "loaded")})
    losses = [llmkit.fit(asked)["train_loss"] for asked in (tree, path, str(path), loaded)]
    assert len(set(losses)) == 1


def test_what_is_no_recipe_is_refused() -> None:
    with pytest.raises(RequestError, match="recipe: a path, a packaged name, a dict or a Recipe is needed, not a list"):
        llmkit.fit([])  # type: ignore[arg-type]


def test_a_plug_ins_fact_changes_none_of_the_summarys(
    tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = MaskedLM.prepare

    def prepare(self: MaskedLM, *given: Any) -> Any:
        sets = usual(self, *given)
        return replace(sets, facts={**sets.facts, "steps": -1, "parameters": -1, "of_my_own": 7})

    monkeypatch.setattr(MaskedLM, "prepare", prepare)
    summary = llmkit.fit(tree)
    assert (summary["steps"], summary["of_my_own"]) == (4, 7)
    assert summary["parameters"] > 0
