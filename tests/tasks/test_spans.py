"""Entities that are spans of characters become tags of words; rows that are words become sentences."""

import json

import pytest
from conftest import stories, tiny

import llmkit
from llmkit.data.files import Place
from llmkit.data.sources import open_source
from llmkit.inference.predict import predict
from llmkit.recipe import Source
from llmkit.system.errors import DataError
from llmkit.tasks.shared.tagged.conll import WordTable, word_table
from llmkit.tasks.shared.tagged.spans import Spans
from llmkit.tasks.tagging import Tagging
from llmkit.training.fit import fit

TEXT = "Anna met Bob Lee."
WORDS, TAGS = ["Anna", "met", "Bob", "Lee", "."], ["B-PER", "O", "B-PER", "I-PER", "O"]
HERE = Place("a.jsonl", 7)


def read(write, *rows, **fields):
    reader = write(list(rows), name="a.jsonl", **fields)
    return [row for row, _ in Tagging().read(reader)], reader.notes


# ---- spans ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", [
    {"text": TEXT, "label": [[0, 4, "PER"], [9, 16, "PER"]]},
    {"text": TEXT, "labels": [[9, 16, "PER"], [0, 4, "PER"]]},
    {"text": TEXT, "entities": [["PER", 0, 4], ["PER", 9, 16]]},
    {"id": 3, "text": TEXT, "Comments": [], "entities": [
        {"id": 1, "label": "PER", "start_offset": 0, "end_offset": 4},
        {"id": 2, "label": "PER", "start_offset": 9, "end_offset": 16}], "relations": []},
    {"text": TEXT, "spans": [{"start": 0, "end": 4, "label": "PER", "token_start": 0},
                             {"start": 9, "end": 16, "label": "PER"}],
     "tokens": [{"text": "Anna", "start": 0, "end": 4, "id": 0}], "answer": "accept"},
    {"text": TEXT, "label": [{"start": 0, "end": 4, "text": "Anna", "labels": ["PER"]},
                             {"start": 9, "end": 16, "text": "Bob Lee", "labels": ["PER"]}]},
    {"id": 1, "data": {"text": TEXT}, "annotations": [
        {"was_cancelled": True, "result": []},
        {"result": [{"type": "labels", "value": {"start": 0, "end": 4, "text": "Anna", "labels": ["PER"]}},
                    {"type": "labels", "value": {"start": 9, "end": 16, "labels": ["PER"]}},
                    {"type": "relation", "from_id": "a", "to_id": "b"}]}]},
    {"text": TEXT, "annotations": {"entities": [[0, 4, "PER"], [9, 16, "PER"]]}},
    {"sentence": TEXT, "entities": [{"entity_group": "PER", "word": "Anna", "start": 0, "end": 4, "score": 0.9},
                                    {"entity_group": "PER", "word": "Bob Lee", "start": 9, "end": 16}]},
    {"text": TEXT, "entities": [{"offset": 0, "length": 4, "category": "PER"},
                                {"offset": 9, "length": 7, "category": "PER"}]},
    {"text": TEXT, "label": {"PER": [[0, 4], [9, 16]]}},
    {"text": TEXT, "label": {"PER": {"Anna": [[0, 3]], "Bob Lee": [[9, 15]]}}},
    {"text": TEXT, "entities": [{"start_idx": 0, "end_idx": 3, "type": "PER", "entity": "Anna"},
                                {"start_idx": 9, "end_idx": 15, "type": "PER", "entity": "Bob Lee"}]},
    {"text": TEXT, "label": "[(0, 4, 'PER'), (9, 16, 'PER')]"},
])
def test_every_way_to_write_spans_gives_the_same_tags(write, row):
    assert read(write, row)[0] == [{"tokens": WORDS, "tags": TAGS}]


def test_what_the_spans_were_is_said_once_with_numbers(write):
    rows = [{"text": TEXT, "label": [[0, 4, "PER"], [0, 12, "X"], [8, 9, "Y"], [9, 14, "PER"]]},
            {"text": "Nobody came.", "label": []}]
    found, notes = read(write, *rows)
    assert found == [{"tokens": WORDS, "tags": ["B-X", "I-X", "I-X", "O", "O"]},
                     {"tokens": ["Nobody", "came", "."], "tags": ["O", "O", "O"]}]
    (note,) = [one for one in notes if "spans of the column" in one]
    assert note.endswith(
        "a.jsonl: 4 spans of the column 'label' in 2 rows are tags of words, B- the first word of each and I- the "
        "others; 1 rows have no span: their words are all O; 2 spans are left out, for they overlap one that is as "
        "long or longer; 1 spans are left out, for there is no word in them")


