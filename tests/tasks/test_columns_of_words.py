"""Words and tags in columns: comments, numbers and empty lines are no words, and spaces of Unicode are."""

import pytest

from llmkit.system.errors import DataError
from llmkit.tasks.multiple_choice import MultipleChoice
from llmkit.tasks.question_answering import QuestionAnswering
from llmkit.tasks.shared.lists import unwritten
from llmkit.tasks.shared.tagged.tags import entities, inside, scheme_of, scores
from llmkit.tasks.tagging import Tagging

CAT = {"tokens": ["the", "cat"], "tags": ["O", "B-X"]}
ONE = {"tokens": ["a"], "tags": ["O"]}
CONLLU = """# sent_id = 1
# text = du chat
1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_
1\tde\tde\tADP\tP\t_\t2\tcase\t_\t_
2\tle chat\tchat\tNOUN\tN\t_\t0\troot\t_\tSpaceAfter=No
2.1\tdort\t_\tVERB\t_\t_\t_\t_\t_\t_

# sent_id = 2
1\t#\t#\tSYM\t#\t_\t0\troot\t_\t_
"""


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.conll", "# id 5a0 domain=train\nthe _ _ O\ncat _ _ B-X\n\n\n# id 5a1\na _ _ O\n",
     "2 comment lines (# …) are passed over"),
    ("a.txt", "# sent 1\n1\tthe\tO\n2\tcat\tB-X\n\n# sent 2\n1\ta\tO\n",
     "the first column counts the words and is left out; 2 comment lines (# …) are passed over"),
    ("a.txt", "0 the O\n1 cat B-X\n\n0 a O\n", "the first column counts the words and is left out"),
    ("a.conll", "#begin document (x); part 000\nthe O\ncat B-X\n\na O\n#end document\n",
     "2 comment lines (# …) are passed over"),
    ("a.conll", "-DOCSTART- -X- O O\nthe DT I-NP O\ncat NN I-NP B-X\n\na DT I-NP O\n", None),
    ("a.conll", "the\tO\n\tO\ncat\tB-X\n\t\na\tO\n", "1 lines with a tag and no word are passed over"),
    ("a.conll", "the O\r\ncat B-X \r\n \t\r\na O\r\n", None),
])
def test_what_is_no_word_is_passed_over_and_counted(write, name, content, said):
    reader = write(content, name=name)
    assert [one for one, _ in Tagging().read(reader)] == [CAT, ONE]
    assert [note.partition(": ")[2] for note in reader.notes] == ([said] if said else [])


@pytest.mark.parametrize(("content", "words"), [
    ("# O\ntag B-X\n\n#nlp O\nis O\n", [["#", "tag"], ["#nlp", "is"]]), ("# #\nfive CD\n", [["#", "five"]]),
    ("# # B-NP\nfive CD I-NP\n", [["#", "five"]]), ("1 O\n2 B-X\n", [["1", "2"]]), ("2 CD\n4 CD\n", [["2", "4"]]),
])
def test_a_hash_and_numbers_may_be_words(write, content, words):
    reader = write(content, name="a.conll")
    assert [one["tokens"] for one, _ in Tagging().read(reader)] == words
    assert reader.notes == []


def test_conllu_has_words_in_its_second_column_and_tags_in_its_fourth(write):
    reader = write(CONLLU, name="a.conllu")
    assert [(row, place.line) for row, place in Tagging().read(reader)] == [
        ({"tokens": ["de", "le chat"], "tags": ["ADP", "NOUN"]}, 4), ({"tokens": ["#"], "tags": ["SYM"]}, 9)]
    assert reader.notes[0].endswith("CoNLL-U: words are FORM, tags are UPOS; 3 comment lines (# …) are passed over; "
                                    "2 lines that are no word of their own (1-2, 1.1) are passed over")
    assert [one["tokens"] for one, _ in Tagging().stream(reader, answered=False)] == [["de", "le chat"], ["#"]]


@pytest.mark.parametrize("answered", [True, False])
def test_a_unicode_space_is_a_word_and_parts_nothing(write, answered):
    reader = write("张 B-X\n\u3000 O\n\u00a0 O\n10\u00a0000 O\n\u2028 O\n\n来 O\n" if answered
                   else "张\n\u3000\n\u00a0\n10\u00a0000\n\u2028\n\n来\n", name="a.conll")
    assert [one["tokens"] for one, _ in Tagging().stream(reader, answered)] == [
        ["张", "\u3000", "\u00a0", "10\u00a0000", "\u2028"], ["来"]]
    rows = write([{"tokens": ["a", "\u00a0", "\u3000"], "tags": ["O", "O", "O"]}], name="a.jsonl")
    assert Tagging().read(rows)[0][0]["tokens"] == ["a", "\u00a0", "\u3000"]
    table = write("tokens,tags\na \u00a0 \u3000,O O B-X\n", name="a.csv")
    assert Tagging().read(table)[0][0] == {"tokens": ["a", "\u00a0", "\u3000"], "tags": ["O", "O", "B-X"]}


def test_a_text_with_a_comment_is_still_columns_to_be_predicted(write):
    reader = write("# sent 1\n1\tthe\tO\n2\tcat\tB-X\n", name="a.txt")
    assert [one for one, _ in Tagging().stream(reader, answered=False)] == [{"tokens": ["the", "cat"]}]


