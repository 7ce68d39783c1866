"""What a label is read from: the mean of all tokens by hand, and what other programs are told of it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import SMALL, STILL, stories, tiny
from torch.nn.functional import linear

import llmkit
from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.inference.explaining.attention import reads_at
from llmkit.inference.explaining.occlusion import occlusion
from llmkit.inference.explaining.opening import open_subject
from llmkit.inference.verbs import classify
from llmkit.models import Base, pooling
from llmkit.objectives.base import Setup
from llmkit.objectives.shared.text_head import TOKENS, WHOLE
from llmkit.recipe import registry
from llmkit.system.errors import RequestError
from llmkit.tasks.classification import Classification
from llmkit.training.fit import fit
from llmkit.training.teaching.opening import head_of

TEXT = "the cat saw the moon ."


def batch_and_model(family: str, task: Classification, write: Any, **config: Any) -> tuple[Any, Any, Any]:
    """Five rows of different lengths, and a random model with the head that the task takes."""
    kind = registry.find("backbones", family)
    tokenizer = tokenizers.train(stories(80), kind.tokenizer, 300, special=kind.special)
    some = [{"text": story[: 8 * (i + 1)], "label": "ab"[i % 2]} for i, story in enumerate(stories(5))]
    sets = task.prepare([write(some)], None, Setup(tokenizer, kind, 48, "none", 0))
    torch.manual_seed(0)
    fields = {**SMALL[family], **STILL[family], **config, **task.config(sets.facts)}
    model = getattr(transformers, task.head_for(kind)).from_config(kind.config("tiny", fields, tokenizer)).eval()
    return kind, task.collate(sets.train[0].features, tokenizer), model


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5"])
def test_a_mean_is_the_linear_layer_of_the_mean_of_all_states_but_paddings(write: Any, family: str) -> None:
    kind, batch, model = batch_and_model(family, Classification(pooling="mean"), write)
    lengths = batch["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 2
    head = model.get_submodule(kind.heads["AutoModelForTokenClassification"])
    asked = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        said = Classification(pooling="mean").logits(model, asked, kind)
        for row, length in enumerate(lengths):  # each text alone, with nothing beside it
            states = model.base_model(input_ids=batch["input_ids"][row : row + 1, :length]).last_hidden_state[0]
            torch.testing.assert_close(said[row], linear(states.mean(0), head.weight, head.bias))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_modernbert_reads_either_by_itself(write: Any, pooling: Any) -> None:
    other = {"mean": "cls", "cls": "mean"}[pooling]
    task = Classification(pooling=pooling)
    kind, batch, model = batch_and_model("modernbert", task, write, classifier_pooling=other)
    assert type(model).__name__ == "ModernBertForSequenceClassification"
    assert model.config.classifier_pooling == pooling
    asked = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        torch.testing.assert_close(task.logits(model, asked, kind), model(**asked).logits)


CLASSIFIER = "task: pooling: {}: the classifier of a {} reads the {} token of a text; choose {}."


@pytest.mark.parametrize(("family", "pooling", "config", "message"), [
    ("gpt2", "cls", {}, CLASSIFIER.format("cls", "gpt2", "last", "last, or mean")),
    ("bert", "last", {}, CLASSIFIER.format("last", "bert", "first", "cls, or mean")),
    ("bart", "cls", {}, CLASSIFIER.format("cls", "bart", "last", "last")),
    ("bart", "mean", {}, "task: pooling: mean: transformers has no head over the tokens of a bart; choose last, what "
     "its classifier reads."),
    ("modernbert", "mean", {"classifier_pooling": "cls"}, "task.pooling: mean, and "
     "backbone.config.classifier_pooling: cls means the same field of the model; leave one of them out."),
], ids=["gpt2 cls", "bert last", "bart cls", "bart mean", "modernbert twice"])
def test_what_a_family_cant_read_is_refused_before_anything_is_loaded(
    labelled: Path, tmp_path: Path, family: str, pooling: str, config: dict[str, Any], message: str,
) -> None:
    tree = tiny(family, labelled, tmp_path / "run")
    del tree["objective"]
    tree["backbone"]["config"] |= config
    with pytest.raises(RequestError) as caught:
        fit(recipe.load({**tree, "task": {"name": "classification", "pooling": pooling}}))
    assert str(caught.value) == message
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module", params=["full", "lora"])
def run(request: Any, labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that reads the mean, tuned for a few steps; lora's over a base that is a folder."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    tree = tiny("bert", labelled, folder)
    del tree["objective"]
    tree["data"]["validation"] = 0.2
    if request.param == "lora":
        below = tiny("bert", labelled, folder.parent / "base")
        below["data"]["train"] = {"source": str(labelled), "fields": {"text": "text"}}
        fit(recipe.load({**below, "training": {**below["training"], "max_steps": 1}}))
        tree |= {"backbone": {"pretrained": str(folder.parent / "base")}, "tuning": {"method": "lora"}}
        del tree["tokenizer"]
    fit(recipe.load({**tree, "task": {"name": "classification", "pooling": "mean"}}))
    return folder


def by_hand(folder: Path, text: str) -> np.ndarray[Any, Any]:
    """The probabilities that the mean of the tokens' logits gives, by what llmkit opened."""
    opened = llmkit.models.open_model(folder)
    with torch.no_grad():
        logits = opened.model(**opened.tokenizer(text, return_tensors="pt")).logits
    assert logits.shape[:1] == (1,) and logits.dim() == 3
    found: np.ndarray[Any, Any] = logits[0].mean(0).softmax(-1).numpy()
    return found


