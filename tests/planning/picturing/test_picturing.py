"""What `inspect` draws: rows, masks against what a model does, lengths, and positions against transformers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import FAMILIES, tiny

from llmkit import recipe
from llmkit.cli import main
from llmkit.data import tokenizer as tokenizers
from llmkit.planning import inspect as inspection
from llmkit.planning.picturing import lengths, positions
from llmkit.planning.picturing.masks import drawn, masks
from llmkit.planning.picturing.rows import batch, seen
from llmkit.system.language import is_prose

# ---- rows ----


@pytest.fixture(scope="module")
def words() -> Any:
    return tokenizers.train(["the cat sat on the mat"] * 3, "wordpiece", 100)


def ids(words: Any, text: str) -> list[int]:
    return [int(words.convert_tokens_to_ids(word)) for word in text.split()]


def kinds(side: dict[str, Any]) -> list[tuple[str, ...]]:
    return [tuple(token.values()) for token in side["tokens"]]


def test_hidden_tokens_are_masked_replaced_or_only_asked_for(words: Any) -> None:
    the, cat, sat = ids(words, "the cat sat")
    fields = {"input_ids": [words.mask_token_id, the, sat, cat], "labels": [cat, sat, sat, -100]}
    (side,) = seen(fields, words, True)
    assert kinds(side) == [("[MASK]", "masked", "cat"), ("the", "replaced", "sat"), ("sat", "target"), ("cat", "kept")]


def test_what_comes_next_is_a_target_where_it_is_asked_for(words: Any) -> None:
    the, cat, sat = ids(words, "the cat sat")
    (side,) = seen({"input_ids": [the, cat, the], "labels": [-100, the, sat]}, words, True)
    assert kinds(side) == [("the", "kept"), ("cat", "kept"), ("the", "target"), ("sat", "target")]


def test_a_document_begins_with_its_number(words: Any) -> None:
    the, cat = ids(words, "the cat")
    (side,) = seen({"input_ids": [the, cat, the], "documents": [0, 0, 1]}, words, True)
    assert [token["text"] for token in side["tokens"]] == ["│0", "the", "cat", "│1", "the"]


def test_an_encoder_decoder_reads_and_writes(words: Any) -> None:
    the, cat = ids(words, "the cat")
    read, written = seen({"input_ids": [the, words.mask_token_id], "labels": [cat],
                          "decoder_input_ids": [words.pad_token_id]}, words, True)
    assert (read["side"], kinds(read)) == ("reads", [("the", "kept"), ("[MASK]", "masked")])
    assert (written["side"], kinds(written)) == ("writes", [("cat", "target")])


def test_rows_of_a_batch_are_filled_up(words: Any) -> None:
    the, cat = ids(words, "the cat")
    rows = [{"row": i, "pass": 0, "seen": seen({"input_ids": [the, cat][:size]}, words, True)}
            for i, size in enumerate((2, 1))]
    assert [[mark.kind.name for mark in marks] for _, marks in batch(rows)] == [["kept", "kept"], ["kept", "padding"]]


# ---- masks ----


def reached(family: str, model: Any, fields: dict[str, Any]) -> np.ndarray:
    """Which output depends on which input, by changing each: (outputs, inputs)."""
    names = [name for name in ("input_ids", "documents", "prefix") if name in fields]

    def said(read: list[int]) -> torch.Tensor:
        inputs = {name: torch.tensor([fields[name]]) for name in names} | {"input_ids": torch.tensor([read])}
        with torch.no_grad():
            return FAMILIES[family].outputs(model, inputs).logits[0]

    whole, out = said(fields["input_ids"]), []
    for place, number in enumerate(fields["input_ids"]):
        other = [*fields["input_ids"]]
        other[place] = (number + 1) % model.config.vocab_size
        out.append(((said(other) - whole).abs().amax(-1) > 1e-6).numpy())
    return np.stack(out, 1)


@pytest.mark.parametrize(("family", "objective", "begins"), [
    ("gpt2", "causal_lm", "causal"), ("gpt2", "prefix_lm", "prefix"), ("bert", "masked_lm", "bidirectional")])
def test_a_mask_is_who_changes_whom(family: str, objective: str, begins: str, tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

    path = tmp_path / "short.txt"
    path.write_text("the cat saw the moon\na dog chased a red ball\nmy friend found some bread\n" * 4)
    asked = {**tiny(family, path, tmp_path), "objective": {"name": objective}}
    asked["data"] |= {"packing": "documents", "max_length": 24}
    (one,) = (found := inspection.inspect(recipe.load(asked), [0], also=("mask",)))["drawn"]
    assert len(set(one["fields"]["documents"])) > 1
    (mask,) = one["masks"]
    assert mask["name"].startswith(begins) and mask["name"].endswith("documents apart")
    torch.manual_seed(0)
    size = found["tokenizer"]
    model = (GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=2)) if family == "gpt2" else
             BertForMaskedLM(BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                        intermediate_size=64))).eval()
    assert np.array_equal(reached(family, model, one["fields"]), np.array(mask["seen"]))


def test_masks_of_a_permutation_and_of_an_encoder_decoder() -> None:
    predicts, contents = masks({"input_ids": [5, 6, 7], "order": [-1, 1, 0]}, "permuted")
    assert predicts["seen"] == [[True, False, False], [True, False, True], [True, False, False]]
    assert contents["seen"] == [[True, False, False], [True, True, True], [True, False, True]]
    encoder, decoder, cross = masks(
        {"input_ids": [5, 6], "documents": [0, 1], "decoder_input_ids": [1, 2, 3], "decoder_documents": [0, 0, 1]},
        "encoder-decoder")
    assert encoder["seen"] == [[True, False], [False, True]]
    assert decoder["seen"] == [[True, False, False], [True, True, False], [False, False, True]]
    assert cross["seen"] == [[True, False], [True, False], [False, True]]
    assert drawn(decoder["seen"], ["a", "bc", "d"]) == [" a ■··", "bc ■■·", " d ··■"]


# ---- lengths ----


def test_lengths_and_unknown_tokens_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on the mat\nthe cat\n" * 4 + "the 猫 sat\n")
    asked = tiny("bert", path, tmp_path / "run")
    asked["tokenizer"] = {"train": {"vocab_size": 60}}
    other = tmp_path / "words"
    tokenizers.train(["the cat sat on the mat"] * 3, "wordpiece", 100).save_pretrained(other)
    asked["tokenizer"] = {"pretrained": str(other)}
    asked["data"]["max_length"] = 5
    found = inspection.inspect(recipe.load(asked), also=("lengths",))["lengths"]
    assert found["lengths"] == [6, 2] * 4 + [3]
    assert (found["longest"], found["median"], found["longer"], found["unknown"], found["with_unknown"]) == (
        6, 3.0, 4, 1, 1)
    assert lengths.in_words(found)[1] == "unknown tokens: 1 (2.86%), in 1 of the documents"
    assert lengths.bars([1, 1, 2, 4], bins=2, wide=4) == ["  1 to   2  ████ 3", "  3 to   4  █ 1"]


# ---- positions ----


def test_sinusoids_are_the_papers_and_transformers_own() -> None:
    from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

    table = positions.sinusoidal(3, 4)
    assert table[1] == pytest.approx([np.sin(1), np.cos(1), np.sin(0.01), np.cos(0.01)])
    theirs = MarianSinusoidalPositionalEmbedding(6, 8).create_weight()
    ours = positions.sinusoidal(6, 8)  # theirs has all sines before all cosines
    assert np.allclose(theirs.numpy(), np.concatenate([ours[:, 0::2], ours[:, 1::2]], 1), atol=1e-6)


def test_rotary_is_transformers_own() -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    config = LlamaConfig(hidden_size=16, num_attention_heads=2, max_position_embeddings=32)
    places = torch.arange(7)[None]
    vectors = torch.randn(1, 1, 7, 8, generator=torch.Generator().manual_seed(0))
    cosines, sines = LlamaRotaryEmbedding(config)(vectors, places)
    theirs, _ = apply_rotary_pos_emb(vectors, vectors, cosines, sines)
    ours = positions.turned(vectors[0, 0].numpy(), *positions.rotary(7, 8))
    assert np.allclose(theirs[0, 0].numpy(), ours, atol=1e-5)
    assert np.allclose(positions.rotary(2, 4)[0][1], [np.cos(1), np.cos(0.01)])


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_t5s(bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = np.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(torch.tensor(distances), bidirectional, 32, 128)
    assert positions.buckets(distances, bidirectional).tolist() == theirs.tolist()
    assert positions.buckets(np.array([0, -1, -7, -8, -20, -200, 1, 8]), True).tolist() == [
        0, 1, 7, 8, 10, 15, 17, 24]


@pytest.mark.parametrize("heads", [8, 12])
def test_slopes_are_blooms(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1]
    assert positions.slopes(heads) == pytest.approx(theirs.tolist())
    assert positions.slopes(8)[:3].tolist() == [0.5, 0.25, 0.125]


def test_every_way_has_a_formula_a_source_and_a_picture() -> None:
    for way in positions.ENCODINGS:
        assert way.table(5).shape == (5, 5) and way.formula and way.source
    assert positions.rotary_table(3)[0, 0] == pytest.approx(1)


# ---- the command ----


def test_inspect_draws(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    data = tmp_path / "script.txt"
    data.write_text(text.read_text() + "<script> alert ( 1 ) </script>\n" * 9)
    asked = tiny("bert", data, tmp_path / "run")
    asked["name"] = "a-run"
    path.write_text(yaml.safe_dump(asked))
    html, png = tmp_path / "page.html", tmp_path / "rows.png"
    assert main(["inspect", str(path), "--row", "0", "--row", "1", "--what", "rows,mask,lengths", "--html", str(html),
                 "-o", str(png)]) == 0
    page = html.read_text()
    assert "<script" not in page and "style=" not in page and "[MASK]" in page
    assert page.count("<img ") == page.count(' alt="') == 2  # lengths, light and dark
    assert png.read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    assert main(["inspect", str(path), "--what", "mask,lengths", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lengths"]["of"] == "documents" and found["drawn"][0]["masks"][0]["name"].startswith("bidirectional")
    assert main(["inspect", "--what", "positions"]) == 0
    assert "q_i · k_j - m · (i - j)" in capsys.readouterr().out


def test_a_page_and_its_lines_are_in_chinese_where_that_is_chosen(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All words of ours; tokens, names of fields and formulas stay."""
    monkeypatch.setenv("LLMKIT_LANG", "zh")
    path, html = tmp_path / "r.yaml", tmp_path / "page.html"
    path.write_text(yaml.safe_dump({**tiny("bert", text, tmp_path / "run"), "name": "a-run"}))
    assert main(["inspect", str(path), "--what", "rows,mask,lengths", "--html", str(html)]) == 0
    page, shown = html.read_text(encoding="utf-8"), capsys.readouterr().out
    assert '<html lang="zh-Hans">' in page and "<title>a-run: 模型将看到什么</title>" in page
    assert re.findall("<h2>(.*?)</h2>", page) == ["各行", "长度与未知 token", "谁能看到谁"]
    assert '<span class="t k-masked">遮住</span> 被遮住；' in page and "[MASK]" in page
    assert "第 0 行，第 0 遍" in page and "第 0 行，第 0 遍" in shown
    assert "双向（bidirectional）：每一行看各列，■ 看得到，· 看不到" in shown
    # tags, and what the text itself says
    hidden = '<style>.*?</style>|<p class="tokens">.*?</p>|<pre>.*?</pre>|<[^>]*>'
    assert not is_prose(re.sub(hidden, " ", page, flags=re.DOTALL))


def test_inspect_refuses_pictures_that_cannot_be(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, said in ((["--what", "row"], "--what row: can't be shown. Did you mean 'rows'?"),
                        (["-o", "x.pdf"], "--output x.pdf: its name must end with .png or .svg."),
                        (["--html", "x.png"], "--html x.png: its name must end with .html or .htm."),
                        (["--html", str(tmp_path / "no" / "x.html")], "its folder does not exist")):
        assert main(["inspect", "bert_mlm", *words]) in (2, 6)
        assert said in capsys.readouterr().err
