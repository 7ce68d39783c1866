"""Bad files and bad rows: one line that says where and what, before a step is trained; or left out and listed.

F1 nothing is there, F2 and F3 bytes that are no rows, F4 odd and fine, F5 and F6 rows that don't do, F7 too few, F8 too
long, F9 tokenizers that don't fit.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import stories

from reliability import runs
from reliability.commands import Done, Server

pytestmark = pytest.mark.reliability
quick = pytest.mark.quick
GOOD = [{"text": story} for story in stories(40)]
LABELLED = [{"text": story, "label": i % 3} for i, story in enumerate(stories(40))]
Make = Callable[..., dict[str, Any]]


def lines(rows: list[Any]) -> bytes:
    """Rows as JSON lines; bytes stand as they are."""
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def among(bad: Any, rows: list[Any] = GOOD, at: int = 3) -> bytes:
    """Good rows with a bad one on line 3."""
    return lines([*rows[: at - 1], bad, *rows[at - 1 :]])


def learn(llmkit: Server, tree: Make, data: Any, task: str | None = None, **fields: Any) -> Done:
    """Train a step of a tiny model on a file, or on all that a glob finds."""
    made = tree("classification" if task else "causal_lm", max_steps=1)
    made["data"] = {"train": data, "max_length": 32, "validation": 0.3, **fields}
    if task:
        made["task"] = {"name": task}
    path = Path("asked.yaml")
    path.write_text(yaml.safe_dump(made))
    return llmkit.run("pretrain", path)


def refused(done: Done, status: int, *said: str) -> None:
    """One line, the right status, no traceback."""
    assert done.status == status, done.err
    assert done.err.count("llmkit: error:") == 1
    assert "Traceback" not in done.err
    assert len(done.error) < 1000
    assert done.out == ""
    for words in said:
        assert re.search(words, done.error), (words, done.error)


# ---- nothing there ------------------------------------------------------------------------------------------------

NOTHING: dict[str, tuple[bytes | None, str]] = {
    "F1-empty.txt": (b"", "is empty"),
    "F1-empty.jsonl": (b"", "is empty"),
    "F1-empty.json": (b"", "is empty"),
    "F1-empty.csv": (b"", "is empty"),
    "F1-empty.tsv": (b"", "is empty"),
    "F1-empty.parquet": (b"", "this parquet file can't be read"),
    "F1-empty.txt.gz": (b"", "is empty|gzip"),
    "F1-packed-nothing.jsonl.gz": (gzip.compress(b""), "is empty"),
    "F1-blank.txt": (b"\n \n\t\n\n", "is empty"),
    "F1-blank.jsonl": (b"\n  \n\n", "is empty"),
    "F1-mark-only.txt": (codecs.BOM_UTF8, "is empty"),
    "F1-array-of-nothing.json": (b"[]", "is empty"),
    "F1-header-only.csv": (b"text,label\n", "is empty"),
    "F1-header-only.tsv": (b"text\tlabel\n", "is empty"),
    "F1-blank-texts.jsonl": (lines([{"text": ""}, {"text": " "}]), "is empty"),
    "F1-missing.txt": (None, "no such file"),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=quick if "txt" in name else ()) for name in NOTHING])
def test_where_there_is_nothing_that_is_said(name: str, llmkit: Server, tree: Make) -> None:
    content, said = NOTHING[name]
    if content is not None:
        Path(name).write_bytes(content)
    refused(learn(llmkit, tree, name), 3, re.escape(name), said)


@pytest.mark.parametrize(("source", "said"), [
    pytest.param("nothing/*.txt", r"nothing/\*\.txt: no file matches", id="F1-glob"),
    pytest.param("folder", r"folder: is a folder; say which files: folder/\*\.txt", id="F1-folder"),
    pytest.param("fo*", "It matches folders only", id="F1-glob-of-folders"),
    pytest.param("/dev/null", "is no regular file", id="F1-device"),
    pytest.param("storys.txt", r"Did you mean 'stories\.txt'", id="F1-misspelt"),
    pytest.param("hub:nobody/nothing", "LLMKIT_OFFLINE", id="F1-hub-offline"),
    pytest.param("builtin:python-dox", "Did you mean 'python-docs'", id="F1-builtin-misspelt")])
def test_a_source_that_is_none_is_told(source: str, said: str, llmkit: Server, tree: Make) -> None:
    Path("folder").mkdir()
    Path("stories.txt").write_text("a\n")
    refused(learn(llmkit, tree, source), 2 if source.startswith("builtin") else 3, said)


# ---- files that are no rows ---------------------------------------------------------------------------------------

BROKEN: dict[str, tuple[bytes, str]] = {
    "F2-garbage.jsonl": (among(b"hello"), r":3: bad JSON: Expecting value at column 1"),
    "F2-cut-short.jsonl": (lines(GOOD) + b'{"text": "the c', r":41: bad JSON: Unterminated string"),
    "F2-nul.jsonl": (among(b'{"text": "a\0b"}'), r":3: a NUL byte"),
    "F2-nul.txt": (b"one\ntwo\nth\0ree\n", r":3: a NUL byte"),
    "F2-nul.csv": (b"text,label\none,a\nt\0wo,b\n", r":3: a NUL byte"),
    "F2-key-twice.jsonl": (among(b'{"text": "a", "text": "b"}'), r":3: bad JSON: the key 'text' is given twice"),
    "F2-surrogate.jsonl": (among(b'{"text": "a \\ud83d b"}'), r":3: bad JSON: the lone surrogate \\ud83d"),
    "F2-deep.jsonl": (among(b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"), r":3: bad JSON: .*recursion"),
    "F2-huge-number.jsonl": (among(b'{"text": "a", "n": ' + b"9" * 5000 + b"}"), r":3: bad JSON: Exceeds the limit"),
    "F2-no-object.jsonl": (among([1, 2]), r":3: a row must be an object"),
    "F2-null.jsonl": (among(None), r":3: a row must be an object"),
    "F2-array-breaks-off.json": (b'[{"text": "a"},\n{"text": "b"}', r":2: bad JSON: the array breaks off"),
    "F2-array-cut-in-a-row.json": (b'[{"text": "a"},\n{"text": "b', r":2: bad JSON: Unterminated string"),
    "F2-after-the-array.json": (b'[{"text": "a"}]\nx', r":2: bad JSON: 'x' after the end"),
    "F2-array-of-texts.json": (b'["a", "b"]', r":1: a row must be an object"),
    "F2-squad-cut-short.json": (b'{"data": [{"title": "a",\n "paragraphs": [{"context"', r":2: bad JSON"),
    "F2-utf-16.txt": (
        "one\ntwo\n".encode("utf-16"), r":1: starts with the byte order mark of UTF-16.*encoding: utf-16"),
    "F2-utf-32.jsonl": (lines(GOOD).decode().encode("utf-32"), r":1: starts with the byte order mark of UTF-32"),
    "F2-utf-16-unmarked.jsonl": (lines(GOOD).decode().encode("utf-16-le"),
                                r":1: has two bytes a character, as UTF-16-LE; .*encoding: utf-16-le"),
    "F2-gzip-breaks-off.jsonl.gz": (gzip.compress(lines(GOOD) * 50)[:-300], "gzip data breaks off or is damaged"),
    "F2-gzip-damaged.txt.gz": (gzip.compress(b"text\n" * 999)[:40] + b"\xff" * 9, "gzip data breaks off|damaged"),
    "F2-no-gzip.txt.gz": (b"plain text\n", "is no gzip file"),
    "F2-gzip-checksum.txt.gz": (gzip.compress(b"abc\n" * 99)[:-8] + b"\0" * 8, "damaged|is no gzip file"),
    "F2-quote-open.csv": (b'text,label\na,b\n"c,d\ne,f\n', r":3: bad CSV: unexpected end of data"),
    "F2-cells.csv": (b"text,label\na,b\nc\n", r":3: 1 cells, where line 1 has 2"),
    "F2-cells.tsv": (b"text\tlabel\na\tb\nc\td\te\n", r":3: 3 cells, where line 1 has 2"),
    "F2-header-twice.csv": (b"text,text\na,b\n", r":1: the header has 'text' twice"),
    "F2-no-parquet.parquet": (b"PAR1 this is none", "this parquet file can't be read"),
    "F2-packed-parquet.parquet.gz": (gzip.compress(b"PAR1"), "parquet is compressed inside"),
    "F3-latin-1.txt": (b"one\ntwo\ncaf\xe9 three\n", r":3: not utf-8: byte 0xe9 at offset 11.*encoding: cp1252"),
    "F3-latin-1.jsonl": (among(b'{"text": "caf\xe9"}'), r":3: not utf-8: byte 0xe9 at offset \d+"),
    "F3-latin-1.csv": (b"text,label\none,a\ncaf\xe9,b\n", r":3: not utf-8: byte 0xe9"),
    "F3-far-down.txt": ("ä one\n".encode() * 300_000 + b"\xff\n", r":300001: not utf-8: byte 0xff at offset 2100000"),
    "F3-cut-character.txt": ("one\ntwo ä".encode()[:-1], r":2: not utf-8"),
    "F3-packed.txt.gz": (gzip.compress(b"one\ncaf\xe9\n"), r":2: not utf-8: byte 0xe9 at offset 7"),
}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=quick if name.endswith(("garbage.jsonl", "16.txt", "latin-1.txt", "off.jsonl.gz")) else ())
    for name in BROKEN])
def test_a_broken_file_is_told_with_its_line(name: str, llmkit: Server, tree: Make) -> None:
    content, said = BROKEN[name]
    Path(name).write_bytes(content)
    refused(learn(llmkit, tree, name), 3, "^" + re.escape(name) + ("" if said.startswith(":") else ".*") + said)
    assert not Path("run", "model").exists()


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_parquet_file_that_breaks_off_is_told(share: float, llmkit: Server, tree: Make) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(GOOD * 50), "F2.parquet")
    whole = Path("F2.parquet").read_bytes()
    Path("F2.parquet").write_bytes(whole[: int(len(whole) * share)])
    refused(learn(llmkit, tree, "F2.parquet"), 3, "^F2.parquet.*this parquet file can't be read")


@pytest.mark.parametrize("at", [0.1, 0.5, 0.95])
def test_a_parquet_file_with_damaged_bytes_is_told(at: float, llmkit: Server, tree: Make) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([{"text": story} for story in stories(400)]), "F2.parquet")
    raw = bytearray(Path("F2.parquet").read_bytes())
    place = int(len(raw) * at)
    raw[place : place + 64] = b"\xff" * 64
    Path("F2.parquet").write_bytes(raw)
    refused(learn(llmkit, tree, "F2.parquet"), 3, "^F2.parquet")


# ---- odd, and fine ------------------------------------------------------------------------------------------------

ODD: dict[str, bytes] = {
    "F4-mark.jsonl": codecs.BOM_UTF8 + lines(GOOD),
    "F4-crlf.jsonl": lines(GOOD).replace(b"\n", b"\r\n"),
    "F4-blank-lines.jsonl": lines(GOOD).replace(b"\n", b"\n\n  \n"),
    "F4-no-end.jsonl": lines(GOOD).rstrip(b"\n"),
    "F4-array.json": json.dumps(GOOD, indent=2).encode(),
    "F4-lines.json": lines(GOOD),
    "F4-packed.jsonl.gz": gzip.compress(lines(GOOD)),
    "F4-packed-in-parts.jsonl.gz": gzip.compress(lines(GOOD[:20])) + gzip.compress(lines(GOOD[20:])),
    "F4-table.csv": ("text\n" + "".join(f'"{row["text"]}"\n' for row in GOOD)).encode(),
    "F4-mark-crlf.csv": codecs.BOM_UTF8 + ("text\r\n" + "".join(f'{row["text"]}\r\n' for row in GOOD)).encode(),
    "F4-capitals.NDJSON": lines(GOOD),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=quick if "mark.jsonl" in name else ()) for name in ODD])
def test_odd_files_learn_what_the_plain_one_does(name: str, llmkit: Server, tree: Make) -> None:
    Path("plain.jsonl").write_bytes(lines(GOOD))
    Path(name).write_bytes(ODD[name])
    seen = []
    for source in ("plain.jsonl", name):
        made = tree("causal_lm", Path(source).name.replace(".", "-"), max_steps=1)
        made["data"] = {"train": source, "max_length": 32, "document": "line"}
        done = llmkit.run("pretrain", runs.write(made))
        assert done.status == 0, done.err
        seen.append([(event["loss"], event["tokens"]) for event in runs.events(Path(made["output_dir"]))])
    assert seen[0] == seen[1]


def test_a_line_of_25_megabytes_is_read(llmkit: Server, tree: Make) -> None:
    """F4"""
    Path("long.jsonl").write_bytes(lines([{"text": "the cat saw the moon . " * 1_100_000}]))
    assert Path("long.jsonl").stat().st_size > 25e6
    done = learn(llmkit, tree, "long.jsonl", validation=None)
    assert done.status == 0, done.err
    assert done.peak < 3 << 30


# ---- rows that don't do -------------------------------------------------------------------------------------------

TEXTS: dict[str, Any] = {
    "F5-text-missing": ({"id": 7}, r":3: the field 'text' is missing; this row has id"),
    "F5-text-null": ({"text": None}, r":3: 'text' must be text, not null"),
    "F5-text-number": ({"text": 7}, r":3: 'text' must be text, not a number \(7\)"),
    "F5-text-list": ({"text": ["a"]}, r":3: 'text' must be text, not a list"),
    "F5-text-truth": ({"text": True}, r":3: 'text' must be text, not a truth value"),
}
LABELS: dict[str, Any] = {
    "F5-label-missing": ({"text": "a b"}, r":3: the field 'label' is empty"),
    "F5-label-null": ({"text": "a b", "label": None}, r":3: the field 'label' is empty"),
    "F5-label-blank": ({"text": "a b", "label": " "}, r":3: the field 'label' is empty"),
    "F5-label-object": ({"text": "a b", "label": {"a": 1}}, r":3: the field 'label' is no text: \{'a': 1\}"),
    "F5-label-nan": (b'{"text": "a b", "label": NaN}', r":3: the label nan is neither a word nor a whole number"),
    "F5-label-infinite": (b'{"text": "a b", "label": 1e999}', r":3: the label inf is neither"),
    "F5-text-missing": ({"label": 1}, r":3: the field 'text' is empty"),
    "F5-text-number": ({"text": 5, "label": 1}, r":3: the field 'text' is no text: 5"),
}


def spared(llmkit: Server, tree: Make, name: str, row: Any, rows: list[Any], task: str | None) -> None:
    """With on_bad_row: skip the run ends well, and says, counts and lists the row."""
    done = learn(llmkit, tree, name, task, on_bad_row="skip")
    assert done.status == 0, done.err
    assert "1 bad row is left out, and listed in" in done.err
    assert runs.summary(Path("run"))["bad_rows"] == 1
    listed = Path("run", "bad_rows.txt").read_text().splitlines()
    assert len(listed) == 1
    assert listed[0].startswith(f"{name}:3: ")
    first = runs.events(Path("run"))[0]
    Path(name).write_bytes(lines(rows))
    runs_as_if = tree("classification" if task else "causal_lm", "clean", max_steps=1)
    runs_as_if["data"] = {"train": name, "max_length": 32, "validation": 0.3}
    if task:
        runs_as_if["task"] = {"name": task}
    assert llmkit.run("pretrain", runs.write(runs_as_if)).status == 0
    clean = runs.events(Path("clean"))[0]
    assert (clean["loss"], clean["tokens"]) == (first["loss"], first["tokens"])


@pytest.mark.parametrize("case", [pytest.param(case, marks=quick if "null" in case else ()) for case in TEXTS])
def test_a_bad_text_is_told_or_left_out(case: str, llmkit: Server, tree: Make) -> None:
    row, said = TEXTS[case]
    Path("rows.jsonl").write_bytes(among(row))
    refused(learn(llmkit, tree, "rows.jsonl"), 3, "^rows.jsonl" + said)
    spared(llmkit, tree, "rows.jsonl", row, GOOD, None)


@pytest.mark.parametrize("case", [pytest.param(case, marks=quick if "nan" in case else ()) for case in LABELS])
def test_a_bad_label_is_told_or_left_out(case: str, llmkit: Server, tree: Make) -> None:
    row, said = LABELS[case]
    Path("rows.jsonl").write_bytes(among(row, LABELLED))
    refused(learn(llmkit, tree, "rows.jsonl", "classification"), 3, "^rows.jsonl" + said)
    spared(llmkit, tree, "rows.jsonl", row, LABELLED, "classification")


@pytest.mark.parametrize("name", [
    "F2-garbage.jsonl", "F2-nul.jsonl", "F2-key-twice.jsonl", "F2-surrogate.jsonl", "F2-deep.jsonl",
    "F2-huge-number.jsonl", "F2-no-object.jsonl", "F2-null.jsonl", "F3-latin-1.jsonl"])
def test_a_line_that_is_no_row_is_left_out_where_the_recipe_says_so(name: str, llmkit: Server, tree: Make) -> None:
    Path(name).write_bytes(BROKEN[name][0])
    spared(llmkit, tree, name, None, GOOD, None)


def test_all_bad_rows_are_counted_and_listed_and_a_cached_run_lists_them_again(llmkit: Server, tree: Make) -> None:
    """F5: the second run finds its tokens in the cache, and doesn't read the rows."""
    bad = [{"id": 1}, b"x", {"text": 5}, b'{"text": "a']
    Path("rows.jsonl").write_bytes(lines([bad[0], *GOOD[:9], bad[1], *GOOD[9:30], bad[2], *GOOD[30:], bad[3]]))
    listed = []
    for name in ("one", "two"):
        made = tree("causal_lm", name, max_steps=1)
        made["data"] = {"train": "rows.jsonl", "max_length": 32, "on_bad_row": "skip"}
        assert llmkit.run("pretrain", runs.write(made)).status == 0
        assert runs.summary(Path(name))["bad_rows"] == 4
        listed.append(Path(name, "bad_rows.txt").read_text())
    assert listed[0] == listed[1]
    assert [line.split(": ")[0] for line in listed[0].splitlines()] == [f"rows.jsonl:{n}" for n in (1, 11, 33, 44)]


