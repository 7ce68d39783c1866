"""The verbs: what they say is what plain transformers says with the same model; who can't do it is told what can."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny, write_rows
from test_generate import TEMPLATE, WORDS, save
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llmkit import recipe
from llmkit.cli import main
from llmkit.inference import verbs
from llmkit.system.errors import DataError, RequestError
from llmkit.training.fit import fit

STORY = "the old king saw the moon . a dog chased a red ball ."


@pytest.fixture(scope="module")
def runs(
    tmp_path_factory: pytest.TempPathFactory, labelled: Path, tagged: Path, questions: Path, summarized: Path,
    parallel: Path, text: Path,
) -> dict[str, str]:
    """A run of each task, and of a language model."""
    folder = tmp_path_factory.mktemp("runs")
    for task, family, data in (
        ("classification", "bert", labelled), ("tagging", "bert", tagged), ("question_answering", "bert", questions),
        ("summarization", "gpt2", summarized), ("translation", "t5", parallel), ("masked_lm", "bert", text),
    ):
        tree = tiny(family, data, folder / task, max_steps=6, learning_rate=3e-3)
        tree["data"]["max_length"] = 48
        if task != "masked_lm":
            del tree["objective"]
            writes = {"max_new_tokens": 6} if task in ("summarization", "translation") else {}
            tree["task"] = {"name": task, **writes, **({"target_lang": "de"} if task == "translation" else {})}
        fit(recipe.load(tree))
    return {path.name: str(path) for path in folder.iterdir()}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A decoder with a chat template, and with a penalty for what it says again."""
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=1, eos_token_id=1, initializer_range=0.5))
    model.generation_config.repetition_penalty = 3.0
    return save(model, tmp_path_factory.mktemp("llama"), TEMPLATE)


def encoder(folder: Path, cls: Any = BertModel, **config: Any) -> str:
    torch.manual_seed(2)
    return save(cls(BertConfig(vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                               intermediate_size=16, initializer_range=0.5, **config)), folder)


def plain(cls: Any, run: str, *texts: str) -> tuple[Any, Any, Any]:
    """(model, tokenizer, inputs) as any program would open a run."""
    tokenizer = AutoTokenizer.from_pretrained(f"{run}/model")
    return cls.from_pretrained(f"{run}/model").eval(), tokenizer, tokenizer(*texts, return_tensors="pt")


def said(of: verbs.Said) -> list[dict[str, Any]]:
    return [prediction for _, prediction in of.predictions]


# ---- what is said ----

def test_a_label_is_the_classifiers_likeliest(runs):
    model, _, inputs = plain(AutoModelForSequenceClassification, runs["classification"], STORY)
    chances = model(**inputs).logits.softmax(-1)[0].detach()
    (one,) = said(verbs.classify([{"text": STORY}], runs["classification"]))
    assert one["label"] == model.config.id2label[int(chances.argmax())]
    assert one["score"] == pytest.approx(float(chances.max()), rel=1e-5)


def test_tags_are_the_taggers_likeliest_at_the_first_token_of_each_word(runs):
    model, tokenizer, _ = plain(AutoModelForTokenClassification, runs["tagging"], STORY)
    words = STORY.split()
    inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    numbers = model(**inputs).logits[0].argmax(-1).tolist()
    places = inputs.word_ids()
    (one,) = said(verbs.tag([{"tokens": STORY}], runs["tagging"]))
    assert one["tokens"] == words
    assert one["tags"] == [model.config.id2label[numbers[places.index(i)]] for i in range(len(words))]


def test_an_answer_is_the_best_span_of_the_context(runs):
    model, tokenizer, inputs = plain(AutoModelForQuestionAnswering, runs["question_answering"], "who ?", STORY)
    offsets = tokenizer("who ?", STORY, return_offsets_mapping=True)
    with torch.no_grad():
        out = model(**inputs)
    spans = {}
    for first in range(inputs.input_ids.shape[1]):
        for last in range(first, min(first + 30, inputs.input_ids.shape[1])):
            if offsets.sequence_ids()[first] == offsets.sequence_ids()[last] == 1:
                score = float(out.start_logits[0, first] + out.end_logits[0, last])
                spans[offsets["offset_mapping"][first][0], offsets["offset_mapping"][last][1]] = score
    start, end = max(spans, key=lambda span: spans[span])
    (one,) = said(verbs.answer([{"question": "who ?", "context": STORY}], runs["question_answering"]))
    assert (one["start"], one["end"], one["answer"]) == (start, end, STORY[start:end])
    best = sorted(spans.values())[-20:]
    assert one["score"] == pytest.approx(float(torch.tensor(best).softmax(0).max()), rel=1e-4)


