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
from llmkit.backbones.kernels.unpadded import Unpadding, unpad
from llmkit.recipe import registry


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Graphs are made, and run as they are: no compiler is needed."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    before = torch._dynamo.config.recompile_limit  # pytest would delete it afterwards
    torch.compiler.reset()
    counters.clear()
    yield
    torch._dynamo.config.recompile_limit = before
    torch.compiler.reset()


def small(name: str) -> Any:
    family = registry.find("backbones", name)
    fields = {**family.sizes["tiny"], **SMALL[name], "vocab_size": 60, "decoder_start_token_id": 0}
    torch.manual_seed(0)
    head = "AutoModelForSeq2SeqLM" if name == "t5" else "AutoModelForMaskedLM"
    return getattr(transformers, head).from_config(transformers.AutoConfig.for_model(family.model_type, **fields))


def learned(model: Any, lengths: list[int]) -> list[torch.Tensor]:
    """What a model says of the tokens of rows of such lengths, and every gradient of it."""
    model.zero_grad()
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    said = model(input_ids=rows(len(lengths), max(lengths))["input_ids"] * mask, attention_mask=mask.long()).logits
    said = said[mask]
    said.square().sum().backward()
    return [said.detach(), *(weight.grad for weight in model.parameters() if weight.grad is not None)]


@pytest.mark.parametrize("name", [
    "bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("gpt2", "llama", "modernbert", "albert"))])
def test_compiled_layers_see_no_padding_and_take_one_graph_for_any_lengths(
    name: str, traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    family = registry.find("backbones", name)
    fields = {**family.sizes["tiny"], **SMALL[name], **dict.fromkeys(family.still, 0.0), "vocab_size": 60,
              "pad_token_id": 0}
    plain, model = (transformers.AutoModelForTokenClassification.from_config(
        transformers.AutoConfig.for_model(family.model_type, **fields), attn_implementation="sdpa").eval()
        for _ in range(2))
    model.load_state_dict(plain.state_dict())
    compiled = compiling.compile_layers(model, family, unpad(model, family, compiled=True))
    seen, graphs, usual = set[Any](), list[int](), Unpadding.after

    def after(self: Unpadding, layer: Any, output: Any) -> Any:
        seen.add((output if isinstance(output, torch.Tensor) else output[0]).shape[:2])
        return usual(self, layer, output)

    monkeypatch.setattr(Unpadding, "after", after)
    for lengths in ([3, 9, 1, 5], [2, 8, 4], [7, 1, 1, 2, 6], [5, 5, 2, 11, 3, 1]):
        for mine, theirs in zip(learned(model, lengths), learned(plain, lengths), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()) + 1e-5)
        graphs.append(compiled.graphs["training"])
    assert seen == {(1, 18), (1, 14), (1, 17), (1, 27)}
    assert graphs[1] == graphs[-1], graphs  # the second batch tells torch what changes
    assert dict(counters["graph_break"]) == {}


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
