"""A prompt begins as the texts of its run did: where each was a row, the model never saw one without that token."""

from pathlib import Path

import pytest
from conftest import tiny

import llmkit
from llmkit import models
from llmkit.inference.writing.turn_ends import learned_start
from llmkit.inference.writing.writer import Writer


@pytest.fixture(scope="module", params=["none", "blocks"])
def run(request: pytest.FixtureRequest, text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A run whose texts were a row each, and one whose rows are cut anywhere."""
    tree = tiny("gpt2", text, tmp_path_factory.mktemp("starts") / "run", max_steps=1)
    llmkit.fit({**tree, "data": {**tree["data"], "packing": request.param}})
    return request.param, Path(tree["output_dir"])


def test_a_prompt_begins_with_the_token_that_every_text_of_the_run_did(run: tuple[str, Path]) -> None:
    packing, folder = run
    writer = Writer("the run's", models.open_model(folder))
    tokenizer = writer.opened.tokenizer
    begin, bare = tokenizer.bos_token_id, tokenizer("the cat")["input_ids"]
    assert begin not in bare
    assert writer.ids("the cat") == ([begin, *bare] if packing == "none" else bare)
    assert writer.ids(f"{tokenizer.bos_token}the cat") == [begin, *bare]  # said already, it isn't said twice
    assert writer.ids("") == [begin]


def test_a_model_that_is_no_run_begins_as_its_tokenizer_says(run: tuple[str, Path], tmp_path: Path) -> None:
    _, folder = run
    opened = models.open_model(folder)
    opened.model.save_pretrained(tmp_path / "model")
    opened.tokenizer.save_pretrained(tmp_path / "model")
    assert learned_start(models.open_model(tmp_path / "model")) == ()
