"""Trackers: refused where they aren't installed; else told the recipe, the run's name, and one run a folder."""

import importlib.machinery
import json
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from conftest import tiny

import llmkit
from llmkit import recipe
from llmkit.cli import main
from llmkit.system.errors import RequestError
from llmkit.training.folder import trackers

MADE: list["Told"] = []


class Told(GeneralTracker):
    """A tracker that only remembers what it is told."""

    requires_logging_directory = False

    def __init__(self, project: str, *folder: str, **options: Any) -> None:
        super().__init__()
        self.project, self.folder, self.init_kwargs, self.config = project, folder, options, None
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.ended = 0

    @property
    def tracker(self) -> Any:
        return self

    @property
    def id(self) -> str:
        return str(self.init_kwargs["id"])

    def start(self) -> None:
        print("some trackers say what they do")
        MADE.append(self)

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.config = values

    def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
        self.logged.append((step or 0, values))

    def finish(self) -> None:
        print("and where")
        self.ended += 1


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[Told]:
    """A wandb that is installed, and remembers."""
    class Wandb(Told):
        name = "wandb"

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Wandb)
    monkeypatch.setattr(trackers, "find_spec", lambda name: importlib.machinery.ModuleSpec(name, None, origin=name))
    monkeypatch.setattr(trackers, "FAILS", {})
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    MADE.clear()
    return MADE


def asked(text: Path, folder: Path, *names: str, **training: Any) -> dict[str, Any]:
    tree = tiny("gpt2", text, folder, save_steps=2, report_to=list(names), **training)
    tree["data"]["validation"] = 0.1
    return tree


@pytest.mark.parametrize("name", get_args(recipe.Tracker))
def test_a_tracker_that_is_not_installed_is_refused_with_the_line_that_installs_it(
    name: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(asked(text, tmp_path / "run", name)))
    for words in (["pretrain"], ["plan"], ["pretrain", "--processes", "2"]):
        assert main([words[0], str(path), *words[1:]]) == 2
        assert capsys.readouterr().err.rstrip().rpartition("\n")[2] == (
            f"llmkit: error: training.report_to: {name} is not installed: pip install 'llmkit-train[{extra(name)}]'; "
            "or leave it out, for metrics.jsonl is written anyway.")
    with pytest.raises(RequestError, match="is not installed"):
        llmkit.fit(asked(text, tmp_path / "run", name))
    assert not (tmp_path / "run").exists()
    assert main(["inspect", str(path)]) == 0  # which tells no tracker anything


def extra(name: str) -> str:
    """comet_ml is the tracker, comet-ml the extra: as packages spell names."""
    return name.replace("_", "-")


def test_several_that_are_missing_are_named_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"wandb and mlflow are not installed: pip install 'llmkit-train\[wandb,mlf"):
        trackers.check(["wandb", "mlflow", "wandb"])
    monkeypatch.setattr(trackers, "_installed", lambda name: name == "tensorboardX")
    trackers.check(["tensorboard"])


def test_a_folder_that_a_tracker_left_is_no_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "clearml").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RequestError, match="clearml is not installed"):
        trackers.check(["clearml"])


def test_every_tracker_has_an_extra_and_a_line_of_its_page() -> None:
    root = Path(__file__).parents[2]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (root / "docs" / "trackers.md").read_text()
    for name in get_args(recipe.Tracker):
        assert extras[extra(name)] and f"| `{name}` | `llmkit-train[{extra(name)}]` |" in page


def test_a_recipe_is_flattened() -> None:
    made = recipe.load({
        "name": "mine", "backbone": {"family": "gpt2", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300}},
        "data": {"train": [{"source": "a.txt", "fields": {"text": "b"}}]}, "objective": {"name": "causal_lm"},
        "training": {"max_steps": 3, "report_to": ["wandb", "mlflow"]}})
    flat = trackers.flat(made)
    assert {"name": "mine", "backbone.family": "gpt2", "data.train.0.source": "a.txt", "data.train.0.fields.text": "b",
            "objective.name": "causal_lm", "training.max_steps": 3, "training.report_to": '["wandb", "mlflow"]',
            "tokenizer.train.vocab_size": 300, "training.tf32": True}.items() <= flat.items()
    assert "training.max_minutes" not in flat
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())


def test_a_folder_is_one_run_of_a_tracker(text: Path, tmp_path: Path, wandb: list[Told]) -> None:
    class Breaks(llmkit.Callback):
        def on_step(self, view: Any) -> None:
            if view.step == 3:
                raise ZeroDivisionError

    tree = asked(text, tmp_path / "run", "wandb")
    with pytest.raises(ZeroDivisionError):
        llmkit.fit(tree, callbacks=[Breaks()])
    llmkit.fit(tree)
    first, second = wandb
    assert first.project == "llmkit"
    assert {**first.init_kwargs, "id": ""} == {"name": "tiny-gpt2", "dir": str(tmp_path / "run"), "id": "",
                                               "resume": "allow"}
    assert second.id == first.id == json.loads((tmp_path / "run" / "trackers.json").read_text())["wandb"]
    assert first.config is not None and first.config["training.max_steps"] == 4
    assert first.config["data.max_length"] == 32 and first.config["data.packing"] == "documents"  # as it is run
    assert second.config is None  # it has it
    assert [step for step, figures in first.logged if "train/loss" in figures] == [1, 2]
    assert [step for step, figures in second.logged if "train/loss" in figures] == [3, 4]
    assert "evaluate/loss" in second.logged[-1][1]
    assert first.ended == second.ended == 1  # however it ended
    llmkit.fit(asked(text, tmp_path / "other", "wandb"))
    assert wandb[2].id != first.id


def test_what_a_tracker_says_stands_beside_the_json(
    text: Path, tmp_path: Path, wandb: list[Told], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(asked(text, tmp_path / "run", "wandb")))
    assert main(["pretrain", str(tmp_path / "r.yaml"), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["steps"] == 4
    assert "some trackers say what they do" in said.err and "and where" in said.err


def test_a_tracker_that_cannot_begin_is_told_in_one_line(
    text: Path, tmp_path: Path, wandb: list[Told], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Told) -> None:
        raise ValueError("no key:\n run `wandb login`")

    monkeypatch.setattr(LOGGER_TYPE_TO_CLASS["wandb"], "start", start)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(asked(text, tmp_path / "run", "wandb")))
    assert main(["pretrain", str(tmp_path / "r.yaml")]) == 2
    assert capsys.readouterr().err.rstrip().rpartition("\n")[2] == (
        "llmkit: error: training.report_to: wandb can't begin: no key: run `wandb login` (leave it out, or see "
        "docs/trackers.md)")


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard isn't installed")
def test_tensorboard_has_one_folder_a_run(text: Path, tmp_path: Path) -> None:
    llmkit.fit(asked(text, tmp_path / "run", "tensorboard"))
    assert {path.parent for path in (tmp_path / "run").rglob("events.*")} == {tmp_path / "run" / "tiny-gpt2"}
