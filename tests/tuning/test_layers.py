"""Chosen layers, and gradual unfreezing: which, from which step, and that what sleeps doesn't move."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import FAMILIES, run_in_two, tiny
from promises import blank, trained
from safetensors.torch import load_file

from llmkit import recipe
from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit
from llmkit.tuning.layers import Layers

CLASSES = "AutoModelForSequenceClassification"


def numbers(names):
    """Which layers some parameters are of: `encoder.layer.2`, without what is within a layer."""
    import re

    found = [re.match(r"(?:.*?\.)??((?:(?:en|de)coder\.)?(?:layer|layers|h|block)\.\d+)\.", name) for name in names]
    return list(dict.fromkeys(match[1] for match in found if match))


# ---- which --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "expected"), [
    ({}, [6, 7]),
    ({"n": 1}, [7]),
    ({"n": 8}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ({"layers": [0, 3]}, [0, 3]),
    ({"layers": [-1, 0, 7]}, [0, 7]),
    ({"layers": "2-5"}, [2, 3, 4, 5]),
    ({"layers": "-3--1"}, [5, 6, 7]),
    ({"layers": "0 - 1, -1"}, [0, 1, 7]),
    ({"layers": "6--1"}, [6, 7]),
    ({"layers": "3"}, [3]),
    ({"unfreeze_every": 10}, [0, 1, 2, 3, 4, 5, 6, 7]),
    ({"unfreeze_every": 10, "n": 3}, [5, 6, 7]),
])
def test_layers_are_named_from_below_or_from_the_top(options, expected):
    assert Layers(**options).chosen([8], "bert") == [expected]


def test_the_last_layers_of_an_encoder_decoder_are_the_last_of_each():
    assert Layers(n=2).chosen([4, 3], "t5") == [[2, 3], [1, 2]]
    assert Layers(n=4).chosen([4, 2], "t5") == [[0, 1, 2, 3], [0, 1]]
    assert Layers(layers="0, -1").chosen([4, 2], "t5") == [[0, 3], [0, 1]]
    assert Layers(layers=[3]).chosen([4, 2], "t5") == [[3], []]
    assert Layers(layers=[-4]).chosen([2, 4], "t5") == [[], [0]]


def test_only_the_last_layer_of_bert_and_a_new_head_train():
    new = ("classifier", "bert.pooler.dense")
    inner = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
             "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"]
    assert trained(Layers(n=1), "bert", CLASSES, new) == [
        *(f"bert.encoder.layer.1.{part}.{kind}" for part in inner for kind in ("weight", "bias")),
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"]


def test_only_the_first_layer_of_gpt2_trains():
    assert trained(Layers(layers=[0]), "gpt2", "AutoModelForCausalLM") == [
        f"transformer.h.0.{part}.{kind}" for part in (
            "ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj") for kind in ("weight", "bias")]


def test_the_last_layers_of_t5_train():
    names = trained(Layers(n=1), "t5", "AutoModelForSeq2SeqLM", num_layers=3, num_decoder_layers=2)
    assert numbers(names) == ["encoder.block.2", "decoder.block.1"]
    assert "encoder.block.2.layer.0.SelfAttention.q.weight" in names
    assert "decoder.block.1.layer.1.EncDecAttention.q.weight" in names
    assert [name for name in names if "block" not in name] == []


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if not family.shares])
def test_in_every_class_of_every_family_it_finds_the_layers(family):
    for head in registry.find("backbones", family).heads:
        names = trained(Layers(layers="1"), family, head)
        assert {number.rpartition(".")[2] for number in numbers(names)} == {"1"}


def test_the_rest_is_what_stands_above_the_layers_or_everything():
    none, top, every = (set(trained(Layers(n=1, rest=rest), "gpt2", "AutoModelForCausalLM"))
                        for rest in ("none", "top", "all"))
    assert top - none == {"transformer.ln_f.weight", "transformer.ln_f.bias"}
    assert every - top == {"transformer.wte.weight", "transformer.wpe.weight"}
    none, top = (set(trained(Layers(n=1, rest=rest), "bert", "AutoModelForMaskedLM")) for rest in ("none", "top"))
    assert sorted(top - none) == [
        "cls.predictions.bias", "cls.predictions.transform.LayerNorm.bias",
        "cls.predictions.transform.LayerNorm.weight", "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.dense.weight"]


# ---- when ---------------------------------------------------------------------------------------------------------


def schedule(method, family, head, new=(), epoch=0.0, **config):
    """By layer, or by part where it isn't one: the step from which it trains."""
    model, setting = blank(family, head, new, **config)
    names = [name for name, p in method.apply(model, setting).named_parameters() if p.requires_grad]
    wakes = method.wakes(model, replace(setting, epoch=epoch))
    assert set(wakes) <= set(names)
    return {(numbers([name]) or [name.rpartition(".")[0]])[0]: wakes.get(name, 0) for name in names}