def test_where_every_row_is_bad_that_is_an_error_all_the_same(llmkit: Server, tree: Make) -> None:
    """F5"""
    Path("rows.jsonl").write_bytes(lines([b"x", b"y"]))
    refused(learn(llmkit, tree, "rows.jsonl", on_bad_row="skip"), 3,
            r"^rows.jsonl: no row is left; 2 are bad, the first: rows.jsonl:1: bad JSON")
    refused(learn(llmkit, tree, "rows.jsonl", "classification", on_bad_row="skip"), 3, "no row is left; 2 are bad")


def test_a_word_for_on_bad_row_that_is_none_is_told(llmkit: Server, tree: Make) -> None:
    Path("rows.jsonl").write_bytes(lines(GOOD))
    refused(learn(llmkit, tree, "rows.jsonl", on_bad_row="skp"), 2, r"data.on_bad_row: \"skp\".*Did you mean 'skip'")


@pytest.mark.parametrize("label", [pytest.param(7, id="F6-seven"), pytest.param(-1, id="F6-below-zero")])
def test_a_label_that_is_none_of_those_named_is_told_before_the_first_step(
    label: int, llmkit: Server, tree: Make,
) -> None:
    Path("rows.jsonl").write_bytes(among({"text": "a b", "label": label}, LABELLED))
    for policy, status in (("error", 3), ("skip", 0)):
        made = tree("classification", max_steps=1)
        made["task"] = {"name": "classification", "labels": ["0", "1", "2"]}
        made["data"] = {"train": "rows.jsonl", "max_length": 32, "on_bad_row": policy}
        done = llmkit.run("pretrain", runs.write(made))
        assert done.status == status, done.err
        if policy == "error":
            refused(done, 3, rf"^rows.jsonl:3: the label '{label}' is not among")
            assert not runs.steps(Path("run"))
    assert runs.summary(Path("run"))["bad_rows"] == 1


