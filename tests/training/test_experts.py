"""A mixture of experts trains by the same loss wherever a step is cut, and says how its experts are used."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import run_in_two, tiny

import llmkit
from llmkit import recipe as recipes
from llmkit.planning.inspect import inspect
from llmkit.planning.settle import settle
from llmkit.system.errors import RequestError
from llmkit.training.fit import fit

FIGURES = ("router_loss", "expert_share_max", "expert_share_min", "expert_entropy")


def events(folder: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def tree_of(data: Path, folder: Path, coefficient: float = 1.0, **training: Any) -> dict[str, Any]:
    tree = tiny("qwen3_moe", data, folder, **training)
    tree["backbone"]["config"]["router_aux_loss_coef"] = coefficient
    return tree


@pytest.fixture(scope="module")
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps of 8 rows at once, with evaluations."""
    folder = tmp_path_factory.mktemp("experts") / "whole"
    tree = tree_of(text, folder, max_steps=2)
    tree["data"]["validation"] = 0.2
    fit(recipes.load(tree))
    return folder


def test_each_line_has_the_loss_of_each_layer(whole: Path) -> None:
    """2 layers, 2 of 4 experts: between k and k x experts each."""
    for line in events(whole):
        layers = [value for name, value in line.items() if name.startswith("router_loss/")]
        assert len(layers) == 2
        assert all(1.9 < value <= 8 for value in layers)
    assert not any("router_loss/0" in event for event in events(whole, "evaluate"))


def test_a_step_in_parts_balances_as_a_whole(whole: Path, text: Path, tmp_path: Path) -> None:
    for micro in (4, 1):
        tree = tree_of(text, tmp_path / str(micro), max_steps=2, micro_batch_size=micro)
        tree["data"]["validation"] = 0.2
        fit(recipes.load(tree))
        for one, cut in zip(events(whole), events(tmp_path / str(micro)), strict=True):
            for name in ("loss", "grad_norm", *FIGURES, "router_loss/0", "router_loss/1"):
                assert cut[name] == pytest.approx(one[name], rel=1e-5), (micro, name)


def test_two_processes_balance_as_one(whole: Path, text: Path, tmp_path: Path) -> None:
    tree = tree_of(text, tmp_path / "two", max_steps=2, micro_batch_size=2)
    tree["data"]["validation"] = 0.2
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(tree))
    both = run_in_two(["pretrain", str(tmp_path / "two.yaml")], tmp_path / "two")
    assert [one.wait() for one in both] == [0, 0], both[0].said.read_text()
    for kind in ("train", "evaluate"):
        for one, two in zip(events(whole, kind), events(tmp_path / "two", kind), strict=True):
            for name in ("loss", *FIGURES):
                assert two[name] == pytest.approx(one[name], rel=1e-5), name


def test_the_coefficient_decides_what_is_learned(text: Path, tmp_path: Path) -> None:
    ends = []
    for coefficient in (0, 100):
        tree = tree_of(text, tmp_path / str(coefficient), coefficient, max_steps=6)
        fit(recipes.load(tree))
        ends.append(events(tmp_path / str(coefficient)))
    assert ends[0][0]["router_loss"] == pytest.approx(ends[1][0]["router_loss"], rel=1e-6)  # the same start
    assert ends[0][0]["grad_norm"] < 0.5 * ends[1][0]["grad_norm"]
    assert abs(ends[0][-1]["loss"] - ends[1][-1]["loss"]) > 1e-3
    assert ends[1][-1]["router_loss"] < ends[0][-1]["router_loss"]
    for line in (*ends[0], *ends[1]):
        assert 0 <= line["expert_share_min"] <= 1 / 4 <= line["expert_share_max"] <= 1 / 2  # 2 of 4 a token
        assert 0 < line["expert_entropy"] <= 1


def test_an_evaluation_says_the_loads_too(whole: Path, text: Path) -> None:
    told = events(whole, "evaluate")[-1]
    assert all(name in told for name in FIGURES)
    summary = json.loads((whole / "summary.json").read_text())
    assert {name: summary["evaluation"][name] for name in FIGURES} == {name: told[name] for name in FIGURES}
    found = llmkit.evaluate(whole, text)["metrics"]
    assert 1 < found["router_loss"] < 4


def test_gradient_checkpointing_changes_no_number(whole: Path, text: Path, tmp_path: Path) -> None:
    tree = tree_of(text, tmp_path / "again", max_steps=2, gradient_checkpointing=True, micro_batch_size=4)
    tree["data"]["validation"] = 0.2
    fit(recipes.load(tree))
    for one, again in zip(events(whole), events(tmp_path / "again"), strict=True):
        for name in ("loss", "grad_norm", "router_loss"):
            assert again[name] == pytest.approx(one[name], rel=1e-4)


