"""How likely sentences are: against transformers' own logits, hand-made n-grams, and files of pairs."""

import json
import math
from pathlib import Path

import pytest
import torch
from conftest import SMALL, random_encoder, stories
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

import llmkit
from llmkit.cli import main
from llmkit.inference import sentences
from llmkit.inference.sentences import Ngrams, PairScore, SentenceScore, TokenScore, by_group, on_shared, wilson
from llmkit.system.errors import RequestError

TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A small model of each shape, of random weights, with one tokenizer of the stories' words."""
    base = random_encoder(tmp_path_factory.mktemp("words"), stories(80))
    words = AutoTokenizer.from_pretrained(base)
    made = {}
    torch.manual_seed(0)
    size = len(words)
    for name, model in (
            ("gpt2", GPT2LMHeadModel(GPT2Config(vocab_size=size, bos_token_id=2, eos_token_id=3, **SMALL["gpt2"]))),
            ("bert", BertForMaskedLM(BertConfig(vocab_size=size, **SMALL["bert"]))),
            ("t5", T5ForConditionalGeneration(T5Config(vocab_size=size, decoder_start_token_id=0, **SMALL["t5"])))):
        folder = tmp_path_factory.mktemp(name)
        model.eval().save_pretrained(folder)
        words.save_pretrained(folder)
        made[name] = str(folder)
    return made


def read(folder, auto):
    """A model as transformers reads it."""
    return AutoTokenizer.from_pretrained(folder), auto.from_pretrained(folder)


def logprobs(logits, ids):
    """Of each id at its own row of logits."""
    return [float(row.log_softmax(-1)[token]) for row, token in zip(logits, ids, strict=True)]


def test_a_causal_model_gives_each_token_after_those_before(folders):
    tokenizer, model = read(folders["gpt2"], AutoModelForCausalLM)
    told = llmkit.score(folders["gpt2"], TEXT)
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert [token.text for token in told.tokens] == [tokenizer.decode([one]) for one in ids]
    target = sentences.opened(folders["gpt2"]).target(TEXT)
    assert target.ids == tuple(ids)
    whole = [*target.lead, *ids]
    with torch.no_grad():
        logits = model(torch.tensor([whole])).logits[0]
    assert [token.logprob for token in told.tokens] == pytest.approx(
        logprobs(logits[len(target.lead) - 1 : -1], ids), abs=1e-4)
    assert told.logprob == pytest.approx(sum(token.logprob for token in told.tokens))
    assert told.perplexity == pytest.approx(math.exp(-told.logprob / len(ids)))


