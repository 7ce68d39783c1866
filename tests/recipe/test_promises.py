"""What is wrong with what a plug-in's method returned, in words; and nothing where nothing is."""

import numpy as np
import pytest
import torch

from llmkit.objectives.base import Objective
from llmkit.objectives.masked_lm import MaskedLM
from llmkit.prompting.base import Prompting
from llmkit.recipe import promises
from llmkit.recipe.promises import FAMILY, LEARNING, METHOD, MODE
from llmkit.recipe.seams import Answering, Learning, Method, PromptMode
from llmkit.recipe.watching import foreign, own_line
from llmkit.tuning.base import Tuning

ONE = torch.tensor(1.5)


class TwoHeads(Objective):
    heads = ("words", "pairs")


class Plain(Objective):
    """All but its rows is llmkit's."""


@pytest.mark.parametrize(("value", "words"), [
    (None, "None"), (3, "a int, 3"), ([1, 2], "a list of 2"), ((1,), "a tuple of 1"),
    (torch.zeros(8, 2), "a Tensor of shape (8, 2)"), (np.zeros(3), "a ndarray of shape (3,)"),
    ({"loss": ONE, "n": 2}, "{'loss': a Tensor of shape (), 'n': a int, 2}"), ({}, "{}"),
    (dict.fromkeys("abcdef", 1), "{'a': a int, 1, 'b': a int, 1, 'c': a int, 1, 'd': a int, 1, …}"),
    ("x" * 200, "a str, '" + "x" * 79)])
def test_a_value_is_shown_in_a_few_words(value, words):
    assert promises.shown(value) == words


@pytest.mark.parametrize("value", [
    {"words": ONE, "pairs": torch.zeros(1)}, {"words": ONE, "pairs": ONE, "more": None}])
def test_a_sum_for_each_head_is_well(value):
    assert promises.sums(TwoHeads(), value) == ""


@pytest.mark.parametrize(("value", "fault"), [
    (ONE, "returned a Tensor of shape (); its heads are words, pairs"),
    ({"words": ONE}, "returned {'words': a Tensor of shape ()}; its heads are words, pairs"),
    ({"words": ONE, "pairs": 2.0}, "returned a float, 2.0 for pairs"),
    ({"words": torch.zeros(2, 3), "pairs": ONE}, "returned a Tensor of shape (2, 3) for words"),
    ({"words": np.float64(1), "pairs": ONE}, "returned a float64 of shape () for words")])
def test_what_is_no_sum_for_each_head_is_told(value, fault):
    assert promises.sums(TwoHeads(), value) == fault


def test_targets_may_be_plain_numbers_too():
    assert promises.counts(TwoHeads(), {"words": 3, "pairs": 1.0}) == ""
    assert promises.counts(TwoHeads(), {"words": ONE, "pairs": ONE}) == ""
    assert promises.counts(TwoHeads(), {"words": 3}) == "returned {'words': a int, 3}; its heads are words, pairs"


def test_a_gradient_is_asked_for_where_something_is_learned_and_of_one_head_at_least():
    loss = {"words": ONE.clone().requires_grad_(), "pairs": ONE}
    assert promises.slopes(TwoHeads(), loss) == ""
    bare = {"words": ONE, "pairs": ONE}
    assert promises.slopes(TwoHeads(), bare).startswith("returned losses without a gradient")
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert promises.slopes(TwoHeads(), bare) == ""


IDS = np.arange(4)


