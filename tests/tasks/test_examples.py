"""Every task shows rows of its own, and learns from them as they stand."""

import pytest
from conftest import FAMILIES, stories, write_rows

from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.objectives.base import Setup
from llmkit.recipe import Source, registry

FAMILY = {"encoder": "bert", "decoder": "gpt2"}


@pytest.mark.parametrize("name", registry.names("tasks"))
def test_the_example_of_a_task_is_what_it_learns_from(name, tmp_path):
    task = registry.find("tasks", name)()
    family = FAMILIES[next(family for shape, family in FAMILY.items() if shape in task.shapes)]
    tokenizer = tokenizers.train(stories(80), family.tokenizer, 300, None, family.special)
    path = write_rows(tmp_path / "rows.jsonl", [dict(row) for row in task.example])
    reader = open_source(Source(str(path)))
    sets = task.prepare([reader], None, Setup(tokenizer, family, 64, "none", 0))
    assert len(task.example) >= 2
    assert [len(part) for part in sets.train] == [len(task.example)]
    assert reader.notes == []  # its fields have the task's own names: nothing was guessed
    batch = task.collate(sets.train[0].features, tokenizer)
    assert float(sum(task.targets(batch).values())) > 0
