"""A loader's workers draw the same batches however they are started: forked, spawned (macOS, Windows), by a server."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import stories

from llmkit import registry
from llmkit.data import tokenizer as tokenizers
from llmkit.data.mapped import Stretch, stretch_of
from llmkit.data.rows import Layout, arrange
from llmkit.data.tokens import Documents
from llmkit.objectives.base import Setup, Text
from llmkit.objectives.causal_lm import CausalLM

RECIPES = ["gpt2 causal_lm blocks", "bert masked_lm documents", "bert next_sentence none", "bert classification none"]
"""Text in a stream and by documents, pairs of sentences, and a task."""


METHODS = ("spawn", "forkserver")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What in_workers.py says of all methods."""
    folder = tmp_path_factory.mktemp("workers")
    (folder / "text.txt").write_text("\n\n".join(stories(40)))
    (folder / "rows.jsonl").write_text(
        "".join(json.dumps({"text": story, "label": i % 2}) + "\n" for i, story in enumerate(stories(40))))
    program = [sys.executable, str(Path(__file__).with_name("in_workers.py")), " ".join(METHODS), str(folder), *RECIPES]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(program, capture_output=True, text=True, timeout=280,
                          env={**os.environ, "PYTHONPATH": root, "LLMKIT_CACHE": str(folder / "cache")})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_workers_that_are_not_forked_draw_the_same_batches_and_import_no_more(method: str, told: Any) -> None:
    found = told[method]
    assert (found["same"], found["different"], found["imported"]) == (RECIPES, [], [])
    assert len(told["expected"]) == 2
    assert found["losses"] == told["expected"]


# ---- arrays of files -------------------------------------------------------------------------------------------


def in_file(folder: Path) -> Documents:
    np.arange(1000, dtype=np.uint16).tofile(folder / "ids.bin")
    np.save(folder / "offsets.npy", np.arange(0, 1001, 10))
    ids = np.asarray(np.memmap(folder / "ids.bin", dtype=np.uint16, mode="r"))
    offsets = np.asarray(np.load(folder / "offsets.npy", mmap_mode="r"))
    return Documents(ids, offsets[:-1], offsets[1:], np.arange(100, dtype=np.uint64))


def test_tokens_in_a_file_go_to_a_worker_by_their_place(tmp_path: Path) -> None:
    documents = in_file(tmp_path)
    written = pickle.dumps(documents)
    assert len(written) < 2000  # the 2,000 bytes of tokens aren't in it, and digests of 800 bytes are
    again = pickle.loads(written)
    for name in ("ids", "starts", "stops", "digests"):
        assert getattr(again, name).tolist() == getattr(documents, name).tolist()
        assert getattr(again, name).dtype == getattr(documents, name).dtype
    assert type(again.ids) is np.ndarray
    learned, held = again.split(0.5, seed=0)
    assert len(learned) + len(held) == 100


def test_rows_of_a_file_are_the_same_in_a_worker(tmp_path: Path) -> None:
    layout = Layout(length=17, room=16, overlap=1, positions=lambda lengths: lengths - 1)  # a lambda isn't pickled
    for packing in ("blocks", "documents", "none"):
        rows = arrange(in_file(tmp_path), layout, packing)
        again = pickle.loads(pickle.dumps(rows))
        assert [[part.tolist() for part in again[row]] for row in range(len(again))] == [
            [part.tolist() for part in rows[row]] for row in range(len(rows))]


def test_a_stretch_is_where_an_array_lies(tmp_path: Path) -> None:
    documents = in_file(tmp_path)
    assert stretch_of(documents.ids[3:7]) == Stretch(str(tmp_path / "ids.bin"), 6, "<u2", 4)
    assert stretch_of(documents.stops) == Stretch(str(tmp_path / "offsets.npy"), 128 + 8, "<i8", 100)
    assert stretch_of(documents.ids[::2]) is None  # it has gaps
    assert stretch_of(documents.ids[:0]) is None  # no file of 0 bytes can be mapped
    assert stretch_of(documents.digests) is None
    assert stretch_of(documents.ids + 1) is None
    whole = np.memmap(tmp_path / "ids.bin", dtype=np.uint16, mode="r")
    assert stretch_of(whole[3:7]) == Stretch(str(tmp_path / "ids.bin"), 6, "<u2", 4)


def test_rows_of_a_family_that_was_made_from_a_config_reach_a_worker(tmp_path: Path) -> None:
    bpe = tokenizers.train(stories(20), "bpe", 300)
    auto = registry.find("backbones", "auto")
    family = type("Auto", (auto,), {"shape": "decoder"})
    rows = arrange(in_file(tmp_path), Layout(length=9, room=8), "blocks")
    text = Text(CausalLM(), rows, Setup(bpe, family, 8, "blocks", seed=0))
    again = pickle.loads(pickle.dumps(text))
    rng = np.random.default_rng(0)
    assert again.draw(0, rng)["input_ids"].tolist() == text.draw(0, rng)["input_ids"].tolist()
