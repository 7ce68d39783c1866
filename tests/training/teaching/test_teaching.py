"""A teacher beside the labels: the loss is what the papers say, however rows are split, kept, stopped and gone on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILIES, OBJECTIVE, SMALL, tiny
from safetensors.torch import load_file

from llmkit import recipe as recipes
from llmkit.recipe import registry
from llmkit.system import cache
from llmkit.system.errors import CheckpointError, LlmkitError, RequestError
from llmkit.training.fit import fit

Make = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def run_of(text: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`run_of("bert")`: a tiny run of a family's own objective; `run_of("bert", task)`: of a task over it."""
    made: dict[tuple[str, str], Path] = {}

    def make(family: str, task: str = "", **config: Any) -> Path:
        key = (family, task + str(config))
        if key not in made:
            folder = tmp_path_factory.mktemp("taught") / family
            tree = tiny(family, labelled if task else text, folder, still=True, max_steps=2)
            tree["backbone"]["config"].update(config)
            if task:
                tree["backbone"], tree["task"] = {"pretrained": str(make(family))}, tree.pop("objective") and task
                del tree["tokenizer"]
                tree["training"]["learning_rate"] = 5e-3
                tree["training"]["max_steps"] = 12
            fit(recipes.load(tree))
            made[key] = folder
        return made[key]

    return make


def taught(family: str, data: Path, folder: Path, teacher: Any, task: str = "", **training: Any) -> dict[str, Any]:
    """A student's recipe, whose tokenizer is the teacher's."""
    tree = tiny(family, data, folder, still=True, **training)
    del tree["tokenizer"]
    if task:
        tree["task"] = tree.pop("objective") and task
    return {**tree, "teacher": teacher if isinstance(teacher, dict) else {"model": str(teacher)}}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def alike(one: Path, other: Path, tolerance: float = 0.0) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.allclose(a[name], b[name], rtol=0, atol=tolerance) for name in a)


def lines(folder: Path, event: str = "train") -> list[dict[str, Any]]:
    said = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line for line in said if line["event"] == event]


# ---- what is learned ----


def test_without_a_share_the_student_is_the_one_it_would_be_alone_to_the_bit(
    run_of: Any, text: Path, tmp_path: Path,
) -> None:
    teacher = run_of("bert")
    alone = tiny("bert", text, tmp_path / "alone")
    fit(recipes.load({**alone, "tokenizer": {"pretrained": str(teacher)}}))
    beside = {**taught("bert", text, tmp_path / "beside", {"model": str(teacher), "alpha": 0}), "backbone":
              alone["backbone"]}
    fit(recipes.load(beside))
    assert alike(tmp_path / "alone", tmp_path / "beside")
    last = lines(tmp_path / "beside")[-1]
    assert last["loss"] == last["hard_loss"] == lines(tmp_path / "alone")[-1]["loss"]
    assert last["soft_loss"] > 0


