"""docs/python.md: its code runs from the first line to the last, and does what the page says."""

import re
from pathlib import Path

import pytest

import llmkit

PAGE = Path(__file__).parents[1] / "docs" / "python.md"


def test_the_pages_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 5
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {})
    said = capsys.readouterr().out
    assert "completed 20\n" in said
    assert re.search(r"^(animal|person) 0\.\d+$", said, re.MULTILINE)
    assert "['accuracy', 'f1', 'loss']" in said
    assert "completed in runs/watched" in said
    assert said.count("True") == 2 * 4 + 1


def test_the_public_names_are_those_of_the_page_and_more() -> None:
    """A snapshot: a name that goes breaks somebody's program."""
    assert llmkit.__all__ == ["Callback", "DataCollator", "LlmkitError", "answer", "evaluate", "export", "fit",
                              "generate", "load_recipe", "predict", "score", "search"]
    assert dir(llmkit) == sorted(llmkit.__all__)
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"llmkit.{name}" in page or f"`{name}`" in page for name in llmkit.__all__)