def test_a_label_that_training_rows_do_not_have_is_told(llmkit: Server, tree: Make) -> None:
    """F6"""
    Path("rows.jsonl").write_bytes(lines(LABELLED))
    Path("held.jsonl").write_bytes(among({"text": "a b", "label": 7}, LABELLED))
    done = learn(llmkit, tree, "rows.jsonl", "classification", validation="held.jsonl")
    refused(done, 3, "^held.jsonl:3: the label '7' is not among those of the training rows")
    done = learn(llmkit, tree, "rows.jsonl", "classification", validation="held.jsonl", on_bad_row="skip")
    assert done.status == 0, done.err
    assert f"{len(LABELLED)} validation rows" in done.err
    assert Path("run", "bad_rows.txt").read_text().startswith("held.jsonl:3: the label '7' is not among")


def test_rows_that_only_their_tokens_show_to_be_bad_are_left_out_too(
    llmkit: Server, tree: Make, questions: Path,
) -> None:
    """F5: a question that leaves no room for its context."""
    found = json.loads(questions.read_text())
    for paragraph in found["data"][0]["paragraphs"][3:5]:
        paragraph["qas"][0]["question"] = "who ? " * 40
    Path("rows.json").write_text(json.dumps(found, indent=1))
    for policy, status in (("error", 3), ("skip", 0)):
        made = tree("question_answering", max_steps=1)
        made["data"] = {"train": "rows.json", "max_length": 32, "on_bad_row": policy}
        done = llmkit.run("finetune", runs.write(made))
        assert done.status == status, done.err
    assert runs.summary(Path("run"))["bad_rows"] == 2
    assert "62 training rows" in done.err


