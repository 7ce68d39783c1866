"""Methods side by side: each run in its own process, failures noted, floors beside, and again from where it stopped."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from conftest import SMALL, WORDS

from llmkit.cli import main
from llmkit.inference.comparing import methods as comparison
from llmkit.inference.comparing.inline import Variant
from llmkit.inference.comparing.inline import variants as every_variant
from llmkit.objectives.base import more_is_better
from llmkit.system.errors import RequestError


def variants(text: str) -> list[Variant]:
    return every_variant(text, "tuning", "--methods")


@pytest.fixture
def written(labelled: Path, tmp_path: Path) -> str:
    path = tmp_path / "topics.yaml"
    path.write_text(yaml.safe_dump({
        "name": "topics", "backbone": {"family": "bert", "size": "tiny", "config": SMALL["bert"]},
        "tokenizer": {"train": {"vocab_size": WORDS["bert"]}},
        "data": {"train": str(labelled), "validation": 0.3, "max_length": 32}, "task": {"name": "classification"},
        "tuning": {"method": "full"},
        "training": {"figures": False,
                     "max_steps": 2, "global_batch_size": 8, "learning_rate": 1e-9, "precision": "fp32"}}))
    return str(path)


@pytest.fixture
def classifier_base(tmp_path: Path) -> Path:
    """A tiny BERT that can be tuned."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path / "base"
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words = {one: i for i, one in enumerate([*letters, *(f"##{letter}" for letter in letters[5:])])}
    BertTokenizer(vocab=words).save_pretrained(folder)
    BertModel(BertConfig(vocab_size=len(words), **SMALL["bert"])).save_pretrained(folder)
    return folder


def test_methods_may_have_options() -> None:
    found = variants("full, lora(r=4,use_dora=true),lora(r=16)")
    assert [(one.name, dict(one.options), one.slug) for one in found] == [
        ("full", {}, "full"), ("lora", {"r": 4, "use_dora": True}, "lora-r-4-use_dora-true"),
        ("lora", {"r": 16}, "lora-r-16")]


@pytest.mark.parametrize(("text", "message"), [
    ("full,lorra", "Did you mean 'lora'"), ("full,prefix-tuning", "Did you mean 'prefix'"),
    ("prompt tuning(num_virtual_tokens=2)", "Did you mean 'prompt'"), ("LoRA(r=4)", "Did you mean 'lora'"),
    ("full,full", "full is there twice"), ("", "name some"),
    ("lora(r)", r"write options as lora\(key=value\)"), ("lora(r=4", "write a name with its options"),
])
def test_methods_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        variants(text)


