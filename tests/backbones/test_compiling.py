"""Layers are compiled for training and evaluation apart: neither spends the other's graphs, and they are counted."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from conftest import SMALL
from torch._dynamo.utils import counters

from llmkit.backbones.kernels import compiling
from llmkit.recipe import registry


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are made, and run as they are: no compiler is needed."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", torch._dynamo.config.recompile_limit)
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def small(name: str) -> Any:
    family = registry.find("backbones", name)
    fields = {**family.sizes["tiny"], **SMALL[name], "vocab_size": 60, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    head = "AutoModelForSeq2SeqLM" if name == "t5" else "AutoModelForMaskedLM"
    return getattr(transformers, head).from_config(transformers.AutoConfig.for_model(family.model_type, **fields))


def rows(count: int, length: int) -> dict[str, Any]:
    ids = torch.arange(3, 3 + count * length).view(count, length) % 57 + 3
    return {"input_ids": ids, "labels": ids}


@pytest.mark.slow
def test_an_evaluation_before_the_first_step_takes_no_graph_from_training(traced: None) -> None:
    """T5 spent torch's limit of 8 on it, and then no step was compiled."""
    model = small("t5")
    plain = small("t5").eval()
    compiled = compiling.compile_layers(model, registry.find("backbones", "t5"))
    with torch.no_grad():
        model.eval()
        for length in (6, 9):
            torch.testing.assert_close(model(**rows(2, length)).loss, plain(**rows(2, length)).loss)
    judged = compiled.graphs["evaluation"]
    assert (compiled.graphs["training"], judged > 0) == (0, True)
    model.train()
    model(**rows(2, 6), use_cache=False).loss.backward()
    first = compiled.graphs["training"]
    assert first > 0
    for length in (6, 9, 11):
        model(**rows(2, length), use_cache=False).loss.backward()
    assert compiled.graphs == {"training": first, "evaluation": judged}  # all in the first step
    assert dict(counters["graph_break"]) == {}
    assert compiled.describe() == (f"the layers are compiled: {first} graphs for training, {judged} graphs for "
                                   "evaluation")


def test_a_spent_limit_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    compiled = compiling.Compiled()
    with caplog.at_level(logging.WARNING, "llmkit"):
        for count in (compiling.LIMIT - 1, compiling.LIMIT, compiling.LIMIT + 1):
            compiled.graphs["training"] = count
            compiled.tell_when_full("training")
    (said,) = caplog.messages
    assert "the layers took 64 graphs for training; torch compiles no more, and rows of other lengths" in said


def test_each_use_of_each_model_has_code_of_its_own() -> None:
    copies = [compiling.of_its_own(compiling.call) for _ in range(2)]
    assert copies[0].__code__ is not copies[1].__code__
    assert copies[0](torch.nn.Identity(), torch.ones(1)) == 1