def test_family_auto_trains_the_routers_of_any_such_model(whole: Path, text: Path, tmp_path: Path) -> None:
    """A mixtral: llmkit has no file for it."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(whole / "model")
    config = transformers.AutoConfig.for_model(
        "mixtral", vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, num_local_experts=4, max_position_embeddings=64,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "mixtral")
    tokenizer.save_pretrained(tmp_path / "mixtral")
    losses = []
    for coefficient in (0, 100):
        fit(recipes.load({
            "backbone": {"pretrained": str(tmp_path / "mixtral"), "config": {"router_aux_loss_coef": coefficient}},
            "data": {"train": str(text), "max_length": 32}, "objective": "causal_lm",
            "training": {"figures": False,
                         "max_steps": 3, "global_batch_size": 8, "learning_rate": 1e-2, "precision": "fp32",
                         "logging_steps": 1},
            "output_dir": str(tmp_path / str(coefficient))}))
        losses.append([line["loss"] for line in events(tmp_path / str(coefficient))])
    assert losses[0][0] == losses[1][0]
    assert abs(losses[0][2] - losses[1][2]) > 1e-4


def test_inspect_says_what_each_expert_gets(text: Path, tmp_path: Path) -> None:
    found = inspect(recipes.load(tree_of(text, tmp_path / "run")), experts=True)["experts"]
    assert (found["rows"], found["experts"], found["chosen"]) == (8, 4, 2)
    assert [layer["router"] for layer in found["layers"]] == ["model.layers.0.mlp.gate", "model.layers.1.mlp.gate"]
    shares = [share for layer in found["layers"] for share in layer["shares"]]
    assert sum(shares) == pytest.approx(2)
    assert (found["expert_share_max"], found["expert_share_min"]) == (max(shares), min(shares))
    with pytest.raises(RequestError, match="--experts: a gpt2 has none"):
        inspect(recipes.load(tiny("gpt2", text, tmp_path / "other")), experts=True)


def test_a_run_says_how_many_parameters_are_at_work(
    text: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """2 of 4 experts, each of 3 matrices of 32 x 32, in 2 layers."""
    asked = recipes.load({**tree_of(text, tmp_path / "run", max_steps=1), "tuning": {"method": "lora"}})
    assert settle(asked).idle == 2 * 2 * 3 * 32 * 32
    with caplog.at_level(logging.INFO):
        fit(asked)
    said = next(line for line in caplog.messages if line.startswith("experts: 2 of 4 experts a token in each of 2"))
    assert "the load-balancing loss counts 1 (backbone.config.router_aux_loss_coef)" in said
    assert "experts: lora leaves 24,576 parameters of the experts as they are" in caplog.messages


def test_the_experts_of_a_run_are_those_of_its_own_model(
    whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Against the recipe with the run's model named by hand."""
    from llmkit.cli import main

    assert main(["inspect", str(whole), "--experts", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["experts"]
    named = inspect(recipes.load(whole / "recipe.yaml", fields={
        "backbone": {"pretrained": str(whole / "model")}, "tokenizer": None}), experts=True)["experts"]
    assert found == named
    assert main(["inspect", str(whole.parent), "--experts"]) == 2
    assert "--experts of a folder needs a run that has ended" in capsys.readouterr().err


@pytest.mark.parametrize("targets", [["q_proj", "experts"], ["gate_up_proj"], r".*\.mlp\.experts"])
def test_experts_are_no_layers_for_an_adapter(targets: Any, text: Path, tmp_path: Path) -> None:
    tree = tree_of(text, tmp_path / "run")
    tree["tuning"] = {"method": "lora", "target_modules": targets}
    with pytest.raises(RequestError, match=r"tuning.target_modules: .* are the experts of a layer, one tensor"):
        settle(recipes.load(tree))


@pytest.mark.parametrize(("form", "said"), [
    ("onnx", "--format onnx: a mixture of experts can't be written: which experts a token goes through is known when"),
    ("gguf", "can. --format safetensors takes this one."),
])
def test_a_mixture_of_experts_is_refused_where_it_cant_be_written(
    form: str, said: str, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as error:
        llmkit.export(whole, tmp_path / "out", format=form)
    assert said in str(error.value)
    assert "onnx" not in str(error.value).replace("--format onnx: a mixture", "")


def test_a_mixture_of_experts_is_not_compiled(text: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"which experts a layer needs is known when it runs"):
        settle(recipes.load(tree_of(text, tmp_path / "run", compile=True)))


def test_a_token_chooses_no_more_experts_than_there_are(text: Path, tmp_path: Path) -> None:
    tree = tree_of(text, tmp_path / "run")
    tree["backbone"]["config"]["num_experts_per_tok"] = 9
    with pytest.raises(RequestError, match="num_experts_per_tok: a token can't go through 9 of 4 experts"):
        settle(recipes.load(tree))


@pytest.mark.parametrize("micro", [8, 4])
def test_a_student_with_experts_balances_as_it_would_alone(micro: int, whole: Path, text: Path, tmp_path: Path) -> None:
    tree = tree_of(text, tmp_path / "run", max_steps=2, micro_batch_size=micro)
    tree["data"]["validation"] = 0.2
    tree |= {"tokenizer": {"pretrained": str(whole)}, "teacher": {"model": str(whole), "alpha": 0}}
    fit(recipes.load(tree))
    for kind in ("train", "evaluate"):
        for alone, taught in zip(events(whole, kind), events(tmp_path / "run", kind), strict=True):
            for name in ("loss", *FIGURES):
                assert taught[name] == pytest.approx(alone[name], rel=1e-5), (kind, name)


def test_what_a_teacher_says_and_an_even_load_are_learned_together(whole: Path, text: Path, tmp_path: Path) -> None:
    figures = {}
    for coefficient in (0.0, 50.0):
        tree = tree_of(text, tmp_path / str(coefficient), coefficient, max_steps=3)
        fit(recipes.load({**tree, "tokenizer": {"pretrained": str(whole)}, "teacher": str(whole)}))
        figures[coefficient] = events(tmp_path / str(coefficient))
    first, last = ([figures[weight][at]["soft_loss"] for weight in (0.0, 50.0)] for at in (0, -1))
    assert first[0] == first[1] and last[0] != last[1]
