"""Labels by prompts: the arithmetic of scores against plain numpy, evaluation and comparison of prompts, generation."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import tiny, write_rows

from llmkit import recipe
from llmkit.cli import main
from llmkit.data.sources import open_source
from llmkit.inference import evaluate as evaluation
from llmkit.inference import predict as prediction
from llmkit.inference.comparing import inline as variants
from llmkit.inference.generate import generate
from llmkit.inference.labelling import Labeller
from llmkit.inference.scoring import Answered, Scorer
from llmkit.inference.writing.options import Options
from llmkit.models import open_model
from llmkit.prompting.base import Prompting, Shot
from llmkit.recipe import Source, registry
from llmkit.system.errors import RequestError
from llmkit.tasks.classification import Classification
from llmkit.training.fit import fit


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, text: Path) -> dict[str, str]:
    """A causal and a masked language model that learned a little."""
    folder = tmp_path_factory.mktemp("models")
    for family in ("gpt2", "bert"):
        tree = tiny(family, text, folder / family, max_steps=3)
        tree["backbone"]["config"] |= {"n_positions": 128} if family == "gpt2" else {"max_position_embeddings": 128}
        fit(recipe.load(tree))
    return {family: str(folder / family) for family in ("gpt2", "bert")}


def mode(text: str) -> Prompting:
    made: Prompting = variants.plugin(text, "prompting", "--prompt")
    return made


class Told:
    """A scorer whose probabilities are a table: what follows a prompt's last word."""

    shape, limit = "decoder", None

    def __init__(self, table: dict[str, list[float]], tokenizer: Any) -> None:
        self.table, self.tokenizer = table, tokenizer

    def score(self, questions: Sequence[Any]) -> list[list[Answered]]:
        return [[Answered(float(np.log(p)), tokens, 7) for p, tokens in zip(
            self.table[question.prompt.text.split(":")[-1]], (1, 2, 1))] for question in questions]


LIKELY = {"A": [0.2, 0.04, 0.1], "": [0.5, 0.01, 0.3], "N/A": [0.4, 0.02, 0.1]}
"""Of the words bad, awful and good, after three inputs; awful has two tokens."""


@pytest.mark.parametrize(("options", "wanted"), [
    ("", [0.12, 0.1]),
    ("length=true", [(0.2 + 0.2) / 2, 0.1]),
    ("pmi=true", [(0.4 + 4.0) / 2, 1 / 3]),
    ("calibration=['']", [0.12 / (0.255 / 0.555), 0.1 / (0.3 / 0.555)]),
    ("calibration=['', N/A]", [0.12 / ((0.255 / 0.555 + 0.21 / 0.31) / 2), 0.1 / ((0.3 / 0.555 + 0.1 / 0.31) / 2)]),
])
def test_scores_are_what_the_papers_say(options: str, wanted: list[float], models: dict[str, str]) -> None:
    tokenizer = open_model(models["gpt2"]).tokenizer
    one = mode(f"normalize(of=cloze(template=':{{text}}{{mask}}', labels={{0: [bad, awful], 1: good}}), {options})")
    labeller = Labeller(Told(LIKELY, tokenizer), one, ("0", "1"))  # type: ignore[arg-type]
    assert labeller.chances([{"text": "A"}])[0].tolist() == pytest.approx((np.array(wanted) / sum(wanted)).tolist())


def test_pmi_takes_off_what_an_empty_input_without_examples_gives(models: dict[str, str]) -> None:
    asked = []

    class Listening(Told):
        def score(self, questions: Sequence[Any]) -> list[list[Answered]]:
            asked.extend(question.prompt.text for question in questions)
            return super().score(questions)

    one = mode("normalize(of=cloze(k=1, template=':{text}{mask}', examples=[{text: x, answer: '1'}]), pmi=true)")
    Labeller(Listening(LIKELY, open_model(models["gpt2"]).tokenizer), one,  # type: ignore[arg-type]
             ("0", "1", "2")).chances([{"text": "A"}])
    assert asked == [":x1\n\n:A", ":"]


def scorer(folder: str) -> Scorer:
    opened = open_model(folder)
    return Scorer(opened, registry.find("backbones", str(opened.model.config.model_type)))


