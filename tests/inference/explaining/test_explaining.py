"""What an answer rests on, against transformers, against brute force, by hand, and on a rule that was taught."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import FAMILIES, SMALL, stories

from llmkit.data import tokenizer as tokenizers
from llmkit.inference.explaining import attention as attending
from llmkit.inference.explaining.explanation import KNOWN, explain
from llmkit.inference.explaining.gradients import integrated_gradients
from llmkit.inference.explaining.lens import lens
from llmkit.inference.explaining.occlusion import occlusion
from llmkit.inference.explaining.opening import open_subject
from llmkit.inference.explaining.shown import ShownToken, shown
from llmkit.system.errors import RequestError

MASKED, CAUSAL, SEQ2SEQ, LABELS = (
    "AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForSequenceClassification")
TEXTS = {MASKED: "the cat saw [MASK] moon .", CAUSAL: "the cat saw the", SEQ2SEQ: "the cat saw the moon .",
         LABELS: "the cat saw the moon ."}
MODELS = (("bert", MASKED), ("gpt2", CAUSAL), ("llama", CAUSAL), ("t5", SEQ2SEQ), ("bert", LABELS), ("gpt2", LABELS),
          ("albert", MASKED), ("modernbert", MASKED), ("bart", SEQ2SEQ), ("deberta", LABELS))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Random models of several families, with weights that are large enough for tokens to matter."""
    folder, out = tmp_path_factory.mktemp("models"), {}
    words: dict[Any, Any] = {}
    for family, head in MODELS:
        kind = FAMILIES[family]
        key = (kind.tokenizer, kind.special)
        words[key] = words.get(key) or tokenizers.train(stories(40), kind.tokenizer, 300, special=kind.special)
        spread = {"initializer_range": 0.3} if family in ("bert", "gpt2", "llama", "albert") else {}
        torch.manual_seed(1)
        fields = {**SMALL[family], **spread}
        if family == "modernbert":
            fields |= {"local_attention": 128}
        config = kind.config("tiny", fields, words[key])
        model = getattr(transformers, head).from_config(config)
        out[family, head] = folder / f"{family}-{head}"
        model.save_pretrained(out[family, head])
        words[key].save_pretrained(out[family, head])
    return out


def plain(folder: Path, head: str) -> Any:
    """The model as transformers opens it, with attention that tells its weights."""
    return getattr(transformers, head).from_pretrained(folder, attn_implementation="eager").eval()


def asked(folder: Path, head: str, **more: Any) -> Any:
    return open_subject(folder, TEXTS[head], **more)


# ---- attention ----

@pytest.mark.parametrize(("family", "head"), [one for one in MODELS if one[0] != "deberta"])
def test_attention_is_what_transformers_says(family: str, head: str, made: dict[tuple[str, str], Path]) -> None:
    subject = asked(made[family, head], head)
    with torch.no_grad():
        out = plain(made[family, head], head)(**subject.inputs, output_attentions=True)
    sides = (("encoder_attentions", "decoder_attentions", "cross_attentions")
             if FAMILIES[family].shape == "encoder-decoder" else ("attentions",))
    maps = attending.attention(subject)
    assert len(maps) == len(sides)
    for one, side in zip(maps, sides, strict=True):
        for layer, weights in zip(one.weights, out[side], strict=True):
            assert np.abs(layer - weights[0].numpy()).max() < 1e-6
        assert np.allclose(one.weights.sum(-1), 1, atol=1e-5)
        assert one.weights.shape[2:] == (len(one.queries), len(one.keys))


def test_the_model_attends_as_before_when_it_was_looked_at(made: dict[tuple[str, str], Path]) -> None:
    subject = asked(made["bert", MASKED], MASKED)
    before = subject.base.config._attn_implementation
    attending.attention(subject)
    assert subject.base.config._attn_implementation == before == "sdpa"


def test_rollout_of_two_layers_by_hand() -> None:
    layers = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.2, 0.8], [0.0, 1.0]]])
    # (A + I) / 2: [[1, 0], [.25, .75]] and [[.6, .4], [0, 1]]; their product is
    assert attending.rollout(layers).tolist() == [[0.7, pytest.approx(0.3)], [0.25, 0.75]]


