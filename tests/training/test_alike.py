"""Processes of a launch that don't do the same: each difference ends all of them, with who, where and what."""

from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from llmkit import recipe as recipes
from llmkit.data.sources import open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError, PlaceError, RequestError
from llmkit.training.folder.run_folder import RunFolder
from llmkit.training.spread import alike
from llmkit.training.spread.alike import (
    check_alike,
    check_data,
    check_settled,
    flat,
    judge_alike,
    judge_data,
    judge_seen,
    judge_settled,
    sees,
)
from llmkit.training.spread.meeting import Meeting


def said(host: str, recipe: dict[str, Any] = {}, **versions: str) -> dict[str, Any]:  # noqa: B006
    return {"host": host, "recipe": recipe, "versions": versions}


class Heard(Meeting):
    """A meeting in which this process says something and nobody judges: what it said is kept."""

    def __init__(self) -> None:
        super().__init__(store=object())
        self.said: list[tuple[str, Any]] = []

    def decide(self, about: str, mine: Any, judge: Any) -> Any:
        self.said.append((about, mine))
        return None


def test_other_versions_are_refused_with_process_host_and_both_versions() -> None:
    judge_alike([said("node0", torch="2.13", peft="0.21"), said("node1", torch="2.13", peft="0.21")])
    with pytest.raises(PlaceError) as told:
        judge_alike([said("node0", torch="2.13"), said("node1", torch="2.13"), said("node2", torch="2.12")])
    assert str(told.value) == (
        "process 2 on node2 has torch 2.12, where process 0 on node0 has 2.13. All machines need the same versions: "
        "install the same environment on each, or start all from one shared folder.")
    with pytest.raises(PlaceError, match=r"has peft None, where process 0 on node0 has 0\.21"):
        judge_alike([said("node0", peft="0.21"), said("node1")])


def test_another_recipe_is_refused_with_its_fields() -> None:
    with pytest.raises(RequestError) as told:
        judge_alike([said("a", {"seed": 1, "--resume": "auto"}), said("b", {"seed": 2, "--resume": "auto"})])
    assert str(told.value) == ("process 1 on b was asked for seed 2, where process 0 on a has 1. Start all with the "
                               "same recipe and the same options.")
    many = {f"f{i}": 1 for i in range(5)}
    with pytest.raises(RequestError, match=r"f2 2, where process 0 on a has 1; and 2 more\. Start"):
        judge_alike([said("a", many), said("b", dict.fromkeys(many, 2))])


def test_each_process_says_its_whole_recipe_but_where_its_run_is(text: Path, tmp_path: Path) -> None:
    meeting = Heard()
    check_alike(meeting, recipes.load(tiny("bert", text, tmp_path, save_steps=7)), "must")
    about, mine = meeting.said[0]
    assert about == "alike"
    assert mine["recipe"]["training.save_steps"] == 7
    assert mine["recipe"]["objective.name"] == "masked_lm"
    assert mine["recipe"]["--resume"] == "must"
    assert not {"name", "output_dir"} & mine["recipe"].keys()
    assert {"llmkit", "torch", "transformers", "Python"} <= mine["versions"].keys()


def test_an_auto_that_became_something_else_is_named_but_for_what_is_agreed_on(text: Path, tmp_path: Path) -> None:
    meeting = Heard()
    check_settled(meeting, recipes.load(tiny("bert", text, tmp_path)), ["precision"])
    assert "training.precision" not in meeting.said[0][1]["recipe"]
    assert "training.max_steps" in meeting.said[0][1]["recipe"]
    with pytest.raises(RequestError, match=r"on process 1 on b, what the recipe leaves open became data\.packing none, "
                                           "where process 0 on a has blocks: their devices or packages differ"):
        judge_settled([said("a", {"data.packing": "blocks"}), said("b", {"data.packing": "none"})])


def test_other_data_are_refused_by_the_name_of_the_source(tmp_path: Path) -> None:
    meeting = Heard()
    (tmp_path / "月.txt").write_text("one\n", encoding="utf-8")
    reader = open_source(Source(str(tmp_path / "月.txt")))
    check_data(meeting, [reader])
    (about, mine), = meeting.said
    assert (about, mine["data"]) == ("data", {reader.label: reader.content()})
    judge_data([mine, mine])
    with pytest.raises(DataError) as told:
        judge_data([{"host": "a", "data": {"月.txt": "1"}}, {"host": "b", "data": {"月.txt": "2"}}])
    assert str(told.value).startswith("月.txt: process 1 on b reads something else there than process 0 on a.")


def test_alone_what_is_read_later_must_be_what_was_there_before(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n")
    reader = open_source(Source(str(tmp_path / "a.txt")))
    check_data(Meeting(), [reader])
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(DataError, match=r"a\.txt: has changed while it was read"):
        list(reader.rows())


def test_a_folder_that_a_machine_does_not_see_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another disk at the same path holds no such lock, or one of another run."""
    mine, theirs = RunFolder(tmp_path / "shared"), RunFolder(tmp_path / "other")
    with mine.locked():
        assert mine.token is not None
        assert sees(mine, mine.token)
        assert sees(RunFolder(tmp_path / "shared"), mine.token, 0)
        assert not sees(theirs, mine.token, 0)
        with theirs.locked():
            assert not sees(RunFolder(tmp_path / "other"), mine.token, 0)
        assert not sees(RunFolder(tmp_path / "shared"), None, 0)
    assert mine.token is None


def test_a_disk_that_shows_the_folder_later_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str | None] = []
    monkeypatch.setattr(alike.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(RunFolder, "shows", lambda run, token: looks.append(token) or len(looks) > 3)
    assert sees(RunFolder(tmp_path / "later"), "abc")
    assert looks == ["abc"] * 4


def test_the_machine_and_both_folders_are_named() -> None:
    judge_seen([{"host": "a", "folder": "/x", "sees": True}, {"host": "b", "folder": "/x", "sees": True}])
    with pytest.raises(PlaceError) as told:
        judge_seen([{"host": host, "folder": "/disk/x", "sees": host == "a"} for host in "ab"])
    assert str(told.value) == (
        "/disk/x of process 1 on b isn't the folder /disk/x that process 0 on a writes to: checkpoints would be "
        "missing there. Name a folder on a disk that all machines share (--output-dir).")


def test_a_tree_becomes_dotted_names() -> None:
    assert flat({"seed": 1, "name": "x", "data": {"name": "y", "train": [{"source": "a"}]}}) == {
        "seed": 1, "data.name": "y", "data.train": [{"source": "a"}]}
