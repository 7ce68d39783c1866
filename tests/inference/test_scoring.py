"""Log-probabilities of answers after a prompt, against one plain forward pass each, without cache or batch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import stories
from tokenizers import Tokenizer, pre_tokenizers, processors, trainers
from tokenizers import models as token_models
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from llmkit.inference import scoring
from llmkit.inference.scoring import Scorer
from llmkit.models import Opened
from llmkit.prompting.base import Prompt, Question
from llmkit.recipe import registry
from llmkit.system.errors import RequestError


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE that knows few words whole, with every special token that some model needs."""
    inner = Tokenizer(token_models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "<s>", "</s>", "<mask>", "<unk>", "<extra_id_0>", "<extra_id_1>"]
    inner.train_from_iterator(stories(60), trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", mask_token="<mask>",
        unk_token="<unk>")


def plain(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def opened(model: PreTrainedModel, tokenizer: Any, kind: str) -> Opened:
    return Opened(model.eval(), tokenizer, Path("here"), kind)


def small(family: str) -> tuple[PreTrainedModel, str]:
    torch.manual_seed(1)
    ids = {"vocab_size": 330, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    if family == "gpt2":
        return GPT2LMHeadModel(GPT2Config(**ids, n_positions=700, n_embd=32, n_layer=2, n_head=2,
                                          initializer_range=0.4)), "AutoModelForCausalLM"
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(
            **ids, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=700, initializer_range=0.4)), "AutoModelForCausalLM"
    if family == "bert":
        return BertForMaskedLM(BertConfig(
            **ids, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=700, initializer_range=0.4)), "AutoModelForMaskedLM"
    if family == "bart":
        return BartForConditionalGeneration(BartConfig(
            **ids, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=700, decoder_start_token_id=2,
            init_std=0.4)), "AutoModelForSeq2SeqLM"
    return T5ForConditionalGeneration(T5Config(
        **ids, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0,
        initializer_factor=2.0)), "AutoModelForSeq2SeqLM"


@pytest.fixture(params=["gpt2", "llama"])
def causal(request: pytest.FixtureRequest, tokenizer: Any) -> Opened:
    return opened(*[small(request.param)[0], tokenizer, small(request.param)[1]])


def scorer(found: Opened, **options: Any) -> Scorer:
    return Scorer(found, registry.find("backbones", str(found.model.config.model_type)), **options)


def by_hand(model: Any, ids: list[int], first: int) -> float:
    """The summed log-probability of a causal model's tokens from a position on."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logits[i - 1, ids[i]] for i in range(first, len(ids))))


FEW_SHOTS = "\n\n".join(f"Input: {story}\nOutput: dog" for story in stories(4, 1)) + "\n\n"
WORDS = ("dog", "forgotten bird", "x")


@pytest.mark.parametrize("shots", ["", FEW_SHOTS])
def test_answers_after_a_causal_model_s_prompt_are_as_likely_as_by_hand(
    shots: str, causal: Opened, tokenizer: Any
) -> None:
    texts = [f"{shots}Input: {story}\nOutput:" for story in stories(9, 2)]
    questions = [Question(Prompt(text), WORDS) for text in texts]
    wanted = []
    for text in texts:
        before = plain(tokenizer, text)
        for word in WORDS:
            whole = plain(tokenizer, f"{text} {word}")
            assert whole[: len(before)] == before
            wanted.append(by_hand(causal.model, whole, len(before)))
    kept = scorer(causal, at_once=600)
    assert kept.keeps
    found = [one for some in kept.score(questions) for one in some]
    assert [one.logprob for one in found] == pytest.approx(wanted, abs=1e-4)
    assert [one.tokens for one in found[:3]] == [
        len(plain(tokenizer, f"{texts[0]} {word}")) - len(plain(tokenizer, texts[0])) for word in WORDS]
    apart = scorer(causal, shares=False)
    assert [one.logprob for some in apart.score(questions) for one in some] == pytest.approx(wanted, abs=1e-4)


def test_what_prompts_share_is_computed_once(causal: Opened, tokenizer: Any) -> None:
    texts = [f"{FEW_SHOTS}Input: {story}\nOutput:" for story in stories(9, 2)]
    shared = len(plain(tokenizer, FEW_SHOTS))
    kept, apart = scorer(causal), scorer(causal, shares=False)
    for one in (kept, apart):
        one.score([Question(Prompt(text), ("dog", "hat")) for text in texts])
    assert apart.positions > 2 * 9 * shared  # each answer with the whole of its prompt
    assert kept.positions < 9 * (max(len(plain(tokenizer, text)) for text in texts) - shared + 4) + shared + 40
    before = kept.positions
    kept.score([Question(Prompt(text), ("dog",)) for text in texts])
    assert kept.positions == before  # it remembers


def test_prompts_with_other_examples_are_shared_among_themselves(causal: Opened, tokenizer: Any) -> None:
    other = "\n\n".join(f"Input: {story}\nOutput: cat" for story in stories(4, 5)) + "\n\n"
    texts = [f"{shots}Input: {story}\nOutput:" for shots in (FEW_SHOTS, other) for story in stories(5, 2)]
    texts.append("Input: hi\nOutput:")
    wanted = [by_hand(causal.model, plain(tokenizer, f"{text} dog"), len(plain(tokenizer, text))) for text in texts]
    kept = scorer(causal)
    assert [one.logprob for (one,) in kept.score([Question(Prompt(text), ("dog",)) for text in texts])
            ] == pytest.approx(wanted, abs=1e-4)
    assert kept.positions < sum(len(plain(tokenizer, text)) for text in texts) / 2


def test_a_gap_within_a_causal_model_s_text_counts_what_follows(causal: Opened, tokenizer: Any) -> None:
    (found,) = scorer(causal).score([Question(Prompt("a ", " saw the moon", gap=True), ("dog", "bird"))])
    edge = len(plain(tokenizer, "a"))
    assert [one.logprob for one in found] == pytest.approx(
        [by_hand(causal.model, plain(tokenizer, f"a {word} saw the moon"), edge) for word in ("dog", "bird")], abs=1e-4)


def test_a_begin_token_stands_before_a_text_and_not_before_a_rendered_chat(tokenizer: Any) -> None:
    model, kind = small("llama")
    begins = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
                                     bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>")
    begins.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)])
    one = scorer(opened(model, begins, kind))
    bare = plain(begins, "the cat saw")
    ((text,),) = one.score([Question(Prompt("the cat saw"), ("bread",))])
    ids = [1, *plain(begins, "the cat saw bread")]
    assert text.logprob == pytest.approx(by_hand(model, ids, len(bare) + 1), abs=1e-4)
    ((chat,),) = one.score([Question(Prompt("<s>the cat saw", messages=()), (" bread",))])
    assert chat.logprob == pytest.approx(text.logprob, abs=1e-4)
    ((first,),) = one.score([Question(Prompt(""), ("bread",))])
    assert first.logprob == pytest.approx(by_hand(model, [1, *plain(begins, "bread")], 1), abs=1e-4)


def test_a_word_in_a_masked_model_s_gap_is_hidden_and_filled_from_left_to_right(tokenizer: Any) -> None:
    model, kind = small("bert")
    words = ("dog", "forgotten", "moon")
    texts = [f"{story} It was " for story in stories(5, 2)]
    found = scorer(opened(model, tokenizer, kind), at_once=300).score(
        [Question(Prompt(text, " .", gap=True), words) for text in texts])
    assert {one.tokens for one in found[0]} > {1}
    for text, some in zip(texts, found, strict=True):
        for word, one in zip(words, some, strict=True):
            left, right = plain(tokenizer, text.rstrip()), [*plain(tokenizer, " ."), 2]
            hidden = plain(tokenizer, f" {word}")
            assert len(hidden) == one.tokens
            total = 0.0
            for i, token in enumerate(hidden):
                ids = [*left, *hidden[:i], *[tokenizer.mask_token_id] * (len(hidden) - i), *right]
                with torch.no_grad():
                    total += float(model(torch.tensor([ids])).logits[0, len(left) + i].log_softmax(-1)[token])
            assert one.logprob == pytest.approx(total, abs=1e-4)


def in_decoder(model: Any, read: list[int], lead: list[int], answer: list[int]) -> float:
    with torch.no_grad():
        said = torch.tensor([[*lead, *answer[:-1]]])
        logits = model(input_ids=torch.tensor([read]), decoder_input_ids=said).logits[0].log_softmax(-1)
    return float(sum(logits[len(lead) - 1 + i, token] for i, token in enumerate(answer)))


def test_t5_reads_a_sentinel_in_the_gap_and_writes_the_word_after_it(tokenizer: Any) -> None:
    model, kind = small("t5")
    words = ("dog", "forgotten bird")
    texts = [f"{story} It was " for story in stories(4, 2)]
    found = scorer(opened(model, tokenizer, kind), at_once=200).score(
        [Question(Prompt(text, " .", gap=True), words) for text in texts])
    for text, some in zip(texts, found, strict=True):
        read = [*plain(tokenizer, text.rstrip()), 5, *plain(tokenizer, " ."), 2]
        assert [one.logprob for one in some] == pytest.approx(
            [in_decoder(model, read, [0, 5], plain(tokenizer, f" {word}")) for word in words], abs=1e-4)


def test_bart_reads_its_mask_and_writes_the_text_up_to_the_word(tokenizer: Any) -> None:
    model, kind = small("bart")
    marks = tokenizer.get_vocab()
    without = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(
            tokenizer.backend_tokenizer.to_str().replace("<extra_id_", "<other_")),
        bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")
    assert marks["<mask>"] == without.mask_token_id == 3
    text, words = "the cat saw ", ("dog", "forgotten bird")
    (found,) = scorer(opened(model, without, kind)).score([Question(Prompt(text, " .", gap=True), words)])
    left = plain(tokenizer, text.rstrip())
    read = [*left, 3, *plain(tokenizer, " ."), 2]
    assert [one.logprob for one in found] == pytest.approx(
        [in_decoder(model, read, [2, *left], plain(tokenizer, f" {word}")) for word in words], abs=1e-4)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_encoder_decoder_writes_answers_to_a_prompt(family: str, tokenizer: Any) -> None:
    model, kind = small(family)
    texts = stories(5, 3)
    found = scorer(opened(model, tokenizer, kind), at_once=200).score([Question(Prompt(text), WORDS) for text in texts])
    start = [model.config.decoder_start_token_id]
    for text, some in zip(texts, found, strict=True):
        wanted = [in_decoder(model, [*plain(tokenizer, text), 2], start, plain(tokenizer, word)) for word in WORDS]
        assert [one.logprob for one in some] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(("family", "question", "message"), [
    ("bert", Question(Prompt("the cat"), ("dog",)), "ask it by a cloze"),
    ("gpt2", Question(Prompt("the cat " * 400), ("dog",)), "more than the 700 that the model has positions for"),
    ("bert", Question(Prompt("the cat ", gap=True), ("",)), "is no token to this model"),
])
def test_what_cannot_be_asked_is_refused(family: str, question: Question, message: str, tokenizer: Any) -> None:
    with pytest.raises(RequestError, match=message):
        scorer(opened(small(family)[0], tokenizer, small(family)[1])).score([question])


def test_a_model_without_words_is_refused(tokenizer: Any) -> None:
    with pytest.raises(RequestError, match="tells no probabilities of words"):
        scorer(opened(small("bert")[0], tokenizer, "AutoModelForSequenceClassification"))


@pytest.mark.parametrize(("rows", "count"), [([(1, 2, 3), (1, 2, 4), (1, 2)], 2), ([(1,), (2,)], 0), ([(1, 2)], 2)])
def test_what_rows_share_is_counted(rows: list[tuple[int, ...]], count: int) -> None:
    assert scoring.common(rows) == count