def test_what_is_given_is_read_and_not_counted(folders):
    tokenizer, model = read(folders["gpt2"], AutoModelForCausalLM)
    told = llmkit.score(folders["gpt2"], "sat on the mat", given="the cat")
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    start = sentences.opened(folders["gpt2"]).target(TEXT).lead
    behind = len(tokenizer("the cat", add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logits = model(torch.tensor([[*start, *ids]])).logits[0]
    given = llmkit.score(folders["gpt2"], TEXT)
    assert len(told.tokens) == len(ids) - behind
    if sentences.opened(folders["gpt2"], "the cat").target("sat on the mat").lead[: len(start)] == start:
        assert [token.logprob for token in told.tokens] == pytest.approx(
            logprobs(logits[len(start) - 1 + behind : -1], ids[behind:]), abs=1e-4)
    assert len(given.tokens) == len(ids)


def test_a_masked_model_hides_one_token_at_a_time(folders):
    tokenizer, model = read(folders["bert"], AutoModelForMaskedLM)
    told = llmkit.score(folders["bert"], TEXT)
    ids = tokenizer(TEXT)["input_ids"]
    expected = []
    for spot in range(1, len(ids) - 1):
        hidden = list(ids)
        hidden[spot] = tokenizer.mask_token_id
        with torch.no_grad():
            expected.append(float(model(torch.tensor([hidden])).logits[0, spot].log_softmax(-1)[ids[spot]]))
    assert [token.logprob for token in told.tokens] == pytest.approx(expected, abs=1e-4)


def test_a_masked_model_sees_what_is_given(folders):
    alone, behind = (llmkit.score(folders["bert"], "on the mat", given=given) for given in ("", "the cat sat"))
    assert [token.text for token in alone.tokens] == [token.text for token in behind.tokens]
    assert alone.logprob != behind.logprob


def test_an_encoder_decoder_writes_the_text_after_what_it_reads(folders):
    tokenizer, model = read(folders["t5"], AutoModelForSeq2SeqLM)
    told = llmkit.score(folders["t5"], TEXT, given="a story")
    ids = tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([tokenizer("a story")["input_ids"]]),
                       decoder_input_ids=torch.tensor([[0, *ids[:-1]]])).logits[0]
    assert [token.logprob for token in told.tokens] == pytest.approx(logprobs(logits, ids), abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_many_texts_at_once_have_the_scores_that_each_has_alone(name, folders):
    texts = [*stories(12), TEXT, "the", TEXT]
    texts = [text[:60] for text in texts]
    told = llmkit.score(folders[name], texts)
    assert [one.text for one in told] == texts
    for text, one in zip(texts[:4], told[:4], strict=True):
        assert llmkit.score(folders[name], text).logprob == pytest.approx(one.logprob, abs=1e-3)
    assert told[-1] == told[-3]


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_texts_that_have_no_probability_are_refused(name, folders):
    for text, said in (("", "an empty text"), ("  \n ", "an empty text"), ("cat " * 600, "positions")):
        if name == "t5" and said == "positions":
            continue  # T5's positions are relative: it reads any length
        with pytest.raises(RequestError, match=said):
            llmkit.score(folders[name], text)


# ---- n-grams ----

class Words:
    """A tokenizer of words: a 0, b 1, c 2, d 3."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": ["abcd".index(word) for word in text.split()]}

    def __len__(self):
        return 4


def test_ngrams_are_those_of_witten_and_bell():
    # of the unigrams a a b, <s> and </s> padded: checked against nltk's own model made of words
    from nltk.lm import WittenBellInterpolated
    from nltk.lm.preprocessing import padded_everygram_pipeline

    grams, words = padded_everygram_pipeline(3, [["0", "0", "1"], ["1", "2"]])
    model = WittenBellInterpolated(3)
    model.fit(grams, [*words, "0", "1", "2", "3"])
    expected = (math.log(model.score("0", ["<s>", "<s>"])) + math.log(model.score("1", ["<s>", "0"])))
    assert Ngrams(["a a b", "b c"], Words()).logprob([0, 1]) == pytest.approx(expected)


def test_ngrams_know_what_they_saw_from_what_they_did_not():
    floor = Ngrams(["a b c"] * 20, Words())
    assert floor.logprob([0, 1, 2]) > floor.logprob([2, 1, 0]) > -100
    assert floor.logprob([3]) < floor.logprob([0])
    assert math.isfinite(floor.logprob([3, 3, 3]))


# ---- pairs ----

def scored(text, *values):
    return SentenceScore(text, tuple(TokenScore(word, value) for word, value in zip(text.split(), values, strict=True)))


def test_only_shared_tokens_count():
    one, other = on_shared(scored("the old man ran", -1, -9, -2, -3), scored("the young man ran", -1, -1, -4, -3))
    assert ([token.text for token in one.tokens], one.logprob, other.logprob) == (["the", "man", "ran"], -6, -8)
    assert on_shared(scored("a b", -1, -1), scored("c d", -2, -2)) == (scored("a b", -1, -1), scored("c d", -2, -2))


def test_groups_have_shares_with_their_intervals():
    pairs = [PairScore(scored("a", good), scored("b", -2.0), group) for good, group in (
        (-1.0, "x"), (-1.0, "x"), (-3.0, "x"), (-2.0, "y"))]
    x, y, whole = by_group(pairs)
    assert (x["group"], x["pairs"], x["preferred"]) == ("x", 3, pytest.approx(2 / 3))
    assert (y["preferred"], whole["group"], whole["preferred"]) == (0.5, "all", 2.5 / 4)
    assert x["low"] < x["preferred"] < x["high"]
    assert [row["group"] for row in by_group(pairs[:3])] == ["all"]


@pytest.mark.parametrize(("share", "count", "low", "high"), [  # R: binom::binom.wilson
    (0.8, 10, 0.4901625, 0.9433178), (0.0, 10, 0.0, 0.2775328), (1.0, 10, 0.7224672, 1.0), (0.5, 1000, 0.4690, 0.5310)])
def test_wilson_is_that_of_r(share, count, low, high):
    assert wilson(share, count) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


# ---- the command ----

BLIMP = [{"sentence_good": "the cat sat on the mat", "sentence_bad": "the cat on mat the sat", "UID": "order"},
         {"sentence_good": "the dog ran", "sentence_bad": "dog the ran", "UID": "article"}]


@pytest.mark.parametrize("name", ["gpt2", "bert", "t5"])
def test_a_file_of_pairs_gives_a_table_by_group(name, folders, tmp_path, capsys):
    path = tmp_path / "blimp.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in BLIMP))
    out = tmp_path / "out.jsonl"
    assert main(["score", str(path), "--model", folders[name], "--json", "-o", str(out)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["preferred"] == "sentence_good over sentence_bad"
    assert [(row["group"], row["pairs"]) for row in told["groups"]] == [("article", 1), ("order", 1), ("all", 2)]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    alone = llmkit.score(folders[name], BLIMP[0]["sentence_good"])
    assert rows[0]["good_logprob"] == pytest.approx(alone.logprob, abs=1e-3)
    assert [row["preferred"] for row in rows] == [float(row["good_logprob"] > row["bad_logprob"]) for row in rows]


def test_crows_pairs_are_read_with_their_bias_types(folders, tmp_path, capsys):
    path = tmp_path / "crows.csv"
    path.write_text(",sent_more,sent_less,stereo_antistereo,bias_type\n"
                    "0,the old cat sat,the young cat sat,stereo,age\n1,the cat ran,the dog ran,antistereo,animal\n")
    assert main(["score", str(path), "--model", folders["bert"], "--shared"]) == 0
    out = capsys.readouterr().out
    assert "sent_more over sent_less: chance is 0.5" in out
    assert out.splitlines()[1].startswith("age")


def test_a_text_and_a_file_of_texts(folders, tmp_path, capsys):
    assert main(["score", TEXT, "--model", folders["gpt2"]]) == 0
    assert "perplexity" in capsys.readouterr().out
    path = tmp_path / "texts.txt"
    path.write_text(f"{TEXT}\nthe dog ran\n")
    assert main(["score", str(path), "--model", folders["gpt2"], "--floor", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["text"] for one in told["texts"]] == [TEXT, "the dog ran"]
    assert all(one["floor"] < 0 for one in told["texts"])
    assert main(["score", str(path), "--model", folders["gpt2"]]) == 0
    told = capsys.readouterr()
    assert [json.loads(line)["text"] for line in told.out.splitlines()] == [TEXT, "the dog ran"]
    assert "2 texts" in told.err


@pytest.mark.parametrize(("words", "said", "status"), [
    (["nothing.txt", "--shared"], "nothing.txt", 3), (["the cat", "--shared"], "there is no file 'the cat'", 2),
    ([" "], "empty text", 2),
    (["TEXTS", "--shared"], "is for pairs of sentences", 2), (["BAD"], "bad.jsonl:2: 'bad' must be a sentence", 3),
    (["the cat", "--floor", "nowhere.txt"], "nowhere.txt", 3)])
def test_what_cannot_be_scored_is_told(words, said, status, folders, tmp_path, capsys):
    texts, bad = tmp_path / "texts.txt", tmp_path / "bad.jsonl"
    texts.write_text("the cat\n")
    bad.write_text('{"good": "the cat", "bad": "cat the"}\n{"good": "the cat", "bad": null}\n')
    words = [{"TEXTS": str(texts), "BAD": str(bad)}.get(word, word) for word in words]
    assert main(["score", *words, "--model", folders["gpt2"]]) == status
    assert said in capsys.readouterr().err


def test_a_classifier_says_no_probabilities_of_words(encoder, capsys):
    assert main(["score", "the cat", "--model", str(encoder)]) == 2
    assert Path(encoder).name in capsys.readouterr().err
