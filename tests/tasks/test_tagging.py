"""Tagging: words with tags become tokens with labels, and predictions become entities and figures."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import SMALL, STILL, stories, tiny

from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.inference import evaluate as evaluation
from llmkit.inference import predict as prediction
from llmkit.objectives.base import Setup
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.shared.tagged.tags import entities, foreign, scheme_of, scores
from llmkit.tasks.shared.tagged.words import Window, joined, subwords, windows
from llmkit.tasks.tagging import Tagging
from llmkit.training.fit import fit

NAMES = ("O", "B-PER", "I-PER", "B-LOC")


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train([*stories(80), "garfield 吴重阳中国"], "wordpiece", 200)


def setup(tokenizer, family="bert", length=32, labels=None):
    return Setup(tokenizer, registry.find("backbones", family), length, "none", seed=0, labels=labels)


def row(words, tags=None):
    return {"tokens": words.split(), **({} if tags is None else {"tags": tags.split()})}


def features(task, some, known):
    return task.encode([(one, "here") for one in some], known, [])


# ---- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content"), [
    ("a.jsonl", '{"tokens": ["the", "cat"], "tags": ["O", "B-X"]}\n{"tokens": ["a"], "tags": ["O"]}\n'),
    ("a.jsonl", '{"words": ["the", "cat"], "ner_tags": ["O", "B-X"]}\n{"words": ["a"], "ner_tags": ["O"]}\n'),
    ("a.csv", "tokens,tags\nthe cat,O B-X\na,O\n"),
    ("a.txt", "the O\ncat B-X\n\na O\n"),
    ("a.bmes", "the O\ncat B-X\n \n\na O"),
    ("a.conll", "-DOCSTART- -X- O O\n\nthe DT O O\ncat\tNN\tI-NP\tB-X\n\na DT O O\n"),
])
def test_words_and_tags_are_read_from_tables_and_from_columns(write, name, content):
    assert [one for one, _ in Tagging().read(write(content, name=name))] == [row("the cat", "O B-X"), row("a", "O")]


def test_tags_that_are_numbers_have_the_names_that_the_recipe_or_the_file_says(write, tmp_path):
    rows = [{"tokens": ["the", "cat"], "ner_tags": [0, 1]}]
    assert Tagging().read(write(rows))[0][0]["tags"] == ["0", "1"]
    assert Tagging(labels=["O", "B-X"]).read(write(rows))[0][0]["tags"] == ["O", "B-X"]
    with pytest.raises(DataError, match=r"rows\.jsonl:1: a tag is none of the 1 that there are: \[0, 1\]"):
        Tagging(labels=["O"]).read(write(rows))
    about = {"info": {"features": {"ner_tags": {"feature": {"names": ["O", "B-Y"], "_type": "ClassLabel"}}}}}
    table = pa.table({"tokens": [["the", "cat"]], "ner_tags": [[0, 1]]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), tmp_path / "a.parquet")
    assert Tagging().read(open_source(Source(str(tmp_path / "a.parquet"))))[0][0]["tags"] == ["O", "B-Y"]


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.txt", "the O\ncat\n", r"a\.txt:2: 'cat' has no tag; a line is `word TAG`"),
    ("a.txt", "the O\n\n\ncat B-X\ndog\n", r"a\.txt:5: 'dog' has no tag"),
    ("a.jsonl", '{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a", "b"], "tags": ["O"]}\n', r":2: 2 words and 1 tags"),
    ("a.jsonl", '{"tokens": [], "tags": []}\n', r":1: the field 'tokens' is empty"),
    ("a.jsonl", '{"tokens": ["a", " "], "tags": ["O", "O"]}\n', r":1: word 2 is no word: ' '"),
    ("a.jsonl", '{"tokens": ["a"], "tags": [0.5]}\n', r":1: the tag of word 1 is neither a word nor a whole number"),
    ("a.jsonl", '{"tokens": ["a"], "tags": 3}\n', r":1: the field 'tags' is no list: 3"),
    ("a.jsonl", '{"tokens": ["a"]}\n', "no column is called 'tags'"),
    ("a.jsonl", '{"tokens": ["a", "b"], "tags": ["O", "O"]}\n', "all words have the tag 'O'"),
])
def test_a_row_that_is_wrong_is_told_with_file_and_line(write, wordpiece, name, content, said):
    with pytest.raises(DataError, match=said):
        Tagging().prepare([write(content, name=name)], None, setup(wordpiece))


def test_a_tag_that_training_rows_lack_is_told_with_its_word(write, wordpiece):
    learned = write([row("the cat", "O B-PER")])
    held = write([row("a", "O"), row("a dog", "O B-PRE")], name="held.jsonl")
    with pytest.raises(DataError, match=r"held\.jsonl:2: the tag 'B-PRE' of 'dog' is not .* Did you mean 'B-PER'"):
        Tagging().prepare([learned], [held], setup(wordpiece))


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.txt", "the cat's hat, 吴重阳。\na dog\n", [["the", "cat's", "hat", ",", *"吴重阳。"], ["a", "dog"]]),
    ("a.txt", "the O\ncat B-X\n\na O\n", [["the", "cat"], ["a"]]),
    ("a.bmes", "the\ncat\n\na\n", [["the", "cat"], ["a"]]),
    ("a.jsonl", '{"text": "a dog ran."}\n', [["a", "dog", "ran", "."]]),
    ("a.jsonl", '{"tokens": ["a", "dog"]}\n', [["a", "dog"]]),
])
def test_what_is_to_be_predicted_needs_no_tags(write, name, content, words):
    assert [one for one, _ in Tagging().stream(write(content, name=name), answered=False)] == [
        {"tokens": some} for some in words]


# ---- schemes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tags", "scheme"), [
    ("B-X I-X O B-Y", "IOB2"), ("I-X I-X B-X O I-Y", "IOB1"), ("I-X O", "IOB1"), ("B-X B-X O", "IOB2"),
    ("B-X M-X E-X O", "BMES"), ("B-X I-X E-X S-Y", "BIOES"), ("B-X L-X U-Y", "BILOU"), ("O I-X E-X", "IOE2"),
    ("NN DT NN", "plain"), ("O O", "plain"), ("O B-X NN", "plain"),
])
def test_a_scheme_is_found_from_the_tags(tags, scheme):
    assert scheme_of([tags.split()]) == scheme
    assert foreign(tags.split(), scheme) is None


def test_a_scheme_without_some_tag_is_refused(write, wordpiece):
    reader = write({"tokens": ["the", "cat"], "tags": ["O", "B-WHO"]})
    with pytest.raises(RequestError, match=r"task\.scheme: IOE2 marks words by I, E; there is a tag 'B-WHO'"):
        Tagging(scheme="IOE2").prepare([reader], None, setup(wordpiece))


@pytest.mark.parametrize(("tags", "scheme", "found"), [
    ("O B-PER I-PER O", "IOB2", [("PER", 1, 3)]),
    ("I-PER I-LOC B-LOC", "IOB1", [("PER", 0, 1), ("LOC", 1, 2), ("LOC", 2, 3)]),
    ("B-A M-A E-A S-B B-A E-B", "BMES", [("A", 0, 3), ("B", 3, 4)]),
    ("B-A I-A E-A I-A", "BIOES", [("A", 0, 3)]),
    ("B-A L-A U-B O", "BILOU", [("A", 0, 2), ("B", 2, 3)]),
])
def test_tags_become_entities(tags, scheme, found):
    assert entities(tags.split(), scheme) == found


def test_figures_are_seqevals_and_by_hand():
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOBES

    true, said = [["B-A", "I-A", "O", "B-B"]], [["B-A", "O", "O", "B-B"]]
    assert scores(said, true) == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.75}
    rng = np.random.default_rng(0)
    kinds = ["O", *(f"{mark}-{kind}" for mark in "BMES" for kind in "XY")]
    true, said = ([[str(tag) for tag in rng.choice(kinds, 12)] for _ in range(40)] for _ in range(2))
    theirs = [[[tag.replace("M-", "I-") for tag in tags] for tags in some] for some in (true, said)]
    assert scores(said, true)["f1"] == pytest.approx(f1_score(*theirs, mode="strict", scheme=IOBES))
    assert scores([["NN", "DT"]], [["NN", "NN"]]) == {"accuracy": 0.5, "f1": pytest.approx(1 / 3)}


def test_a_floor_is_the_usual_tag_of_each_word():
    learned = [row("ann saw rome", "B-PER O B-LOC"), row("ann saw bob", "B-PER O B-PER"), row("a hat", "O O")]
    floors = Tagging().floors(learned, [row("rome saw ann smith", "B-LOC O B-PER I-PER")])
    assert floors == {"most frequent tag of each word": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "accuracy": 0.75}}


# ---- features ---------------------------------------------------------------------------------------------------


def test_a_label_stands_at_the_first_token_of_each_word(wordpiece):
    known = setup(wordpiece, labels=NAMES)
    (one,) = features(Tagging(), [row("the cat garfields", "O B-PER I-PER")], known)
    tokens = wordpiece.convert_ids_to_tokens(one["input_ids"])
    assert tokens[:3] == ["[CLS]", "the", "cat"] and tokens[4].startswith("##") and tokens[-1] == "[SEP]"
    rest = [-100] * (len(tokens) - 5)
    assert one["labels"].tolist() == [-100, 0, 1, 2, *rest, -100]
    assert one["words"].tolist() == [0, 1, 1, 1, *[0] * len(rest), 0]
    (all_,) = features(Tagging(label_all_tokens=True), [row("the garfields", "O B-PER")], known)
    assert all_["labels"].tolist() == [-100, 0, 1, *[2] * len(rest), -100]  # B, then I


def test_a_decoder_is_read_at_the_last_token_of_a_word():
    bpe = tokenizers.train(stories(80), "bpe", 300)
    (one,) = features(Tagging(), [row("the catxq", "O B-PER")], setup(bpe, "gpt2", labels=NAMES))
    assert bpe.decode(one["input_ids"]) == " the catxq"
    (first, last) = np.flatnonzero(one["labels"] != -100)
    assert last == len(one["input_ids"]) - 1 and one["labels"][[first, last]].tolist() == [0, 1]


@pytest.mark.parametrize(("kind", "family"), [("wordpiece", "bert"), ("unigram", "xlnet")])
def test_words_are_cut_as_a_fast_tokenizer_cuts_them(kind, family):
    tokenizer, _ = tokenizers.trained(["words"], lambda: iter(stories(80)), kind, 300, None,
                                      registry.find("backbones", family).special)
    words = ["the", "old", "garfields", "saw", "a", "hat", "."]
    whole = tokenizer(words, is_split_into_words=True)
    (one,) = features(Tagging(), [row(" ".join(words))], setup(tokenizer, family, labels=NAMES))
    assert one["input_ids"].tolist() == whole["input_ids"]
    ids = whole.word_ids()
    firsts = [int(word is not None and (i == 0 or ids[i - 1] != word)) for i, word in enumerate(ids)]
    assert one["words"].tolist() == firsts


def test_a_word_that_a_tokenizer_drops_is_unknown_to_it(wordpiece):
    assert subwords({"\u200b"}, wordpiece) == {"\u200b": [wordpiece.unk_token_id]}
    (one,) = features(Tagging(), [row("吴 重 阳", "O O O")], setup(wordpiece, labels=NAMES))
    assert wordpiece.convert_ids_to_tokens(one["input_ids"]) == ["[CLS]", *"吴重阳", "[SEP]"]


def test_chinese_has_no_spaces():
    assert joined(["in", "中", "国", "，", "Ann", "Lee"]) == "in中国，Ann Lee"


def test_windows_share_words_and_tag_each_once():
    assert windows([1] * 5, 8, 4) == [Window(0, 5, 0, 5)]
    assert windows([1] * 8, 5, 2) == [Window(0, 5, 0, 4), Window(3, 8, 4, 8)]
    assert windows([2, 2, 3, 1], 4, 2) == [Window(0, 2, 0, 2), Window(2, 4, 2, 4)]  # 2 + 3 would be too many
    rng = np.random.default_rng(0)
    for _ in range(200):
        sizes = rng.integers(1, 6, rng.integers(1, 40)).tolist()
        parts = windows(sizes, 8, 4)
        assert [word for part in parts for word in range(part.first, part.last)] == list(range(len(sizes)))
        assert all(sum(sizes[part.start : part.stop]) <= 8 for part in parts)
        assert all(part.start <= part.first < part.last <= part.stop for part in parts)


def test_a_long_sentence_is_learned_in_parts_or_cut_and_either_is_said(write, wordpiece):
    reader = write([row("the cat saw a dog " * 3, "O B-PER O O B-LOC " * 3), row("a hat", "O O")])
    sets = Tagging(stride=4).prepare([reader], None, setup(wordpiece, length=10))
    assert sets.train[0].owners == [0, 0, 0, 1]
    labels = [one["labels"] for one in sets.train[0].features]
    assert sum((some != -100).sum() for some in labels) == 17  # each word once
    assert any("2 sentences, 4 rows" in note for note in sets.notes)
    cut = Tagging(stride=None).prepare([reader], None, setup(wordpiece, length=10))
    assert cut.train[0].owners == [0, 1]
    assert "1 row is longer than 10 tokens and was cut (7 tokens left out)" in cut.notes
    with pytest.raises(RequestError, match="leaves no room"):
        Tagging().prepare([reader], None, setup(wordpiece, length=2))


def test_the_parts_of_a_sentence_make_one_prediction(wordpiece):
    known = setup(wordpiece, labels=NAMES)
    words = row("Ann Lee saw Rome")
    said = Tagging().combine([[(1, 0.9), (2, 0.8)], [(0, 0.7), (3, 0.6)]], words, known)
    assert said == {"tokens": ["Ann", "Lee", "saw", "Rome"], "tags": ["B-PER", "I-PER", "O", "B-LOC"], "entities": [
        {"entity": "PER", "text": "Ann Lee", "start": 0, "end": 2, "score": 0.8},
        {"entity": "LOC", "text": "Rome", "start": 3, "end": 4, "score": 0.6}]}
    assert Tagging().combine([[(1, 0.9)]], words, known)["tags"] == ["B-PER", "O", "O", "O"]
    assert Tagging().combine([[(0, 0.9)]], row("a"), setup(wordpiece, labels=("DT", "NN"))) == {
        "tokens": ["a"], "tags": ["DT"]}


# ---- loss, and a run from end to end ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "xlnet"])
def test_the_loss_is_transformers_own_and_padding_changes_nothing(family):
    from transformers import AutoModelForTokenClassification

    kind = registry.find("backbones", family)
    tokenizer, _ = tokenizers.trained(["loss"], lambda: iter(stories(80)), kind.tokenizer, 300, None, kind.special)
    task, known = Tagging(stride=2), setup(tokenizer, family, 40, ("O", "B-PER", "I-PER"))
    some = [row(story, " ".join("B-PER" if word in ("cat", "dog") else "O" for word in story.split()))
            for story in stories(5)]
    encoded = features(task, some, known)
    torch.manual_seed(0)
    config = kind.config("tiny", SMALL[family] | STILL[family] | task.config({"labels": known.labels}), tokenizer)
    model = AutoModelForTokenClassification.from_config(config, attn_implementation=kind.attention).eval()
    (alone,) = (task.collate([{name: one[name] for name in one if name != "of"}], tokenizer) for one in encoded[:1])
    losses, said = task.judge(model, alone, kind)
    theirs = model(**{name: alone[name] for name in ("input_ids", "labels")})
    count = int((alone["labels"] != -100).sum())
    assert losses["loss"].item() == pytest.approx(count * theirs.loss.item(), rel=1e-5)
    assert task.targets(alone)["loss"] == count
    assert task.loss(model, alone, kind)["loss"].item() == pytest.approx(losses["loss"].item(), rel=1e-5)
    assert [number for number, _ in said[0]] == theirs.logits[0].argmax(-1)[alone["words"][0] > 0].tolist()
    rows = [{name: one[name] for name in one if name != "of"} for one in encoded]
    together, outcomes = task.judge(model, task.collate(rows, tokenizer), kind)
    apart = [task.judge(model, task.collate([one], tokenizer), kind) for one in rows]
    assert together["loss"].item() == pytest.approx(sum(loss["loss"].item() for loss, _ in apart), rel=1e-5)
    for ours, (_, (own,)) in zip(outcomes, apart, strict=True):
        assert [number for number, _ in ours] == [number for number, _ in own]
        assert [score for _, score in ours] == pytest.approx([score for _, score in own], rel=1e-4)


def test_tag_names_are_in_the_models_config_and_a_run_predicts_what_it_evaluates(tagged: Path, tmp_path: Path):
    tree = tiny("bert", tagged, tmp_path / "run", max_steps=3)
    del tree["objective"]
    fit(recipe.load({**tree, "task": {"name": "tagging", "stride": 4}, "data": {
        "train": str(tagged), "validation": 0.2, "max_length": 16}}))
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "O", "1": "B-WHAT", "2": "I-WHAT", "3": "B-WHO", "4": "I-WHO"}
    measured = evaluation.evaluate(tmp_path / "run", tagged)
    assert set(measured["metrics"]) == {"loss", "precision", "recall", "f1", "accuracy"}
    assert set(measured["floors"]) == {"most frequent tag of each word"}
    said = list(prediction.predict(tmp_path / "run", tagged, batch_size=3))
    true = [one for one, _ in Tagging().read(open_source(Source(str(tagged))))]
    assert [one["tokens"] for one in said] == [one["tokens"] for one in true]
    right = scores([one["tags"] for one in said], [one["tags"] for one in true])
    assert right == pytest.approx({name: measured["metrics"][name] for name in right})
    bare = tmp_path / "bare.txt"
    bare.write_text("".join(" ".join(one["tokens"]) + "\n" for one in true))
    assert [one["tags"] for one in prediction.predict(tmp_path / "run", bare)] == [one["tags"] for one in said]
