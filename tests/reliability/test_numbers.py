"""N: numbers that stop being finite, steps with nothing to learn, losses that jump, and memory that doesn't grow."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import stories, write_rows
from safetensors.torch import load_file

from reliability import runs
from reliability.commands import Server
from reliability.test_resume import cases

pytestmark = pytest.mark.reliability

Tree = dict[str, Any]
BAD = 37
"""The row whose label is too large for fp32 to square."""


@pytest.fixture
def overflowing(tree: Callable[..., Tree], tmp_path: Path) -> Callable[..., Tree]:
    """A regression in which the loss of one row is infinite."""
    def make(name: str = "run", **training: Any) -> Tree:
        rows = [{"text": story, "label": len(story) / 100} for story in stories(96, 4)]
        rows[BAD]["label"] = 1e30
        recipe = tree("regression", name, save_steps=1, save_total_limit=50, eval_steps=None, **training)
        recipe["data"] = {"train": str(write_rows(tmp_path / "rated.jsonl", rows)), "max_length": 32}
        return recipe

    return make


def finite(run: Path) -> bool:
    """Whether all numbers of all checkpoints are finite."""
    return all(bool(tensor.isfinite().all()) for one in runs.checkpoints(run)
               for tensor in load_file(one / "trained.safetensors").values())


@pytest.mark.quick
def test_the_first_number_that_is_not_finite_ends_the_run(
    llmkit: Server, overflowing: Callable[..., Tree]
) -> None:
    """N01: with the step and its rows; no line says 0.0, and no checkpoint holds it."""
    recipe = overflowing()
    run = Path(recipe["output_dir"])
    done = llmkit.run("finetune", runs.write(recipe))
    assert done.status == 5, done.err
    last = runs.events(run)[-1]["step"]
    assert done.error.startswith(f"step {last + 1}: the ")
    rows = done.error.partition("in rows ")[2].partition(";")[0].split(", ")
    assert str(BAD) in rows
    assert len(rows) == 16
    assert all(event["loss"] > 0 and math.isfinite(event["grad_norm"]) for event in runs.events(run))
    assert [one.name for one in runs.checkpoints(run)] == [f"step-{i:08d}" for i in range(1, last + 1)]
    assert finite(run)
    assert not (run / "model").exists()
    assert runs.summary(run)["status"] == "failed"


@pytest.mark.parametrize("processes", cases(("N01-skip", 1), ("N01-skip-processes", 2)))
def test_such_a_step_can_be_skipped_and_counted(
    processes: int, llmkit: Server, overflowing: Callable[..., Tree], whole: Callable[..., Path]
) -> None:
    """Twice in two epochs; a killed run skips the same steps."""
    recipe = overflowing(on_nonfinite="skip")
    path, run = runs.write(recipe), Path(recipe["output_dir"])
    several = llmkit.start_all("finetune", path, processes=processes, signal_after=(9, signal.SIGKILL))
    assert several[0].wait().status == -signal.SIGKILL
    for one in several[1:]:
        one.send_all(signal.SIGKILL)
        one.wait()
    done = llmkit.run_all("finetune", path, processes=processes)
    assert done.status == 0, done.err
    skipped = runs.events(run, "skipped")
    assert len(skipped) == 2
    assert all(BAD in event["rows"] for event in skipped)
    steps = [event["step"] for event in runs.events(run)] + [event["step"] for event in skipped]
    assert sorted(steps) == list(range(1, 13))
    assert runs.summary(run)["skipped_steps"] == 2
    assert finite(run)
    assert runs.differences(run, whole(recipe, processes)) == []


def test_a_run_in_which_every_step_is_skipped_gives_up(llmkit: Server, overflowing: Callable[..., Tree]) -> None:
    recipe = overflowing(on_nonfinite="skip", max_steps=100, global_batch_size=96)
    done = llmkit.run("finetune", runs.write(recipe))
    assert done.status == 5
    assert "20 steps in a row were skipped" in done.error


@pytest.mark.parametrize("rate", cases(("N02", "1e20"), ("N02-more", "1e38")))
def test_a_learning_rate_that_destroys_the_model_ends_the_run(
    rate: str, llmkit: Server, tree: Callable[..., Tree]
) -> None:
    recipe = tree("causal_lm", save_steps=1, max_grad_norm=None, max_steps=100)
    run = Path(recipe["output_dir"])
    done = llmkit.run("pretrain", runs.write(recipe), "--set", f"training.learning_rate={rate}")
    assert done.status == 5, done.err
    assert finite(run)


@pytest.mark.parametrize("case", cases(("N04-prompts", "prompts"), ("N04-validation", "validation"),
                                       ("N04-sentences", "sentences")))
def test_nothing_to_learn_is_an_error(
    case: str, llmkit: Server, tree: Callable[..., Tree], tmp_path: Path
) -> None:
    """Never a loss of 0.0: prompts that leave no room for a response; documents of one sentence, where pairs are."""
    path = write_rows(tmp_path / "asked.jsonl", [{"prompt": "what did he do ? " * 20, "response": " "}] * 32)
    recipe = tree("next_sentence" if case == "sentences" else "instruction")
    if case == "validation":
        recipe["data"]["validation"] = [{"source": str(path)}]
    elif case == "prompts":
        recipe["data"] = {"train": str(path), "max_length": 16}
    else:
        (tmp_path / "one.txt").write_text("the cat saw the moon .\n" * 50)
        recipe["data"] = {"train": str(tmp_path / "one.txt"), "max_length": 32}
    done = llmkit.run("finetune", runs.write(recipe))
    assert done.status == 3, done.err
    print(done.error)
    assert runs.steps(tmp_path / "run") == 0


def test_a_jump_of_the_loss_is_told(llmkit: Server, tree: Callable[..., Tree], tmp_path: Path) -> None:
    """A regression on small numbers, with one row of 1,000 in the third epoch's way."""
    rows = [{"text": story, "label": len(story) / 1000} for story in stories(400, 4)]
    rows[BAD]["label"] = 300.0
    recipe = tree("regression", max_steps=48, global_batch_size=8, eval_steps=None)
    recipe["data"] = {"train": str(write_rows(tmp_path / "rated.jsonl", rows)), "max_length": 32}
    done = llmkit.run("finetune", runs.write(recipe))
    assert done.status == 0, done.err
    losses = {event["step"]: event["loss"] for event in runs.events(tmp_path / "run")}
    worst = max(losses, key=lambda step: losses[step])
    assert worst > 16
    told = {event["step"]: event for event in runs.events(tmp_path / "run", "spike")}
    assert set(told) == {worst}
    assert told[worst]["loss"] == losses[worst]
    assert f"step {worst}: the loss jumped to" in done.err