def test_reverse_says_the_label_that_makes_the_text_likeliest(models: dict[str, str]) -> None:
    import torch

    one = scorer(models["gpt2"])
    texts, words = ["the cat saw the moon .", "a dog found a hat ."], {"0": "the cat", "1": "a dog"}
    labeller = Labeller(one, mode("reverse(instruction='', input_template='{text} :', labels={0: the cat, 1: a dog})"),
                        ("0", "1"))
    found = labeller.chances([{"text": text} for text in texts])
    for row, text in zip(found, texts, strict=True):
        likely = []
        for word in words.values():
            before, whole = (one.tokenizer(part, add_special_tokens=False)["input_ids"]
                             for part in (f"{word} :", f"{word} : {text}"))
            with torch.no_grad():
                logits = one.model(torch.tensor([whole])).logits[0].log_softmax(-1)
            likely.append(float(sum(logits[i - 1, whole[i]] for i in range(len(before), len(whole)))))
        assert np.log(row[0] / row[1]) == pytest.approx(likely[0] - likely[1], abs=1e-3)


ROWS = [Shot({"text": "the cat saw the moon"}, "0"), Shot({"text": "a dog found a hat"}, "1")]


@pytest.mark.parametrize(("family", "asked", "message"), [
    ("bert", "prefix(instruction=Which?)", "ask it by a cloze"),
    ("bert", "reverse", "which a masked model doesn't write"),
    ("gpt2", "cloze(labels={0: cat})", "the label '1' has no word"),
    ("gpt2", "cloze(labels={0: cat, 1: cat})", "is there twice"),
])
def test_labels_that_cannot_be_asked_for_are_refused(
    family: str, asked: str, message: str, models: dict[str, str]
) -> None:
    with pytest.raises(RequestError, match=message):
        Labeller(scorer(models[family]), mode(asked), ("0", "1"), ROWS).chances([{"text": "a hat"}])


@pytest.mark.parametrize("family", ["gpt2", "bert"])
def test_an_evaluation_by_prompt_has_the_task_s_metrics_and_floors(
    family: str, models: dict[str, str], labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "cloze(labels={animal: cat, other: king})"
    command = ["evaluate", models[family], "--task", "classification", "--data", str(labelled), "--prompt", words]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = [row for row, _ in Classification(problem="single_label").read(open_source(Source(str(labelled))))]
    labeller = Labeller(scorer(models[family]), mode(words), ("animal", "other"))
    chances = labeller.chances([{"text": row["text"]} for row in rows])
    right = np.array([row["label"] == "other" for row in rows]).astype(int)
    assert told["metrics"]["accuracy"] == pytest.approx(float((chances.argmax(1) == right).mean()))
    loss = float(-np.log(chances[np.arange(len(rows)), right]).mean())
    assert told["metrics"]["loss"] == pytest.approx(loss, rel=1e-4)
    assert told["floors"]["majority class"]["accuracy"] == pytest.approx(max(right.mean(), 1 - right.mean()))
    assert told["prompt"]["name"] == "cloze"
    assert main([*command[:-1], "cloze(labels={animal: cat})"]) == 2
    assert "the label 'other' has no word" in capsys.readouterr().err


@pytest.fixture
def written(models: dict[str, str], labelled: Path, tmp_path: Path) -> str:
    path = tmp_path / "asked.yaml"
    path.write_text(yaml.safe_dump({
        "name": "asked", "backbone": {"pretrained": models["gpt2"]}, "task": {"name": "classification"},
        "data": {"train": str(labelled), "validation": 0.3},
        "prompting": {"name": "hybrid", "instruction": "who ?", "labels": {"animal": "cat", "other": "king"}}}))
    return str(path)


@pytest.mark.slow
def test_prompts_are_compared_on_the_same_rows_and_measured_once(
    written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "by prompt"
    modes = "cloze,hybrid(k=2),normalize(of=hybrid(k=1),calibration=true),prefix(instruction='which ?'),reverse(k=1)"
    command = ["prompts", written, "--modes", modes, "--seeds", "2", "--limit", "12", "--output-dir", str(folder)]
    command.append("--json")
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(row["mode"], row["runs"]) for row in told["modes"]] == [
        ("cloze", 1), ("hybrid(k=2)", 2), ("normalize(of=hybrid(k=1),calibration=true)", 2),
        ("prefix(instruction='which ?')", 1), ("reverse(k=1)", 2)]
    assert set(told["floors"]) == {"majority class", "TF-IDF, logistic regression"}
    assert told["rows"] == 12
    assert told["prompting"]["cloze"]["labels"] == {"animal": "cat", "other": "king"}  # from the recipe's block
    assert told["prompting"]["normalize(of=hybrid(k=1),calibration=true)"]["of"]["instruction"] == "who ?"
    assert told["prompting"]["prefix(instruction='which ?')"]["instruction"] == "which ?"
    hybrid = told["modes"][1]
    assert hybrid["prompt_tokens"] > told["modes"][0]["prompt_tokens"]
    assert hybrid["lowest"] <= hybrid["mean"] <= hybrid["highest"]
    assert "| floor: majority class |" in (folder / "prompts.md").read_text()
    assert (folder / "prompts.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert json.loads((folder / "prompts.json").read_text()) == told

    (folder / "asked" / "hybrid-k-2-2.json").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in (folder / "asked").iterdir()}
    assert main(command) == 0
    again = json.loads(capsys.readouterr().out)
    assert [row["values"] for row in again["modes"]] == [row["values"] for row in told["modes"]]
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "asked").iterdir()
            if path.name in times} == times  # what was there stayed
    assert main([*command, "--set", "prompting.labels={animal: dog, other: king}"]) == 4
    assert "is of another model, other rows, or a mode with other options" in capsys.readouterr().err


