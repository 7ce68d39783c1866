"""Options that can't act are said once, before the first step."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import tiny

from llmkit import recipe
from llmkit.cli import main
from llmkit.planning.unheeded import unheeded


def asked(text: Path, tmp_path: Path, held: float | None = 0.1, **training: Any) -> recipe.Recipe:
    tree = tiny("bert", text, tmp_path / "run")
    tree["data"]["validation"] = held
    tree["training"] |= training
    return recipe.load(tree)


@pytest.mark.parametrize(("steps", "training", "said"), [
    (100, {"early_stopping_patience": 3}, "early_stopping_patience: 3 can't act: the run is evaluated at its start and "
     "end alone; set training.eval_steps"),
    (100, {"early_stopping_patience": 2, "eval_steps": 60}, "early_stopping_patience: 2 can't act: 2 evaluations are "
     "120 steps, and the run ends after step 100; make eval_steps less than 50"),
    (100, {"early_stopping_patience": 2, "eval_steps": 49}, None), (None, {"early_stopping_patience": 9,
                                                                          "eval_steps": 10**6}, None),
    (100, {"eval_steps": 100}, "eval_steps: 100 is not before the run's end, at step 100: it is evaluated at its start "
     "and end alone"),
    (100, {"eval_steps": 10, "held": None}, "eval_steps: 10 can't act: there is nothing to evaluate on; data."
     "validation is needed"),
    (100, {"async_save": True, "save_steps": 100}, "async_save can't act: the only checkpoint is that of the run's "
     "end, after step 100, which no step follows; save_steps: 25 makes some before it"),
    (100, {"async_save": True, "save_steps": 99}, None), (None, {"async_save": True, "save_steps": 99}, None),
    (100, {"warmup_steps": 500}, "warmup_steps: 500 isn't over when the run ends, after step 100: the learning rate "
     "stays below 0.001; a share, as 0.1, fits any length"),
    (100, {"warmup_steps": 99}, None), (100, {"warmup_steps": 0.9}, None), (None, {"warmup_steps": 500}, None),
    (100, {"warmup_steps": 10, "lr_scheduler_type": "constant"}, "warmup_steps: 10 can't act: the schedule constant "
     "has no warm-up; constant_with_warmup has one"),
    (100, {"lr_scheduler_type": "constant_with_warmup", "lr_scheduler_kwargs": {"num_cycles": 2}},
     "lr_scheduler_kwargs: num_cycles can't act: the schedule constant_with_warmup has no options"),
    (100, {"greater_is_better": True}, "greater_is_better can't act: the last weights are kept; it is of "
     "metric_for_best_model"),
    (100, {"greater_is_better": True, "metric_for_best_model": "loss"}, None), (100, {}, None)])
def test_what_cant_act_is_said(
    steps: int | None, training: dict[str, Any], said: str | None, text: Path, tmp_path: Path
) -> None:
    assert unheeded(asked(text, tmp_path, **training), steps) == ([] if said is None else [f"training.{said}"])


@pytest.mark.parametrize(("plan", "processes", "said"), [
    ({"strategy": "fsdp"}, 1, "strategy: fsdp can't act: one process has the whole model; --processes N starts "
     "several"),
    ({"strategy": "fsdp", "cpu_offload": True}, 2, "cpu_offload can't act: there is no GPU here, and all parts lie in "
     "main memory anyway"), ({"strategy": "fsdp"}, 2, None), ({}, 1, None)])
def test_what_of_a_model_in_parts_cant_act_is_said(
    plan: dict[str, Any], processes: int, said: str | None, text: Path, tmp_path: Path
) -> None:
    found = unheeded(asked(text, tmp_path, distributed=plan), 100, processes)
    assert found == ([] if said is None else [f"training.distributed.{said}"])


def test_a_run_says_it_once_and_trains(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tiny("bert", text, tmp_path / "run", warmup_steps=9, early_stopping_patience=2)
    tree["data"]["validation"] = 0.1
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    logging.getLogger("llmkit").handlers.clear()
    assert main(["pretrain", str(tmp_path / "r.yaml")]) == 0
    err = capsys.readouterr().err
    for said in ("training.warmup_steps: 9 isn't over when the run ends, after step 4",
                 "training.early_stopping_patience: 2 can't act: "):
        assert err.count(said) == 1
    assert main(["plan", str(tmp_path / "r.yaml"), "--output-dir", str(tmp_path / "other"), "--json"]) == 0
    assert '"training.warmup_steps: 9 isn' in capsys.readouterr().out
