import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import OBJECTIVE, SMALL, WORDS, tiny

import llmkit
from llmkit import models, recipe, registry
from llmkit.cli import main
from llmkit.errors import PlaceError, RequestError
from llmkit.objectives._embedding import describe, embed
from llmkit.train import fit

Tune = Callable[..., Path]
Body = Callable[..., Path]


@pytest.fixture(scope="module")
def tune(text: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Tune:
    """A model of a family, tuned for a few steps."""
    bases: dict[str, Path] = {}

    def make(family: str, method: str, task: str | None = None, **options: Any) -> Path:
        if family not in bases:
            bases[family] = tmp_path_factory.mktemp("base") / family
            fit(recipe.load(tiny(family, text, bases[family], max_steps=1)))
        folder = tmp_path_factory.mktemp("tuned") / f"{family}-{method}"
        fit(recipe.load({
            "name": "tuned", "backbone": {"pretrained": str(bases[family])}, "tuning": {"method": method, **options},
            "data": {"train": str(labelled if task else text), "max_length": 32},
            **({"task": task} if task else {"objective": OBJECTIVE[family]}), "output_dir": str(folder),
            "training": {"max_steps": 4, "global_batch_size": 8, "learning_rate": 0.02, "precision": "fp32"}}))
        return folder

    return make


def logits(model: Any, length: int = 8) -> torch.Tensor:
    ids = {"input_ids": torch.arange(5, 5 + length)[None]}
    if model.config.is_encoder_decoder:
        ids["decoder_input_ids"] = ids["input_ids"]
    with torch.no_grad():
        return model.eval()(**ids).logits


@pytest.mark.parametrize(("family", "method", "task", "options"), [
    ("bert", "lora", "classification", {}), ("gpt2", "lora", None, {"init_lora_weights": "pissa", "use_dora": True}),
    ("roberta", "adalora", "classification", {}), ("t5", "ia3", None, {}), ("llama", "vera", None, {"r": 8}),
    ("bert", "peft", None, {"peft_type": "LOHA"}),
], ids=["lora", "pissa", "adalora", "ia3", "vera", "peft"])
def test_merged_it_says_the_same_in_plain_transformers(
    family: str, method: str, task: str | None, options: dict[str, Any], tune: Tune, tmp_path: Path
) -> None:
    import transformers

    run = tune(family, method, task, **options)
    adapter = models.open_model(run)
    done = llmkit.export(run, tmp_path / "out")
    assert done["class"] == adapter.kind
    assert not list((tmp_path / "out").glob("adapter*"))
    merged = getattr(transformers, adapter.kind).from_pretrained(tmp_path / "out")
    assert type(merged).__module__.startswith("transformers.")
    base = models.open_model(json.loads((run / "model" / "adapter_config.json").read_text())[
        "base_model_name_or_path"], adapter.kind)
    expected = logits(adapter.model)
    assert (logits(merged) - expected).abs().max() <= 1e-5
    assert (logits(base.model) - expected).abs().max() > 1e-4


@pytest.fixture(scope="module")
def bodies(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Body:
    """A small model of a family with random weights under any head, saved with a tokenizer."""
    words = text.read_text().splitlines()
    tokenizers: dict[str, Any] = {}

    def make(family: str, head: str, **fields: Any) -> Path:
        import transformers

        from llmkit.data import tokenizer

        cls: Any = registry.find("backbones", family)
        if family not in tokenizers:
            tokenizers[family] = tokenizer.train(words, cls.tokenizer, WORDS[family], special=cls.special)
        config = cls.config("tiny", {**SMALL[family], **fields}, tokenizers[family])
        torch.manual_seed(1)
        model = getattr(transformers, head).from_config(config)
        for one in model.parameters():  # weights of 0.02 make logits that are all the same
            if one.ndim > 1:
                one.data.normal_(0, 0.3)
        folder = tmp_path_factory.mktemp("body") / f"{family}-{head}-{len(fields)}"
        model.save_pretrained(folder)
        tokenizers[family].save_pretrained(folder)
        return folder

    return make


NAMES = {"id2label": {0: "moon", 1: "hat", 2: "ball"}, "label2id": {"moon": 0, "hat": 1, "ball": 2}}
HEADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "decoder": ("gpt2", "AutoModelForCausalLM", {}),
    "chat": ("llama", "AutoModelForCausalLM", {}),
    "encoder-decoder": ("t5", "AutoModelForSeq2SeqLM", {}),
    "masked": ("roberta", "AutoModelForMaskedLM", {}),
    "label": ("bert", "AutoModelForSequenceClassification", NAMES),
    "labels": ("bert", "AutoModelForSequenceClassification", {**NAMES, "problem_type": "multi_label_classification"}),
    "number": ("bert", "AutoModelForSequenceClassification", {"num_labels": 1, "problem_type": "regression"}),
    "tags": ("bert", "AutoModelForTokenClassification", NAMES),
    "answer": ("bert", "AutoModelForQuestionAnswering", {}),
    "answer in one text": ("gpt2", "AutoModelForQuestionAnswering", {}),
    "choice": ("bert", "AutoModelForMultipleChoice", {}),
    "embedding": ("bert", "AutoModel", {}),
    "replaced": ("electra", "AutoModelForPreTraining", {}),
    "replaced, by tags": ("bert", "AutoModelForTokenClassification", {"num_labels": 1}),
    "two heads": ("bert", "AutoModelForPreTraining", {}),
    "next sentence": ("bert", "AutoModelForNextSentencePrediction", {}),
}
"""A family, an auto class and fields of the config, by what its head is for."""
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def models_of_each_head(bodies: Body) -> dict[str, Path]:
    folders = {name: bodies(family, head, **fields) for name, (family, head, fields) in HEADS.items()}
    (folders["chat"] / "chat_template.jinja").write_text(TEMPLATE)
    describe(folders["embedding"], "mean")
    return folders


CARDS = """
import contextlib, io, json, os, re, sys
for name in {blocked}:
    sys.modules[name] = None
told = {{}}
for folder in sys.argv[1:]:
    os.chdir(folder)
    said, card = io.StringIO(), {{}}
    code = re.search("```python\\n(.*?)```", open("README.md").read(), re.DOTALL)[1]
    with contextlib.redirect_stdout(said):
        exec(code, card)
    told[folder] = {{"said": said.getvalue(), {more}}}
print(json.dumps(told))
"""


def run_cards(folders: Iterable[Path], blocked: tuple[str, ...], more: str) -> dict[str, Any]:
    """What each folder's card prints in a process that can't import some modules, and what else is asked there."""
    code = CARDS.format(blocked=blocked, more=more)
    done = subprocess.run([sys.executable, "-c", code, *map(str, folders)], capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, Any] = json.loads(done.stdout)
    return {Path(folder).name: said for folder, said in told.items()}


def test_each_heads_card_runs_in_plain_transformers_and_the_model_says_the_same(
    models_of_each_head: dict[str, Path], tmp_path: Path
) -> None:
    for name, folder in models_of_each_head.items():
        done = llmkit.export(folder, tmp_path / name)
        assert done["class"] == HEADS[name][1]
        assert (tmp_path / name / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    told = run_cards([tmp_path / name for name in HEADS], ("llmkit", "peft"), """
        "type": type(card["model"]).__module__.partition(".")[0],
        "inputs": {name: one.tolist() for name, one in card["inputs"].items()},
        "logits": [one.flatten().tolist() for one in card["model"](**card["inputs"], **(
            {"decoder_input_ids": card["inputs"]["input_ids"]} if card["model"].config.is_encoder_decoder else {}
        )).values() if hasattr(one, "flatten")]""")
    for name, folder in models_of_each_head.items():
        assert told[name]["type"] == "transformers"
        model: Any = models.open_model(folder).model
        inputs = {key: torch.tensor(one) for key, one in told[name]["inputs"].items()}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        with torch.no_grad():
            expected = [one.flatten() for one in model(**inputs).values() if isinstance(one, torch.Tensor)]
        assert len(expected) == len(told[name]["logits"]) >= 1
        for ours, theirs in zip(expected, told[name]["logits"], strict=True):
            assert torch.allclose(ours, torch.tensor(theirs), atol=1e-5)
    said = {name: one["said"].strip() for name, one in told.items()}
    assert said["chat"].replace(" ", "").startswith("user:Whoareyou?\nassistant:")
    assert said["label"] in ("moon", "hat", "ball")
    assert json.loads(said["labels"].replace("'", '"')) == [
        name for name, logit in zip(("moon", "hat", "ball"), told["labels"]["logits"][0], strict=True) if logit > 0]
    assert float(said["number"]) == pytest.approx(told["number"]["logits"][0][0], abs=1e-4)
    assert said["tags"].startswith("[('[CLS]', '")
    assert said["choice"] in ("0", "1")
    assert said["embedding"].startswith("tensor([[")
    assert 0 < float(said["replaced"].partition(", ")[2].partition(")")[0]) < 1
    assert sum(json.loads(said["next sentence"])) == pytest.approx(1)


def test_each_heads_onnx_card_runs_without_torch_and_says_what_torch_says(
    models_of_each_head: dict[str, Path], tmp_path: Path
) -> None:
    for name, folder in models_of_each_head.items():
        done = llmkit.export(folder, tmp_path / name, format="onnx")
        assert done["difference"] <= 1e-4
        assert done["files"] == (["decoder_model.onnx", "encoder_model.onnx"] if name == "encoder-decoder"
                                 else ["model.onnx"])
    told = run_cards([tmp_path / name for name in HEADS], ("llmkit", "torch", "transformers"), """
        "ids": card.get("ids"), "inputs": card.get("inputs"),
        "outputs": "inputs" in card and [one.ravel().tolist() for one in card["model"].run(
            None, {key: card["numpy"].array(one) for key, one in card["inputs"].items()})]""")
    for name, folder in models_of_each_head.items():
        opened = models.open_model(folder)
        model: Any = opened.model
        with torch.no_grad():
            if told[name]["inputs"] is None:  # it writes: the card's loop takes the likeliest token each time
                prompt = ("user: Who are you?\nassistant:" if name == "chat" else
                          "The cat saw the moon." if name == "encoder-decoder" else "Once upon a time")
                read = opened.tokenizer(prompt, return_tensors="pt")
                assert told[name]["ids"] == model.generate(**read, max_length=40, do_sample=False)[0].tolist()[:40]
                continue
            inputs = {key: torch.tensor(one) for key, one in told[name]["inputs"].items()}
            expected = {key: one.flatten() for key, one in model(**inputs).items() if isinstance(one, torch.Tensor)}
        if name == "embedding":
            expected = {"last_hidden_state": expected["last_hidden_state"], "sentence_embedding": embed(
                model, inputs, registry.find("backbones", "bert"), "mean").flatten()}
        for ours, theirs in zip(expected.values(), told[name]["outputs"], strict=True):
            assert (ours - torch.tensor(theirs)).abs().max() <= 1e-4


def test_a_model_without_an_adapter_is_copied_as_it_is(text: Path, tmp_path: Path) -> None:
    fit(recipe.load(tiny("gpt2", text, tmp_path / "run", max_steps=1)))
    assert llmkit.export(tmp_path / "run", tmp_path / "out")["merged"] is None
    whole = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == whole
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"README.md", "recipe.yaml", *(path.name for path in (tmp_path / "run" / "model").iterdir())}
    assert models.merge(tmp_path / "run").folder == tmp_path / "run" / "model"


def test_a_prefix_is_refused_with_what_to_do_instead(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tune("bert", "prefix", "classification", num_virtual_tokens=4)
    assert main(["export", str(run), "--to", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "virtual tokens can't be merged into weights. Give away the adapter's folder" in said
    assert not (tmp_path / "out").exists()


def test_what_peft_can_not_merge_is_refused(tune: Tune, tmp_path: Path) -> None:
    run = tune("bert", "peft", "classification", peft_type="LILY")
    with pytest.raises(RequestError, match="can't be merged: This method is not supported for Lily"):
        llmkit.export(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_tied_to_the_embeddings_is_not_merged_wrongly(tune: Tune, tmp_path: Path) -> None:
    run = tune("gpt2", "lora", target_modules=["lm_head", "c_attn"])
    with pytest.raises(RequestError, match="merged, the model would say something else"):
        llmkit.export(run, tmp_path / "out")


def test_a_folder_that_holds_something_is_left_alone(text: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(PlaceError, match="holds something already"):
        llmkit.export(text, tmp_path / "out")


def test_the_command_prints_one_document(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(recipe.load(tiny("bert", text, tmp_path / "run", max_steps=1)))
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), "--to", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"folder": str(tmp_path / "out"), "format": "safetensors", "class": "AutoModelForMaskedLM",
                     "dtype": "float32", "merged": None, "base": None, "from": str(tmp_path / "run")}
