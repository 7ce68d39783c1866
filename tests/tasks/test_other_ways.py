"""What rows of others say in other ways: decimal commas, dashes for no label, names of choices, columns."""

import json
from pathlib import Path

import pytest

from llmkit.cli import main
from llmkit.data import jsonlines
from llmkit.data.sources import open_source
from llmkit.data.tokenizer_files import load
from llmkit.recipe import Source
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.classification import Classification
from llmkit.tasks.multiple_choice import MultipleChoice
from llmkit.tasks.shared.labels import answer, commas, measured, minus_one
from llmkit.tasks.similarity import Similarity
from llmkit.tasks.tagging import Tagging


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def rows(task, name, text):
    Path(name).write_text(text, encoding="utf-8")
    reader = open_source(Source(name))
    return [row for row, _ in task.read(reader)], reader


@pytest.mark.parametrize(("value", "number"), [
    ("4,5", 4.5), ("-0,25", -0.25), (" 1,0 ", 1.0), ("4.5", 4.5), ("4", 4.0), (3, 3.0), ("4,", None), (",5", None),
    ("1,2,3", None), ("a,5", None), (True, None)])
def test_a_number_may_have_a_decimal_comma_where_one_is_meant(value, number):
    assert measured(value) == number


def test_regression_and_scores_of_a_german_table():
    found, _ = rows(Classification(problem="regression"), "a.csv", "text;label\nSehr gut;4,5\nSchlecht;1,25\n")
    assert [row["label"] for row in found] == [4.5, 1.25]
    found, _ = rows(Similarity(), "s.csv", "text;text_pair;score\na;b;0,5\nc;d;1\n")
    assert [row["score"] for row in found] == [0.5, 1.0]
    with pytest.raises(DataError, match="the score 'much' is no number"):
        rows(Similarity(), "t.csv", "text;text_pair;score\na;b;much\n")


@pytest.mark.parametrize(("answers", "said"), [
    (["4,5", "1,5"], True), (["4,5", "1"], True), (["4,5", "good"], False), (["4.5", "1"], False), (["a,b"], False),
    ([4.5, "1,5"], False)])
def test_labels_that_may_be_numbers_are_said(answers, said):
    assert bool(commas(answers)) is said
    assert answer("4,5", "single_label", None, None) == "4,5"  # as it was: it may be two labels


def test_a_dash_beside_other_labels_may_be_none():
    given = ["-", "neutral", "-", "entailment"]
    assert "2 rows have the label '-'" in minus_one(given, set(given))[0]
    assert minus_one(["-", "+"], {"-", "+"}) == []  # the two signs are labels
    assert minus_one([0, 1], {"0", "1"}) == []


def test_a_choice_goes_by_the_name_that_its_row_gives_it():
    line = {"question": "What?", "choices": {"text": ["a cat", "a dog"], "label": ["1", "2"]}, "answerKey": "2"}
    letters = {"question": "What?", "choices": {"text": ["a cat", "a dog"], "label": ["A", "B"]}, "answerKey": "A"}
    found, _ = rows(MultipleChoice(), "arc.jsonl", json.dumps(line) + "\n" + json.dumps(letters) + "\n")
    assert [row["answer"] for row in found] == [1, 0]
    plain = {"question": "What?", "choices": ["2", "1", "0"], "answer": "1"}
    with pytest.raises(DataError, match=r"may be choice|is none of"):
        rows(MultipleChoice(), "plain.jsonl", json.dumps({**plain, "answer": "0"}) + "\n")


@pytest.mark.parametrize(("head", "row", "found"), [
    ("id,title,body,sentiment", "1,T,good film,pos", {"text": "good film", "label": "pos"}),
    ("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", "1\t7\t8\tone\tother", {"text": "one", "text_pair": "other"}),
    ("title,label", "T,pos", {"text": "T", "label": "pos"})])
def test_columns_that_hold_the_text(head, row, found):
    (read,), _ = rows(Classification(), "t.tsv" if "\t" in head else "t.csv", f"{head}\n{row}\n")
    assert {name: read[name] for name in found} == found


def test_tags_of_entities_come_before_parts_of_speech():
    text = "Sentence #,Sentence,POS,Tag\n1,Anna lives here,\"['NNP', 'VBZ', 'RB']\",\"['B-per', 'O', 'O']\"\n"
    found, reader = rows(Tagging(), "ner.csv", text)
    assert found[0]["tags"] == ["B-per", "O", "O"]
    assert any("POS" in note for note in reader.notes)  # said to be unused


def test_a_byte_order_mark_is_no_part_of_a_vocabulary(caplog):
    caplog.set_level("INFO", "llmkit")
    words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\ncat\n"
    sizes = []
    for name, mark in (("with", b"\xef\xbb\xbf"), ("without", b"")):
        Path(name).mkdir()
        (Path(name) / "vocab.txt").write_bytes(mark + words.encode())
        tokenizer = load(Path(name))
        sizes.append((len(tokenizer), tokenizer.pad_token_id, tokenizer("the cat")["input_ids"]))
        assert Path(tokenizer.name_or_path).name == name
    assert sizes[0] == sizes[1] == (7, 0, [2, 5, 6, 3])
    assert caplog.text.count("begins with a byte order mark") == 1


@pytest.mark.parametrize("name", ["o.xlsx", "o.parquet", "o.jsonl.gz"])
def test_an_output_is_named_by_what_it_is(name, capsys):
    with pytest.raises(RequestError, match=r"name it \.jsonl, \.csv or \.tsv"):
        jsonlines.place(name)
    Path("r.jsonl").write_text('{"text": "a"}\n')
    assert main(["predict", "nowhere", "r.jsonl", "-o", name]) in (2, 4)
    assert not Path(name).exists()
