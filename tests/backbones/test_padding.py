"""Under FlashAttention and FlexAttention padding counts for nothing: losses and gradients are those of sdpa."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import SMALL, STILL, tiny
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel
from transformers import modeling_flash_attention_utils as flash_utils

from llmkit import recipe as recipes
from llmkit.backbones.kernels.privates import attention_of
from llmkit.backbones.kernels.unpadded import unpad
from llmkit.planning import attention
from llmkit.recipe import registry
from llmkit.training.fit import fit
from llmkit.training.looking.collapse import states

LENGTHS = torch.tensor([3, 9, 1, 5])
MASKS = {"right": torch.arange(9)[None] < LENGTHS[:, None], "left": torch.arange(9)[None] >= 9 - LENGTHS[:, None],
         "none": torch.ones(4, 9, dtype=torch.bool)}
LAID = {"right": [0, 9, 14, 17, 18], "left": [0, 3, 12, 13, 18]}
"""Where rows of 9, 5, 3 and 1 tokens begin; on the left each one ends where the longest does, so the order stays."""
FLASHED = [name for name in registry.names("backbones") if registry.find("backbones", name).unpads]
FLEXED = ("llama", "qwen3", "bert", "roberta", "modernbert", "electra")


class Kernel:
    """What the package flash-attn has, in plain words; it remembers what it was called with."""

    def __init__(self) -> None:
        self.edges: list[list[int]] = []
        self.tokens: list[int] = []
        self.plain = 0

    def flash_attn_func(
        self, q: Any, k: Any, v: Any, dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False,
        window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, deterministic: bool = False,
    ) -> Any:
        """(rows, length, heads, width), all of them full."""
        self.plain += 1
        return torch.stack([self._row(*row, softmax_scale, causal, window_size) for row in zip(q, k, v, strict=True)])

    def flash_attn_varlen_func(
        self, q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_seqlen_q: int, max_seqlen_k: int,
        dropout_p: float = 0.0, softmax_scale: Any = None, causal: bool = False,
        window_size: tuple[int, int] = (-1, -1), softcap: float = 0.0, deterministic: bool = False,
    ) -> Any:
        """(tokens, heads, width), of rows that begin at `cu_seqlens_q`."""
        edges = cu_seqlens_q.tolist()
        assert cu_seqlens_q.dtype is cu_seqlens_k.dtype is torch.int32 and torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert edges[-1] == len(q) == len(k) == len(v)
        assert max_seqlen_q == max_seqlen_k == max(b - a for a, b in itertools.pairwise(edges))
        assert isinstance(max_seqlen_q, int)
        self.edges.append(edges)
        self.tokens.append(len(q))
        return torch.cat([self._row(q[a:b], k[a:b], v[a:b], softmax_scale, causal, window_size)
                          for a, b in itertools.pairwise(edges)])

    def _row(self, q: Any, k: Any, v: Any, scale: Any, causal: bool, window: tuple[int, int]) -> Any:
        places = torch.arange(len(q))
        seen = torch.ones(len(q), len(q), dtype=torch.bool)
        if window != (-1, -1):
            seen &= (places[:, None] - places[None]).abs() <= window[0]
        seen = seen.tril() if causal else seen
        return scaled_dot_product_attention(
            *(part.transpose(0, 1)[None] for part in (q, k, v)), attn_mask=seen, scale=scale, enable_gqa=True,
        )[0].transpose(0, 1)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """transformers' own way to FlashAttention, which ends at this kernel in the place of the package's."""
    there = Kernel()
    monkeypatch.setattr(flash_utils, "_loaded_implementation", None)
    monkeypatch.setattr(flash_utils, "_lazy_imports", lambda *names, **options: (
        there.flash_attn_func, there.flash_attn_varlen_func, None, flash_utils._pad_input, flash_utils._unpad_input))
    monkeypatch.setattr(PreTrainedModel, "_flash_attn_can_dispatch", lambda self, *of, **more: True)
    monkeypatch.setattr("transformers.modeling_utils.is_kernels_available", lambda *of: False)
    monkeypatch.setattr(attention, "lacks_flash", lambda precision: "")
    return there


@pytest.fixture
def flexed(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as a CPU has it: uncompiled, and forward only."""
    def uncompiled(query: Any, key: Any, value: Any, training: bool = False, **options: Any) -> Any:
        return flex_attention(query, key, value, **options)

    monkeypatch.setattr("transformers.integrations.flex_attention.compile_friendly_flex_attention", uncompiled)
    monkeypatch.setattr("transformers.masking_utils.create_block_mask", lambda *about, _compile=True, **more:
                        create_block_mask(*about, **more))


def model(name: str, head: str = "AutoModelForTokenClassification") -> Any:
    """A random model with heads of 16 numbers, and a window that is shorter than the rows."""
    family = registry.find("backbones", name)
    more = {"local_attention": 4, "global_attn_every_n_layers": 2} if name == "modernbert" else {}
    fields = {**family.sizes["tiny"], **SMALL[name], **STILL[name], "vocab_size": 50, "pad_token_id": 0, **more}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family.model_type, num_labels=3, **fields)
    made = getattr(transformers, head).from_config(config, attn_implementation="sdpa").eval()
    with torch.no_grad():  # so that neighbours matter more than they do at first
        for parameter in made.parameters():
            parameter.mul_(2)
    return made