def test_a_run_is_a_plain_loop_of_torch(run_of: Any, labelled: Path, tmp_path: Path) -> None:
    """All 24 rows in each step, so that their order is no matter: three steps of gradient descent by hand."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = tmp_path / "rows.csv"
    rows.write_text("".join(f"{line}\n" for line in labelled.read_text().splitlines()[:25]))
    teacher, start = run_of("bert", "classification"), run_of("bert", "classification", hidden_act="relu")
    tree = taught("bert", rows, tmp_path / "run", {"model": str(teacher), "temperature": 3.0, "alpha": 0.7},
                  "classification", max_steps=3, global_batch_size=24, learning_rate=0.5, weight_decay=0,
                  lr_scheduler_type="constant", max_grad_norm=None)
    fit(recipes.load({**tree, "backbone": {"pretrained": str(start)}, "optimizer": {"name": "sgd", "momentum": 0}}))

    tokenizer = AutoTokenizer.from_pretrained(teacher / "model")
    wise, new = (AutoModelForSequenceClassification.from_pretrained(place / "model").eval()
                 for place in (teacher, start))
    texts, labels = zip(*(line.rsplit(",", 1) for line in rows.read_text().splitlines()[1:]), strict=True)
    batch = tokenizer([one.strip('"') for one in texts], padding=True, truncation=True, max_length=32,
                      return_tensors="pt")
    del batch["token_type_ids"]
    right = torch.tensor([new.config.label2id[label] for label in labels])
    losses = []
    for _ in range(3):
        said = new(**batch).logits
        with torch.no_grad():
            told = wise(**batch).logits
        hard = torch.nn.functional.cross_entropy(said, right)
        soft = torch.nn.functional.kl_div(torch.log_softmax(said / 3, -1), torch.softmax(told / 3, -1),
                                          reduction="batchmean") * 9
        losses.append((float(hard), float(soft)))
        new.zero_grad()
        (0.3 * hard + 0.7 * soft).backward()
        with torch.no_grad():
            for parameter in new.parameters():
                if parameter.grad is not None:
                    parameter -= 0.5 * parameter.grad
    for line, (hard, soft) in zip(lines(tmp_path / "run"), losses, strict=True):
        assert line["hard_loss"] == pytest.approx(hard, rel=1e-5)
        assert line["soft_loss"] == pytest.approx(soft, rel=1e-3, abs=1e-7)
        assert line["loss"] == pytest.approx(0.3 * hard + 0.7 * soft, rel=1e-5)
    found = weights(tmp_path / "run")
    for name, wanted in new.state_dict().items():
        torch.testing.assert_close(found[name], wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("packing", ["documents", pytest.param("none", marks=pytest.mark.slow)])
def test_how_a_steps_rows_are_split_changes_nothing(packing: str, run_of: Any, text: Path, tmp_path: Path) -> None:
    teacher = {"model": str(run_of("bert")), "hidden": {"loss": "mse"}}
    for micro in (8, 2):
        tree = taught("bert", text, tmp_path / f"{packing}-{micro}", teacher, micro_batch_size=micro)
        tree["backbone"]["config"]["hidden_size"] = 16
        tree["data"]["packing"] = packing
        fit(recipes.load(tree))
    for one, other in zip(*(lines(tmp_path / f"{packing}-{micro}") for micro in (8, 2)), strict=True):
        for head in ("loss", "hard_loss", "soft_loss", "hidden_loss", "agreement"):
            assert one[head] == pytest.approx(other[head], rel=2e-5, abs=1e-6)
    assert alike(tmp_path / f"{packing}-8", tmp_path / f"{packing}-2", 2e-4)


def test_answers_that_are_kept_are_those_of_every_step(
    run_of: Any, labelled: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:
    teacher = str(run_of("bert", "classification"))
    for name in ("auto", "never"):
        tree = taught("bert", labelled, tmp_path / name, {"model": teacher, "cache": name}, "classification",
                      max_steps=13)
        tree["data"]["validation"] = 0.3  # rows without weights, beside those that are learned from
        tree["task"] = {"name": "classification", "class_weights": "balanced"}
        fit(recipes.load(tree))
    for one, other in zip(lines(tmp_path / "auto"), lines(tmp_path / "never"), strict=True):
        assert one["soft_loss"] == pytest.approx(other["soft_loss"], rel=1e-4, abs=1e-6)
    assert alike(tmp_path / "auto", tmp_path / "never", 1e-5)
    told = lines(tmp_path / "auto", "evaluate")[-1]
    assert {"loss", "accuracy", "f1", "soft_loss", "agreement", "taught_loss"} <= told.keys()
    assert told["taught_loss"] == pytest.approx(0.5 * told["loss"] + 0.5 * told["soft_loss"])
    assert told["soft_loss"] == pytest.approx(lines(tmp_path / "never", "evaluate")[-1]["soft_loss"], rel=1e-4)
    kept = list((cache.root() / "teacher").iterdir())
    assert {path.name for place in kept for path in place.glob("[!.]*")} == {"answers.npy", "shapes.npy"}


def test_a_student_alone_is_measured_as_its_run_says(run_of: Any, labelled: Path, tmp_path: Path) -> None:
    """`llmkit evaluate` knows no teacher: the student's own figures are the same."""
    import llmkit

    tree = taught("bert", labelled, tmp_path / "run", run_of("bert", "classification"), "classification")
    summary = fit(recipes.load({**tree, "data": {**tree["data"], "validation": [str(labelled)]}}))
    alone = llmkit.evaluate(tmp_path / "run", labelled)["metrics"]
    assert set(alone) == {"loss", "accuracy", "f1"}
    assert alone == pytest.approx({name: summary["evaluation"][name] for name in alone}, rel=1e-5)
    whole = sum(value.numel() for value in weights(tmp_path / "run").values())
    assert summary["parameters"] == whole  # the teacher isn't counted


