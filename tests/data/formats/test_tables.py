"""Tables as other programs write them: what stands between cells, whether there is a header, what columns hold."""

from pathlib import Path
from typing import Any

import pytest

from llmkit.data.sources import Reader, open_source
from llmkit.recipe import Source
from llmkit.system.errors import DataError
from llmkit.tasks.classification import Classification
from llmkit.tasks.instruction import Instruction
from llmkit.tasks.summarization import Summarization
from llmkit.tasks.translation import Translation


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(content: str | bytes, name: str = "r.csv", **options: Any) -> Reader:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return open_source(Source(name, **options))


TWO = [{"text": "good, really", "label": "1"}, {"text": "bad", "label": "0"}]


@pytest.mark.parametrize(("name", "content", "said"), [
    ("r.csv", "text;label\ngood, really;1\nbad;0\n", "r.csv: semicolons stand between the cells."),
    ("r.csv", "\ufefftext;label\r\n\"good, really\";1\r\nbad;0\r\n", "r.csv: semicolons stand between the cells."),
    ("r.csv", "text\tlabel\ngood, really\t1\nbad\t0\n", "r.csv: tabs stand between the cells."),
    ("r.csv", "text|label\ngood, really|1\nbad|0\n", "r.csv: bars stand between the cells."),
    ("r.csv", "sep=;\ntext;label\ngood, really;1\nbad;0\n", "r.csv: semicolons stand between the cells."),
    ("r.csv", '"sep=^"\ntext^label\ngood, really^1\nbad^0\n', "r.csv: '^' stand between the cells."),
    ("r.csv", 'sep=,\ntext,label\n"good, really",1\nbad,0\n', None),
    ("r.tsv", 'text,label\n"good, really",1\nbad,0\n', "r.tsv: commas stand between the cells."),
    ("r.tsv", "text;label\ngood, really;1\nbad;0\n", "r.tsv: semicolons stand between the cells."),
    ("r.csv", 'text,label\n"good, really",1\nbad,0\n', None),
    ("r.csv", 'text,label\n"good, really",1,,\n,,\nbad,0\n,\n', None),  # empty cells and rows that Excel leaves behind
])
def test_what_stands_between_cells_is_found_and_said(name: str, content: str, said: str | None) -> None:
    reader = opened(content, name)
    assert [row for row, _ in reader.rows()] == TWO
    assert reader.notes == ([said] if said else [])


@pytest.mark.parametrize(("content", "texts"), [
    ("text\na; b\nc; d\n", ["a; b", "c; d"]), ("text,n\na;b;c,1\nd;e;f,2\n", ["a;b;c", "d;e;f"]),
    ("n;kind,text\na;x,one; two\nb;y,three; four\n", ["one; two", "three; four"]),
])
def test_what_is_cut_rightly_by_commas_stays_so(content: str, texts: list[str]) -> None:
    reader = opened(content)
    assert ([text for text, _ in reader.documents()], reader.notes) == (texts, [])


def test_a_known_name_tells_what_stands_between_cells_though_a_row_is_bad() -> None:
    with pytest.raises(DataError, match=r"^r\.csv:3: 3 cells, where line 1 has 2\.$"):
        list(opened("id;text\n2;a cat\n3;a;dog\n4;a hat\n").rows())


def test_a_recipes_names_tell_the_header_too_and_lines_are_true() -> None:
    reader = opened("sep=;\r\nWert;Bemerkung\r\n1,5;gut, sehr\r\n\r\n2,5;schlecht\r\n", fields={"text": "Bemerkung"})
    assert [(text, str(place)) for text, place in reader.documents()] == [
        ("gut, sehr", "r.csv:3"), ("schlecht", "r.csv:5")]


def test_what_stands_between_cells_is_part_of_the_fingerprint_where_it_is_unusual() -> None:
    bytes_ = "text;label\na;x\n"
    found = opened(bytes_)
    assert Reader(found.source, "r.csv", found.files).fingerprint() != found.fingerprint()


def test_a_tab_in_quotes_is_the_cells_own() -> None:
    assert [row for row, _ in opened('text\tlabel\n"Odd one\t1\n"a\tb ""c"""\t0\n', "r.tsv").rows()] == [
        {"text": '"Odd one', "label": "1"}, {"text": 'a\tb "c"', "label": "0"}]


@pytest.mark.parametrize(("content", "rows"), [
    ('text\tlabel\n"one\ntwo"\t1\nb\t0\n', [("one\ntwo", "1"), ("b", "0")]),
    ('label\ttext\n1\t"one\ntwo"\n0\tb\n', [("one\ntwo", "1"), ("b", "0")]),
    ('text\tlabel\n"one\n\n""two""\tand"\t1\r\nb\t0\n', [('one\n\n"two"\tand', "1"), ("b", "0")]),
    ('label\ttext\n1\t"one\n0\tb\n', [('"one', "1"), ("b", "0")]),  # a quote, no row across lines
    ('label\ttext\n1\t"one\n0\tb"\n', [('"one', "1"), ('b"', "0")]),
    ('label\ttext\n1\t"one\n0\t"two"\n', [('"one', "1"), ("two", "0")]),
    ('label\ttext\n1\t"one"\n0\t"two\n', [("one", "1"), ('"two', "0")]),
])
def test_a_line_end_in_quotes_is_the_cells_own_where_a_row_needs_it(content: str, rows: list[tuple[str, str]]) -> None:
    for spares in (False, True):
        Path("r.tsv").write_text(content)
        reader = open_source(Source("r.tsv"), spares=spares)
        assert [(row["text"], row["label"]) for row, _ in reader.rows()] == rows
        assert not reader.bad


