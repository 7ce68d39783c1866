"""`llmkit inspect` shows rows as a run would draw them; the docs' pages show what the code does now."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny

from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.planning import inspect as inspection
from llmkit.system.errors import RequestError

ROOT = Path(__file__).parents[2]


def test_a_row_is_the_one_that_a_run_sees(text: Path, tmp_path: Path) -> None:
    from llmkit.data.batches import Drawn
    from llmkit.objectives.base import Setup
    from llmkit.planning.settle import settle
    from llmkit.planning.vocabulary import speak

    asked = recipe.load(tiny("bert", text, tmp_path))
    settled = settle(asked)
    setup = Setup(speak(settled), settled.family, 32, settled.recipe.data.packing, asked.seed)
    drawn = Drawn(asked.learning.prepare(settled.train, None, setup).train, asked.seed)
    found = inspection.inspect(asked, [2], times=2)
    for nth, one in enumerate(found["drawn"]):
        assert one["fields"] == {name: values.tolist() for name, values in drawn[nth, 2].items()}
    assert found["drawn"][0]["fields"]["labels"] != found["drawn"][1]["fields"]["labels"]


def test_tokens_are_shown_as_words() -> None:
    tokenizer = tokenizers.train(["the cat sat on the mat"] * 3, "wordpiece", 100)
    ids = np.array(tokenizer("the cat")["input_ids"])
    shown = inspection.show({"input_ids": ids, "labels": np.where(ids == ids[1], ids, -100)}, tokenizer)
    assert shown["input_ids"] == "[CLS] the cat [SEP]"
    assert shown["labels"] == "· the · ·"
    assert inspection.show({"input_ids": ids, "labels": np.array([1])}, tokenizer)["labels"] == "1"


def test_a_row_that_is_not_there_is_refused(text: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"--row 9999: there are \d+ rows"):
        inspection.inspect(recipe.load(tiny("bert", text, tmp_path)), [9999])


def test_the_command_prints_one_json_document(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    from llmkit.cli import main

    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny("gpt2", text, tmp_path / "run")))
    assert main(["inspect", str(path), "--row", "0", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["drawn"][0]["row"] == 0
    assert main(["inspect", str(path), "--row", "0", "--row", "1"]) == 0
    assert "input_ids: " in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_rows_of_a_task_and_data_of_ones_own_are_shown(
    labelled: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    from llmkit.cli import main
    from llmkit.training.fit import fit

    fit(recipe.load(tiny("bert", text, tmp_path / "base", max_steps=1)))
    words = ["--task", "classification", "--model", str(tmp_path / "base"), "--data", str(labelled)]
    assert main(["inspect", *words, "--json", "--set", "data.max_length=16"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["learning"], found["max_length"], list(found["drawn"][0]["fields"])) == (
        "classification", 16, ["input_ids", "documents", "labels"])
    assert main(["inspect"]) == 2
    assert "RECIPE: which rows? Name a recipe; or a task and data of your own" in capsys.readouterr().err
    assert main(["inspect", "--task", "clasification"]) == 2
    assert "Did you mean 'classification'" in capsys.readouterr().err


def test_the_pages_of_the_docs_show_what_the_code_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["pages.py", "--check"])
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path))  # it sets one of its own
    status = runpy.run_path(str(ROOT / "docs" / "pages.py"))["main"]()
    assert status == 0, capsys.readouterr().out


def test_every_objective_has_a_page_and_a_recipe() -> None:
    from llmkit.recipe import registry

    shown = {registry.name_of(recipe.load(path).learning) for path in recipe.packaged().values()
             if "objective:" in path.read_text()}
    for name in registry.names("objectives"):
        assert (ROOT / "docs" / "objectives" / f"{name}.md").is_file()
        assert name in shown


def test_it_says_which_columns_were_read_and_which_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    from llmkit.cli import main

    rows = tmp_path / "rows.csv"
    rows.write_text("评论;编号;标签;店\n" + "".join(f"好 {i};{i};{i % 2};a\n" for i in range(8)))
    asked = {**tiny("bert", rows, tmp_path / "run"), "task": {"name": "classification"}}
    asked.pop("objective")
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(asked, allow_unicode=True))
    assert main(["inspect", str(tmp_path / "r.yaml"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sources"] == [
        {"source": str(rows), "used": {"text": "评论", "label": "标签"}, "unused": ["编号", "店"]}]
    assert main(["inspect", str(tmp_path / "r.yaml")]) == 0
    out, err = capsys.readouterr()
    assert f"{rows}: text from '评论', label from '标签'; not used: '编号', '店'" in out
    assert "semicolons stand between the cells" in err


def test_columns_are_said_again_where_the_tokens_were_kept_from_before(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,id,source\n" + "".join(f"the cat sat on mat number {i} again,{i},b\n" for i in range(40)))
    asked = recipe.load(tiny("bert", rows, tmp_path / "run"))
    first, second = (inspection.inspect(asked)["sources"] for _ in range(2))
    assert first == second == [{"source": str(rows), "used": {"text": "text"}, "unused": ["id", "source"]}]
@pytest.mark.parametrize(("kind", "words"), [
    ("bpe", ["今天", "▁a", "▁cat", "⏎", "sat", "▁é", "▁", "天", "\\xe5", "\\xa5", "\\xbd", "·"]),
    ("wordpiece", ["[CLS]", "今", "天", "a", "cat", "sat", "e", "天", "[UNK]", "[SEP]", "·"])])
def test_bytes_are_read_as_letters_where_a_tokenizer_has_bytes(kind, words):
    from llmkit.data.tokenizer import train
    from llmkit.planning.inspect import spelled

    tokenizer = train(["今天 a cat\nsat é 今天"] * 5, kind, 300)
    assert spelled(np.array([*tokenizer("今天 a cat\nsat é 天好")["input_ids"], -100]), tokenizer) == words
