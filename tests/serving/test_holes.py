"""Tokenizers whose ids have holes: the largest id counts, and not how many tokens there are."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from llmkit.exporting.formats.onnx import read
from llmkit.inference.writing.context import ids_of
from llmkit.inference.writing.writer import Writer
from llmkit.models import Opened
from llmkit.serving.engine import Engine, suits
from llmkit.serving.protocol import CompletionRequest
from llmkit.serving.requests import Limits, of_completion, to_embed
from llmkit.serving.served import EmbeddingModel, WritingModel
from llmkit.system.errors import RequestError

WORDS = {"<pad>": 0, "</s>": 1, "a": 2, "b": 5, "c": 8, "d": 11}


@pytest.fixture
def opened(tmp_path):
    inner = Tokenizer(WordLevel(WORDS, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>")
    assert len(tokenizer) == 6
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=12, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=1)).eval()
    return Opened(model, tokenizer, tmp_path, "AutoModelForCausalLM")


@pytest.fixture
def model(opened):
    return WritingModel("holes", Writer("holes", opened), Engine(opened))


def test_the_largest_id_counts(opened):
    assert ids_of(opened) == 12
    assert suits(opened)


def test_a_model_with_fewer_rows_reads_no_id_beyond_them(opened):
    opened.model.resize_token_embeddings(9)
    assert ids_of(opened) == 9


@pytest.mark.parametrize("prompt", [[11], [8, 11, 2], [5]])
def test_ids_above_the_number_of_tokens_are_gone_on_with(model, prompt):
    made = of_completion(model, CompletionRequest(prompt=prompt, max_tokens=4), prompt, Limits())
    assert made.ids == prompt
    heard = []
    from llmkit.serving.jobs import Job

    model.engine.admit(Job(made.ids, made.wish, 0, 1, lambda number, event: heard.append(event)))
    while model.engine.busy:
        model.engine.turn()
    assert heard[-1].reason in ("stop", "length")


@pytest.mark.parametrize(("prompt", "said"), [
    ([12], "12 is no token; holes has the tokens 0 to 11."), ([-1], "-1 is no token"), ([2, 10**12], "is no token"),
    ([], "it is empty")])
def test_ids_that_a_model_has_no_row_for_are_refused(model, prompt, said):
    with pytest.raises(RequestError) as error:
        of_completion(model, CompletionRequest(prompt=prompt), prompt, Limits())
    assert said in str(error.value)


def test_every_id_may_be_drawn_where_top_k_is_switched_off(model):
    request = CompletionRequest(prompt="a", top_k=-1, temperature=1)
    assert of_completion(model, request, "a", Limits()).wish.options.top_k == 12


def test_ids_to_embed_go_up_to_the_largest(opened):
    embedder = SimpleNamespace(opened=opened, framed=list, max_length=8)
    model = EmbeddingModel("holes", embedder)
    assert to_embed(model, [[11, 2], [8]]) == [[11, 2], [8]]
    with pytest.raises(RequestError, match="12 is no token; holes has the tokens 0 to 11"):
        to_embed(model, [[12]])


def test_log_probabilities_name_holes_by_nothing(model):
    """The likeliest of a place may be an id that stands for no token."""
    request = CompletionRequest(prompt="a", max_tokens=3, logprobs=12)
    made = of_completion(model, request, "a", Limits())
    heard = []
    from llmkit.serving.jobs import Job

    model.engine.admit(Job(made.ids, made.wish, 0, 1, lambda number, event: heard.append(event)))
    while model.engine.busy:
        model.engine.turn()
    chosen = [event.chosen for event in heard if getattr(event, "chosen", None)]
    assert all(len(one.likeliest) == 12 for one in chosen)
    assert {text for text, _ in chosen[0].likeliest} <= {*WORDS, ""}


def test_what_an_export_is_tried_with_is_words_and_no_holes(opened):
    ids = read(opened, 8, 20)["input_ids"]
    assert {2, 5, 8, 11} == set(ids.flatten().tolist()) - {0, 1}
