"""How vectors are pooled is read in one way, from files of today and of before."""

import json

import pytest
import torch

from llmkit.exporting import pooling as shown
from llmkit.models.pooling import Pooling, pooled, read, write
from llmkit.system.errors import CheckpointError, RequestError


@pytest.fixture
def described(tmp_path):
    def make(about, *others):
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "config.json").write_text(json.dumps(about))
        modules = [("", "Transformer"), ("1", "Pooling"), *((str(nth), kind) for nth, kind in enumerate(others, 2))]
        (tmp_path / "modules.json").write_text(json.dumps(
            [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in modules]))
        return tmp_path

    return make


@pytest.mark.parametrize(("name", "content", "told"), [
    ("modules.json", "{", "modules.json: can't be read"), ("modules.json", "[" * 100_000, "can't be read"),
    ("modules.json", "{}", "must be a list of modules"), ("modules.json", "[5]", "must be a list of modules"),
    ("modules.json", '[{"type": 5}]', "must be a list of modules"), ("1/config.json", "[1]", "holds no object"),
    ("modules.json", '[{"type": "x.Pooling", "path": "/etc"}]', "names /etc, which isn't in the folder of the model"),
    ("modules.json", '[{"type": "x.Pooling", "path": "../b"}]', "isn't in the folder of the model"),
])
def test_files_that_say_something_else_are_told(name, content, told, described):
    folder = described({"pooling_mode": "cls"})
    (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=told):
        read(folder)


@pytest.mark.parametrize("about", [
    {"pooling_mode": "cls"},
    {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
    {"word_embedding_dimension": 8, "pooling_mode_cls_token": True, "include_prompt": True},
])
def test_the_key_of_today_and_those_of_before_say_the_same(about, described):
    folder = described(about, "Normalize")
    assert read(folder) == Pooling(("cls",), normalized=True)
    assert shown.read(folder) == Pooling(("cls",), normalized=True)
    assert shown.in_torch(read(folder))[0] == "vectors = states[:, 0]"


def test_a_card_shows_no_pooling_that_it_has_no_lines_for(described):
    folder = described({"pooling_mode": "max"})
    assert read(folder).modes == ("max",)
    assert shown.read(folder) is None


def test_a_card_shows_none_of_a_module_that_nobody_knows(described):
    folder = described({"pooling_mode": "mean"}, "Dense")
    assert shown.read(folder) is None
    with pytest.raises(RequestError, match="doesn't know a module 'Dense'"):
        read(folder)


def test_prompts_that_are_not_to_be_pooled_are_refused_where_there_are_some(described):
    folder = described({"pooling_mode": "mean", "include_prompt": False})
    assert read(folder).modes == ("mean",)
    with pytest.raises(RequestError, match=r"1/config\.json: include_prompt is false"):
        read(folder, prompted=True)


def test_a_folder_that_says_nothing_has_no_pooling(tmp_path):
    assert read(tmp_path) == Pooling()
    assert shown.read(tmp_path) is None


@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_what_is_written_is_read_again(mode, tmp_path):
    write(tmp_path, mode, 8)
    assert read(tmp_path) == Pooling((mode,))


def test_vectors_of_several_modes_stand_side_by_side():
    hidden, mask = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[1, 1, 0]])
    assert Pooling(("cls", "mean")).vectors(hidden, mask).tolist() == [[1.0, 2.0, 2.0, 3.0]]
    assert torch.equal(Pooling(("mean",)).vectors(hidden, mask), pooled(hidden, mask, "mean"))
    assert Pooling(("mean",), normalized=True).vectors(hidden, mask).norm().item() == pytest.approx(1)