def test_a_run_reads_the_mean_wherever_it_is_used(run: Path) -> None:
    chances = by_hand(run, TEXT)
    ((_, said),) = classify([{"text": TEXT}], run).predictions
    assert said["score"] == pytest.approx(chances.max(), abs=1e-5)
    subject = open_subject(run, TEXT)
    with torch.no_grad():
        assert np.exp(subject.answers(subject.inputs)[0].numpy()) == pytest.approx(chances, abs=1e-5)
    hidden = [value for value in occlusion(subject).values if value is not None]
    assert len(hidden) == len(subject.places)
    assert reads_at(subject, len(subject.ids)) == list(range(len(subject.ids)))


def test_whoever_has_transformers_alone_is_told(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    assert "the mean of its logits over the tokens" in (run / "README.md").read_text()
    llmkit.export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "padding left out (`task.pooling: mean`)" in card
    assert "pipeline_tag" not in card  # a hub would show what each token says
    _, about = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True)
    assert "bert.pooler.dense.weight" in about["missing_keys"]
    assert pooling.read(tmp_path / "out").modes == ("mean",)
    capsys.readouterr()
    monkeypatch.chdir(tmp_path / "out")
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(code, {})
    names = json.loads((tmp_path / "out" / "config.json").read_text())["id2label"]
    asked = "The cat saw the moon."
    assert capsys.readouterr().out.strip() == names[str(by_hand(run, asked).argmax())]


def test_a_folder_that_is_no_run_says_it_by_its_files(run: Path, labelled: Path, tmp_path: Path) -> None:
    out, chances = tmp_path / "out", by_hand(run, TEXT)
    llmkit.export(run, out)
    (out / "recipe.yaml").unlink()
    subject = open_subject(out, TEXT)
    with torch.no_grad():
        assert np.exp(subject.answers(subject.inputs)[0].numpy()) == pytest.approx(chances, abs=1e-5)
    ((_, said),) = classify([{"text": TEXT}], out).predictions
    assert said["score"] == pytest.approx(chances.max(), abs=1e-5)
    ours, theirs = (llmkit.evaluate(folder, labelled, max_length=32)["metrics"] for folder in (run, out))
    assert theirs == {name: pytest.approx(value, abs=1e-5) for name, value in ours.items()}


def test_a_teacher_reads_where_it_learned_to_whatever_its_student_does(run: Path, tmp_path: Path) -> None:
    """Both heads of a BERT end in a layer called classifier: opened with the other one, it would answer at random."""
    learned = Base.open(run)
    assert head_of(Classification(), learned) == head_of(Classification(pooling="mean"), learned) == TOKENS
    transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL["bert"])).save_pretrained(tmp_path)
    other = Base.open(tmp_path)
    assert head_of(Classification(), other) == head_of(Classification(pooling="mean"), other) == WHOLE


@pytest.mark.slow
def test_an_onnx_graph_has_the_mean_in_it(run: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    llmkit.export(run, tmp_path / "out", format="onnx")
    read = llmkit.models.open_model(run).tokenizer(TEXT, return_tensors="np")
    graph = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    names = [one.name for one in graph.get_inputs()]
    padded = {name: np.pad(read[name].astype(np.int64), ((0, 0), (0, 3))) for name in names}
    (logits,) = graph.run(None, padded)
    assert torch.tensor(logits)[0].softmax(-1).numpy() == pytest.approx(by_hand(run, TEXT), abs=1e-4)