def test_a_run_writes_a_summary_as_it_was_trained_to(runs):
    model, tokenizer, inputs = plain(AutoModelForCausalLM, runs["summarization"], f"{STORY}\n\nTL;DR:\n")
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs.input_ids.shape[1]:]
    written = tokenizer.decode(out, skip_special_tokens=True).strip()
    assert said(verbs.summarize([{"text": STORY}], runs["summarization"])) == [{"text": written}]
    assert written


def test_a_run_translates_as_it_was_trained_to(runs):
    model, tokenizer, inputs = plain(AutoModelForSeq2SeqLM, runs["translation"], STORY)
    out = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0]
    written = tokenizer.decode(out, skip_special_tokens=True).strip()
    for to in (None, "de", "German"):
        assert said(verbs.translate([{"source": STORY}], runs["translation"], to)) == [{"text": written}]
    with pytest.raises(RequestError, match=r"--to fr: .* it learned 'de'"):
        verbs.translate([{"source": STORY}], runs["translation"], "French")


def test_a_chat_model_is_told_in_words_and_may_repeat_what_it_read(llama):
    """A penalty counts for what was written, not for what was read: checked against scores one token at a time."""
    tokenizer = AutoTokenizer.from_pretrained(llama)
    model = AutoModelForCausalLM.from_pretrained(llama).eval()
    for made, asked in (
        (verbs.summarize([{"text": "the cat sat"}], llama, max_new_tokens=5), "Summarize:\nthe cat sat"),
        (verbs.translate([{"source": "the cat sat"}], llama, "de", max_new_tokens=5),
         "Translate to German:\nthe cat sat"),
        (verbs.answer([{"question": "the dog", "context": "the cat sat"}], llama, max_new_tokens=5),
         "Read this text and answer the question.\n\nthe cat sat\n\nQuestion: the dog"),
    ):
        ids = tokenizer.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True,
                                            return_dict=True)["input_ids"]
        new: list[int] = []
        while len(new) < 5 and 1 not in new:
            with torch.no_grad():
                scores = model(torch.tensor([ids + new])).logits[0, -1]
            for token in set(new):
                scores[token] = scores[token] * 3 if scores[token] < 0 else scores[token] / 3
            new.append(int(scores.argmax()))
        assert said(made) == [{"text": tokenizer.decode(new, skip_special_tokens=True).strip()}]
        assert "told to in words" in made.notes[0] and "llmkit finetune --task" in made.notes[0]