def test_memory_does_not_grow_with_the_rows_that_are_evaluated(
    llmkit: Server, tree: Callable[..., Tree], tmp_path: Path
) -> None:
    """N09: ten times the rows, the same peak within a tenth, of evaluation in training, of evaluate and of predict."""
    peaks: dict[str, list[int]] = {"training": [], "evaluate": [], "predict": []}
    for times in (1, 10):
        rows = [{"text": story, "label": "animal" if story.split()[1] in ("cat", "dog") else "other"}
                for story in stories(1500 * times, 9)]
        path = write_rows(tmp_path / f"{times}.jsonl", rows)
        recipe = tree("classification", f"run{times}", max_steps=2, eval_steps=None)
        recipe["data"]["validation"] = [{"source": str(path)}]
        done = llmkit.run("finetune", runs.write(recipe))
        assert done.status == 0, done.err
        peaks["training"].append(done.peak)
        for command in ("evaluate", "predict"):
            more = (path, "--output", tmp_path / "out.jsonl") if command == "predict" else ("--data", path)
            done = llmkit.run(command, tmp_path / f"run{times}", *more)
            assert done.status == 0, done.err
            peaks[command].append(done.peak)
    print(json.dumps(peaks))
    for name, (one, ten) in peaks.items():
        assert ten < 1.1 * one, (name, one, ten)


def test_memory_does_not_grow_with_the_text_that_a_language_model_is_measured_on(
    llmkit: Server, tree: Callable[..., Tree], tmp_path: Path
) -> None:
    recipe = tree("causal_lm", max_steps=2)
    assert llmkit.run("pretrain", runs.write(recipe)).status == 0
    peaks = []
    for times in (1, 10):
        path = tmp_path / f"{times}.txt"
        path.write_text("\n".join(stories(1500 * times, 9)))
        for _ in range(2):  # first, 4 MB of text are tokenized at once
            done = llmkit.run("evaluate", tmp_path / "run", "--data", path)
            assert done.status == 0, done.err
        peaks.append(done.peak)
    assert peaks[1] < 1.1 * peaks[0], peaks


# ---- numbers that must be the same --------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases(("N05-gpt2", "causal_lm"), ("N05-llama", "negatives"),
                                       ("N05-qwen3", "fill_in_the_middle")))
