"""What a command reads is not what it writes over; a stranger's generation_config.json; a model of NaN that scores."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny
from safetensors.torch import load_file, save_file

from llmkit import recipe
from llmkit.cli import main
from llmkit.models.run import spare
from llmkit.system.errors import PlaceError, RequestError
from llmkit.training.fit import fit
from llmkit.training.folder.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(text, tmp_path_factory):
    """A tiny GPT-2 that learned a little."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(recipe.load(tiny("gpt2", text, folder, max_steps=2)))
    return folder


@pytest.fixture
def copied(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copied"))


@pytest.mark.parametrize("name", [
    "model/model.safetensors", "model/config.json", "metrics.jsonl", "summary.json", "recipe.yaml",
    "checkpoints/step-00000002/MANIFEST.json"])
@pytest.mark.parametrize("command", ["score", "generate"])
def test_an_output_is_no_file_of_the_model_that_is_read(command, name, copied, tmp_path, capsys):
    before = (copied / name).read_bytes()
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "the cat", "prompt": "the cat"}\n')
    words = {"score": ["score", str(rows)], "generate": ["generate", "--input", str(rows)]}[command]
    assert main([*words, "--model", str(copied), "-o", str(copied / name)]) == 2
    assert f"is a file of {copied}, which is read here, and would be lost" in capsys.readouterr().err
    assert (copied / name).read_bytes() == before


def test_rows_beside_what_a_run_wrote_are_the_users(copied):
    mine = copied / "predictions.jsonl"
    mine.write_text("{}\n")
    spare(str(mine), str(copied))
    spare("-", str(copied))
    spare(str(copied / "new.jsonl"), str(copied))
    spare(str(copied / "model" / "new.safetensors"), str(copied))  # nothing is lost
    linked = copied.parent / "link.jsonl"
    linked.symlink_to(copied / "metrics.jsonl")
    with pytest.raises(RequestError, match="is a file of"):
        spare(str(linked), str(copied))


@pytest.mark.parametrize("content", ["mine\n", "process of mine, not of yours\n"[8:]])
def test_a_lock_of_somebody_elses_stays(content, tmp_path):
    (tmp_path / ".lock").write_text(content)
    run = RunFolder(tmp_path)
    with pytest.raises(PlaceError, match=r"\.lock is there, and no run of llmkit wrote it"), run.locked():
        pass
    assert (tmp_path / ".lock").read_text() == content


def test_an_empty_lock_is_what_a_run_leaves(tmp_path):
    (tmp_path / ".lock").touch()
    with RunFolder(tmp_path).locked():
        pass


# ---- what a generation_config.json names ----

@pytest.mark.parametrize(("name", "value", "token"), [
    ("bad_words_ids", [[1000000000]], "1000000000"), ("bad_words_ids", [[5, 6], [-7]], "-7"),
    ("eos_token_id", [10**40], "1" + "0" * 39), ("eos_token_id", "7", "7"), ("pad_token_id", 2**31, "2147483648"),
    ("suppress_tokens", [1, 10**6], "1000000"), ("begin_suppress_tokens", [True, 10**6], "1000000"),
    ("forced_eos_token_id", 1.5, "1.5")])
def test_tokens_that_cannot_be_are_told_before_anything_is_written(name, value, token, copied, capsys):
    path = copied / "model" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    assert main(["generate", "the cat", "--model", str(copied)]) == 2
    said = capsys.readouterr()
    assert f"generation_config.json can't be used: {name} names the token {token[:40]}; there are" in said.err
    assert said.out == ""


def test_usual_tokens_and_none_are_taken(copied, capsys):
    path = copied / "model" / "generation_config.json"
    said = {**json.loads(path.read_text()), "eos_token_id": [0, 1], "bad_words_ids": [[5], [6, 7]],
            "suppress_tokens": None, "pad_token_id": -1}
    path.write_text(json.dumps(said))
    assert main(["generate", "the cat", "--model", str(copied), "--max-new-tokens", "2"]) == 0


# ---- NaN ----

@pytest.mark.parametrize("words", [["the cat"], ["the cat", "--json"], ["PAIRS"], ["PAIRS", "--json"], ["TEXTS"]])
def test_no_score_is_made_of_nan(words, copied, tmp_path, capsys):
    weights = load_file(copied / "model" / "model.safetensors")
    weights = {name: torch.full_like(value, float("nan")) for name, value in weights.items()}
    save_file(weights, copied / "model" / "model.safetensors", metadata={"format": "pt"})
    pairs, texts = tmp_path / "pairs.csv", tmp_path / "texts.txt"
    pairs.write_text("good,bad\nthe cat,cat the\n")
    texts.write_text("the cat\n")
    words = [{"PAIRS": str(pairs), "TEXTS": str(texts)}.get(word, word) for word in words]
    assert main(["score", *words, "--model", str(copied)]) == 5
    said = capsys.readouterr()
    assert "the model's numbers stopped being finite" in said.err
    assert said.out == ""


@pytest.mark.parametrize("name", ["missing.jsonl", "nofile.csv", "texts/a.txt"])
def test_a_file_that_is_not_there_is_no_text_to_score(name, run, capsys):
    assert main(["score", name, "--model", str(run)]) == 3
    said = capsys.readouterr()
    assert name in said.err
    assert said.out == ""


def test_a_hint_about_an_encoding_can_be_followed(run, tmp_path, capsys):
    path = tmp_path / "texts.csv"
    path.write_bytes("text\nКошка сидит на окне\nСобака бежит домой\n".encode("cp1251"))
    assert main(["score", str(path), "--model", str(run)]) == 3
    assert "--encoding cp1251" in capsys.readouterr().err
    assert main(["score", str(path), "--model", str(run), "--encoding", "cp1251"]) == 0