def test_the_teachers_labels_may_stand_in_another_order(run_of: Any, labelled: Path, tmp_path: Path) -> None:
    """A teacher whose labels are swapped, with its weights: it says the same, and its student learns the same."""
    teacher, other = run_of("bert", "classification"), tmp_path / "other"
    shutil.copytree(teacher / "model", other)
    said = json.loads((other / "config.json").read_text())
    said["id2label"] = {"0": said["id2label"]["1"], "1": said["id2label"]["0"]}
    said["label2id"] = {label: int(number) for number, label in said["id2label"].items()}
    (other / "config.json").write_text(json.dumps(said))
    from safetensors.torch import save_file

    tensors = load_file(other / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    for name, folder in (("one", teacher), ("two", other)):
        tree = taught("bert", labelled, tmp_path / name, {"model": str(folder), "cache": "never"}, "classification")
        fit(recipes.load(tree))
    assert [line["soft_loss"] for line in lines(tmp_path / "one")] == pytest.approx(
        [line["soft_loss"] for line in lines(tmp_path / "two")], rel=1e-6)
    assert alike(tmp_path / "one", tmp_path / "two", 1e-6)


def test_cosines_of_pairs_are_learned_by_their_squared_error(pairs: Path, encoder: Path, tmp_path: Path) -> None:
    """Two encoders and two steps of all 16 pairs each, one of them by hand; in parts it is the same."""
    import numpy as np
    from transformers import AutoModel, AutoTokenizer

    rows = [json.loads(line) for line in pairs.read_text().splitlines()[:16]]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for micro in (16, 4):
        tree = taught("bert", tmp_path / "pairs.jsonl", tmp_path / f"run-{micro}",
                      {"model": str(encoder), "alpha": 0.8}, "similarity", global_batch_size=16,
                      micro_batch_size=micro, max_steps=2)
        tree["task"] = {"name": "similarity", "loss_type": "cosine", "pooling": "mean"}
        tree["data"]["validation"] = [str(tmp_path / "pairs.jsonl")]
        fit(recipes.load(tree))
    one, other = lines(tmp_path / "run-16"), lines(tmp_path / "run-4")
    for mine, theirs in zip(one, other, strict=True):
        assert mine["soft_loss"] == pytest.approx(theirs["soft_loss"], rel=1e-4)
        assert mine["loss"] == pytest.approx(0.2 * mine["hard_loss"] + 0.8 * mine["soft_loss"], rel=1e-5)
    tokenizer = AutoTokenizer.from_pretrained(encoder)

    def cosines(folder: Path) -> Any:
        model = AutoModel.from_pretrained(folder).eval()
        with torch.no_grad():
            texts = [[model(**tokenizer(row[name], return_tensors="pt", truncation=True, max_length=32)
                            ).last_hidden_state[0].mean(0) for row in rows] for name in ("sentence1", "sentence2")]
        one, other = (np.array(torch.stack(part)) for part in texts)
        return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)

    told = lines(tmp_path / "run-16", "evaluate")[-1]
    said, right = cosines(tmp_path / "run-16" / "model"), np.array([row["score"] for row in rows])
    assert told["soft_loss"] == pytest.approx(float(((said - cosines(encoder)) ** 2).mean()), rel=1e-3)
    assert told["loss"] == pytest.approx(float(((said - right) ** 2).mean()), rel=1e-3)
    assert told["taught_loss"] == pytest.approx(0.2 * told["loss"] + 0.8 * told["soft_loss"], rel=1e-5)