def test_documents_that_share_a_row_give_the_loss_that_each_gives_alone(
    case: str, llmkit: Server, tree: Callable[..., Tree], tmp_path: Path
) -> None:
    """N05, before anything is learned, and with every shortcut off."""
    losses = []
    for packing in ("documents", "none"):
        for shortcuts in (None, []):
            recipe = tree(case, f"{packing}{shortcuts}", max_steps=1)
            recipe["objective"] = "causal_lm"  # a family of each
            recipe["data"]["packing"] = packing
            if shortcuts is not None:
                recipe["training"]["shortcuts"] = shortcuts
            done = llmkit.run("pretrain", runs.write(recipe))
            assert done.status == 0, done.err
            losses.append(runs.events(Path(recipe["output_dir"]), "evaluate")[0]["loss"])
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


@pytest.mark.parametrize("case", cases(("N06-decoder", "instruction"), ("N06-encoder", "classification"),
                                       ("N06-seq2seq", "translation")))
def test_a_prefix_gets_its_gradient_with_gradient_checkpointing_too(
    case: str, llmkit: Server, tree: Callable[..., Tree]
) -> None:
    """N06: the same run, or a refusal; never gradients of zero."""
    found = []
    for checkpointing in (False, True):
        recipe = tree(case, f"{checkpointing}", still=True, max_steps=3, eval_steps=None)
        recipe["tuning"] = {"method": "prefix", "num_virtual_tokens": 4}
        recipe["training"]["gradient_checkpointing"] = checkpointing
        done = llmkit.run("finetune", runs.write(recipe))
        if checkpointing and done.status == 2:
            assert "gradient_checkpointing" in done.error
            return
        assert done.status == 0, done.err
        found.append([event["loss"] for event in runs.events(Path(recipe["output_dir"]))])
        assert all(event["grad_norm"] > 0 for event in runs.events(Path(recipe["output_dir"])))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_prefix_that_a_family_cannot_take_is_refused_at_once(llmkit: Server, tree: Callable[..., Tree]) -> None:
    """N06, of XLNet; ModernBERT's attention can be reached."""
    recipe = tree("tagging_xlnet")
    recipe["tuning"] = {"method": "prefix"}
    done = llmkit.run("finetune", runs.write(recipe))
    assert done.status == 2, done.err
    assert "xlnet" in done.error
    assert "prefix" in done.error
    assert not Path(recipe["output_dir"]).exists()


@pytest.mark.parametrize("method", cases(*((f"N08-{name}", name) for name in (
    "full", "feed_forward", "layers", "head", "bias", "layer_norm", "prefix", "prompt", "p_tuning", "lora", "ia3",
    "vera", "adalora"))))
def test_what_was_saved_gives_the_numbers_that_were_measured_in_training(
    method: str, llmkit: Server, tree: Callable[..., Tree], labelled: Path
) -> None:
    """N08: by another process, from model/ alone."""
    recipe = tree("classification", max_steps=6, save_steps=100)
    recipe["tuning"] = {"method": method}
    recipe["data"]["validation"] = [{"source": str(labelled)}]
    run = Path(recipe["output_dir"])
    done = llmkit.run("finetune", runs.write(recipe))
    assert done.status == 0, done.err
    measured = runs.events(run, "evaluate")[-1]
    done = llmkit.run("evaluate", run, "--data", labelled, "--json")
    assert done.status == 0, done.err
    again = json.loads(done.out)
    assert again["metrics"]["loss"] == pytest.approx(measured["loss"], rel=1e-5)
    assert again["metrics"]["accuracy"] == measured["accuracy"]


def test_the_end_of_a_text_is_learned_where_it_is_the_padding_too(
    llmkit: Server, tree: Callable[..., Tree], tmp_path: Path
) -> None:
    """N10: GPT-2's tokenizer pads with its end; texts that were learned by heart end where they did."""
    first = tree("causal_lm", "base", max_steps=1)
    assert llmkit.run("pretrain", runs.write(first)).status == 0
    base = tmp_path / "base" / "model"
    about = json.loads((base / "tokenizer_config.json").read_text())
    about["pad_token"] = about["eos_token"]
    (base / "tokenizer_config.json").write_text(json.dumps(about))
    answers = ("the moon", "a red ball , a hat and two stones")
    rows = [{"prompt": who, "response": answer} for who, answer in zip(("the cat saw", "a dog chased"), answers)] * 8
    recipe = tree("instruction", max_steps=300, save_steps=1000, eval_steps=None, learning_rate=5e-3, still=True)
    recipe["backbone"] = {"pretrained": str(base)}
    recipe.pop("tokenizer", None)
    recipe["data"] = {"train": str(write_rows(tmp_path / "rows.jsonl", rows)), "max_length": 32}
    done = llmkit.run("finetune", runs.write(recipe))
    assert done.status == 0, done.err
    for row in rows[:2]:
        done = llmkit.run("generate", row["prompt"], "--model", tmp_path / "run", "--temperature", 0)
        assert done.status == 0, done.err
        assert done.out.strip().endswith(row["response"])
