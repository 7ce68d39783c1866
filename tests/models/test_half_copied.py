"""A model whose tokenizer lost its vocabulary, as a copy that broke off leaves it: told, and nothing is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from llmkit import recipe
from llmkit.cli import main
from llmkit.training.fit import fit


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, text: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for family in ("bert", "gpt2", "t5"):
        fit(recipe.load(tiny(family, text, folder / family, max_steps=1)))
    return folder


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory, text: Path, labelled: Path) -> Path:
    folder = tmp_path_factory.mktemp("classifier")
    asked = {**tiny("bert", labelled, folder, max_steps=1), "task": {"name": "classification"}}
    del asked["objective"]
    fit(recipe.load(asked))
    return folder / "model"


def emptied(folder: Path) -> None:
    """The vocabulary without its words: the special tokens stay."""
    said = json.loads((folder / "tokenizer.json").read_text())
    kept = {one["content"]: one["id"] for one in said["added_tokens"]}
    vocabulary = said["model"]["vocab"]
    said["model"]["vocab"] = kept if isinstance(vocabulary, dict) else [one for one in vocabulary if one[0] in kept]
    said["model"].pop("merges", None)
    said["model"] |= {"merges": []} if said["model"]["type"] == "BPE" else {}
    (folder / "tokenizer.json").write_text(json.dumps(said))


def lost(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("spoil", [lost, emptied])
@pytest.mark.parametrize(("family", "words"), [
    ("gpt2", ("generate", "the cat", "--max-new-tokens", "2", "--model")),
    ("t5", ("generate", "the cat", "--max-new-tokens", "2", "--model")),
    ("bert", ("score", "the cat", "--model")), ("bert", ("evaluate",)),
])
def test_a_tokenizer_without_words_is_told(
        spoil: Any, family: str, words: tuple[str, ...], trained: Path, text: Path, tmp_path: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(trained / family / "model", tmp_path / "model"))
    spoil(folder)
    asked = ["evaluate", str(folder), "--data", str(text)] if words[-1] == "evaluate" else [*words, str(folder)]
    assert main(asked) in (2, 4)
    said = capsys.readouterr().err
    assert f"{folder}: its tokenizer knows no word" in said


def test_training_on_such_a_model_is_refused(
        trained: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(trained / "bert" / "model", tmp_path / "model"))
    lost(folder)
    asked = ["finetune", "--task", "classification", "--model", str(folder), "--data", str(labelled),
             "--output-dir", str(tmp_path / "run"), "--set", "training.max_steps=1"]
    assert main(asked) in (2, 4)
    assert f"{folder}: its tokenizer knows no word" in capsys.readouterr().err


def test_a_tokenizer_of_far_fewer_words_than_the_model_is_said(
        trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = Path(shutil.copytree(trained / "gpt2" / "model", tmp_path / "model"))
    GPT2LMHeadModel(GPT2Config(vocab_size=5000, n_embd=8, n_layer=1, n_head=1, n_positions=32)).save_pretrained(folder)
    from llmkit.models import open_model

    open_model(folder)
    assert "and the model embeddings of 5,000: it is hardly the tokenizer" in caplog.text


def without(folder: Path, name: str) -> Path:
    """A copy of a model's folder whose file lacks a weight."""
    weights = load_file(folder / "model.safetensors")
    del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("name", [
    "classifier.weight", "classifier.bias", "bert.pooler.dense.bias", "bert.encoder.layer.0.output.dense.weight"])
def test_a_classifier_without_one_of_its_weights_is_told(
        name: str, classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = without(Path(shutil.copytree(classifier, tmp_path / "model")), name)
    assert main(["classify", "the cat", "--model", str(folder)]) == 4
    assert f"are missing (1, {name} first): the file is damaged or half copied" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["bert.encoder.layer.0.output.dense.weight", "bert.embeddings.LayerNorm.bias"])
def test_a_body_that_lacks_a_weight_is_not_trained_from_a_random_one(
        name: str, classifier: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = without(Path(shutil.copytree(classifier, tmp_path / "model")), name)
    asked = ["finetune", "--task", "classification", "--model", str(folder), "--data", str(labelled),
             "--output-dir", str(tmp_path / "run")]
    assert main(asked) == 4
    assert f"weights of its body are missing (1, {name} first)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["classifier.weight", "bert.pooler.dense.weight"])
def test_a_head_or_pooler_may_be_new(
        name: str, classifier: Path, labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = without(Path(shutil.copytree(classifier, tmp_path / "model")), name)
    asked = ["finetune", "--task", "classification", "--model", str(folder), "--data", str(labelled),
             "--output-dir", str(tmp_path / "run"), "--set", "training.max_steps=1"]
    assert main(asked) == 0
    new = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("new weights: "))
    assert name.rpartition(".")[0] in new


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece"])
def test_a_word_that_a_tokenizer_without_an_unknown_token_lacks_is_told(
        kind: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(trained / "gpt2" / "model", tmp_path / "model"))
    words = {"the": 0, "cat": 1}
    model = models.WordLevel(words, unk_token="[UNK]") if kind == "WordLevel" else models.WordPiece(
        words, unk_token="[UNK]")
    made = Tokenizer(model)
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    asked = ["generate", "the cat", "--max-new-tokens", "2", "--model", str(folder)]
    assert main(asked) == 0
    capsys.readouterr()
    assert main(["generate", "the dog", *asked[2:]]) == 3
    assert "the tokenizer has no token for, and it has none for what is unknown" in capsys.readouterr().err


@pytest.mark.parametrize("base", [None, "", 5])
def test_an_adapter_that_names_no_base_takes_none(
        base: object, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    """An empty name is a path, too: the folder that the command is given in."""
    from peft import LoraConfig, get_peft_model

    from llmkit.models import open_model

    bare = shutil.copytree(trained / "gpt2" / "model", tmp_path / "base")
    get_peft_model(open_model(bare).model, LoraConfig(r=2, target_modules=["c_attn"])).save_pretrained(tmp_path / "ax")
    about = tmp_path / "ax" / "adapter_config.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "base_model_name_or_path": base}))
    monkeypatch.chdir(bare)
    assert main(["generate", "the cat", "--max-new-tokens", "2", "--model", str(tmp_path / "ax")]) == 2
    assert "adapter_config.json: base_model_name_or_path: names no model" in capsys.readouterr().err
