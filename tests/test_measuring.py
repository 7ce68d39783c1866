"""The programs that measure: what they run, what they count and the tables that they print; no model is trained."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from scripts import script

from llmkit import recipe


def test_what_counts_as_a_story_about_a_cat() -> None:
    rules = script("benchmarks/story.py")
    good = "A cat named Tom ran. He sat by the door. Tom ate a fish. The dog barked loudly. It slept all day."
    assert rules.score(good).acts == 3
    assert rules.score(good).story
    assert not rules.score(good.removesuffix("all day.") + "all").story  # it doesn't end with a sentence
    assert not rules.score(good.replace("Tom ate", "The dog ate")).story  # the cat acts in two sentences
    assert not rules.score(f"{good} {good}").story  # it goes round in circles


def finished(folder: Path, **said: Any) -> None:
    """What a run leaves that has ended."""
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"status": "completed", **said}))


def test_pretraining_helps_takes_a_starts_best_rate_for_its_other_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    helps = script("benchmarks/pretraining_helps.py")
    monkeypatch.setenv("LLMKIT_DATA", str(tmp_path / "data"))
    given = argparse.Namespace(folder=tmp_path, languages=["English"], shots=8, seeds=[1, 2], rates=[3e-4, 1e-3])
    starts = [helps.Start(), helps.Start("masked_lm, whole words", 1_000_000)]
    reached = {("scratch", 1, 3e-4): 0.6, ("scratch", 1, 1e-3): 0.62, ("scratch", 2, 1e-3): 0.64,
               ("masked_lm-whole-words-1000000", 1, 3e-4): 0.7, ("masked_lm-whole-words-1000000", 1, 1e-3): 0.5,
               ("masked_lm-whole-words-1000000", 2, 3e-4): 0.72}
    names = []
    for tree in helps.runs(given, starts):
        asked = recipe.load(tree)
        names.append(asked.name)
        if asked.task is None:
            assert asked.objective == recipe.load({**tree, "objective": {
                "name": "masked_lm", "mlm_probability": 0.3, "whole_word": True}}).objective
            finished(Path(tree["output_dir"]), evaluation={"loss": 4.9144})
            continue
        start, _, _ = asked.name.removeprefix("english-").partition("-shots-8-")
        accuracy = reached[start, asked.seed, asked.training.learning_rate]
        floor = {1: 0.65, 2: 0.66}[asked.seed]
        finished(Path(tree["output_dir"]), evaluation={"accuracy": accuracy},
                 floors={"TF-IDF, logistic regression": {"accuracy": floor}})
    assert len(names) == 1 + 4 + 2  # the pretraining; both starts at both rates; the second seed at each one's best
    assert helps.table(tmp_path, starts, 1, 8, ["English"]) == """\
| pretrained by | English: its loss | accuracy |
|---|---|---|
| nothing (random weights) |  | 0.630 (0.620 to 0.640; 2 at 0.001); 0.600 at 0.0003 |
| masked_lm, whole words, 1 M | 4.91 | 0.710 (0.700 to 0.720; 2 at 0.0003); 0.500 at 0.001 |
| floor: TF-IDF, logistic regression |  | 0.655 (0.650 to 0.660) |"""


def test_beside_transformers_tells_how_far_the_two_are_apart() -> None:
    beside = script("benchmarks/beside_transformers.py")
    pairs = [{"llmkit": {"accuracy": 0.87, "losses": [0.7, 0.5]}, "loop": {"accuracy": 0.86, "losses": [0.7, 0.45]}},
             {"llmkit": {"accuracy": 0.88, "losses": [0.6, 0.4]}, "loop": {"accuracy": 0.88, "losses": [0.6, 0.41]}}]
    assert beside.table({"fp32": pairs}).splitlines()[2] == (
        "| fp32 | 2 | 0.8750 (0.8700 to 0.8800) | 0.8700 (0.8600 to 0.8800) | +0.0050 | 0.05 |")


def test_llama_cpp_is_measured_only_where_its_programs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    from benchmarks.speed import llamacpp

    monkeypatch.delenv("LLMKIT_LLAMACPP", raising=False)
    assert llamacpp.run(False) == []
    assert "llamacpp: not measured: LLMKIT_LLAMACPP isn't set" in capsys.readouterr().err
    monkeypatch.setenv("LLMKIT_LLAMACPP", str(tmp_path))
    assert llamacpp.programs() == f"{tmp_path} has no llama-bench and no llama-server"
    bench = tmp_path / "llama-bench"
    bench.write_text("""#!/bin/sh
echo '[{"n_prompt": 512, "n_gen": 0, "avg_ts": 800.5}, {"n_prompt": 0, "n_gen": 128, "avg_ts": 99.5}]'
""")
    bench.chmod(0o755)
    (tmp_path / "BF16").mkdir()
    (tmp_path / "BF16" / "model.gguf").touch()
    assert llamacpp.programs() == tmp_path
    assert llamacpp.theirs(tmp_path, "BF16") == {"written": 99.5, "read": 800.5}