def test_prompts_take_a_model_and_data_as_finetune_does(
    models: dict[str, str], labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--modes", "cloze(labels={animal: cat, other: king})", "--limit", "4", "--json", "--output-dir",
             str(tmp_path / "out")]
    asked = ["prompts", "--task", "classification", "--model", models["gpt2"], "--data", str(labelled)]
    assert main([*asked, "--validation", str(labelled), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["model"], told["rows"], [row["runs"] for row in told["modes"]]) == (models["gpt2"], 4, [1])
    assert main(["prompts", "--task", "summarization", "--model", models["gpt2"], *words]) == 2
    assert "classification, not summarization" in capsys.readouterr().err


def test_a_mode_that_cannot_be_asked_is_told_and_the_others_go_on(
    written: str, models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prompts", written, "--limit", "6", "--output-dir", str(tmp_path / "out"), "--set",
               f"backbone.pretrained={models['bert']}", "--modes"]
    assert main([*command, "prefix,cloze"]) == 0
    assert "failed: a masked model fills gaps" in capsys.readouterr().out
    assert main([*command[:-1], "--modes", "prefix", "--output-dir", str(tmp_path / "none")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("llmkit: error: every mode failed; prefix: a masked model")


@pytest.mark.parametrize(("words", "message"), [
    (["--modes", "clozze"], "Did you mean 'cloze'"),
    (["--modes", "example(kk=2)"], "--modes example(kk=2): kk: no such field"),
    (["--modes", "cloze", "--set", "data.validation=null"], "rows that examples aren't drawn from"),
    (["--modes", "cloze", "--set", "task=summarization"], "classification, not summarization"),
    (["--modes", "cloze(k=900)"], "and k is 900"),
    (["--modes", "cloze(labels={animal: x})"], "the label 'other' has no word"),
    (["--modes", "cloze", "--metric", "acuracy"], "no such figure. Did you mean 'accuracy'"),
])
def test_comparisons_that_cannot_work_are_refused(
    words: list[str], message: str, written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prompts", written, "--output-dir", str(tmp_path / "out"), *words]) in (2, 3)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- generate ----


def test_generate_puts_a_text_into_a_prompt(models: dict[str, str], tmp_path: Path) -> None:
    shots = write_rows(tmp_path / "shots.jsonl", [{"input": f"in {i}", "output": f"out {i}"} for i in range(3)])
    given = f"example(k=2, selection=first, file={shots})"
    made = generate("the cat", models["gpt2"], Options(max_new_tokens=4), mode=mode(given))
    wanted = "Input: in 0\nOutput: out 0\n\nInput: in 1\nOutput: out 1\n\nInput: the cat\nOutput:"
    assert (made.prompt, made.read) == ("the cat", wanted)
    plain = generate(wanted, models["gpt2"], Options(max_new_tokens=4))
    assert made.completions == plain.completions
    told = generate("the cat " * 30, models["gpt2"], Options(max_new_tokens=4), mode=mode(given))
    assert told.notes[0] == "1 of 2 examples fit into the model's context"


def test_generate_fills_a_cloze_and_writes_files_of_prompts(
    models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", "--model", models["bert"], "--prompt", "cloze(template='{text} and {mask} saw it .')"]
    assert main([*command, "the cat", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["read"] == "the cat and [MASK] saw it ."
    assert len(told["fills"]) == 1
    many = tmp_path / "in.txt"
    many.write_text("the cat\na dog\n")
    assert main([*command, "--input", str(many), "-o", str(tmp_path / "out.jsonl")]) == 0
    assert [json.loads(line)["read"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == [
        "the cat and [MASK] saw it .", "a dog and [MASK] saw it ."]
    assert main([*command[:-1], "prefix(instruction=Say:)", "the cat"]) == 2
    assert "use cloze" in capsys.readouterr().err


# ---- a prompt in a recipe ----


def trained(family: str, data: Path, folder: Path, task: dict[str, Any], prompting: dict[str, Any]) -> dict[str, Any]:
    tree = tiny(family, data, folder, max_steps=2, micro_batch_size=4)
    del tree["objective"]
    tree["data"]["max_length"] = 48
    return {**tree, "task": task, "prompting": prompting}


def test_a_recipe_s_prompt_goes_around_every_text_and_is_used_again(summarized: Path, tmp_path: Path) -> None:
    from llmkit.planning import inspect as inspection

    tree = trained("t5", summarized, tmp_path / "run", {"name": "summarization", "max_new_tokens": 6},
                   {"name": "prefix", "instruction": "the hat saw: "})
    tree["data"]["max_length"] = 90
    (row,) = inspection.inspect(recipe.load(tree))["drawn"]
    with_prompt = row["shown"]["input_ids"]
    (bare,) = inspection.inspect(recipe.load({**tree, "prompting": None}))["drawn"]
    assert with_prompt.endswith(bare["shown"]["input_ids"])
    assert with_prompt != bare["shown"]["input_ids"]
    fit(recipe.load(tree))
    saved = recipe.load(tmp_path / "run" / "recipe.yaml")
    assert recipe.block("prompting", saved.prompting)["instruction"] == "the hat saw: "
    ready = evaluation.make_ready(tmp_path / "run")
    assert ready.setup.prompt is not None
    assert ready.setup.prompt({"text": "a dog"}) == "the hat saw: a dog"
    plain = write_rows(tmp_path / "plain.jsonl", [{"text": "the hat saw: the cat saw the moon ."}])
    asked = write_rows(tmp_path / "asked.jsonl", [{"text": "the cat saw the moon ."}])
    found = list(prediction.predict(tmp_path / "run", asked))
    without = recipe.load({**recipe.tree_of(saved), "prompting": None})
    (tmp_path / "run" / "recipe.yaml").write_text(recipe.dump(without))
    assert list(prediction.predict(tmp_path / "run", plain)) == found


def test_examples_of_a_recipe_are_kept_with_the_run(labelled: Path, tmp_path: Path) -> None:
    shots = write_rows(tmp_path / "shots.jsonl", [{"text": f"the cat {i}", "label": f"l{i % 2}"} for i in range(8)])
    tree = trained("bert", labelled, tmp_path / "run", {"name": "classification"},
                   {"name": "example", "k": 2, "file": str(shots), "seed": 3})
    fit(recipe.load(tree))
    shots.unlink()
    saved = recipe.load(tmp_path / "run" / "recipe.yaml")
    block = recipe.block("prompting", saved.prompting)
    assert (block.get("file"), block["selection"], len(block["examples"])) == (None, "first", 2)
    assert evaluation.evaluate(tmp_path / "run", labelled)["metrics"]["accuracy"] > 0
    assert fit(saved)["status"] == "completed"  # the same recipe: nothing is left to do


@pytest.mark.parametrize(("task", "asked", "answered"), [
    ({"name": "translation"}, "source", "target"), ({"name": "summarization"}, "text", "summary"),
    ({"name": "instruction"}, "prompt", "response"),
])
def test_reverse_trains_the_other_direction(task: dict[str, Any], asked: str, answered: str, tmp_path: Path) -> None:
    from llmkit.planning import settle

    path = write_rows(tmp_path / "rows.jsonl", [{asked: f"a {i}", answered: f"b {i}"} for i in range(12)])
    tree = trained("gpt2", path, tmp_path / "run", task, {"name": "reverse", "instruction": "back: "})
    settled = settle.settle(recipe.load(tree)).recipe
    assert settled.task.reverse
    assert settle.settle(settled).recipe == settled
    (row, _), *_ = settled.task.read(open_source(Source(str(path))))
    if asked == "prompt":
        assert [message["content"] for message in row["messages"]] == ["b 0", "a 0"]
    else:
        assert (row[asked], row[answered]) == ("b 0", "a 0")
    given = write_rows(tmp_path / "given.jsonl", [{answered: "b 7", "id": 7}])
    ((row, _),) = settled.task.stream(open_source(Source(str(given))), answered=False)
    assert (row["messages"][-1]["content"] if asked == "prompt" else row[asked]) == "b 7"


def test_reverse_turns_the_languages_of_a_translation_round(tmp_path: Path) -> None:
    task = registry.find("tasks", "translation")(source_lang="en", target_lang="de", reverse=True)
    assert task.languages == ("de", "en")
    path = write_rows(tmp_path / "rows.jsonl", [{"en": "a dog", "de": "ein Hund"}])
    ((row, _),) = task.read(open_source(Source(str(path))))
    assert row == {"source": "ein Hund", "target": "a dog"}
    german = write_rows(tmp_path / "german.jsonl", [{"de": "ein Hund"}])
    ((row, _),) = task.stream(open_source(Source(str(german))), answered=False)
    assert row == {"source": "ein Hund"}


@pytest.mark.parametrize(("task", "prompting", "message"), [
    ("classification", {"name": "cloze"}, "trains nothing"),
    ("classification", {"name": "reverse"}, "classification writes none"),
    ("classification", {"name": "example", "selection": "nearest", "file": "x.jsonl"}, "a run doesn't keep"),
    ("classification", {"name": "normalize", "pmi": True}, "a trained model compares none"),
    ("tagging", {"name": "prefix", "instruction": "x"}, "goes around the texts of a task that reads texts"),
    (None, {"name": "prefix", "instruction": "x"}, "masked_lm is none of these"),
])
def test_prompts_that_nothing_can_be_trained_in_are_refused(
    task: str | None, prompting: dict[str, Any], message: str, labelled: Path, tmp_path: Path
) -> None:
    tree = tiny("bert", labelled, tmp_path / "run")
    if task is not None:
        del tree["objective"]
        tree["task"] = task
    with pytest.raises(RequestError, match=message):
        fit(recipe.load({**tree, "prompting": prompting}))
    assert not (tmp_path / "run").exists()


def test_a_head_of_labels_is_not_asked_for_words(labelled: Path, tmp_path: Path) -> None:
    tree = trained("bert", labelled, tmp_path / "run", {"name": "classification"}, {})
    fit(recipe.load({**tree, "prompting": None}))
    with pytest.raises(RequestError, match="classification is done by the model's own head"):
        evaluation.evaluate(tmp_path / "run", labelled, task="classification", prompt=mode("cloze"))
    read = evaluation.evaluate(tmp_path / "run", labelled, prompt=mode("prefix(instruction=the dog)"))
    assert read["metrics"]["loss"] != evaluation.evaluate(tmp_path / "run", labelled)["metrics"]["loss"]
