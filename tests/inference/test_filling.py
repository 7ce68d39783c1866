"""Filling masks and sentinels with tiny random models, against what plain transformers says."""

import json
from pathlib import Path

import pytest
import torch
from test_generate import WORDS, words
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    ElectraConfig,
    ElectraForPreTraining,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from llmkit.cli import main
from llmkit.inference.generate import Options, generate
from llmkit.system.errors import RequestError

SIZE = len(WORDS) + 4
SHAPE = {"vocab_size": SIZE, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
         "intermediate_size": 16, "max_position_embeddings": 24, "initializer_range": 0.5, "pad_token_id": 0}


def masking(mask: str = "[MASK]") -> PreTrainedTokenizerFast:
    """The words, a mask, and three sentinels whose ids don't follow their numbers."""
    tokenizer = words()
    tokenizer.add_special_tokens({
        "mask_token": mask, "extra_special_tokens": ["<extra_id_2>", "<extra_id_0>", "<extra_id_1>"]})
    return tokenizer


def save(model: PreTrainedModel, folder: Path, mask: str = "[MASK]") -> str:
    model.save_pretrained(folder)
    masking(mask).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def bert(tmp_path):
    torch.manual_seed(1)
    return save(BertForMaskedLM(BertConfig(**SHAPE)), tmp_path / "bert")


def test_the_table_of_a_mask_is_the_softmax_of_its_logits(bert):
    result = generate("the cat [MASK] on a mat", bert, Options(top_k=4))
    ids = masking()("the cat [MASK] on a mat", return_tensors="pt").input_ids
    p = BertForMaskedLM.from_pretrained(bert).eval()(ids).logits[0, 2].softmax(-1)
    best = p.topk(4)
    (fill,) = result.fills
    assert fill.hole == "[MASK]"
    assert [one.token for one in fill.candidates] == masking().convert_ids_to_tokens(best.indices.tolist())
    assert [one.probability for one in fill.candidates] == pytest.approx(best.values.tolist(), rel=1e-5)
    (completion,) = result.completions
    assert completion.text == masking().decode([*ids[0, :2], best.indices[0], *ids[0, 3:]], skip_special_tokens=True)
    assert completion.score == pytest.approx(float(best.values[0].log()), rel=1e-5)


def test_several_texts_of_one_mask_are_its_likeliest_tokens(bert):
    result = generate("the [MASK] sat", bert, Options(num_return_sequences=3))
    likeliest = masking().convert_tokens_to_ids([one.token for one in result.fills[0].candidates[:3]])
    assert [one.ids[1] for one in result.completions] == likeliest


def test_of_several_masks_each_table_is_of_that_mask_alone_and_the_text_is_filled_surest_first(bert):
    model, tokenizer = BertForMaskedLM.from_pretrained(bert).eval(), masking()
    result = generate("the [MASK] sat [MASK] a [MASK]", bert)
    ids = tokenizer("the [MASK] sat [MASK] a [MASK]", return_tensors="pt").input_ids
    tables = model(ids).logits[0, [1, 3, 5]].softmax(-1)
    best = [fill.candidates[0].probability for fill in result.fills]
    assert best == pytest.approx(tables.amax(-1).tolist(), rel=1e-5)
    open_, logs = [1, 3, 5], []
    while open_:
        p = model(ids).logits[0, open_].log_softmax(-1)
        surest = int(p.amax(-1).argmax())
        logs.append(float(p[surest].max()))
        ids[0, open_.pop(surest)] = p[surest].argmax()
    assert result.completions[0].ids == tuple(ids[0].tolist())
    assert result.completions[0].score == pytest.approx(sum(logs) / 3, rel=1e-5)
    assert "filled jointly" in result.notes[0]


def test_a_batch_of_uneven_texts_is_filled_as_each_is_alone(bert, tmp_path):
    texts = ["the [MASK]", "a small red [MASK] by [MASK] sea", "[MASK] [MASK] [MASK]", "[MASK] dog ran to its house"]
    (tmp_path / "in.txt").write_text("\n".join(texts) + "\n")
    assert main(["generate", "--model", bert, "--input", str(tmp_path / "in.txt"), "-o", str(tmp_path / "out.jsonl"),
                 "--num-return-sequences", "2"]) == 0
    for text, line in zip(texts, (tmp_path / "out.jsonl").read_text().splitlines(), strict=True):
        alone, made = generate(text, bert, Options(num_return_sequences=2)).as_json(), json.loads(line)
        assert [one["text"] for one in made["completions"]] == [one["text"] for one in alone["completions"]]
        assert [one["score"] for one in made["completions"]] == pytest.approx(
            [one["score"] for one in alone["completions"]], rel=1e-4)
        assert [[one["token"] for one in fill["candidates"]] for fill in made["fills"]] == [
            [one["token"] for one in fill["candidates"]] for fill in alone["fills"]]


@pytest.mark.parametrize(("cls", "config", "mask"), [
    (BertForPreTraining, BertConfig(**SHAPE), "[MASK]"), (RobertaForMaskedLM, RobertaConfig(**SHAPE), "<mask>"),
    (AlbertForMaskedLM, AlbertConfig(**SHAPE, embedding_size=8), "[MASK]")])