def test_a_message_about_a_huge_row_stays_readable(llmkit: Server, tree: Make) -> None:
    """F5: a header of 20,000 words."""
    Path("rows.tsv").write_text("a word " * 20_000 + "\tb\n1\t2\n")
    done = learn(llmkit, tree, "rows.tsv", "classification")
    assert done.status == 3
    assert len(done.last) < 2000
    assert done.error.startswith("rows.tsv: no column is called 'text'")
    assert done.error.endswith("}}'.")


def test_columns_that_cannot_be_found_are_told_with_those_that_there_are(llmkit: Server, tree: Make) -> None:
    """F5"""
    Path("rows.csv").write_text("a,b\n1,2\n3,4\n")
    refused(learn(llmkit, tree, "rows.csv", "classification"), 3, "no column is called 'text'.*there is a, b.*fields:")
    refused(learn(llmkit, tree, {"source": "rows.csv", "fields": {"text": "aa"}}), 3,
            "no column is called 'aa'; there is a, b.*Did you mean 'a'")


# ---- too few, too long --------------------------------------------------------------------------------------------


def test_fewer_rows_than_a_batch_are_gone_through_again_and_nothing_is_called_success_without_a_step(
    llmkit: Server, tree: Make,
) -> None:
    """F7: a pass ends within a step; the run has the steps that it was asked for."""
    Path("rows.jsonl").write_bytes(lines(GOOD[:3]))
    made = tree("causal_lm", max_steps=2)
    made["data"] = {"train": "rows.jsonl", "max_length": 32}
    done = llmkit.run("pretrain", runs.write(made))
    assert done.status == 0, done.err
    assert [event["step"] for event in runs.events(Path("run"))][-1] == 2
    assert runs.events(Path("run"))[-1]["loss"] > 0


