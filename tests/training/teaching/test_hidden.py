"""Hidden states: which layer learns from which, and how far they are, by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from llmkit.recipe import HiddenStates
from llmkit.system.errors import RequestError
from llmkit.training.teaching.hidden import hidden_loss, matched, projection_of, seen


@pytest.mark.parametrize(("layers", "ours", "theirs", "pairs"), [
    ("auto", 3, 6, {0: 1, 1: 3, 2: 5}), ("auto", 4, 12, {0: 2, 1: 5, 2: 8, 3: 11}), ("auto", 2, 2, {0: 0, 1: 1}),
    ("auto", 1, 6, {0: 5}), ("last", 3, 6, {2: 5}), ({0: 1, 2: 5}, 3, 6, {0: 1, 2: 5}),
])
def test_layers_stand_beside_those_at_even_distances(layers: Any, ours: int, theirs: int, pairs: Any) -> None:
    """TinyBERT's g(m) = m · M / N, which counts from 1."""
    assert matched(HiddenStates(layers=layers), ours, theirs) == pairs


def test_a_layer_that_is_not_there_is_told() -> None:
    with pytest.raises(RequestError, match=r"layers: \{3: 5\}: the student has 3 layers, numbered from 0; 3 is none"):
        matched(HiddenStates(layers={3: 5}), 3, 6)
    with pytest.raises(RequestError, match="the teacher has 6 layers"):
        matched(HiddenStates(layers={0: 6}), 3, 6)


STUDENT = [[[1.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [9.0, 9.0]]]
TEACHER = [[[0.0, 2.0], [2.0, 2.0]], [[4.0, 3.0], [-9.0, 0.0]]]
REAL = torch.tensor([[True, True], [True, False]])


@pytest.mark.parametrize(("kind", "wanted"), [
    ("cosine", (1 - 0.0) + (1 - 1.0) + (1 - 24 / 25)),
    ("mse", (1 + 4) / 2 + (1 + 1) / 2 + (1 + 1) / 2),
])
def test_states_are_compared_where_a_token_is(kind: Any, wanted: float) -> None:
    """Two rows of two positions, the last of which is padding."""
    states = [[torch.tensor(STUDENT)]], [[torch.tensor(TEACHER)]]
    found = hidden_loss(HiddenStates(loss=kind), *states, [REAL], None)
    assert float(found) == pytest.approx(wanted, rel=1e-6)
    both = hidden_loss(HiddenStates(loss=kind), *([stack * 2 for stack in one] for one in states), [REAL], None)
    assert float(both) == pytest.approx(2 * wanted, rel=1e-6)


def test_a_projection_brings_a_narrow_student_to_its_teachers_width() -> None:
    matrix = projection_of(1, 2)
    assert matrix is not None
    with torch.no_grad():
        matrix.weight.copy_(torch.tensor([[1.0], [2.0]]))
    student, teacher = torch.tensor([[[3.0]]]), torch.tensor([[[3.0, 7.0]]])
    found = hidden_loss(HiddenStates(loss="mse"), [[student]], [[teacher]], [torch.tensor([[True]])], matrix)
    assert float(found) == pytest.approx(np.mean([0.0, 1.0]))
    assert projection_of(4, 4) is None


def test_what_layers_give_is_what_transformers_says_of_them(encoder: Any) -> None:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(encoder).eval()
    with torch.no_grad(), seen([list(model.encoder.layer)]) as ours:
        theirs = model(input_ids=torch.tensor([[2, 9, 8, 3]]), output_hidden_states=True).hidden_states[1:]
    assert len(ours[0]) == len(theirs) == model.config.num_hidden_layers
    for mine, other in zip(ours[0], theirs, strict=True):
        assert torch.equal(mine, other)
    with torch.no_grad():
        model(input_ids=torch.tensor([[2, 9, 8, 3]]))
    assert len(ours[0]) == len(theirs)  # nothing is kept after the block
