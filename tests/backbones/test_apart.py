"""Documents of one row are kept apart by FlexAttention's blocks and FlashAttention's lengths as by a dense mask."""

import itertools
from typing import Any

import pytest
import torch
import transformers
from conftest import SMALL, tiny
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import AttentionInterface

from llmkit import recipe as recipes
from llmkit.backbones.kernels import apart
from llmkit.planning import attention
from llmkit.planning.settle import settle
from llmkit.recipe import registry
from llmkit.system.errors import RequestError

DOCUMENTS = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1, -1, -1]])
"""Of two rows of nine tokens; -1 is padding."""
FLEXED = ("llama", "qwen3", "bert", "roberta", "modernbert")
FLASHED = ("gpt2", "llama", "bert", "roberta", "modernbert")
HEAD = {"decoder": "AutoModelForCausalLM", "encoder": "AutoModelForMaskedLM"}


def model(family: Any, name: str) -> Any:
    """A random model with heads of 16 numbers, and a window that is shorter than the row."""
    more = {"local_attention": 4, "global_attn_every_n_layers": 2} if name == "modernbert" else {}
    fields = {**family.sizes["tiny"], **SMALL[name], "vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1,
              "eos_token_id": 2, **more}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family.model_type, **fields)
    made = getattr(transformers, HEAD[family.shape]).from_config(config).eval()
    with torch.no_grad():  # so that positions and neighbours matter more than they do at first
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


def said(family: Any, made: Any, way: str) -> Any:
    """The logits (2, 9, words) of a model that attends in a way."""
    made.config._attn_implementation = way
    ids = torch.arange(3, 21).view(2, 9)
    with torch.inference_mode():
        return family.outputs(made, {"input_ids": ids, "documents": DOCUMENTS}).logits.view(2, 9, -1)


@pytest.mark.parametrize("name", FLEXED)
def test_blocks_say_what_a_dense_mask_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def uncompiled(query: Any, key: Any, value: Any, training: bool = False, **options: Any) -> Any:
        return flex_attention(query, key, value, **options)

    monkeypatch.setattr("transformers.integrations.flex_attention.compile_friendly_flex_attention", uncompiled)
    family = registry.find("backbones", name)
    made = model(family, name)
    real = DOCUMENTS >= 0
    torch.testing.assert_close(said(family, made, "flex_attention")[real], said(family, made, "sdpa")[real],
                               rtol=1e-4, atol=1e-4)


def varlen(
    module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: Any = None, sliding_window: Any = None,
    cu_seq_lens_q: Any = None, max_length_q: Any = None, **options: Any,
) -> Any:
    """FlashAttention's varlen in plain words: each stretch of (1, heads, tokens, width) attends by itself."""
    edges = cu_seq_lens_q.tolist()
    assert (mask, len(query), max_length_q) == (None, 1, max(b - a for a, b in itertools.pairwise(edges)))
    out = torch.empty_like(query)
    for start, end in itertools.pairwise(edges):
        some = (slice(None), slice(None), slice(start, end))
        places = torch.arange(end - start)
        seen = torch.ones(end - start, end - start, dtype=torch.bool)
        if sliding_window is not None:  # transformers' own is one more than the places on each side
            seen = (places[:, None] - places[None]).abs() < sliding_window
        seen = seen.tril() if module.is_causal else seen
        out[some] = scaled_dot_product_attention(query[some], key[some], value[some], seen, scale=scaling,
                                                 enable_gqa=True)
    return out.transpose(1, 2), None


@pytest.mark.parametrize("name", FLASHED)
def test_lengths_say_what_a_dense_mask_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", varlen)
    family = registry.find("backbones", name)
    made = model(family, name)
    real = DOCUMENTS >= 0
    torch.testing.assert_close(said(family, made, "flash_attention_2")[real], said(family, made, "sdpa")[real],
                               rtol=1e-4, atol=1e-4)


def test_a_prefix_is_seen_by_all_of_its_document_and_by_no_other() -> None:
    prefix = (DOCUMENTS == 0).long()
    blocks = apart.in_blocks(DOCUMENTS, True, prefix)
    row, query, key = torch.tensor(0), torch.tensor(0), torch.tensor(2)
    assert blocks.mask_mod(row, row, query, key)  # a later place of the first document, which is all prefix
    assert not blocks.mask_mod(row, row, torch.tensor(3), torch.tensor(4))  # of the second, which has none
    assert not blocks.mask_mod(row, row, torch.tensor(3), query)


def test_one_row_says_where_its_documents_begin() -> None:
    flat = apart.one_row({"input_ids": torch.arange(18).view(2, 9)}, DOCUMENTS)
    assert flat["input_ids"].tolist() == [list(range(18))]
    assert flat["cu_seq_lens_q"].tolist() == flat["cu_seq_lens_k"].tolist() == [0, 3, 7, 9, 15, 16, 18]
    assert flat["cu_seq_lens_q"].dtype is torch.int32
    assert flat["max_length_q"] == flat["max_length_k"] == 6


@pytest.mark.parametrize(("way", "lacks"), [("flex_attention", "lacks_flex"), ("flash_attention_2", "lacks_flash")])
def test_a_gpu_may_pack_documents_in_both_ways(
    way: str, lacks: str, text: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, lacks, lambda about: "")
    for packing in ("auto", "documents"):
        tree = tiny("llama", text, tmp_path)
        tree["backbone"]["attn_implementation"] = way
        tree["data"]["packing"] = packing
        settled = settle(recipes.load(tree)).recipe
        assert (settled.data.packing, settled.backbone.attn_implementation) == ("documents", way)
    if way == "flex_attention":  # encoder and decoder would need blocks of their own
        tree = tiny("t5", text, tmp_path)
        tree["backbone"]["attn_implementation"] = way
        tree["data"]["packing"] = "documents"
        with pytest.raises(RequestError, match=r"reads a mask in blocks of its own, and data.packing: documents"):
            settle(recipes.load(tree))


def test_heads_that_flex_attention_has_no_kernel_for_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(attention, "lacks_compiler", lambda: None)
    family = registry.find("backbones", "llama")
    config = transformers.AutoConfig.for_model("llama", **{**family.sizes["tiny"], "hidden_size": 32,
                                                           "num_attention_heads": 4, "head_dim": 8})
    with torch.device("meta"):
        small = transformers.AutoModelForCausalLM.from_config(config)
    assert attention.lacks_flex(small) == (
        "its kernel needs heads of 16 numbers or more, and this model's have 8; choose sdpa")