def test_either_name_of_the_mask_is_understood_by_every_model_that_has_one(tmp_path, cls, config, mask):
    torch.manual_seed(1)
    folder = save(cls(config), tmp_path, mask)
    one, other = (generate(f"the cat {name} on a mat", folder) for name in ("[MASK]", "<mask>"))
    assert one.fills == other.fills != ()
    assert one.fills[0].hole == mask


def test_roberta_has_room_for_as_many_tokens_as_it_has_positions_behind_padding(tmp_path):
    folder = save(RobertaForMaskedLM(RobertaConfig(**{**SHAPE, "pad_token_id": 1})), tmp_path)
    generate("cat " * 21 + "[MASK]", folder)
    with pytest.raises(RequestError, match="23 tokens are 1 more than the 22"):
        generate("cat " * 22 + "[MASK]", folder)


def test_a_prompt_without_a_mask_is_told_how_to_have_one(bert):
    with pytest.raises(RequestError, match=r"has no mask.*as in 'the cat sat \[MASK\]\.'"):
        generate("the cat sat", bert)


@pytest.mark.parametrize(("options", "name"), [
    ({"temperature": 2.0}, "temperature"), ({"max_new_tokens": 5}, "max_new_tokens"), ({"stop": ("x",)}, "stop"),
    ({"num_beams": 2}, "num_beams")])
def test_options_of_writing_are_refused_where_masks_are_filled(bert, options, name):
    with pytest.raises(RequestError, match=f"{name}: has no effect on .*bert, which fills masks"):
        generate("the [MASK]", bert, Options(**options))


def test_a_discriminator_is_refused_with_what_it_is_for(tmp_path):
    folder = save(ElectraForPreTraining(ElectraConfig(**SHAPE, embedding_size=8)), tmp_path)
    with pytest.raises(RequestError, match="to tell replaced tokens from real ones"):
        generate("the [MASK]", folder)


# ---- sentinels ----


@pytest.fixture
def t5(tmp_path):
    """A T5 that writes a fixed sequence, whatever it reads."""
    torch.manual_seed(1)
    tokenizer = masking()
    model = T5ForConditionalGeneration(T5Config(
        vocab_size=SIZE, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
        eos_token_id=1))
    said = tokenizer.convert_tokens_to_ids(
        ["<pad>", "<extra_id_0>", "cat", "sat", "<extra_id_1>", "mat", "<extra_id_2>", "dog"])
    with torch.no_grad():  # layers add nothing, and of all embeddings the next one's is the most in line with each
        for name, weight in model.named_parameters():
            if "layer_norm" not in name:
                weight.zero_()
        for i, token in enumerate(said):
            model.shared.weight[token, i:i + 2] = 3.0**i
    return save(model, tmp_path / "t5")


def test_sentinels_get_what_the_model_writes_behind_each(t5):
    result = generate("the <extra_id_0> on a <extra_id_1> and dog", t5)
    (completion,) = result.completions
    assert completion.text == "the cat sat on a mat and dog"
    assert [(fill.hole, [one.text for one in fill.candidates]) for fill in result.fills] == [
        ("<extra_id_0>", ["cat sat"]), ("<extra_id_1>", ["mat"])]
    assert (completion.finish_reason, completion.tokens) == ("stop", 5)  # by the sentinel that wasn't asked for
    assert result.as_json()["fills"] == [{"hole": "<extra_id_0>", "candidates": [{"text": "cat sat"}]},
                                         {"hole": "<extra_id_1>", "candidates": [{"text": "mat"}]}]


def test_without_a_sentinel_it_answers(t5):
    result = generate("the cat", t5, Options(max_new_tokens=7))
    assert (result.completions[0].text, result.fills) == ("cat sat mat dog", ())


def test_a_sentinel_that_got_nothing_stays_empty(t5):
    result = generate("the <extra_id_0> on <extra_id_1>", t5, Options(max_new_tokens=3))
    assert result.completions[0].text == "the cat sat on"
    assert [[one.text for one in fill.candidates] for fill in result.fills] == [["cat sat"], []]


def test_a_sentinel_that_the_tokenizer_does_not_know_is_refused(t5):
    with pytest.raises(RequestError, match=r"<extra_id_7>: is no sentinel of .*has <extra_id_0> to <extra_id_2>"):
        generate("the <extra_id_7> on", t5)


def test_the_terminal_shows_the_text_and_a_table(bert, t5, capsys):
    assert main(["generate", "the [MASK] sat [MASK] .", "--model", bert, "--top-k", "2"]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    fills = generate("the [MASK] sat [MASK] .", bert).fills
    assert lines[2].split() == ["hole", "text", "probability"]
    best = fills[0].candidates[0]
    assert lines[3].split() == ["[MASK]", "1", best.text, f"{best.probability:.4f}"]
    assert lines[5].split()[:2] == ["[MASK]", "2"]
    assert "filled jointly" in said.err
    assert main(["generate", "the <extra_id_0> on <extra_id_1>", "--model", t5, "--max-new-tokens", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [["the", "cat", "sat", "on"], [], ["hole", "text"], ["<extra_id_0>", "cat", "sat"],
                     ["<extra_id_1>", "(nothing", "was", "written)"]]