# ---- going on ----


def test_a_stopped_run_goes_on_to_the_bit(run_of: Any, text: Path, tmp_path: Path) -> None:
    """With dropout, LoRA and a projection of hidden states."""
    def tree(folder: str) -> dict[str, Any]:
        made = taught("bert", text, tmp_path / folder, {"model": str(run_of("bert")), "hidden": {}}, save_steps=2,
                      save_total_limit=9)
        made["backbone"]["config"] |= {"hidden_size": 16, "hidden_dropout_prob": 0.1}
        return {**made, "tuning": {"method": "full"}}

    fit(recipes.load(tree("whole")))
    fit(recipes.load(tree("run")))
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    shutil.rmtree(tmp_path / "run" / "model")
    (tmp_path / "run" / "summary.json").unlink()
    fit(recipes.load(tree("run")))
    assert alike(tmp_path / "whole", tmp_path / "run")
    keys = ("step", "loss", "hard_loss", "soft_loss", "hidden_loss", "agreement", "grad_norm")
    assert [[line[key] for key in keys] for line in lines(tmp_path / "whole")] == [
        [line[key] for key in keys] for line in lines(tmp_path / "run")]


def test_another_teacher_is_not_gone_on_with(run_of: Any, text: Path, tmp_path: Path) -> None:
    shutil.copytree(run_of("bert") / "model", tmp_path / "teacher")
    tree = taught("bert", text, tmp_path / "run", tmp_path / "teacher", save_steps=2)
    fit(recipes.load(tree))
    (tmp_path / "run" / "summary.json").unlink()
    from safetensors.torch import save_file

    tensors = load_file(tmp_path / "teacher" / "model.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, tmp_path / "teacher" / "model.safetensors",
              {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"teacher\.model: .* has changed since it was saved \(model.safetensors"):
        fit(recipes.load(tree))
    with pytest.raises(CheckpointError, match=r"teacher\.temperature is 4\.0, there 2\.0"):
        fit(recipes.load({**tree, "teacher": {**tree["teacher"], "temperature": 4}}))


# ---- what can't be ----


@pytest.mark.parametrize(("learning", "why"), [
    ("replaced_token", "its own generator"), ("contrastive", "compares the rows of a step"),
    ({"name": "causal_lm", "negatives": 5}, "a few sampled tokens"), ("adversarial", "two networks"),
])
def test_what_has_no_answers_is_refused_with_the_reason(learning: Any, why: str) -> None:
    family = "gpt2" if "causal" in str(learning) or learning == "adversarial" else "bert"
    with pytest.raises(RequestError, match=f"teacher: .*can't be learned from a teacher: .*{why}"):
        recipes.load({"backbone": {"family": family, "size": "tiny"}, "data": {"train": "a.txt"},
                      "objective": learning, "teacher": "runs/x"})


@pytest.mark.parametrize(("fields", "why"), [
    ({"temperature": 0}, "teacher.temperature: 0 should be greater than or equal to 0.01"),
    ({"alpha": 1.5}, "teacher.alpha: 1.5 should be less than or equal to 1"),
    ({"temprature": 1}, "teacher.temprature: no such field.*temperature"),
    ({"hidden": {"layers": "all"}}, "teacher.hidden.layers"), ({"hidden": {"layers": {}}}, "layers names none"),
])
def test_a_wrong_field_is_told(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(RequestError, match=why):
        recipes.load({"backbone": {"family": "bert", "size": "tiny"}, "data": {"train": "a.txt"},
                      "objective": "masked_lm", "teacher": {"model": "runs/x", **fields}})


def test_a_layer_map_comes_back_from_a_written_recipe(tmp_path: Path) -> None:
    asked = recipes.load({"backbone": {"family": "bert", "size": "tiny"}, "data": {"train": "a.txt"},
                          "objective": "masked_lm", "teacher": {"model": "x", "hidden": {"layers": {0: 1, 1: 3}}}})
    (tmp_path / "written.yaml").write_text(recipes.dump(asked))
    assert recipes.load(tmp_path / "written.yaml") == asked
    assert asked.tokenizer is not None
    assert asked.tokenizer.pretrained == "x"


def test_a_teacher_that_does_not_fit_is_refused_before_a_step(
    run_of: Any, text: Path, labelled: Path, several: Path, tmp_path: Path,
) -> None:
    def refused(tree: dict[str, Any]) -> str:
        with pytest.raises(LlmkitError) as told:
            fit(recipes.load(tree))
        assert told.value.status == 2
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
        return str(told.value)

    masked, sure = run_of("bert"), run_of("bert", "classification")
    tree = taught("bert", text, tmp_path / "run", masked)
    assert "reads other tokens than its student" in refused({**tree, "tokenizer": {"train": {"vocab_size": 100}}})
    assert "no weights for its classifier" in refused(
        taught("bert", labelled, tmp_path / "run", masked, "classification"))
    assert "is a bert, which can't do causal_lm" in refused(
        {**taught("gpt2", text, tmp_path / "run", masked), "objective": "causal_lm"})
    assert "has 64 positions, and data.max_length is 90" in refused(
        {**tree, "backbone": {"family": "bert", "size": "tiny"}, "data": {**tree["data"], "max_length": 90}})
    assert "no model is called 'nowhere'" in refused({**tree, "teacher": "nowhere", "tokenizer": {
        "pretrained": str(masked)}})
    rows = tmp_path / "others.csv"
    rows.write_text(labelled.read_text().replace(",animal", ",beast"))
    said = refused(taught("bert", rows, tmp_path / "run", sure, "classification"))
    assert "has other labels than these rows (it lacks: 'beast'; it has beside them: 'animal')" in said
    assert "was taught single_label_classification, and these rows are multi_label_classification" in refused(
        taught("bert", several, tmp_path / "run", sure, "classification"))


# ---- every family ----

CELLS = [(family, OBJECTIVE[family]) for family in FAMILIES if OBJECTIVE[family] in ("masked_lm", "causal_lm")] + [
    (family, "classification") for family in FAMILIES
    if recipes.fits(registry.find("tasks", "classification")(), FAMILIES[family])]
QUICK = {("gpt2", "causal_lm"), ("albert", "masked_lm")}


@pytest.mark.parametrize(("family", "learning"), [
    pytest.param(*cell, marks=() if cell in QUICK else pytest.mark.slow, id="-".join(cell)) for cell in CELLS])
def test_a_cell_learns_from_a_teacher_of_its_own_family(
    family: str, learning: str, run_of: Any, text: Path, labelled: Path, tmp_path: Path,
) -> None:
    task = "classification" if learning == "classification" else ""
    kind = FAMILIES[family]
    looked = kind.shape != "permuted" and (not task or kind.shape != "encoder-decoder")
    teacher = {"model": str(run_of(family, task)), "alpha": 0.9, **({"hidden": {}} if looked else {})}
    tree = taught(family, labelled if task else text, tmp_path / "run", teacher, task, max_steps=12, learning_rate=3e-3)
    tree["backbone"] = {"family": family, "size": "tiny", "config": {**SMALL[family], **dict.fromkeys(kind.still, 0.0)}}
    tree["seed"] = 7
    summary = fit(recipes.load(tree))
    assert summary["status"] == "completed"
    first, *_, last = lines(tmp_path / "run")
    assert last["loss"] < first["loss"]
    if looked:
        assert last["hidden_loss"] < first["hidden_loss"]
