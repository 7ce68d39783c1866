"""Terminals that know other letters: what they can't show is replaced, and nothing ends for it."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import tiny

from llmkit.cli import main
from llmkit.data import jsonlines
from llmkit.system.errors import DataError, RequestError
from llmkit.system.streams import as_json, show_what_can_be, stdin_lines

LABELS = ("好✓😀é", "坏ß")


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows in Chinese, with signs that GBK has not, and a classifier of them."""
    folder = tmp_path_factory.mktemp("中文 目录")
    rows = [{"text": f"猫坐在垫子上 ✓ {i % 7}", "label": LABELS[i % 2]} for i in range(40)]
    (folder / "行.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    tree = {**tiny("bert", folder / "行.jsonl", folder / "跑"), "objective": None, "task": "classification"}
    tree["tokenizer"] = {"train": {"vocab_size": 200}}
    (folder / "r.yaml").write_text(yaml.safe_dump(tree, allow_unicode=True), "utf-8")
    assert main(["finetune", str(folder / "r.yaml")]) == 0
    return folder


def on_a_terminal(encoding: str, monkeypatch: pytest.MonkeyPatch, *words: object) -> bytes:
    """What a command writes to a terminal of an encoding."""
    bytes_ = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(bytes_, encoding=encoding))
    assert main([str(word) for word in words]) == 0
    sys.stdout.flush()
    return bytes_.getvalue()


@pytest.mark.parametrize(("encoding", "words", "said"), [
    ("ascii", "猫坐", 1), ("ascii", "the cat", 0), ("gbk", "猫坐", 0), ("gbk", "✓ 猫 é", 1), ("utf-8", "✓😀", 0)])
def test_what_a_terminal_has_not_is_said_once(
    encoding: str, words: str, said: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    show_what_can_be()
    for _ in range(2):
        print(words)
        print(words)
    told = [record.getMessage() for record in caplog.records if "lacks some of the characters" in record.getMessage()]
    assert len(told) == said
    assert all(line.startswith(f"stdout is in {encoding}, ") for line in told)


@pytest.mark.parametrize("encoding", ["gbk", "ascii", "latin-1", "cp1252", "shift_jis", "utf-8"])
def test_a_character_that_a_terminal_has_not_is_replaced(
    encoding: str, chinese: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, rows = chinese / "跑", chinese / "行.jsonl"
    said = on_a_terminal(encoding, monkeypatch, "classify", "猫✓", "--model", run).decode(encoding)
    shown = "猫✓".encode(encoding, "replace").decode(encoding)
    assert said.rstrip().endswith(f"  {shown}") and said.count("\n") == 1
    inspected = on_a_terminal(encoding, monkeypatch, "inspect", chinese / "r.yaml").decode(encoding)
    assert inspected.startswith("tiny-bert: classification, 40 rows")
    for words in (("predict", run, rows), ("classify", "猫✓", "--model", run, "--json"),
                  ("inspect", chinese / "r.yaml", "--json"), ("evaluate", run, "--data", rows, "--json")):
        lines = on_a_terminal(encoding, monkeypatch, *words).decode(encoding).splitlines()
        told = [json.loads(line) for line in lines]
        assert "?" not in "".join(lines)
        if words[0] == "predict":
            assert {one["label"] for one in told} <= set(LABELS) and len(told) == 40


def test_json_is_escaped_only_where_it_has_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gbk = io.TextIOWrapper(io.BytesIO(), encoding="gbk")
    assert as_json({"a": "猫"}, gbk) == '{"a": "猫"}'
    assert as_json({"a": "猫✓😀"}, gbk) == '{"a": "\\u732b\\u2713\\ud83d\\ude00"}'
    jsonlines.write(iter([{"a": "猫\ud800"}, {"a": "猫"}]), str(tmp_path / "out.jsonl"))  # half a character
    assert (tmp_path / "out.jsonl").read_text("utf-8") == '{"a": "\\u732b\\ud800"}\n{"a": "猫"}\n'


@pytest.mark.parametrize(("encoding", "errors"), [("gbk", "strict"), ("utf-8", "strict"), ("ascii", "surrogateescape")])
def test_bytes_of_stdin_in_another_encoding_are_told(
    encoding: str, errors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n\xff\xff\n"), encoding, errors))
    with pytest.raises(DataError, match=f"stdin: isn't {encoding} throughout; save the text as a file"):
        list(stdin_lines())


def test_bytes_of_a_command_in_another_encoding_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["generate", "caf\udce9"], ["classify", "caf\udce9"], ["answer", "who?", "--context", "caf\udce9"]):
        assert main(words) == 2
        assert "byte 0xe9 is no utf-8; give the text in a file, or through stdin." in capsys.readouterr().err


def test_a_real_process_with_a_gbk_terminal_ends_well(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "llmkit", "methods"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONIOENCODING": "gbk"}, capture_output=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(IA)?" in done.stdout.decode("gbk")


@pytest.mark.parametrize(("value", "written"), [
    (np.float32(0.5), "0.5"), (np.int64(7), "7"), (np.array([[1, 2]]), "[[1, 2]]"), (np.bool_(True), "true"),
    (torch.tensor([1, 2]), "[1, 2]"), (torch.tensor(2.5), "2.5")])
def test_numbers_of_numpy_and_torch_are_jsons_own(value: Any, written: str) -> None:
    assert as_json({"score": value}) == f'{{"score": {written}}}'


@pytest.mark.parametrize(("value", "kind"), [({1, 2}, "set"), (object(), "object"), (np.random.default_rng(0), "Gen")])
def test_what_json_has_no_form_for_is_named(value: Any, kind: str) -> None:
    with pytest.raises(RequestError, match=f"a {kind}.* has no form in JSON"):
        as_json({"score": value})