def test_a_single_token_has_nothing_to_learn(llmkit: Server, tree: Make) -> None:
    """F7, N4"""
    Path("rows.jsonl").write_bytes(lines([{"text": "a"}]))
    made = tree("causal_lm", max_steps=1)
    made["tokenizer"] = {"train": {"kind": "characters", "vocab_size": 40}}
    made["data"] = {"train": "rows.jsonl", "max_length": 32, "packing": "none"}
    done = llmkit.run("pretrain", runs.write(made))
    if done.status == 0:  # the end of the text is to be predicted
        assert runs.events(Path("run"))[0]["loss"] > 0
    else:
        refused(done, 3, "nothing to predict|no document is long enough")


@pytest.mark.parametrize("family", ["bert", "gpt2", pytest.param("llama", id="llama-rotary")])
def test_rows_longer_than_the_positions_are_cut_and_counted(family: str, llmkit: Server, tree: Make) -> None:
    """F8: never beyond the positions, rotary or not."""
    from conftest import tiny

    rows = [{**row, "text": " ".join([row["text"]] * 40)} if i == 5 else row for i, row in enumerate(LABELLED)]
    Path("rows.jsonl").write_bytes(lines(rows))
    made = tiny(family, Path("rows.jsonl"), Path("run"), max_steps=1)
    del made["objective"]
    made["task"] = "classification"
    made["data"]["max_length"] = 64
    done = llmkit.run("pretrain", runs.write(made))
    assert done.status == 0, done.err
    assert re.search(r"\d rows are longer than 64 tokens and were cut \([\d,]+ tokens left out\)", done.err)
    made["data"]["max_length"] = 65
    refused(llmkit.run("pretrain", runs.write({**made, "output_dir": "other"})), 2,
            "data.max_length: 65 tokens need more than the 64 positions")


