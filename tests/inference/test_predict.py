"""Predictions: one a row, in the order of the file, whatever the batches; from a file without answers, or a pipe."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import tiny

from llmkit import recipe
from llmkit.cli import main
from llmkit.data.sources import open_source
from llmkit.inference import evaluate as evaluation
from llmkit.inference import predict as prediction
from llmkit.inference.embedding import Embedder
from llmkit.recipe import Source
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.classification import Classification
from llmkit.training.fit import fit


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, labelled: Path, asked: Path, text: Path) -> dict[str, Path]:
    """A trained classifier, an encoder-decoder and a decoder that answer, and a language model."""
    folder = tmp_path_factory.mktemp("runs")
    out = {}
    for name, family, data, task in (
        ("labels", "bert", labelled, "classification"), ("answers", "gpt2", asked, "instruction"),
        ("t5", "t5", asked, "instruction"), ("text", "bert", text, None),
    ):
        tree = tiny(family, data, folder / name, max_steps=3, **({"micro_batch_size": 4} if task else {}))
        if task:
            del tree["objective"]
            tree["task"] = {"name": task, **({"max_new_tokens": 6} if task == "instruction" else {})}
            tree["data"]["max_length"] = 40
        fit(recipe.load(tree))
        out[name] = folder / name
    return out


@pytest.fixture
def unanswered(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    words = ["the cat sat", "a dog", "one day the cat saw a dog and ran", "a hat", "the dog ran to the cat and sat"]
    path.write_text("".join(json.dumps({"text": f"{word} {i}"}) + "\n" for i, word in enumerate(words * 5)))
    return path


@pytest.mark.parametrize("run", ["labels", "answers", "t5"])
def test_batches_and_chunks_change_no_prediction(
    run: str, runs: dict[str, Path], unanswered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = list(prediction.predict(runs[run], unanswered, batch_size=1))
    assert len(alone) == 25
    monkeypatch.setattr(prediction, "CHUNK", 7)
    for one, two in zip(alone, prediction.predict(runs[run], unanswered, batch_size=8), strict=True):
        assert one.keys() == two.keys()
        assert one.get("label") == two.get("label")
        assert one.get("text") == two.get("text")
        assert one.get("score", 0) == pytest.approx(two.get("score", 0), rel=1e-4)


def test_a_written_answer_is_what_plain_generation_writes(runs: dict[str, Path], unanswered: Path) -> None:
    ready = evaluation.make_ready(runs["answers"])
    tokenizer = ready.setup.tokenizer
    first = json.loads(unanswered.read_text().splitlines()[0])["text"]
    ids = tokenizer(f"{first}\n", return_tensors="pt").input_ids
    model = ready.learner.model.eval()
    written = model.generate(input_ids=ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1]:]
    said = next(prediction.predict(runs["answers"], unanswered))
    assert said == {"text": tokenizer.decode(written, skip_special_tokens=True).strip()}


def test_predictions_give_the_accuracy_of_evaluate(runs: dict[str, Path], labelled: Path) -> None:
    true = [row["label"] for row, _ in Classification().read(open_source(Source(str(labelled))))]
    said = [one["label"] for one in prediction.predict(runs["labels"], labelled)]
    measured = evaluation.evaluate(runs["labels"], labelled)
    right = sum(a == b for a, b in zip(said, true, strict=True)) / len(true)
    assert measured["metrics"]["accuracy"] == pytest.approx(right)
    assert set(measured["floors"]) == {"majority class", "TF-IDF, logistic regression"}


def test_the_command_writes_a_line_a_row_and_reads_a_pipe(
    runs: dict[str, Path], unanswered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["predict", str(runs["labels"]), str(unanswered), "-o", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [set(line) for line in lines] == [{"label", "score"}] * 25
    for piped in (unanswered.read_bytes(),
                  "".join(json.loads(row)["text"] + "\n" for row in unanswered.read_text().splitlines()).encode()):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(piped)))
        capsys.readouterr()
        assert main(["predict", str(runs["labels"]), "-"]) == 0
        again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["label"] for line in again] == [line["label"] for line in lines]


def test_what_cannot_be_predicted_is_told_and_leaves_the_output_as_it_was(
    runs: dict[str, Path], unanswered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RequestError, match="learned no task"):
        next(prediction.predict(runs["text"], unanswered))
    out = tmp_path / "out.jsonl"
    out.write_text("before\n")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"label": "x"}\n')
    assert main(["predict", str(runs["labels"]), str(bad), "-o", str(out)]) == 3
    assert out.read_text() == "before\n"
    assert "no column is called 'text'" in capsys.readouterr().err
    assert main(["predict", str(runs["labels"]), str(unanswered), "-o", str(tmp_path / "no" / "out.jsonl")]) == 6


@pytest.mark.parametrize(("name", "content", "header", "start"), [
    ("rows.csv", "id;text;label\n7;a cat, \"old\";x\n9;a dog;y\n", "id;text;label;predicted_label;score",
     ['7;"a cat, ""old""";x;', "9;a dog;y;"]),
    ("rows.jsonl", '{"id": 7, "text": "a\\ncat", "meta": {"n": null}}\n{"text": "a dog", "id": 9, "odd": 1}\n',
     "id,text,meta,label,score", ['7,"a\ncat","{""n"": null}",', "9,a dog,,"]),
    ("rows.txt", "a cat\na dog\n", "text,label,score", ["a cat,", "a dog,"]),
    ("rows.csv", "Text,score\na cat,0.5\na dog,1\n", "Text,score,label,predicted_score", ["a cat,0.5,", "a dog,1,"]),
])
def test_a_table_of_predictions_keeps_the_columns_of_the_file(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, header: str,
    start: list[str],
) -> None:
    (tmp_path / name).write_text(content)
    out = tmp_path / "out.csv"
    assert main(["predict", str(runs["labels"]), str(tmp_path / name), "-o", str(out)]) == 0
    first, rest = out.read_text().split("\n", 1)
    said = list(prediction.predict(runs["labels"], tmp_path / name))
    between = ";" if ";" in content else ","  # as in the file that is read
    ends = [f"{one['label']}{between}{json.dumps(one['score'])}\n" for one in said]
    assert (first, rest) == (header, "".join(map("".join, zip(start, ends, strict=True))))
    told = capsys.readouterr().err
    assert ("the column 'odd' is left out, for the first row has none: 1 rows have it" in told) == ("odd" in content)
    assert ("semicolons stand between the cells" in told) == (";" in content)