def test_labels_are_compared_by_the_cosine_of_mean_embeddings(tmp_path):
    name = encoder(tmp_path / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = BertModel.from_pretrained(name).eval()

    def embedded(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    made = verbs.classify([{"text": "the cat sat"}, {"text": "a dog ran to its house"}], name, ["cat", "house"],
                          "on {label}")
    for text, one in zip(("the cat sat", "a dog ran to its house"), said(made), strict=True):
        true = {label: float(torch.cosine_similarity(embedded(text), embedded(f"on {label}"), dim=0))
                for label in ("cat", "house")}
        assert one["cosines"] == pytest.approx(true, abs=1e-5)
        assert one["label"] == max(true, key=lambda label: true[label])


def test_pooling_is_what_the_folder_says(tmp_path):
    name = encoder(tmp_path / "encoder")
    mean = said(verbs.classify([{"text": "the cat sat"}], name, ["cat", "house"]))
    (tmp_path / "encoder" / "1_Pooling").mkdir()
    (tmp_path / "encoder" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    (tmp_path / "encoder" / "modules.json").write_text(json.dumps([
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]))
    assert said(verbs.classify([{"text": "the cat sat"}], name, ["cat", "house"])) != mean


def test_t5_is_told_by_the_prefixes_of_its_config(tmp_path):
    torch.manual_seed(1)
    name = save(T5ForConditionalGeneration(T5Config(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        eos_token_id=1, initializer_factor=5.0, task_specific_params={
            "summarization": {"prefix": "red: "}, "translation_en_to_de": {"prefix": "house: "}})), tmp_path / "t5")
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = T5ForConditionalGeneration.from_pretrained(name).eval()
    for made, asked in ((verbs.summarize([{"text": "cat"}], name, max_new_tokens=6), "red: cat"),
                        (verbs.translate([{"source": "cat"}], name, "de", max_new_tokens=6), "house: cat")):
        ids = [*tokenizer(asked)["input_ids"], 1]
        out = model.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0]
        assert said(made) == [{"text": tokenizer.decode(out, skip_special_tokens=True).strip()}]
        assert made.notes == ()
    with pytest.raises(RequestError, match=r"doesn't translate from en to fr\. It does: en to de"):
        verbs.translate([{"source": "cat"}], name, "fr")


# ---- tasks of one's own ----

OWN = """
from pydantic.dataclasses import dataclass
from llmkit.registry import OPTIONS
from llmkit.tasks.{task} import {cls}

@dataclass(config=OPTIONS)
class Mine({cls}):
    pass
"""


@pytest.mark.parametrize(("task", "cls", "family", "verb"), [
    ("classification", "Classification", "bert", verbs.classify),
    ("summarization", "Summarization", "gpt2", verbs.summarize)])
def test_a_task_made_from_another_is_used_by_the_same_verb(
    task, cls, family, verb, labelled, summarized, tmp_path, monkeypatch):
    own = tmp_path / f"my_{task}" / "own.py"
    own.parent.mkdir()
    own.write_text(OWN.format(task=task, cls=cls))
    monkeypatch.syspath_prepend(tmp_path)
    data = labelled if task == "classification" else summarized
    tree = tiny(family, data, tmp_path / "run", max_steps=1)
    del tree["objective"]
    fit(recipe.load({**tree, "task": {"name": f"my_{task}.own"}}))
    (one,) = said(verb([{"text": STORY}], str(tmp_path / "run")))
    assert set(one) == ({"label", "score"} if task == "classification" else {"text"})
    with pytest.raises(RequestError, match=f"is a run of my_{task}.own .`llmkit {verb.__name__}` uses it"):
        verbs.tag([{"tokens": STORY}], str(tmp_path / "run"))


def test_a_translation_the_other_way_round_knows_its_languages(parallel, tmp_path):
    tree = tiny("t5", parallel, tmp_path / "run", max_steps=1)
    del tree["objective"]
    fit(recipe.load({**tree, "task": {"name": "translation", "source_lang": "en", "target_lang": "de", "reverse": True,
                                      "max_new_tokens": 2}}))
    assert len(said(verbs.translate([{"source": "das moon ."}], str(tmp_path / "run"), "en", "de"))) == 1
    with pytest.raises(RequestError, match=r"--to de: .* it learned 'en'"):
        verbs.translate([{"source": STORY}], str(tmp_path / "run"), "de")


# ---- who can't do it ----

def test_a_model_of_another_kind_is_refused_with_what_to_do(runs, llama, tmp_path):
    rows: list[dict[str, str]] = [{"text": "the cat"}]
    classifier = encoder(tmp_path / "classifier", BertForSequenceClassification, num_labels=2)
    cases = (
        (lambda: verbs.classify(rows, runs["tagging"]), r"is a run of tagging \(`llmkit tag` uses it\).*--labels A,B"),
        (lambda: verbs.classify(rows, encoder(tmp_path / "a")), "embeds texts.*--labels A,B"),
        (lambda: verbs.classify(rows, runs["classification"], ["a", "b"]), "has labels of its own"),
        (lambda: verbs.classify(rows, classifier, ["a", "b"]), "has labels of its own"),
        (lambda: verbs.classify(rows, llama, ["a", "b"]), "is no sentence encoder"),
        (lambda: verbs.classify(rows, labels=["a"]), "at least two labels"),
        (lambda: verbs.classify(rows, labels=["a", "b"], hypothesis="no"), r"\{label\} has to stand in it"),
        (lambda: verbs.classify(rows), "--labels good,bad"),
        (lambda: verbs.tag(rows), "llmkit finetune --task tagging"),
        (lambda: verbs.tag(rows, llama), "writes text; `llmkit tag` needs a model for tagging"),
        (lambda: verbs.summarize(rows, encoder(tmp_path / "b", BertForMaskedLM)), "fills in hidden words"),
        (lambda: verbs.summarize(rows, runs["translation"]), "`llmkit translate` uses it"),
        (lambda: verbs.answer(rows, runs["masked_lm"]), "is a run of masked_lm"),
        (lambda: verbs.translate(rows, llama), "--to: which language"),
        (lambda: verbs.translate(rows, llama, "germn"), "Did you mean 'german'"),
        (lambda: verbs.translate(rows, to="de"), "t5-small translates, and it can't be had.*--task translation"),
    )
    for ask, message in cases:
        with pytest.raises(RequestError, match=message):
            ask()


def test_a_text_that_is_empty_is_told(runs):
    with pytest.raises(DataError, match="rows:1: the field 'text' is empty"):
        said(verbs.classify([{"text": " "}], runs["classification"]))


# ---- the commands ----

def test_a_text_that_names_a_file_is_the_file(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stories.txt").write_text("the cat saw a hat .\na dog chased the moon .\n")
    assert main(["classify", "stories.txt", "--model", runs["classification"]]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert "reading the file stories.txt" in told.err
    assert main(["classify", "storys.txt", "--model", runs["classification"]]) == 3
    assert "no such file or folder. Did you mean 'stories.txt'?" in capsys.readouterr().err
    assert main(["classify", "the stories.txt", "--model", runs["classification"]]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_text_file_is_summarized_whole_and_tagged_by_the_line(runs, tmp_path, capsys):
    path = tmp_path / "stories.txt"
    path.write_text("the cat saw a hat .\na dog chased the moon .\n")
    for verb, run, rows in (("summarize", "summarization", 1), ("tag", "tagging", 2)):
        assert main([verb, str(path), "--model", runs[run], "--json"]) == 0
        assert len(json.loads(capsys.readouterr().out)["predictions"]) == rows


def test_predictions_go_to_a_file_in_the_order_of_the_rows(runs, labelled, tmp_path, capsys, monkeypatch):
    rows = [{"text": f"the cat saw a hat {'. a dog ' * i}"} for i in range(5)]
    path, out = write_rows(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    assert main(["classify", str(path), "--model", runs["classification"], "-o", str(out), "--batch-size", "2"]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes())))
    assert main(["classify", "-", "--model", runs["classification"], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["predictions"]
    assert [one["label"] for one in told] == [one["label"] for one in lines]
    assert [one["score"] for one in told] == pytest.approx([one["score"] for one in lines], rel=1e-5)


def test_an_answer_is_shown_in_its_place(runs, tmp_path, capsys):
    path = tmp_path / "context.txt"
    path.write_text(STORY)
    words = ["answer", "who ?", "--model", runs["question_answering"], "--context", str(path)]
    assert main([*words, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["predictions"]
    assert main(words) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == one["answer"] == STORY[one["start"] : one["end"]]
    assert f"characters {one['start']}-{one['end']}: " in second and f"[{one['answer']}]" in second
    assert main(words[:4]) == 2
    assert "--context: where is the answer to be found?" in capsys.readouterr().err


def test_entities_are_shown_in_the_text():
    from llmkit.cli.tasks import marked

    one = {"tokens": ["the", "cat", "saw", "the", "moon", "."],
           "tags": ["B-WHO", "I-WHO", "O", "B-WHAT", "I-WHAT", "O"],
           "entities": [{"entity": "WHO", "text": "the cat", "start": 0, "end": 2, "score": 0.75},
                        {"entity": "WHAT", "text": "the moon", "start": 3, "end": 5, "score": 0.5}]}
    assert marked({}, one) == ("[the cat WHO] saw [the moon WHAT] .\n"
                               "  WHO   0.75  the cat\n  WHAT  0.50  the moon")
    assert marked({}, {"tokens": ["it", "ran"], "tags": ["PRON", "VERB"]}) == "it/PRON ran/VERB"
