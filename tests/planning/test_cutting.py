"""A student that starts from some of a model's layers: their weights in their new places, and nothing else changed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, OBJECTIVE, SMALL, stories, tiny
from safetensors.torch import load_file

from llmkit import recipe as recipes
from llmkit.planning.cutting import cut_down, fewer
from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit

LAYERS = {"t5": "num_layers", "umt5": "num_layers", "bart": "encoder_layers", "transformer": "encoder_layers"}


@pytest.fixture(scope="module")
def words() -> Any:
    from llmkit.data import tokenizer as tokenizers

    return tokenizers.train(stories(40), "wordpiece", 200)


def random_model(family: str, words: Any, layers: int) -> Any:
    import transformers

    kind = FAMILIES[family]
    head = registry.find("objectives", OBJECTIVE[family])().head_for(kind)
    fields = {LAYERS.get(family, "num_hidden_layers"): layers, **SMALL[family]}
    fields |= {"num_decoder_layers": layers} if family in ("t5", "umt5") else {}
    fields |= {"decoder_layers": layers} if family in ("bart", "transformer") else {}
    torch.manual_seed(3)
    return getattr(transformers, head).from_config(kind.config("tiny", fields, words)).eval()


@pytest.mark.parametrize("family", [name for name, kind in FAMILIES.items() if not kind.shares])
def test_a_student_of_every_family_has_the_layers_that_stay(family: str, words: Any) -> None:
    """Each layer keeps what it computes: the student is the model whose other layers were taken out by hand."""
    kind, kept = FAMILIES[family], [0, 2]
    whole = random_model(family, words, 4)
    small = type(whole)(fewer(whole.config, kind, kept)).eval()
    cut_down(whole, small, kind, kept)
    theirs = dict(whole.named_parameters())
    number = {0: "0", 1: "2"}
    for name, parameter in small.named_parameters():
        place = next((f"{path}.{i}." for path in kind.layers for i in number if f"{path}.{i}." in name), None)
        if place is None:
            assert torch.equal(parameter, theirs[name]), name
        else:
            stack = place.rstrip(".").rpartition(".")[0]
            same = name.replace(place, f"{stack}.{number[int(place.rstrip('.').rpartition('.')[2])]}.")
            assert torch.equal(parameter, theirs[same]), name


def test_what_a_bert_says_without_its_second_layer_is_what_the_student_says(words: Any) -> None:
    whole = random_model("bert", words, 3)
    small = type(whole)(fewer(whole.config, FAMILIES["bert"], [0, 2])).eval()
    cut_down(whole, small, FAMILIES["bert"], [0, 2])
    del whole.bert.encoder.layer[1]
    ids = torch.tensor([[2, 9, 11, 3]])
    torch.testing.assert_close(small(input_ids=ids).logits, whole(input_ids=ids).logits)


def test_a_run_starts_from_the_layers_that_stay(text: Path, tmp_path: Path) -> None:
    fit(recipes.load({**tiny("bert", text, tmp_path / "whole", max_steps=1), "name": "whole"}))
    tree = tiny("bert", text, tmp_path / "half", max_steps=1, learning_rate=0.0)
    del tree["tokenizer"]
    tree["backbone"] = {"pretrained": str(tmp_path / "whole"), "layers": [1]}
    fit(recipes.load(tree))
    whole, half = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "half"))
    assert "bert.encoder.layer.1.output.dense.weight" not in half
    assert torch.equal(half["bert.encoder.layer.0.output.dense.weight"],
                       whole["bert.encoder.layer.1.output.dense.weight"])
    adapter = {**tree, "tuning": {"method": "lora"}, "output_dir": str(tmp_path / "adapter")}
    fit(recipes.load(adapter))
    assert (tmp_path / "adapter" / "base" / "model.safetensors").is_file()  # no other folder holds it
    with pytest.raises(RequestError, match=r"backbone\.layers: 5 is no layer of this model, which has 2"):
        fit(recipes.load({**tree, "backbone": {**tree["backbone"], "layers": [0, 5]},
                          "output_dir": str(tmp_path / "x")}))


@pytest.mark.parametrize(("backbone", "why"), [
    ({"family": "bert", "size": "tiny", "layers": [0]}, "these are of a pretrained model"),
    ({"pretrained": "x", "layers": [2, 0]}, r"\[2, 0\] must name layers in their order"),
    ({"pretrained": "x", "layers": []}, r"\[\] must name layers"),
])
def test_layers_that_make_no_sense_are_told(backbone: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=f"backbone.layers: {why}"):
        recipes.load({"backbone": backbone, "tokenizer": {"train": {}}, "data": {"train": "a"},
                      "objective": "masked_lm"})


def test_layers_that_share_their_weights_are_not_cut(words: Any) -> None:
    with pytest.raises(RequestError, match="layers of albert can't be taken apart: they share"):
        fewer(random_model("albert", words, 3).config, FAMILIES["albert"], [0])
