"""Pickled weights become safetensors, and nothing that a pickle says is run."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertConfig, BertForMaskedLM

from llmkit.cli import main
from llmkit.models import check_weights, fetch, open_model, resolve
from llmkit.models.changing.converting import convert
from llmkit.system.errors import CheckpointError, RequestError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def bert() -> BertForMaskedLM:
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(vocab_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                      intermediate_size=32, max_position_embeddings=16))


def old(folder: Path, weights="pytorch_model.bin", config="config.json", wrap=lambda state: state) -> Path:
    """A model as programs of 2019 left it."""
    folder.mkdir(parents=True)
    model = bert()
    torch.save(wrap(dict(model.state_dict())), folder / weights)
    said = {name: value for name, value in model.config.to_dict().items() if name != "model_type"}
    (folder / config).write_text(json.dumps(said))
    (folder / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    return folder


def same(folder: Path) -> bool:
    ours, theirs = open_model(folder).model.state_dict(), bert().state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("weights", "config"), [
    ("pytorch_model.bin", "config.json"), ("pytorch_model.bin", "bert_config.json"), ("bert.pt", "bert_config.json"),
    ("epoch3.ckpt", "config.json")])
def test_a_converted_model_is_the_same_to_the_bit(weights, config, tmp_path):
    folder = old(tmp_path / "old", weights, config)
    assert convert(str(folder)) == folder
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    assert same(folder)
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("wrap", [
    lambda state: {"state_dict": state, "epoch": 3}, lambda state: {"model": state},
    lambda state: {f"module.{name}": value for name, value in state.items()},
    lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    lambda state: {**state, "step": 12}])
def test_what_a_program_put_around_the_weights_is_taken_off(wrap, tmp_path):
    assert same(convert(str(old(tmp_path / "old", wrap=wrap))))


def test_parts_stay_parts_and_another_folder_gets_all_that_opens_it(tmp_path):
    folder, state = old(tmp_path / "old"), dict(bert().state_dict())
    (folder / "pytorch_model.bin").unlink()
    names = sorted(state)
    parts = {name: f"pytorch_model-0000{1 + (i > 9)}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(parts.values()):
        torch.save({name: state[name] for name in names if parts[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": parts}))
    made = convert(str(folder), tmp_path / "new")
    assert sorted(path.name for path in made.iterdir()) == [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "vocab.txt"]
    assert same(made)
    assert not any(folder.glob("*.safetensors"))


def test_every_kind_of_number_is_kept(tmp_path):
    folder = old(tmp_path / "old")
    tensors = {"half": torch.tensor([1.5, float("nan")]).half(), "whole": torch.tensor(7), "none": torch.zeros(0, 3),
               "turned": torch.arange(6.0).reshape(2, 3).T}
    torch.save({"bert.a": tensors["half"], **tensors}, folder / "pytorch_model.bin")
    found = load_file(convert(str(folder)) / "model.safetensors")
    assert {name: (value.dtype, value.shape) for name, value in found.items() if name in tensors} == {
        name: (value.dtype, value.shape) for name, value in tensors.items()}
    assert torch.equal(found["turned"], tensors["turned"])


class Code:
    def __reduce__(self):
        return (os.system, ("touch ran",))


def test_a_pickle_with_code_stays_closed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = old(tmp_path / "old", wrap=lambda state: {**state, "x": Code()})
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: it holds more than tensors, and to read the rest"):
        convert(str(folder))
    assert not Path("ran").exists() and not any(folder.glob("*.safetensors"))


@pytest.mark.parametrize(("spoil", "says"), [
    (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"PK\3\4 no more"), r"pytorch_model.bin: "),
    (lambda folder: torch.save([1, 2], folder / "pytorch_model.bin"), "holds no weights by name"),
    (lambda folder: torch.save({"a": 1}, folder / "pytorch_model.bin"), "holds no weights by name")])
def test_a_damaged_pickle_is_the_checkpoints_fault(spoil, says, tmp_path):
    folder = old(tmp_path / "old")
    spoil(folder)
    with pytest.raises(CheckpointError, match=says):
        convert(str(folder))


def test_what_cannot_be_converted_says_what_is_there(tmp_path):
    folder = old(tmp_path / "old")
    convert(str(folder))
    with pytest.raises(RequestError, match="has safetensors and a config"):
        convert(str(folder))
    (tmp_path / "tf").mkdir()
    (tmp_path / "tf" / "tf_model.h5").touch()
    with pytest.raises(RequestError, match=r"no pytorch_model.bin, .* it has tf_model.h5, which is TensorFlow's"):
        convert(str(tmp_path / "tf"))
    two = old(tmp_path / "two", "a.bin")
    torch.save({}, two / "b.bin")
    with pytest.raises(RequestError, match=r"2 files that may hold the weights: a.bin, b.bin"):
        convert(str(two))
    (two / "b.bin").rename(two / "training_args.bin")
    (two / "config.json").unlink()
    with pytest.raises(RequestError, match="and 0 files that could be one"):
        convert(str(two))
    with pytest.raises(RequestError, match="only a hub's models have revisions"):
        convert(str(two), revision="v1")


def test_a_refusal_names_the_command_that_helps(tmp_path, capsys):
    folder = old(tmp_path / "old", config="bert_config.json")
    command = f"`llmkit models convert {folder}`"
    with pytest.raises(RequestError, match=rf"has bert_config.json and no config.json. {command}"):
        resolve(folder)
    (folder / "bert_config.json").rename(folder / "config.json")
    with pytest.raises(RequestError, match=rf"says no model_type, so nobody knows what the weights are of: {command}"):
        open_model(folder)
    with pytest.raises(RequestError, match=rf"pickles can run code, so they aren't read. {command}"):
        check_weights(folder)
    assert main(["models", "convert", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert same(folder)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one old model, and a list of what was asked of it."""
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("LLMKIT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(fetch, "hub_answers", lambda: True)
    kept, there = old(tmp_path / "kept"), tmp_path / "hub" / "models--someone--old" / "snapshots" / COMMIT
    asked = []

    def download(hub, revision, allow_patterns, local_files_only, etag_timeout):
        from fnmatch import fnmatch

        from huggingface_hub.errors import LocalEntryNotFoundError

        asked.append((revision, local_files_only))
        if local_files_only and not there.is_dir():
            raise LocalEntryNotFoundError("not here")
        for path in () if local_files_only else kept.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                there.mkdir(parents=True, exist_ok=True)
                (there / path.name).write_bytes(path.read_bytes())
        return str(there)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda hub, revision: [path.name for path in kept.iterdir()])
    return asked


def test_a_hubs_model_with_a_pickle_alone_is_converted_once_and_found_by_its_id(hub):
    with pytest.raises(RequestError, match=r"'someone/old' has its weights as a pickle alone \(pytorch_model.bin\), .*"
                                           r"`llmkit models convert someone/old` reads their tensors alone"):
        resolve("someone/old")
    made = convert("someone/old")
    assert made.name == f"someone--old-{COMMIT}"
    assert same(made)
    assert resolve("someone/old") == made
    assert fetch.commit_of(made) == COMMIT


def test_a_revision_reaches_the_hub_and_belongs_to_no_folder(hub, tmp_path):
    with pytest.raises(RequestError, match="convert someone/old --revision v2"):
        resolve("someone/old", "v2")
    assert hub == [("v2", False)]
    with pytest.raises(RequestError, match=r"backbone.revision: .* is a folder here"):
        resolve(tmp_path, "v2")


def test_of_a_hubs_repository_a_tokenizer_is_fetched_alone(hub):
    folder = fetch.resolve_tokenizer("someone/old")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "vocab.txt"]