def test_a_file_of_nothing_is_told_and_one_among_others_is_not(write, tmp_path):
    with pytest.raises(DataError, match=r"a\.conll: is empty"):
        Tagging().read(write("\n \n", name="a.conll"))
    (tmp_path / "b.conll").write_text("the O\ncat B-X\n")
    from llmkit.data.sources import open_source
    from llmkit.recipe import Source

    assert [one for one, _ in Tagging().read(open_source(Source(str(tmp_path / "*.conll"))))] == [CAT]


# ---- lists as text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "value"), [
    ("['B-PER', 'O']", ["B-PER", "O"]), ('["B-PER", "O"]', ["B-PER", "O"]), ("('a', 'b')", ["a", "b"]),
    ("['a' 'b'\n 'c']", ["a", "b", "c"]), ("[1, 0]", [1, 0]), ("[1 0]", [1, 0]), ("[]", []), ("['x']", ["x"]),
    ("array(['a', 'b'], dtype=object)", ["a", "b"]), ('["a, b" \'c\']', ["a, b", "c"]), ("{'b', 'a'}", ["a", "b"]),
    ("[ the cat ]", None), ("[ 1 ] shows", None), ("[NEG]", None), ("(3)", None),
    ("[ a , b ]", None), ("[ ... ]", None),
])
def test_a_list_that_was_written_as_text_is_a_list(text, value):
    assert unwritten(text) == value


@pytest.mark.parametrize(("text", "why"), [
    ("['a' ... 'b']", r"it is cut short by `\.\.\.`"), ("['a', 'b'", "it breaks off"),
    ("['a', b]", "it is neither JSON nor"),
])
def test_a_list_that_cant_be_read_is_refused(write, text, why):
    with pytest.raises(ValueError, match=why):
        unwritten(text)
    with pytest.raises(DataError, match=rf"a\.csv:2: the field 'tags' is a list written as text, and {why}"):
        Tagging().read(write(f'tokens\ttags\na b\t{text}\n', name="a.csv"))


@pytest.mark.parametrize("content", [
    "tokens,ner_tags\n\"['the', 'cat']\",\"['O', 'B-X']\"\n", "tokens;tags\n['the' 'cat'];['O' 'B-X']\n",
    'tokens\ttags\n["the", "cat"]\t["O", "B-X"]\n', 'words,tags\nthe cat,"[\'O\', \'B-X\']"\n',
])
def test_cells_with_lists_are_words_and_tags(write, content):
    assert [one for one, _ in Tagging().read(write(content, name="a.csv"))] == [CAT]


def test_numbers_in_a_written_list_are_tags(write):
    reader = write('tokens;tags\n["the", "cat"];[0 1]\n', name="a.csv")
    assert Tagging(labels=["O", "B-X"]).read(reader)[0][0] == CAT


def test_untagged_text_that_looks_like_a_list_is_text(write):
    reader = write([{"text": '["Stop, he said.'}], name="a.jsonl")
    (row, _), = Tagging().stream(reader, answered=False)
    assert row["tokens"] == ["[", '"', "Stop", ",", "he", "said", "."]


@pytest.mark.parametrize("name", ["Sentence #", "sentence_id", "sent_id"])
def test_a_table_of_single_words_has_their_sentences(write, name):
    table = write(f"{name},words,tags\n1,the,O\n,cat,B-X\n2,a,O\n", name="a.csv")
    assert [one for one, _ in Tagging().read(table)] == [CAT, ONE]
    assert [one for one, _ in Tagging().read(write(f"{name},words,tags\n1,the cat,O B-X\n2,a,O\n", name="b.csv"))] == [
        CAT, ONE]


@pytest.mark.parametrize("cell", ["['dog', 'cat']", '["dog", "cat"]', "['dog' 'cat']"])
def test_choices_written_as_text_are_choices(write, cell):
    reader = write(f"question\tchoices\tanswer\nwho?\t{cell}\t1\n", name="a.tsv")
    assert MultipleChoice().read(reader)[0][0] == {"question": "who?", "choices": ["dog", "cat"], "answer": 1}
    with pytest.raises(DataError, match=r"a\.tsv:2: the field 'choices' is a list written as text, and it is neither"):
        MultipleChoice().read(write("question\tchoices\tanswer\nwho?\t[dog, cat]\t1\n", name="a.tsv"))


@pytest.mark.parametrize("cell", [
    "{'text': ['cat'], 'answer_start': [4]}", "{'text': array(['cat'], dtype=object), 'answer_start': array([4])}",
    '[{"text": "cat", "answer_start": 4}]', "['cat']", "cat",
])
def test_answers_written_as_text_are_answers(write, cell):
    reader = write(f"question\tcontext\tanswers\nwho?\tThe cat [1] sat.\t{cell}\n", name="a.tsv")
    assert QuestionAnswering().read(reader)[0][0]["answers"] == [{"text": "cat", "answer_start": 4}]
    cited = write("question\tcontext\tanswers\nwho?\tThe cat [1] sat.\t[1]\n", name="b.tsv")
    assert QuestionAnswering().read(cited)[0][0]["answers"] == [{"text": "[1]", "answer_start": 8}]


# ---- schemes -----------------------------------------------------------------------------------------------------


def test_the_mark_may_stand_last():
    tags = ["PER-B", "PER-I", "O", "LOC-B"]
    assert scheme_of([tags]) == "IOB2"
    assert entities(tags, "IOB2") == [("PER", 0, 2), ("LOC", 3, 4)]
    assert scores([tags], [tags])["precision"] == 1.0
    assert inside("PER-B", {"PER-B": 0, "PER-I": 1}) == "PER-I" and inside("PER-B", {"PER-B": 0}) == "PER-B"
    assert scheme_of([["NN-S", "VB"]]) == "plain"