def test_one_more_layer_from_the_top_after_each_so_many_steps():
    found = schedule(Layers(unfreeze_every=10), "bert", CLASSES, ("classifier",), num_hidden_layers=4)
    assert found == {"encoder.layer.0": 30, "encoder.layer.1": 20, "encoder.layer.2": 10, "encoder.layer.3": 0,
                     "classifier": 0}
    found = schedule(Layers(layers=[0, 3], unfreeze_every=10), "bert", CLASSES, num_hidden_layers=4)
    assert found == {"encoder.layer.0": 10, "encoder.layer.3": 0}


def test_embeddings_follow_the_lowest_layer_and_the_last_normalisation_comes_with_the_highest():
    found = schedule(Layers(unfreeze_every=10, rest="all"), "gpt2", "AutoModelForCausalLM", n_layer=3)
    assert found == {"transformer.wte": 30, "transformer.wpe": 30, "h.0": 20, "h.1": 10, "h.2": 0,
                     "transformer.ln_f": 0}


def test_both_stacks_are_unfrozen_from_their_tops():
    found = schedule(Layers(unfreeze_every=5), "t5", "AutoModelForSeq2SeqLM", num_layers=3, num_decoder_layers=2)
    assert found == {"encoder.block.0": 10, "encoder.block.1": 5, "encoder.block.2": 0, "decoder.block.0": 5,
                     "decoder.block.1": 0}


def test_epochs_become_steps():
    method = Layers(unfreeze_every=0.5, unfreeze_unit="epochs")
    assert schedule(method, "gpt2", "AutoModelForCausalLM", epoch=7.5, n_layer=3) == {"h.0": 8, "h.1": 4, "h.2": 0}


# ---- a run --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of three layers."""
    folder = tmp_path_factory.mktemp("base") / "run"
    tree = tiny("gpt2", text, folder, max_steps=1)
    tree["backbone"]["config"]["n_layer"] = 3
    fit(recipe.load(tree))
    return folder


@pytest.fixture
def tree_of(base: Path, text: Path):
    """A recipe that unfreezes a layer every two steps."""

    def make(folder: Path, still: bool = False, **training):
        tree = tiny("gpt2", text, folder, still, **{"max_steps": 6, "weight_decay": 0.1, **training})
        config = tree["backbone"]["config"] if still else {}
        config = {name: value for name, value in config.items() if name.endswith("pdrop")}
        del tree["tokenizer"]
        return {**tree, "backbone": {"pretrained": str(base), "config": config},
                "tuning": {"method": "layers", "unfreeze_every": 2, "rest": "all"}}

    return make


def moved(base: Path, run: Path) -> dict[str, bool]:
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (base, run))
    parts = {name: name[12:15] if ".h." in name else name[12:].partition(".")[0] for name in before}
    same = {part: {torch.equal(before[name], after[name]) for name in before if parts[name] == part}
            for part in dict.fromkeys(parts.values())}
    assert all(len(values) == 1 for values in same.values()), same
    return {part: values == {False} for part, values in same.items()}


@pytest.mark.parametrize(("steps", "awake"), [(2, ["h.2"]), (3, ["h.1", "h.2"]), (5, ["h.0", "h.1", "h.2"]),
                                              (7, ["h.0", "h.1", "h.2", "wpe", "wte"])])
def test_what_sleeps_is_bit_equal_and_is_not_counted(steps, awake, base, tree_of, tmp_path):
    summary = fit(recipe.load(tree_of(tmp_path / "run", max_steps=steps)))
    found = moved(base, tmp_path / "run")
    assert sorted(part for part, has in found.items() if has) == sorted([*awake, "ln_f"])
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    counted = sum(value.numel() for name, value in weights.items()
                  if name.startswith(tuple(f"transformer.{part}." for part in [*awake, "ln_f"])))
    assert summary["trainable_parameters"] == counted


def test_a_run_that_ends_before_the_last_part_wakes_says_so(tree_of, tmp_path, caplog):
    fit(recipe.load(tree_of(tmp_path / "run", max_steps=5)))
    assert "the last part would begin to train after step 6; the run ends after step 5" in caplog.text


