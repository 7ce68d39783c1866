"""Bases in 4 and 8 bits: what they hold, what trains over them, how they are opened again and merged."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, WORDS, stories
from safetensors.torch import load_file

import llmkit
from llmkit import models, recipe
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.sampling import Choosing
from llmkit.inference.writing.writer import Writer
from llmkit.models import quantizing
from llmkit.planning.settle import settle
from llmkit.recipe import Quantization
from llmkit.serving.jobs import Job, Piece, Wish
from llmkit.serving.served import named, open_all
from llmkit.system.errors import CheckpointError, RequestError

bitsandbytes = pytest.importorskip("bitsandbytes")

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
DOUBLE = {**NF4, "bnb_4bit_use_double_quant": True}
EIGHT = {"load_in_8bit": True}
HEADS = {"llama": "AutoModelForCausalLM", "gpt2": "AutoModelForCausalLM", "bert": "AutoModelForMaskedLM"}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A random model of each family, without dropout, wide enough for layers of bitsandbytes."""
    import transformers

    from llmkit.data import tokenizer as tokenizers
    from llmkit.recipe import registry

    found = {}
    for name, head in HEADS.items():
        family, folder = registry.find("backbones", name), tmp_path_factory.mktemp(name)
        trained = tokenizers.train(stories(80), family.tokenizer, WORDS[name])
        torch.manual_seed(1)
        config = family.config("tiny", {**SMALL[name], **dict.fromkeys(family.still, 0.0)}, trained)
        getattr(transformers, head).from_config(config).save_pretrained(folder)
        trained.save_pretrained(folder)
        found[name] = folder
    return found


def tree(base: Path, text: Path, folder: Path, chosen: dict[str, Any] | None, **training: Any) -> dict[str, Any]:
    objective = "masked_lm" if "bert" in base.name else "causal_lm"
    backbone = {"pretrained": str(base), **({} if chosen is None else {"quantization_config": chosen})}
    return {"backbone": backbone, "data": {"train": str(text), "max_length": 32, "validation": 0.2},
            "objective": {"name": objective}, "tuning": {"method": "lora"}, "output_dir": str(folder),
            "training": {"figures": False,
                         "max_steps": 4, "global_batch_size": 8, "learning_rate": 1e-2, "logging_steps": 1,
                         "eval_steps": 1, "save_steps": 2, "precision": "fp32", **training}}


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "adapter_model.safetensors")


@pytest.mark.parametrize(("family", "chosen"), [("llama", NF4), ("llama", DOUBLE), ("llama", EIGHT), ("gpt2", NF4),
                                                ("gpt2", EIGHT), ("bert", NF4)])