def said(net: Any, mask: torch.Tensor) -> torch.Tensor:
    """What a model says of all tokens that aren't padding, whatever stands in padding."""
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(1))
    found: torch.Tensor = net(input_ids=ids, attention_mask=mask.long()).logits
    return found[mask] if found.dim() == 3 else found


def learned(net: Any, mask: torch.Tensor) -> list[torch.Tensor]:
    """That, and every gradient of it."""
    net.zero_grad()
    found = said(net, mask)
    (found * torch.arange(1, found.shape[-1] + 1)).square().sum().backward()
    return [found.detach(), *(weight.grad for weight in net.parameters() if weight.grad is not None)]


def alike(some: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    for mine, theirs in zip(some, others, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()) + 1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", FLASHED)
def test_flash_attention_sees_tokens_alone_and_learns_what_sdpa_learns(
    name: str, side: str, kernel: Kernel) -> None:
    net, mask = model(name), MASKS[side]
    right = learned(net, mask)
    net.config._attn_implementation = "flash_attention_2"
    unpad(net, registry.find("backbones", name))
    alike(learned(net, mask), right)
    assert kernel.edges == [LAID["right"] if side == "right" else kernel.edges[0]] * len(kernel.edges)
    assert set(kernel.tokens) == {18} and not kernel.plain


@pytest.mark.parametrize("name", ["bert", "llama", "modernbert"])
def test_transformers_own_way_to_flash_attention_gives_the_same(name: str, kernel: Kernel) -> None:
    """That is how models attend whose layers keep their padding, as with gradient_checkpointing."""
    net, mask = model(name), MASKS["right"]
    right = learned(net, mask)
    net.config._attn_implementation = "flash_attention_2"
    alike(learned(net, mask), right)
    assert kernel.edges[0] == [0, 3, 12, 13, 18]


def test_transformers_takes_an_encoders_padding_for_that_of_its_decoder(kernel: Kernel) -> None:
    """Why flash_attention_2 is refused for encoder-decoders: once this fails, transformers has mended it."""
    net, mask = model("bart", "AutoModel"), MASKS["right"]
    ids = torch.randint(5, 50, mask.shape, generator=torch.Generator().manual_seed(1))
    found = []
    for way in ("sdpa", "flash_attention_2"):
        net.config._attn_implementation = way
        found.append(net(input_ids=ids, attention_mask=mask.long(), decoder_input_ids=ids,
                         use_cache=False).last_hidden_state)
    full = LENGTHS == 9
    torch.testing.assert_close(found[1][full], found[0][full], rtol=1e-4, atol=1e-4)
    assert (found[1][~full] - found[0][~full]).abs().max() > 0.1


def test_full_rows_need_no_lengths(kernel: Kernel) -> None:
    net, mask = model("gpt2"), MASKS["none"]
    right = learned(net, mask)
    net.config._attn_implementation = "flash_attention_2"
    unpad(net, registry.find("backbones", "gpt2"))
    alike(learned(net, mask), right)
    assert (kernel.edges, kernel.plain) == ([], 2)  # a call for each layer


def test_what_is_asked_outside_of_training_attends_by_sdpa(kernel: Kernel) -> None:
    """There is no autocast then, and before training the model isn't on the GPU yet."""
    net, rows = model("bert", "AutoModel"), [torch.arange(5, 14), torch.arange(5, 8)]
    right = states(net, rows)
    net.config._attn_implementation = "flash_attention_2"
    torch.testing.assert_close(states(net, rows), right)
    assert (kernel.edges, kernel.plain, attention_of(net)) == ([], 0, "flash_attention_2")


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize(("family", "checkpointing", "padded"), [
    ("bert", False, False), ("gpt2", False, False), ("llama", True, True)])
def test_a_run_has_the_losses_of_sdpa(
    family: str, checkpointing: bool, padded: bool, kernel: Kernel, labelled: Path, tmp_path: Path) -> None:
    for way in ("sdpa", "flash_attention_2"):
        tree = tiny(family, labelled, tmp_path / way, still=True, max_steps=2, gradient_checkpointing=checkpointing)
        tree["data"]["validation"] = 0.2
        tree["backbone"]["attn_implementation"] = way
        del tree["objective"]
        fit(recipes.load({**tree, "task": "classification"}))
    assert losses(tmp_path / "flash_attention_2") == pytest.approx(losses(tmp_path / "sdpa"), rel=1e-4)
    assert kernel.edges and len(losses(tmp_path / "sdpa")) == 4  # an evaluation before and after


@pytest.mark.parametrize(("name", "side"), [*((name, "right") for name in FLEXED), ("llama", "left")])
def test_flex_attention_says_of_tokens_what_sdpa_says(name: str, side: str, flexed: None) -> None:
    net, mask = model(name), MASKS[side]
    with torch.inference_mode():
        right = said(net, mask)
        net.config._attn_implementation = "flex_attention"
        torch.testing.assert_close(said(net, mask), right, rtol=1e-4, atol=1e-4)