# ---- tokenizers that don't fit ------------------------------------------------------------------------------------


def test_a_vocabulary_smaller_than_the_tokenizer_is_told(llmkit: Server, tree: Make) -> None:
    """F9"""
    Path("rows.jsonl").write_bytes(lines(GOOD))
    made = tree("causal_lm", max_steps=1)
    made["data"] = {"train": "rows.jsonl", "max_length": 32}
    made["backbone"]["config"]["vocab_size"] = 50
    refused(llmkit.run("pretrain", runs.write(made)), 2, "vocab_size: 50 is less than the tokenizer's")


def test_an_objective_that_needs_a_mask_token_adds_one_or_says_so(llmkit: Server, tree: Make, encoder: Path) -> None:
    """F9: another model's tokenizer, which has no mask."""
    Path("rows.jsonl").write_bytes(lines(GOOD))
    made = tree("causal_lm", "gpt2", max_steps=1)
    made["data"] = {"train": "rows.jsonl", "max_length": 32}
    assert llmkit.run("pretrain", runs.write(made)).status == 0
    masked = tree("masked_lm", "bert", max_steps=1)
    masked["data"] = {"train": "rows.jsonl", "max_length": 32}
    masked["tokenizer"] = {"pretrained": "gpt2"}
    done = llmkit.run("pretrain", runs.write(masked))
    if done.status == 0:
        assert '"mask_token"' in Path("bert", "model", "tokenizer_config.json").read_text()
    else:
        refused(done, 2, "mask")


def test_a_file_that_changes_with_size_and_time_as_before_is_read_anew(llmkit: Server, tree: Make) -> None:
    """R15"""
    import os

    Path("rows.txt").write_text("the cat saw the moon .\n" * 60)
    before = Path("rows.txt").stat()
    made = tree("causal_lm", "one", max_steps=1)
    made["data"] = {"train": "rows.txt", "max_length": 32}
    assert llmkit.run("pretrain", runs.write(made)).status == 0
    Path("rows.txt").write_text("the dog saw the moon .\n" * 60)
    os.utime("rows.txt", ns=(before.st_atime_ns, before.st_mtime_ns))
    Path("one", "summary.json").unlink()
    refused(llmkit.run("pretrain", "one.yaml", "--resume", "must"), 4, "the data has changed since: rows.txt")
    assert llmkit.run("pretrain", runs.write({**made, "output_dir": "two"})).status == 0
    assert runs.events(Path("one"))[0]["loss"] != runs.events(Path("two"))[0]["loss"]