def test_lines_behind_a_row_across_lines_are_told_right() -> None:
    reader = opened('text\tlabel\na\t1\n"b\nb\nb"\t0\nc\t1\n', "r.tsv")
    assert [place.line for _, place in reader.rows()] == [2, 3, 6]


@pytest.mark.parametrize(("content", "message"), [
    ('text\tlabel\n"one\nb\t0\nc\t1\n', r"r\.tsv:2: 1 cells, where line 1 has 2"),
    ('text\tlabel\n"one\nb\t0\nc"\t1\n', r"r\.tsv:2: 1 cells, where line 1 has 2"),  # it would swallow a row
    ('text\tlabel\nb\t0\n"one\ntwo', r"r\.tsv:3: 1 cells, where line 1 has 2"),
    ('text\tlabel\n"one\ntwo" or\t0\n', r"r\.tsv:2: 1 cells, where line 1 has 2"),
])
def test_a_quote_that_closes_in_no_row_makes_none(content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(opened(content, "r.tsv").rows())


def test_columns_without_a_name_are_numbered() -> None:
    assert next(opened(",text,label,,\n0,a,x,,\n").rows())[0] == {"0": "0", "text": "a", "label": "x", "3": "", "4": ""}


# ---- no header -------------------------------------------------------------------------------------------------

NEWS = '"1","Head","Body of the text"\n"2","Two","Another body text"\n"1","Tri","The third of the bodies"\n' \
       '"2","Last","Here is one more of them"\n'


COLA = "".join(f"{book}\t{label}\t{'' if label else '*'}\t{text}\n" for book, label, text in (
    ("gj04", 0, "The man left early."), ("gj04", 1, "We saw a dog in town."), ("gj04", 1, "He gave it up."),
    ("bc01", 1, "Nobody knows them."), ("bc01", 0, "She knows how sing."), ("bc01", 1, "They made her laugh."),
    ("bc01", 1, "It was there."), ("gj04", 0, "Us left.")))
"""The book, whether it is good English, a star where its author says it isn't, and the sentence."""


@pytest.mark.parametrize(("name", "content", "first", "paste"), [
    ("r.csv", NEWS, {"text": "Body of the text", "label": "1", "1": "Head"}, "{text: 2, label: 0}"),
    ("r.tsv", "7\tA good film\tpositive\n8\tA bad film\tnegative\n9\tVery good\tpositive\n4\tNo, thanks\tnegative\n",
     {"text": "A good film", "label": "positive", "0": "7"}, "{text: 1, label: 2}"),
    ("r.csv", "好看的电影;正面\n难看的电影;负面\n很好看;正面\n", {"text": "好看的电影", "label": "正面"},
     "{text: 0, label: 1}"),
    ("r.csv", "This is a first sentence that is long.\nThis is the second sentence here.\nAnd a third one comes.\n",
     {"text": "This is a first sentence that is long."}, "{text: 0}"),
    ("r.tsv", "g\t0\t*\tThe man left early.\ng\t1\t\tThe cat left.\ng\t0\t*\tThe dog left.\ng\t1\t\tNo one left.\n",
     {"text": "The man left early.", "label": "0", "0": "g", "2": "*"}, "{text: 3, label: 1}"),
    ("r.tsv", COLA, {"text": "The man left early.", "label": "0", "0": "gj04", "2": "*"}, "{text: 3, label: 1}"),
    ("r.tsv", "A man looks at a uniform\tHe sleeps\tcontradiction\nTwo men smile at the cats\tThey sit\tneutral\n",
     {"text": "A man looks at a uniform", "text_pair": "He sleeps", "label": "contradiction"},
     "{text: 0, text_pair: 1, label: 2}"),
    ("r.tsv", "A man looks at a uniform\tThe man is asleep on it\tA\n"
              "Two men smile at the cats\tThey are on the floor\tB\n"
              "Some men play a game\tSome men play a sport\tA\nOne sits on a box\tHe waits for the train\tB\n",
     {"text": "A man looks at a uniform", "text_pair": "The man is asleep on it", "label": "A"},
     "{text: 0, text_pair: 1, label: 2}"),
    ("r.tsv", "a good film\tpositive\na bad film\tnegative\n", {"text": "a good film", "label": "positive"},
     "{text: 0, label: 1}"),
    ("r.csv", "train-1,In Paris he met her.,He met her in Paris.,1\ntrain-2,He saw us at noon.,At ten he saw us.,0\n"
              "train-3,It rains in May.,In May it rains.,1\ntrain-4,We left for Rome.,For Rome we left.,1\n",
     {"text": "In Paris he met her.", "text_pair": "He met her in Paris.", "label": "1", "0": "train-1"},
     "{text: 1, text_pair: 2, label: 3}"),
    ("r.tsv", "1\t7\t8\tWhen is it?\tHow late is it?\t1\n2\t9\t10\tWho are you?\tWhere are you?\t0\n"
              "3\t11\t12\tWhat is a dog?\tWhat is a cat?\t0\n4\t13\t14\tWhy me?\tWhy is it me?\t1\n",
     {"text": "When is it?", "text_pair": "How late is it?", "label": "1", "0": "1", "1": "7", "2": "8"},
     "{text: 3, text_pair: 4, label: 5}"),
])
def test_a_first_row_of_data_is_read_and_a_line_to_paste_says_otherwise(
    name: str, content: str, first: dict[str, str], paste: str,
) -> None:
    reader = opened(content, name)
    assert next(reader.rows())[0] == first
    assert f"{name} has no header: its first row is data" in reader.notes[0]
    assert f"--set data.train='{{source: {name}, fields: {paste}}}' says otherwise." in reader.notes[0]


@pytest.mark.parametrize("content", [
    "kind,words,n\npos,good film,1\nneg,bad film,2\npos,more,3\n", "0,1\ngood film,pos\nbad film,neg\nmore,pos\n",
    "id,How did you like our service in the last week?\n1,It was good and fast and people were kind.\n2,Bad.\n3,Ok\n",
    "text,positive\na film,yes\na book,no\n", "How good is the food,How good is the service\nfine,bad\nbad,bad\n",
    "target,word\na,b\na,c\n", "ticket,remark\n1,It broke.\n2,It works.\n3,It fell.\n",
])
def test_names_make_a_header(content: str) -> None:
    assert opened(content).notes == []


def test_two_texts_of_one_length_are_not_guessed_at() -> None:
    reader = opened("1\tA man sleeps\tA man rests\n2\tA dog runs\tA cat runs\n3\tIt is wet\tIt is dry\n", "r.tsv")
    assert reader.notes == ["r.tsv has no header: its first row is data, and its 3 columns are numbered from 0."]
    with pytest.raises(DataError, match=r"there is 0, 1, 2\. Name them in the recipe: --set data\.train='\{source: "
                                        r"r\.tsv, fields: \{source: 1, target: 2\}\}'\."):
        Translation().read(reader)


# ---- names of columns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "header", "fields"), [
    (Classification(), "工单号,内容,类别", {"text": "b c", "label": "d"}),
    (Classification(), "序号,評論,標籤", {"text": "b c", "label": "d"}),
    (Classification(), "标题,正文,情感", {"text": "b c", "label": "d"}),
    (Summarization(), "标题,原文,摘要", {"text": "b c", "summary": "d"}),
    (Translation(), "编号,原文,译文", {"source": "b c", "target": "d"}),
])
def test_chinese_names_are_known(task: Any, header: str, fields: dict[str, str]) -> None:
    reader = opened(f"{header}\na,b c,d\n")
    assert [row for row, _ in task.read(reader)] == [fields]
    assert Instruction().read(opened("编号,问题,答案\n1,谁？,我。\n"))[0][0]["messages"][1]["content"] == "我。"