def test_a_verb_writes_a_table_too(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\na cat\na\tdog\n")
    out = tmp_path / "out.tsv"
    assert main(["classify", str(tmp_path / "rows.csv"), "--model", str(runs["labels"]), "-o", str(out)]) == 0
    header, *lines = out.read_text().splitlines()
    assert header == "text\tlabel\tscore" and [line.rpartition("\t")[0].rpartition("\t")[0] for line in lines] == [
        "a cat", '"a\tdog"']
    reader = open_source(Source(str(out)))
    assert [row["text"] for row, _ in reader.rows()] == ["a cat", "a\tdog"]


def test_rows_in_memory_are_predicted_as_a_files_rows_are(runs: dict[str, Path], unanswered: Path) -> None:
    rows = [json.loads(line) for line in unanswered.read_text().splitlines()]
    said = list(prediction.beside(runs["labels"], iter(rows)))
    assert [row for row, _ in said] == rows
    assert [one for _, one in said] == list(prediction.predict(runs["labels"], unanswered))


def test_what_a_row_loses_is_told(
    runs: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "long.txt"
    path.write_text("the cat sat\n" + "the cat sat " * 40 + "\n")
    assert main(["predict", str(runs["labels"]), str(path)]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2
    assert "1 row is longer than 40 tokens and was cut" in told.err


BAD = [  # (what the file is called, its bytes, which of its rows are bad, what is said of the first)
    ("t.jsonl", b'{"text": "the cat"}\n{"text": ""}\n{"text": "a dog"}\n{"text": 7}\n', "good bad good bad",
     "t.jsonl:2: the field 'text' is empty."),
    ("t.jsonl", b'{"text": " "}\n{"text": "\xff"}\n\n{"text": "a dog"\n{"text": "the cat"}\n', "bad bad bad good",
     "t.jsonl:1: the field 'text' is empty."),
    ("t.jsonl", b'{"body_of_it": "the cat"}\n{"text": "a dog"}\n', "bad good", "t.jsonl:1: no column is called 'text'"),
    ("t.csv", b'text,id\nthe cat,1\n,2\n"no" he said,3\na dog,4\nthe cat\n', "good bad bad good bad",
     "t.csv:3: the field 'text' is empty."),
    ("t.csv", b'text,id\n"a ""cat""",1\n"he said \\"no\\" again",2\n"never closed,3\na dog,4\n', "good bad bad good",
     "t.csv:3: bad CSV: "),
    ("t.tsv", b"text\tid\nthe cat\t1\t2\na dog\t3\n", "bad good", "t.tsv:2: 3 cells, where line 1 has 2."),
    ("t.json", b'[{"text": "the cat"}, {"text": null}, 3]', "good bad bad", "t.json:1: the field 'text' is empty."),
    ("t.txt", b"the cat\n\xd5\xe2\na dog\n", "good bad good", "t.txt:2: not utf-8: byte 0xd5."),
]


@pytest.mark.parametrize(("name", "content", "which", "said"), BAD)
def test_a_bad_row_has_null_in_its_place(
    name: str, content: bytes, which: str, said: str, runs: dict[str, Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    monkeypatch.setattr(prediction, "CHUNK", 2)
    assert main(["predict", str(runs["labels"]), name, "--on-bad-row", "skip"]) == 0
    told = capsys.readouterr()
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert ["bad" if line is None else "good" for line in lines] == which.split()
    bad = which.split().count("bad")
    whose = "row has null in its" if bad == 1 else "rows have null in their"
    assert f"{bad} bad {whose} place; the first: {said}" in told.err
    good = list(prediction.predict(runs["labels"], [{"text": "the cat"}, {"text": "a dog"}]))
    assert {line["label"] for line in lines if line} <= {one["label"] for one in good if one}


def test_an_error_about_a_row_names_the_option_and_all_bad_is_an_error(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("text,label\nthe cat,animal\n,animal\n")
    for command in (["predict", str(runs["labels"]), "t.csv"], ["evaluate", str(runs["labels"]), "--data", "t.csv"]):
        assert main(command) == 3
        assert capsys.readouterr().err.endswith(
            "t.csv:3: the field 'text' is empty. --on-bad-row skip leaves such rows out.\n")
    assert main(["predict", str(runs["labels"]), "t.csv", "--on-bad-row", "skp"]) == 2
    assert "--on-bad-row skp: is neither error nor skip. Did you mean 'skip'?" in capsys.readouterr().err
    Path("t.csv").write_text("text,label\n,animal\n,animal\n")
    assert main(["predict", str(runs["labels"]), "t.csv", "--on-bad-row", "skip"]) == 3
    assert "t.csv: no row is left; 2 are bad, the first: t.csv:2: the field 'text' is empty." in capsys.readouterr().err
    Path("t.csv").write_text("words,id\nthe cat,1\n")
    assert main(["predict", str(runs["labels"]), "t.csv", "--on-bad-row", "skip"]) == 3
    assert "t.csv: no column is called 'text'" in capsys.readouterr().err


def test_a_row_that_is_found_bad_only_as_features_has_null_too(runs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "asked.jsonl"
    long = "the cat sat " * 60
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("the cat", long, "a dog")))
    with pytest.raises(DataError, match=r":2: .* --on-bad-row skip leaves such rows out\.$"):
        list(prediction.predict(runs["answers"], path))
    said = list(prediction.predict(runs["answers"], path, on_bad_row="skip"))
    assert [one is None for one in said] == [False, True, False]
    rows = [{"prompt": "the cat"}, {"prompt": ""}, {"prompt": "a dog"}]
    assert [one is None for one in prediction.predict(runs["answers"], rows, on_bad_row="skip")] == [False, True, False]


def test_bad_rows_are_left_out_of_an_evaluation_and_counted(
    runs: dict[str, Path], labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    whole = evaluation.evaluate(runs["labels"], labelled)
    assert "bad_rows" not in whole
    path = tmp_path / labelled.name
    path.write_text(labelled.read_text() + ",animal\nthe cat,unheard of\n")
    assert main(["evaluate", str(runs["labels"]), "--data", str(path), "--on-bad-row", "skip", "--json"]) == 0
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert found["metrics"] == pytest.approx(whole["metrics"]) and found["bad_rows"] == 2
    assert "2 bad rows are left out; the first: " in told.err


def test_what_the_tokenizer_does_not_know_is_said(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "zh.jsonl"
    path.write_text('{"text": "清晨的港口很安静", "label": "x"}\n' * 3)
    assert main(["predict", str(runs["labels"]), str(path)]) == 0
    said = capsys.readouterr().err
    assert f"{path}: 24 of 30 tokens (80.0%) are [UNK]: the tokenizer doesn't know what stands there, " in said
    assert "such as '清', '晨', '的', '港', '口'. All that is one" in said
    assert main(["generate", "清晨的港口很安静", "--model", str(runs["t5"]), "--max-new-tokens", "2"]) == 0
    assert capsys.readouterr().err.count("are <unk>: the tokenizer doesn't know what stands there, such as '清晨") == 1
    assert main(["generate", "the [MASK] 清晨 sat", "--model", str(runs["text"])]) == 0
    assert "are [UNK]: the tokenizer doesn't know what stands there, such as '清', '晨'. " in capsys.readouterr().err
    assert main(["generate", "the cat", "--model", str(runs["t5"]), "--max-new-tokens", "2"]) == 0
    assert "doesn't know" not in capsys.readouterr().err


def test_what_the_tokenizer_does_not_know_of_rows_to_learn_from_and_to_find_is_said(
    runs: dict[str, Path], labelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / labelled.name
    path.write_text(labelled.read_text() + "清晨的港口很安静,animal\n" * 9)
    assert main(["finetune", "--task", "classification", "--model", str(runs["text"]), "--data", str(path),
                 "--output-dir", str(tmp_path / "run"), "--set", "training.max_steps=1"]) == 0
    said = capsys.readouterr().err
    assert said.count("are [UNK]: the tokenizer doesn't know what stands there, such as '清', ") == 1
    embedder = Embedder.open(runs["text"])
    for _ in range(2):
        embedder.embed(["清晨的港口很安静", "the cat"])
    assert capsys.readouterr().err.count("are [UNK]: ") == 1


def test_a_bad_row_keeps_its_place_and_its_columns_in_a_table(runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id;text\n1;\n2;a cat\n3;a;dog\n4;a hat\n")
    out = tmp_path / "out.csv"
    command = ["predict", str(runs["labels"]), str(tmp_path / "rows.csv"), "--on-bad-row", "skip", "-o", str(out)]
    assert main(command) == 0
    header, *lines = out.read_text().splitlines()
    assert header == "id;text;label;score"
    assert [line.split(";")[:2] for line in lines] == [["1", ""], ["2", "a cat"], ["", ""], ["4", "a hat"]]
    assert [line.endswith(";;") for line in lines] == [True, False, True, False]


# ---- files in other encodings ---------------------------------------------------------------------------------------


@pytest.fixture
def russian(tmp_path: Path) -> Path:
    path = tmp_path / "rows.csv"
    path.write_bytes("text,label\nУтром в гавани было очень тихо,animal\nникто не помнил старый мост,other\n".encode(
        "cp1251"))
    return path


def test_a_file_is_read_in_the_encoding_that_is_said(runs: dict[str, Path], russian: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv"
    plain.write_text(russian.read_bytes().decode("cp1251"))
    said = list(prediction.predict(runs["labels"], russian, encoding="cp1251", columns=True))
    assert said == list(prediction.predict(runs["labels"], plain, columns=True))
    assert said[0]["text"] == "Утром в гавани было очень тихо"
    measured = evaluation.evaluate(runs["labels"], russian, encoding="cp1251")
    assert measured["metrics"] == evaluation.evaluate(runs["labels"], plain)["metrics"]


def test_the_option_is_named_where_a_file_has_another_encoding(runs: dict[str, Path], russian: Path) -> None:
    message = r"rows\.csv:2: not utf-8: .* if that is right, say so: --encoding cp1251, or save the file as UTF-8"
    with pytest.raises(DataError, match=message):
        list(prediction.predict(runs["labels"], russian))
    with pytest.raises(DataError, match=message):
        evaluation.evaluate(runs["labels"], russian)
    with pytest.raises(RequestError, match="no encoding is called 'cp1215'"):
        evaluation.evaluate(runs["labels"], russian, encoding="cp1215")


def test_rows_in_memory_have_no_encoding(runs: dict[str, Path]) -> None:
    for ask in (evaluation.evaluate, lambda *given, **more: list(prediction.predict(*given, **more))):
        with pytest.raises(RequestError, match=r"^encoding: gbk is for a file; rows in memory are text already\.$"):
            ask(runs["labels"], [{"text": "a", "label": "other"}], encoding="gbk")


@pytest.mark.parametrize("words", [["evaluate", "RUN", "--data", "FILE", "--json"], ["predict", "RUN", "FILE"]])
def test_the_commands_take_it(words: list[str], runs: dict[str, Path], russian: Path, capsys: Any) -> None:
    given = {"RUN": str(runs["labels"]), "FILE": str(russian)}
    words = [given.get(word, word) for word in words]
    assert main([*words, "--encoding", "cp1251"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[0])
    assert main(words) == 3
    assert "say so: --encoding cp1251" in capsys.readouterr().err
