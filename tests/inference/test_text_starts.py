"""A prompt begins as the texts did that a run learned: with the token that its objective put in front of each."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import stories, tiny

from llmkit import recipe as recipes
from llmkit.inference.writing.writer import Writer
from llmkit.planning.settle import settle
from llmkit.training.fit import fit
from llmkit.training.prepare import rows

TEXTS = stories(40)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A GPT-2 with a short text a row, trained for a step."""
    folder = tmp_path_factory.mktemp("starts")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    made = tiny("gpt2", folder / "texts.txt", folder / "run", max_steps=1, global_batch_size=2)
    made["data"] |= {"packing": "none", "max_length": 64, "document": "line"}
    fit(recipes.load(made))
    return made


@pytest.fixture
def run(tree: dict[str, Any]) -> Path:
    return Path(tree["output_dir"])


def test_a_prompt_has_the_ids_of_a_row_that_was_learned(tree: dict[str, Any], run: Path) -> None:
    setup, sets = rows(settle(recipes.load(tree)))
    layout = recipes.load(tree).learning.layout(setup.tokenizer, 64, "none")
    assert layout.before == (setup.tokenizer.eos_token_id,)
    lines: Any = sets.train[0]
    learned = {tuple(np.concatenate(lines.rows[i]).tolist()) for i in range(len(lines.rows))}
    writer = Writer.open(str(run))
    whole = [text for text in TEXTS if len(setup.tokenizer(text)["input_ids"]) < 60]
    assert len(whole) >= 5
    for text in whole:  # those that lie in one row
        assert (*writer.ids(text), *layout.after) in learned
        assert setup.tokenizer(text)["input_ids"] == writer.ids(text)[1:]  # the tokenizer adds nothing


def test_one_that_is_written_there_is_not_doubled(run: Path) -> None:
    writer = Writer.open(str(run))
    assert writer.ids("<|endoftext|>the cat") == writer.ids("the cat")
    assert writer.ids("") == list(writer.learned_start)


def test_a_model_that_is_no_runs_is_asked_as_its_tokenizer_says(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "model", tmp_path / "alone")
    writer = Writer.open(str(tmp_path / "alone"))
    assert writer.learned_start == ()
    assert writer.ids("the cat") == writer.opened.tokenizer("the cat")["input_ids"]