@pytest.mark.parametrize(("text", "marks", "tags", "counted"), [
    ("Bob's dog", [[0, 3, "PER"]], ["B-PER", "O"], {"within": 1}),
    ("the cat", [[3, 7, "A"]], ["O", "B-A"], {}),  # a space before it is none of it
    ("小王去上海。", [[0, 2, "名"], [3, 5, "地"]], ["B-名", "I-名", "O", "B-地", "I-地", "O"], {}),
    ("a b", [[0, 1, "X"], [2, 3, "X"]], ["B-X", "B-X"], {}),
    ("a b c", [[0, 3, "X"], [2, 5, "Y"]], ["B-X", "I-X", "O"], {"overlapping": 1}),
    ("\U0001f600 Bob", [[2, 5, "P"]], ["O", "B-P"], {}),  # characters, not units of UTF-16
])
def test_words_that_a_span_touches_are_its_own(text, marks, tags, counted):
    spans = Spans()
    row = spans.row({"text": text, "label": marks}, HERE, {})
    assert row["tags"] == tags
    assert {name: spans.counts[name] for name in ("within", "overlapping", "blank", "last") if spans.counts[name]} == \
        counted


@pytest.mark.parametrize(("marks", "message"), [
    ([[0, 40, "PER"]], r"a\.jsonl:1: the span from 0 to 40 is in no text of 17 characters"),
    ([[4, 4, "PER"]], "the span from 4 to 4 is in no text"),
    ([[-1, 4, "PER"]], "the span from -1 to 4 is in no text"),
    ([{"start": 0, "end": 4}], "the span from 0 to 4 has no label"),
    ([{"start": 0, "end": 4, "labels": []}], "the span from 0 to 4 has no label"),
    ([{"start": 1, "end": 5, "text": "Anna", "label": "PER"}],
     "the span from 1 to 5 is 'nna ', not 'Anna', as the row says; start and end count the text's characters, from 0"),
])
def test_a_span_that_isnt_in_its_text_is_told(write, marks, message):
    with pytest.raises(DataError, match=message):
        read(write, {"text": TEXT, "label": marks})


def test_such_a_row_is_left_out_where_bad_ones_are(tmp_path):
    path = tmp_path / "a.jsonl"
    good = {"text": TEXT, "label": [[0, 4, "PER"]]}
    path.write_text("".join(json.dumps(row) + "\n" for row in (good, {"text": "a", "label": [[0, 9, "X"]]}, good)))
    reader = open_source(Source(str(path)), spares=True)
    assert [place.line for _, place in Tagging().read(reader)] == [1, 3]
    assert list(reader.bad) == [f"{path}:2: the span from 0 to 9 is in no text of 1 characters; start and end count "
                                "these, from 0, and the end is the one after the last."]


@pytest.mark.parametrize("row", [
    {"tokens": ["a", "b"], "tags": ["O", "B-X"], "text": "a b", "spans": [[0, 1, "Y"]]},
    {"text": "a b", "labels": ["O", "B-X"]},
    {"text": "a b", "tags": "O B-X"},
    {"words": ["a", "b"], "ner_tags": ["O", "B-X"], "entities": "none"},
])
def test_tags_of_words_stay_what_they_are(write, row):
    assert read(write, row)[0] == [{"tokens": ["a", "b"], "tags": ["O", "B-X"]}]


def test_tags_that_are_missing_are_no_spans(write):
    with pytest.raises(DataError, match="2 words and 0 tags"):
        read(write, {"text": "a b", "tags": []})
    with pytest.raises(DataError, match="2 words and 1 tags"):
        read(write, {"text": "a b", "label": ["O"]})


def test_a_recipe_may_name_text_and_spans(write):
    rows, _ = read(write, {"text": "x y", "label": [[0, 1, "A"]], "body": TEXT, "found": [[0, 4, "PER"]]},
                   tokens="body", tags="found")
    assert rows == [{"tokens": WORDS, "tags": ["B-PER", "O", "O", "O", "O"]}]


def test_untagged_rows_of_these_files_are_texts(write):
    rows = [{"text": TEXT, "label": []}, {"text": "Hi.", "tokens": [{"text": "Hi"}], "spans": []},
            {"text": "Ho.", "entities": [[0, 99, "X"]]}]
    found = [row["tokens"] for row, _ in Tagging().stream(write(rows, name="a.jsonl"), answered=False)]
    assert found == [WORDS, ["Hi", "."], ["Ho", "."]]
    (nested, _), = Tagging().stream(write([{"data": {"text": TEXT}, "annotations": []}], name="b.jsonl"), False)
    assert nested["tokens"] == WORDS