@pytest.mark.parametrize(("value", "fault"), [
    ({"input_ids": IDS, "labels": IDS}, ""), ({"input_ids": [1, 2], "labels": [1, 2]}, ""),
    ({"input_ids": IDS, "decoder_input_ids": IDS[:2], "labels": IDS[:2]}, ""),
    ({"input_ids": IDS, "labels": IDS[:2]}, "returned 2 labels for 4 input_ids"),
    ({"input_ids": IDS, "decoder_input_ids": IDS[:2], "labels": IDS}, "returned 4 labels for 2 decoder_input_ids"),
    ({"input_ids": IDS}, "returned input_ids, and no labels"), ({}, "returned nothing, and no input_ids"),
    ({"input_ids": IDS[None], "labels": IDS}, "returned a ndarray of shape (1, 4) for input_ids, which isn't one row"),
    ({"input_ids": IDS, "labels": np.int64(3)}, "returned a int64 of shape () for labels"),
    ({"input_ids": "7 8", "labels": IDS}, "returned a str, '7 8' for input_ids"),
    ([IDS, IDS], "returned a list of 2")])
def test_a_row_that_llmkits_own_code_goes_on_with_has_one_length(value, fault):
    assert promises.drawn(Plain(), value) == fault


def test_a_plug_in_that_reads_its_rows_itself_may_draw_what_it_likes():
    class Own(Objective):
        def collate(self, rows, tokenizer):
            return {}

        def prepare(self, train, validation, setup):
            raise NotImplementedError

    assert promises.drawn(Own(), {"pixels": IDS[None], "label": 3}) == ""
    assert promises.drawn(MaskedLM(), {"input_ids": IDS}) != promises.drawn(Own(), {"input_ids": IDS})


@pytest.mark.parametrize(("fault", "well", "wrong"), [
    (promises.a(str), ["", "x"], [None, 3]), (promises.a(str, none=True), ["x", None], [3]),
    (promises.a("Module"), [torch.nn.Linear(1, 1)], [torch.nn.Linear, None]),
    (promises.a_pair, [(1, 2)], [[1, 2], (1,), None]),
    (promises.a_list, [[], (1,), np.zeros(2), range(2)], ["ab", {}, 3]),
    (promises.a_list_if_any, [None, [1]], [1]),
    (promises.tensors, [{}, {"a": ONE}], [{"a": 1}, {"a": np.zeros(2)}, [ONE], None]),
    (promises.numbers, [{}, {"a": 1, "b": 0.5, "c": np.float64(2)}],
     [{"a": np.float32(1)}, {"a": ONE}, {"a": "1"}, None]),
    (promises.rows_of_features, [[], [{"input_ids": IDS}]], [None, [IDS], [{"input_ids": IDS}, {"ids": IDS}]]),
    (promises.judgement, [({"loss": ONE}, [])], [{"loss": ONE}, ({"loss": ONE}, None), (ONE, [])])])
def test_what_is_well_and_what_is_wrong(fault, well, wrong):
    assert [fault(Plain(), value) for value in well] == [""] * len(well)
    assert all(fault(Plain(), value) for value in wrong)


@pytest.mark.parametrize(("table", "protocol"), [
    (LEARNING, Answering), (METHOD, Method), (MODE, PromptMode)])
def test_every_method_of_a_seam_has_its_promise(table, protocol):
    """A method that is added to a protocol is looked at in plug-ins, too."""
    asked = {name for kind in protocol.__mro__ for name, member in vars(kind).items()
             if callable(member) and not name.startswith("_") and kind.__module__ == Learning.__module__}
    assert asked - set(table) <= {"combined", "featured"}


def test_every_promise_is_of_a_method_that_the_base_class_has():
    from llmkit.backbones.base import Family
    from llmkit.tasks.base import Task

    for table, base in ((LEARNING, Task), (METHOD, Tuning), (MODE, Prompting), (FAMILY, Family)):
        assert [name for name in table if name not in dir(base)] == []


def test_llmkits_own_are_told_from_others():
    assert foreign(Plain)
    assert foreign(Plain())
    assert not foreign(MaskedLM)
    assert not foreign(MaskedLM())


def test_the_line_of_ones_own_is_the_last_that_is_neither_llmkits_nor_a_librarys():
    with pytest.raises(ValueError, match="zero-dimensional") as error:
        np.concatenate([lambda: 1])
    assert own_line(error.value).startswith(f", in {__file__}:")
    assert own_line(ValueError("it was never raised")) == ""