def test_the_norm_of_the_gradient_is_that_of_what_is_awake(tree_of, tmp_path):
    norms = []
    for name, tuning in (("one", {"method": "layers", "n": 1}), ("all", {"method": "layers", "unfreeze_every": 2})):
        tree = {**tree_of(tmp_path / name, max_steps=2), "tuning": tuning}
        fit(recipe.load(tree))
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        norms.append([json.loads(line)["grad_norm"] for line in lines])
    assert norms[0] == pytest.approx(norms[1], rel=1e-6)


def test_a_run_that_was_killed_while_layers_slept_ends_with_the_weights_of_one_that_was_not(tree_of, tmp_path):
    for name in ("whole", "cut"):
        fit(recipe.load(tree_of(tmp_path / name, save_steps=3, max_steps=8, save_total_limit=5)))
    cut = tmp_path / "cut"
    shutil.rmtree(cut / "model")
    (cut / "summary.json").unlink()
    for step in (6, 8):
        shutil.rmtree(cut / "checkpoints" / f"step-{step:08d}")
    fit(recipe.load(tree_of(cut, save_steps=3, max_steps=8, save_total_limit=5)), resume="must")
    a, b = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("whole", "cut"))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_two_processes_unfreeze_as_one_does(base, tree_of, tmp_path):
    fit(recipe.load(tree_of(tmp_path / "one", still=True, micro_batch_size=4, max_steps=4)))
    tree = tree_of(tmp_path / "two", still=True, micro_batch_size=2, max_steps=4)
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump(tree))
    both = run_in_two(["pretrain", str(path)], tmp_path / "two")
    assert [one.wait() for one in both] == [0, 0], both[0].said.read_text()
    one, two = ([json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
                for name in ("one", "two"))
    for ours, theirs in zip(one, two, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
    assert moved(base, tmp_path / "two") == {"h.0": False, "h.1": True, "h.2": True, "ln_f": True, "wpe": False,
                                             "wte": False}


def test_it_works_in_bf16_with_gradient_checkpointing(base, tree_of, tmp_path):
    plan = {"max_steps": 3, "precision": "bf16"}
    losses = [fit(recipe.load(tree_of(tmp_path / str(on), gradient_checkpointing=on, **plan)))["train_loss"]
              for on in (False, True)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert [part for part, has in moved(base, tmp_path / "True").items() if not has] == ["h.0", "wpe", "wte"]


# ---- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    ({"n": 3}, r"tuning\.n: the last 3 layers are too many; this bert has 2\."),
    ({"layers": [0, 2]}, r"there is no layer 2; this bert has 2, 0 to 1, or -2 to -1 from the top\."),
    ({"layers": [-3]}, "there is no layer -3; this bert has 2"),
    ({"layers": "1-4"}, "1-4 is no range of layers; this bert has 2"),
    ({"layers": "1-0"}, "1-0 is no range of layers"),
])
def test_a_layer_that_is_not_there_is_told_with_how_many_there_are(options, message):
    model, setting = blank("bert", CLASSES)
    with pytest.raises(RequestError, match=message):
        Layers(**options).check_parts(lambda: model, setting)


@pytest.mark.parametrize(("options", "message"), [
    ({"n": 1, "layers": [0]}, r"n: 1 and layers: \[0\] both say which layers; give one"),
    ({"layers": []}, "no layer is named"),
    ({"layers": 3}, r"3 may mean two things: say n: 3 for so many of the last layers, or layers: \[3\] for that one"),
    ({"layers": "first"}, "'first' is neither a layer's number nor a range like 2-5"),
    ({"unfreeze_every": 2.5}, r"2\.5 steps must be a whole number"),
    ({"unfreeze_unit": "epochs"}, "the unit of unfreeze_every, which isn't there"),
])
def test_options_that_say_nothing_or_two_things_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        Layers(**options).check(registry.find("backbones", "bert"), CLASSES)


def test_layers_that_share_their_weights_or_are_not_known_are_refused():
    with pytest.raises(RequestError, match=r"albert, whose layers share their weights\. Use feed_forward"):
        Layers().check(registry.find("backbones", "albert"), CLASSES)
    with pytest.raises(RequestError, match="layers needs to know the layers"):
        Layers().check(registry.find("backbones", "auto"), CLASSES)


def test_a_layer_that_is_not_there_is_refused_before_anything_trains(tree_of, tmp_path):
    with pytest.raises(RequestError, match="this gpt2 has 3"):
        fit(recipe.load({**tree_of(tmp_path / "run"), "tuning": {"method": "layers", "n": 4}}))
    assert not (tmp_path / "run").exists()