@pytest.mark.parametrize(("content", "message"), [
    ("ticket,remark,kind\n17,It broke again,a\n18,It works now,b\n19,It fell,a\n20,It is new,b\n",
     "--set data.train='{source: r.csv, fields: {text: remark, label: kind}}'"),
    ("Nr #,wie war's\n17,It broke again\n18,It works now\n",
     """--set data.train='{source: r.csv, fields: {text: wie war'"'"'s, label: "Nr #"}}'"""),
])
def test_the_text_is_the_column_that_holds_text(content: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Classification().read(opened(content))
    assert message in str(caught.value)


@pytest.mark.parametrize(("line", "message"), [
    ('{"data": {"text": "a"}}', "No other column holds text: 'data' has an object ({'text': 'a'}). If one is meant all "
     "the same: --set data.train='{source: r.jsonl, fields: {text: COLUMN}}'."),
    ('{"messages": [{"role": "user", "content": "a"}], "n": 3}',
     "No other column holds text: 'messages' has a list ([{'role': 'user', 'content': 'a'}]), 'n' has a number (3)."),
    ('{"id": "1234567890", "Note": "It broke."}', "{source: r.jsonl, fields: {text: Note}}"),
])
def test_a_hint_names_no_column_without_text(line: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        list(opened(line + "\n", "r.jsonl").documents())
    assert message in str(caught.value)


def test_a_line_to_paste_keeps_what_the_recipe_says_of_the_source() -> None:
    with pytest.raises(DataError) as caught:
        list(opened("Wert,Bemerkung\n1,größer\n2,kleiner\n".encode("cp1252"), encoding="cp1252").documents())
    assert "'{source: r.csv, encoding: cp1252, fields: {text: Bemerkung}}'" in str(caught.value)
