"""What models and adapters are called that a server has, and where they are: also while their run goes on."""

import json
from pathlib import Path

import pytest

from llmkit.serving.served import adapters, named
from llmkit.system.errors import RequestError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that ended after eight steps and goes on."""
    folder = tmp_path / "small"
    for name in ("model.before", "checkpoints"):
        (folder / name).mkdir(parents=True)
    (folder / "recipe.yaml").write_text("name: other\n")
    (folder / "model.before" / "config.json").write_text("{}")
    (folder / "summary.json").write_text(json.dumps({"status": "running", "before": {"steps": 8}}))
    return folder


def plain(folder: Path, **config: str) -> Path:
    folder.mkdir(parents=True)
    (folder / ("adapter_config.json" if config else "config.json")).write_text(json.dumps(config))
    return folder


def test_a_run_that_goes_on_is_served_by_its_own_name_from_the_model_before(run, caplog):
    for place in (run, run / "model", run / "model.before"):
        assert named([str(place)])["small"] == run / "model.before"
    assert "the model that it had before, of 8 steps, is used (model.before)" in caplog.text
    assert named([f"mine={run}"]) == {"mine": run / "model.before"}


def test_a_folder_is_called_by_its_own_name_and_a_run_by_that_of_its_folder(tmp_path):
    plain(tmp_path / "bert")
    run = tmp_path / "tagger"
    plain(run / "model")
    (run / "recipe.yaml").write_text("name: other\n")
    assert named([str(tmp_path / "bert"), str(run / "model")]) == {
        "bert": tmp_path / "bert", "tagger": run / "model"}


def test_two_models_of_one_name_are_refused_with_the_way_out(tmp_path):
    one, other = plain(tmp_path / "a" / "bert"), plain(tmp_path / "b" / "bert")
    with pytest.raises(RequestError, match=rf"two models are called 'bert'; .* name={other}"):
        named([str(one), str(other)])
    assert list(named([str(one), f"second={other}"])) == ["bert", "second"]


def test_an_adapter_finds_its_base_among_the_served_while_that_goes_on(run, tmp_path):
    adapter = plain(tmp_path / "tuned", base_model_name_or_path=str(run / "model"))
    bases = named([str(run)])
    assert adapters([f"tuned={adapter}"], bases) == {"tuned": (adapter, "small")}


@pytest.mark.parametrize(("given", "what"), [
    ("tuned", "must be name=FOLDER"), ("=x", "must be name=FOLDER"), ("tuned=", "must be name=FOLDER"),
    ("small={adapter}", "something else is called 'small' already"),
    ("whole={whole}", r"is a whole model; name it beside the others: llmkit serve … whole="),
    ("tuned={adapter}", r"its base is .*base, which isn't served")])
def test_an_adapter_that_cannot_be_served_is_refused_with_the_way_out(run, tmp_path, given, what):
    base = plain(tmp_path / "base")
    adapter = plain(tmp_path / "tuned", base_model_name_or_path=str(base))
    with pytest.raises(RequestError, match=what):
        adapters([given.format(adapter=adapter, whole=base)], named([str(run)]))