def test_an_adapter_learns_over_a_quantised_base_resumes_opens_and_is_merged(
    family: str, chosen: dict[str, Any], bases: dict[str, Path], text: Path, tmp_path: Path,
) -> None:
    """Resumed bit for bit, with evaluations between, which bitsandbytes' own eval mode on CPUs would let change it."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = llmkit.fit(tree(bases[family], text, whole, chosen))
    assert done["evaluation"]["loss"] < done["evaluation_before"]["loss"]
    llmkit.fit(tree(bases[family], text, cut, chosen))
    shutil.rmtree(cut / "model")
    shutil.rmtree(cut / "checkpoints" / "step-00000004")
    (cut / "summary.json").unlink()
    llmkit.fit(str(cut / "recipe.yaml"), "must")
    a, b = adapter(whole), adapter(cut)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    opened, merged = models.open_model(whole), models.merge(whole)
    kinds = {type(part).__name__ for part in opened.model.modules()}
    assert ("Linear8bitLt" if chosen == EIGHT else "Linear4bit") in kinds
    assert not {type(part).__name__ for part in merged.model.modules()} & {"Linear4bit", "Linear8bitLt"}
    assert not hasattr(merged.model.config, "quantization_config")
    ids = torch.arange(20)[None] % 100
    with torch.no_grad():
        one, other = opened.model(input_ids=ids).logits, merged.model(input_ids=ids).logits
    # in 8 bits inputs are rounded too
    assert torch.allclose(one, other, atol=5e-2 if chosen == EIGHT else 1e-5)
    assert not torch.allclose(other, models.open_model(bases[family]).model(input_ids=ids).logits, atol=1e-3)


def test_an_adapter_over_a_quantised_base_is_served_as_it_is_written(
    bases: dict[str, Path], text: Path, tmp_path: Path) -> None:
    run, heard, options = tmp_path / "run", list[str](), Options(max_new_tokens=6)
    llmkit.fit(tree(bases["llama"], text, run, NF4, max_steps=2))
    served: Any = next(iter(open_all(named([str(run)]), {}).values()))
    assert "Linear4bit" in {type(part).__name__ for part in served.writer.opened.model.modules()}
    ids = served.writer.ids("the cat saw")
    served.engine.admit(Job(ids, Wish(options, Choosing(), frozenset()), 0, 1,
                            lambda number, event: heard.append(event.text) if isinstance(event, Piece) else None))
    while served.engine.busy:
        served.engine.turn()
    (written,), = Writer.open(str(run)).write([ids], options)
    assert "".join(heard).startswith(written.text) and written.tokens > 0


def test_a_quantised_base_loses_little(bases: dict[str, Path], text: Path, tmp_path: Path) -> None:
    losses = [llmkit.fit(tree(bases["llama"], text, tmp_path / str(i), chosen, max_steps=1))["evaluation"]["loss"]
              for i, chosen in enumerate((None, NF4, EIGHT))]
    assert losses[1] == pytest.approx(losses[0], abs=0.05) and losses[1] != losses[0]
    assert losses[2] == pytest.approx(losses[0], abs=0.01) and losses[2] != losses[0]


@pytest.mark.parametrize("chosen", [NF4, DOUBLE, EIGHT], ids=["nf4", "double", "8 bits"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_size_that_is_estimated_is_the_one_that_is_held(
    family: str, chosen: dict[str, Any], bases: dict[str, Path], text: Path, tmp_path: Path,
) -> None:
    settled = settle(recipe.load(tree(bases[family], text, tmp_path, chosen)))
    import transformers

    held = transformers.AutoModelForCausalLM.from_pretrained(
        bases[family], dtype=torch.float32, **quantizing.options(Quantization(**chosen), ["lm_head"]))
    assert quantizing.numbers_in(held.parameters()) == settled.size.parameters
    found = quantizing.bytes_in(held.parameters())
    assert settled.size.weights == pytest.approx(found, rel=0.02)
    assert found < 4 * settled.size.parameters


def test_a_class_that_is_new_stays_whole_and_trains(bases: dict[str, Path], labelled: Path, tmp_path: Path) -> None:
    llmkit.fit({
        "backbone": {"pretrained": str(bases["bert"]), "quantization_config": NF4},
        "data": {"train": str(labelled), "max_length": 32}, "task": {"name": "classification"},
        "tuning": {"method": "lora"}, "output_dir": str(tmp_path / "run"),
        "training": {"figures": False, "max_steps": 2, "global_batch_size": 8, "precision": "fp32"}})
    saved = adapter(tmp_path / "run")
    assert {name for name in saved if "lora" not in name} >= {
        "base_model.model.classifier.weight", "base_model.model.bert.pooler.dense.weight"}
    opened = models.open_model(tmp_path / "run").model
    assert type(opened.get_submodule("base_model.model.classifier.modules_to_save.default")).__name__ == "Linear"


@pytest.mark.parametrize("method", ["ia3", "adalora", "prefix", "prompt", {"method": "peft", "peft_type": "HIRA"}])
def test_its_kin_trains_over_one_too(method: Any, bases: dict[str, Path], text: Path, tmp_path: Path) -> None:
    asked = {**tree(bases["llama"], text, tmp_path / "run", NF4, max_steps=2), "tuning": method}
    assert llmkit.fit(asked)["status"] == "completed"
    models.open_model(tmp_path / "run")


@pytest.mark.parametrize(("said", "wrong"), [
    ({"load_in_4bit": True, "bnb_4bit_quant_type": "int3"}, "bnb_4bit_quant_type"),
    ({"load_in_4bit": True, "load_in_8bit": True}, "one of"),
    ({"load_in_4bit": True, "llm_int8_skip_modules": ["(a+)+$"]}, "no plain name")])
def test_an_adapter_whose_config_says_what_cannot_be_is_told(
    said: dict[str, Any], wrong: str, bases: dict[str, Path], text: Path, tmp_path: Path,
) -> None:
    llmkit.fit(tree(bases["llama"], text, tmp_path / "run", NF4, max_steps=1))
    path = tmp_path / "run" / "model" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": {"quant_method": "bitsandbytes", **said}}))
    with pytest.raises(CheckpointError, match=wrong):
        models.open_model(tmp_path / "run")


def test_a_base_whose_own_files_are_quantised_is_tuned_as_it_is(
    bases: dict[str, Path], text: Path, tmp_path: Path) -> None:
    import transformers

    packed = tmp_path / "llama-packed"
    shutil.copytree(bases["llama"], packed)
    transformers.AutoModelForCausalLM.from_pretrained(
        bases["llama"], dtype=torch.float32, **quantizing.options(Quantization(**NF4), ["lm_head"])
    ).save_pretrained(packed)
    llmkit.fit(tree(packed, text, tmp_path / "run", None, max_steps=1))
    kinds = {type(part).__name__ for part in models.open_model(tmp_path / "run").model.modules()}
    assert "Linear4bit" in kinds
    with pytest.raises(RequestError, match="is quantised already, by its own config"):
        llmkit.fit(tree(packed, text, tmp_path / "again", NF4))
    with pytest.raises(RequestError, match="is quantised, and full can't have that"):
        llmkit.fit({**tree(packed, text, tmp_path / "full", None), "tuning": {"method": "full"}})


def test_layers_of_bitsandbytes_are_not_compiled(bases: dict[str, Path], text: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="aren't compiled"):
        settle(recipe.load(tree(bases["llama"], text, tmp_path, NF4, compile=True)))