def test_rollout_stops_at_a_prefix() -> None:
    layer = np.array([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])  # a virtual token before two
    # step: [[.25, .75, 0], [.25, 0, .75]]; twice: what is left is .75², the rest is the prefix's
    assert attending.rollout(np.stack([layer, layer])).tolist() == [
        [0.4375, 0.5625, 0.0], [0.4375, 0.0, 0.5625]]


def test_rollout_across_an_encoder_and_a_decoder_by_hand() -> None:
    encoder, decoder = np.array([[[0.0, 1.0], [0.0, 1.0]]]), np.array([[[1.0]]])
    cross = np.array([[[1.0, 0.0]]])
    # the encoder's first position is half itself, half the second; half of it goes into what is written
    read, written = attending.rollout_across(encoder, decoder, cross)
    assert read.tolist() == [[0.25, 0.25]]
    assert written.tolist() == [[0.5]]


@pytest.mark.parametrize(("family", "head"), [("bert", MASKED), ("t5", SEQ2SEQ), ("gpt2", CAUSAL)])
def test_all_that_reaches_an_answer_is_one(family: str, head: str, made: dict[tuple[str, str], Path]) -> None:
    subject = asked(made[family, head], head)
    read, written = attending.rolled_out(attending.attention(subject), subject)
    assert sum(read) + sum(written) == pytest.approx(1)


@pytest.mark.parametrize(("family", "head"), [("llama", CAUSAL), ("t5", SEQ2SEQ)])
def test_attention_to_a_prefix_gives_the_outputs_of_the_usual_way(
    family: str, head: str, made: dict[tuple[str, str], Path],
) -> None:
    from llmkit.tuning.shared import attention_prefix as prefixes

    model = plain(made[family, head], head)
    places = tuple(prefixes.places(model))
    torch.manual_seed(2)
    state = prefixes.fresh(3, sum(place.columns for place in places), 32, None)
    prefixes.attach(model, prefixes.PrefixAdapter(places, 3, None, (), False), state)
    inputs = asked(made[family, head], head).inputs
    with torch.no_grad():
        usual = model(**inputs).logits
        with prefixes.attention_shown(model):
            out = model(**inputs, output_attentions=True)
    assert torch.allclose(usual, out.logits, atol=1e-4)
    seen = out.attentions if family == "llama" else out.cross_attentions
    size = inputs["input_ids"].shape[1]
    assert all(layer.shape[-1] == 3 + size and torch.allclose(layer.sum(-1), torch.ones(()), atol=1e-5)
               for layer in seen)


# ---- occlusion ----

def test_occlusion_of_a_label_is_what_brute_force_finds(made: dict[tuple[str, str], Path]) -> None:
    folder = made["bert", LABELS]
    subject, model = asked(folder, LABELS), plain(folder, LABELS)
    tokenizer, ids = subject.tokenizer, subject.ids
    with torch.no_grad():
        whole = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        best = int(whole.argmax())
        told = [float(whole[best] - model(torch.tensor([[*ids[:i], tokenizer.mask_token_id, *ids[i + 1:]]])
                                          ).logits[0].log_softmax(-1)[best]) for i in range(1, len(ids) - 1)]
    found = occlusion(subject)
    assert (found.how, found.values[0], found.values[-1]) == ("mask", None, None)  # [CLS] and [SEP] stay
    assert found.values[1:-1] == pytest.approx(told, abs=1e-5)
    assert max(map(abs, told)) > 0.01