def test_a_comparison_has_a_row_a_method_with_its_spread_and_cost(
    written: str, here: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "side by side"
    command = ["compare", written, "--methods", "full,lora(r=2)", "--seeds", "2", "--output-dir", str(folder), "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["metric"], told["seeds"]) == ("accuracy", [1, 2])
    assert set(told["floors"]) == {"majority class", "TF-IDF, logistic regression"}
    full, lora = told["methods"]
    assert [full["method"], lora["method"]] == ["full", "lora(r=2)"]
    assert (full["learning_rate"], lora["learning_rate"]) == (5e-4, 1e-3)  # each its own, not the recipe's
    assert full["lowest"] <= full["mean"] <= full["highest"]
    assert len(full["values"]) == 2
    for row in (full, lora):
        run = next(path for path in folder.glob(f"{'full' if row is full else 'lora-r-2'}-*-1"))
        summary = json.loads((run / "summary.json").read_text())
        assert row["values"][0] == summary["evaluation"]["accuracy"]
        assert row["trained_share"] == summary["trainable_parameters"] / summary["parameters"]
        assert row["saved_bytes"] == sum(path.stat().st_size for path in (run / "model").rglob("*") if path.is_file())
    assert lora["trainable_parameters"] < full["trainable_parameters"]
    table = (folder / "compare.md").read_text()
    assert re.search(r"\| lora\(r=2\) \| [\d.]+ \([\d.]+ to [\d.]+\)(, below [^|]+)? \| [\d,]+ \| [\d.]+% \|", table)
    assert "| floor: majority class |" in table
    assert (folder / "compare.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"

    assert len(here) == 4
    assert main(command) == 0
    assert len(here) == 4  # nothing is made twice
    assert json.loads(capsys.readouterr().out)["methods"] == told["methods"]
    assert main([*command[:-1], "--set", "training.max_steps=3"]) == 4
    assert "holds another recipe's run (training.max_steps is 3, there 2)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_comparison_takes_what_finetune_takes(
    labelled: Path, here: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch, classifier_base: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["compare", "--task", "classification", "--model", str(classifier_base), "--data", str(labelled),
               "--validation", str(labelled), "--methods", "head,bias", "--seed", "7", "--set", "training.max_steps=1",
               "--set", "data.max_length=32"]
    assert main(command) == 0
    folder = tmp_path / "runs" / "rows-classification-compare"
    title, _, head, *_ = capsys.readouterr().out.splitlines()
    assert title == "rows-classification: accuracy by tuning method"
    assert head.split()[:2] == ["method", "accuracy"]
    assert (folder / "compare.md").read_text().startswith(f"**{title}**\n\n| method |")
    told = json.loads((folder / "compare.json").read_text())
    assert (told["recipe"], told["name"], told["seeds"]) == ("classification_all", "rows-classification", [7])
    asked = yaml.safe_load(next(folder.glob("bias-*-7.yaml")).read_text())
    assert asked["backbone"]["pretrained"] == str(classifier_base)
    assert [one["source"] for part in ("train", "validation") for one in asked["data"][part]] == [str(labelled)] * 2
    assert asked["training"].get("micro_batch_size", "auto") == "auto"
    assert main([*command, "--method", "lora"]) == 2
    assert "--methods" in capsys.readouterr().err


def test_a_run_that_fails_is_told_and_the_others_go_on(
    written: str, here: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "some"
    methods = "prefix(num_virtual_tokens=90),full"
    assert main(["compare", written, "--methods", methods, "--output-dir", str(folder)]) == 0
    said = capsys.readouterr()
    assert "failed: tuning: 90 virtual tokens leave no room for a text in the 64 positions" in said.err
    rows = json.loads((folder / "compare.json").read_text())["methods"]
    assert [row["runs"] for row in rows] == [0, 1]
    assert "90 virtual tokens" in rows[0]["error"]
    assert "failed: tuning: 90 virtual" in said.out


def test_where_every_run_fails_the_first_error_is_the_last_line(
    written: str, here: list[list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", written, "--methods", "prefix(num_virtual_tokens=90)", "--output-dir", str(tmp_path / "none")]
    assert main(words) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("llmkit: error: every run failed; prefix(num_virtual_tokens=90), seed 1: tuning: 90 ")


def test_a_tuned_learning_rate_is_the_best_of_three(
    written: str, here: list[list[str]], tmp_path: Path
) -> None:
    made = comparison.Comparison(written, variants("lora"), [1, 2], tmp_path / "out", metric="loss",
                                 tune=True)
    made.run()
    assert len(here) == 4  # three rates with the first seed, the best of them with the second
    tried = {path.name: json.loads((path / "summary.json").read_text())["evaluation"]["loss"]
             for path in (tmp_path / "out").iterdir() if path.is_dir() and path.name.endswith("-1")}
    assert sorted(tried) == ["lora-0.000333-1", "lora-0.001-1", "lora-0.003-1"]
    (row,) = made.rows()
    assert row["values"][0] == min(tried.values())
    assert row["learning_rate"] == float(min(tried, key=lambda name: tried[name]).split("-")[1]) or row[
        "learning_rate"] == pytest.approx(1e-3 / 3)


@pytest.mark.parametrize(("words", "message"), [
    (["--metric", "acuracy"], "no such figure. Did you mean 'accuracy'"),
    (["--tune", "batch"], "only learning_rate can be tuned"),
    (["--tune", "learning_rate", "--set", "training.learning_rate=1e-3"], "leave one out"),
    (["--set", "data.validation=null"], "needs rows that nothing learns from"),
])
def test_requests_that_cannot_work_are_refused(
    words: list[str], message: str, written: str, here: list[list[str]], tmp_path: Path,
    capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", written, "--methods", "full", "--output-dir", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


def test_less_of_a_loss_is_better() -> None:
    assert more_is_better("accuracy") and more_is_better("f1")
    assert not more_is_better("loss") and not more_is_better("perplexity")


@pytest.mark.slow
def test_a_real_process_runs_and_a_signal_ends_it_in_order(written: str, tmp_path: Path) -> None:
    import os
    import signal
    import subprocess
    import sys

    folder = tmp_path / "real"
    words = [sys.executable, "-m", "llmkit", "compare", written, "--methods", "full", "--output-dir", str(folder),
             "--set", "training.max_steps=100000"]
    running = subprocess.Popen(words, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not any('"train"' in path.read_text() for path in folder.glob("*/metrics.jsonl")) and (
            time.monotonic() < deadline):
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGTERM)
    assert running.stderr is not None
    said = running.stderr.read().decode()
    assert running.wait() == 75, said
    assert "the same command goes on from there" in said
    assert json.loads(next(folder.glob("*/summary.json")).read_text())["status"] == "stopped"