# ---- rows that are words ----------------------------------------------------------------------------------------

KAGGLE = ("Sentence #,Word,POS,Tag\nSentence: 1,Anna,NNP,B-per\n,met,VBD,O\n,Bob,NNP,B-per\n"
          "Sentence: 2,(,(,O\n,Go,VB,O\n")


@pytest.mark.parametrize("content", [
    KAGGLE,
    "sentence_id,word,tag\n0,Anna,B-per\n0,met,O\n0,Bob,B-per\n1,(,O\n1,Go,O\n",
    "sent_id;Token;NER\n7;Anna;B-per\n7;met;O\n7;Bob;B-per\n7 ;(;O\n8;Go;O\n".replace("7 ;", "8;"),
    "句子编号,词,标注\n1,Anna,B-per\n1,met,O\n1,Bob,B-per\n2,(,O\n2,Go,O\n",
])
def test_words_of_one_sentence_are_one_row(write, content):
    reader = write(content, name="a.csv")
    assert [row for row, _ in Tagging().read(reader)] == [
        {"tokens": ["Anna", "met", "Bob"], "tags": ["B-per", "O", "B-per"]},
        {"tokens": ["(", "Go"], "tags": ["O", "O"]}]
    assert any(note.endswith("says which are of one sentence: 2 sentences of 5 words") for note in reader.notes)


def test_the_tag_is_no_part_of_speech_where_both_are_there(write):
    reader = write(KAGGLE, name="a.csv")
    assert word_table(reader) == WordTable("Sentence #", "Word", "Tag")
    assert word_table(write(KAGGLE, name="a.csv", tokens="Word", tags="POS")) == WordTable("Sentence #", "Word", "POS")
    rows = [row["tags"] for row, _ in Tagging().read(write(KAGGLE, name="a.csv", tokens="Word", tags="POS"))]
    assert rows == [["NNP", "VBD", "NNP"], ["(", "VB"]]


def test_places_are_those_of_first_words(write):
    assert [place.line for _, place in Tagging().read(write(KAGGLE, name="a.csv"))] == [2, 5]


@pytest.mark.parametrize("content", [
    "sentence_id,words,tags\n1,the cat,O B-X\n2,a,O\n", "id,word,tag\n1,a,O\n2,b,O\n", "words,tags\na,O\nb,O\n",
    "sentence_id,w,t\n1,a,O\n1,b,O\n"])
def test_other_tables_are_no_words(write, content):
    assert word_table(write(content, name="a.csv")) is None


def test_a_row_without_its_word_is_told(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(KAGGLE.replace(",met,VBD", ",,VBD"))
    with pytest.raises(DataError, match=r"a\.csv:3: the field 'Word' is empty; each row is a word of a sentence"):
        Tagging().read(open_source(Source(str(path))))
    spared = open_source(Source(str(path)), spares=True)
    assert Tagging().read(spared)[0][0] == {"tokens": ["Anna", "Bob"], "tags": ["B-per", "B-per"]}


def test_a_word_without_a_tag_is_told_in_its_sentence(write):
    with pytest.raises(DataError, match=r"a\.csv:2: the tag of word 2 is neither a word nor a whole number: ''"):
        Tagging().read(write(KAGGLE.replace("VBD,O", "VBD,"), name="a.csv"))


def test_a_run_learns_from_spans_and_tags_a_table_of_words(tmp_path):
    path = tmp_path / "rows.jsonl"
    some = [story.split(" .")[0] for story in stories(24, 3)]
    path.write_text("".join(json.dumps({"text": one, "label": [[0, len(" ".join(one.split()[:2])), "WHO"]]}) + "\n"
                            for one in some))
    made = {**tiny("bert", path, tmp_path / "run"), "task": {"name": "tagging"}}
    del made["objective"]
    summary = fit(llmkit.load_recipe(made))
    assert summary["labels"] == ["O", "B-WHO", "I-WHO"]
    table = tmp_path / "new.csv"
    table.write_text("Sentence #,Word,Tag\nSentence: 1,the,O\n,cat,O\nSentence: 2,a,O\n")
    said = list(predict(tmp_path / "run", table, columns=True))
    assert [(one["Sentence #"], one["tokens"], len(one["tags"])) for one in said] == [
        ("Sentence: 1", ["the", "cat"], 2), ("Sentence: 2", ["a"], 1)]