@pytest.mark.parametrize(("family", "head"), [("gpt2", CAUSAL), ("llama", CAUSAL), ("bert", MASKED), ("gpt2", LABELS)])
def test_occlusion_by_removal_is_what_brute_force_finds(
    family: str, head: str, made: dict[tuple[str, str], Path],
) -> None:
    folder = made[family, head]
    subject, model = asked(folder, head), plain(folder, head)
    ids, mask = subject.ids, subject.tokenizer.mask_token_id

    def said(row: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = model(torch.tensor([row])).logits[0]
        place = row.index(mask) if head == MASKED else -1
        return (logits if head == LABELS else logits[place]).log_softmax(-1)

    best = int(said(ids).argmax())
    assert subject.aim.index == best
    told = [float(said(ids)[best] - said([*ids[:i], *ids[i + 1:]])[best]) for i in subject.places]
    found = occlusion(subject, "remove")
    assert [found.values[i] for i in subject.places] == pytest.approx(told, abs=1e-4)


def test_occlusion_of_what_an_encoder_reads_and_a_decoder_wrote(made: dict[tuple[str, str], Path]) -> None:
    folder = made["t5", SEQ2SEQ]
    subject, model = asked(folder, SEQ2SEQ, written="a dog"), plain(folder, SEQ2SEQ)
    ids, out = subject.ids, subject.inputs["decoder_input_ids"][0].tolist()
    assert len(out) > 2

    def said(read: list[int], written: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=torch.tensor([read]), decoder_input_ids=torch.tensor([written])
                         ).logits[0, -1].log_softmax(-1)

    whole, best = said(ids, out), subject.aim.index
    found = occlusion(subject, "remove")
    place = subject.places[1]
    assert found.values[place] == pytest.approx(
        float((whole - said([*ids[:place], *ids[place + 1:]], out))[best]), abs=1e-5)
    assert found.written[0] is None  # the token that it starts from
    assert found.written[1] == pytest.approx(float((whole - said(ids, [out[0], *out[2:]]))[best]), abs=1e-5)


# ---- integrated gradients ----

@pytest.mark.parametrize(("family", "head", "baseline"), [
    ("bert", MASKED, "[MASK]"),
    ("llama", CAUSAL, "the mean of all words"), ("gpt2", LABELS, "the mean of all words"),
    ("t5", SEQ2SEQ, "<pad>")])
def test_integrated_gradients_are_complete(
    family: str, head: str, baseline: str, made: dict[tuple[str, str], Path],
) -> None:
    pytest.importorskip("captum")
    subject = asked(made[family, head], head)
    found = integrated_gradients(subject)
    assert found.baseline == baseline
    assert sum(found.values) == pytest.approx(found.difference, rel=0.01, abs=1e-3)
    assert abs(found.difference) > 0.01
    assert all(abs(value) < 1e-6 for value, token in zip(found.values, subject.tokens, strict=True) if token.special)


def test_the_difference_is_that_of_the_text_to_its_baseline(made: dict[tuple[str, str], Path]) -> None:
    pytest.importorskip("captum")
    folder = made["bert", LABELS]
    subject, model = asked(folder, LABELS), plain(folder, LABELS)
    empty = [number if token.special else subject.tokenizer.mask_token_id
             for number, token in zip(subject.ids, subject.tokens, strict=True)]
    with torch.no_grad():
        text, nothing = model(torch.tensor([subject.ids, empty])).logits.log_softmax(-1)
    best = int(text.argmax())
    assert integrated_gradients(subject).difference == pytest.approx(float((text - nothing)[best]), abs=1e-5)


def test_without_captum_one_message_says_how_to_get_it(
    made: dict[tuple[str, str], Path], monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llmkit.inference.explaining import explanation, gradients

    for module in (explanation, gradients):
        monkeypatch.setattr(module, "installed", lambda: False)
    with pytest.raises(RequestError, match=r"pip install 'llmkit-train\[explain\]'"):
        integrated_gradients(asked(made["bert", LABELS], LABELS))
    found = explain(made["bert", LABELS], TEXTS[LABELS], what=["tokens"])
    assert found.notes == ["integrated gradients need captum: pip install 'llmkit-train[explain]'"]
    assert list(found.worth) == ["occlusion", "rollout"]


# ---- the logit lens ----

@pytest.mark.parametrize(("family", "head"), [("bert", MASKED), ("gpt2", CAUSAL), ("llama", CAUSAL), ("albert", MASKED),
                                              ("modernbert", MASKED), ("t5", SEQ2SEQ), ("bart", SEQ2SEQ)])
def test_the_last_layer_says_what_the_model_says(
    family: str, head: str, made: dict[tuple[str, str], Path],
) -> None:
    subject = asked(made[family, head], head)
    with torch.no_grad():
        chances = subject.model(**subject.inputs).logits[0].float().softmax(-1)
    found = lens(subject)
    last = found.layers[-1]
    assert len(found.layers) == 3  # what goes in, and two layers
    for words, row in zip(last.words, chances, strict=True):
        assert [word.probability for word in words] == row.topk(5).values.tolist()  # to the bit
    assert last.rank == 1
    assert found.layers[0].words != last.words


def test_a_lower_layer_goes_through_the_final_norm_and_the_head(made: dict[tuple[str, str], Path]) -> None:
    folder = made["gpt2", CAUSAL]
    subject, model = asked(folder, CAUSAL), plain(folder, CAUSAL)
    with torch.no_grad():
        states = model(torch.tensor([subject.ids]), output_hidden_states=True).hidden_states
        for layer in (0, 1):
            told = model.lm_head(model.transformer.ln_f(states[layer]))[0].softmax(-1)
            found = lens(subject).layers[layer]
            assert [[word.id for word in words] for words in found.words] == told.topk(5).indices.tolist()


# ---- what can't be shown ----

def test_what_cannot_be_explained_is_refused_with_what_can(
    made: dict[tuple[str, str], Path], encoder: Path,
) -> None:
    masked, labels = made["bert", MASKED], made["bert", LABELS]
    with pytest.raises(RequestError, match=r"no mask.*put \[MASK\] where a word is to be"):
        explain(masked, "the cat", what=["tokens"])
    with pytest.raises(RequestError, match="whose head says no words"):
        explain(labels, "the cat", what=["layers"])
    with pytest.raises(RequestError, match=r"turns texts into vectors.*--what attention"):
        explain(encoder, "the cat", what=["tokens"])
    with pytest.raises(RequestError, match=r"no label is called so\. Did you mean .LABEL_1"):
        explain(labels, "the cat", target="LABEL_7")
    with pytest.raises(RequestError, match="is no single token"):
        explain(made["gpt2", CAUSAL], "the cat", target="supercalifragilistic")
    with pytest.raises(RequestError, match="--layer 3: there are 2, numbered from 1"):
        explain(labels, "the cat", what=["attention"], layer=3)
    with pytest.raises(RequestError, match="has no soft prompt"):
        explain(labels, "the cat", what=["prompt"])
    with pytest.raises(RequestError, match=r"--what atention.*'attention'"):
        explain(labels, "the cat", what=["atention"])
    with pytest.raises(RequestError, match="there is nothing in it"):
        explain(labels, "  ")
    with pytest.raises(RequestError, match=r"--hide mask.*no mask token"):
        explain(made["llama", CAUSAL], "the cat", what=["tokens"], hide="mask")
    with pytest.raises(RequestError, match="more than the 64 that the model has positions for"):
        explain(labels, "the cat " * 40)


def test_an_encoder_without_a_head_shows_attention_and_says_what_is_missing(encoder: Path) -> None:
    found = explain(encoder, "the cat saw the moon")
    assert found.maps is not None and found.rollout is not None and found.occlusion is None
    assert sum(found.rollout[0]) == pytest.approx(1)
    assert any("no label and no word" in note for note in found.notes)


def test_another_answer_can_be_explained(made: dict[tuple[str, str], Path]) -> None:
    first = explain(made["bert", LABELS], TEXTS[LABELS], what=["tokens"])
    name = {"LABEL_0": "LABEL_1", "LABEL_1": "LABEL_0"}[first.likeliest[0][0]]
    other = explain(made["bert", LABELS], TEXTS[LABELS], what=["tokens"], target=name)
    assert other.subject.aim is not None and other.subject.aim.name == name
    assert other.probability == pytest.approx(1 - (first.probability or 0), abs=1e-6)
    word = explain(made["gpt2", CAUSAL], "the cat saw", what=["tokens"], target="the")
    assert word.subject.aim is not None and word.subject.aim.name == "the"


def test_tokens_are_shown_as_they_are_read() -> None:
    words = tokenizers.train(["the cat sat 你好"] * 3, "wordpiece", 60)
    assert shown(words("the")["input_ids"], words)[0] == ShownToken(words.cls_token_id, "[CLS]", special=True)
    pieces = tokenizers.train(["the cat sat"] * 3, "bpe", 262)
    found = shown(pieces("a 好")["input_ids"], pieces)
    assert [token.text for token in found[-3:]] == ["<e5>", "<a5>", "<bd>"]
    assert found[0] == ShownToken(pieces("a")["input_ids"][0], "a", gap=False)


def test_the_document_is_json_and_says_what_pictures_cannot_show(made: dict[tuple[str, str], Path]) -> None:
    document = json.loads(json.dumps(explain(made["t5", SEQ2SEQ], TEXTS[SEQ2SEQ]).as_json()))
    assert [one["side"] for one in document["attention"]] == ["encoder", "decoder", "cross"]
    assert len(document["occlusion"]["values"]) == len(document["tokens"])
    assert document["explained"]["kind"] == "written word"
    assert "Jain & Wallace 2019" in document["known"][0] == KNOWN[0]
    assert "Wiegreffe & Pinter 2019" in KNOWN[0]
