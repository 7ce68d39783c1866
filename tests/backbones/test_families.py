"""Every family has the published sizes, refuses what its config can't be, and names parts that are there."""

import re

import pytest
import torch
import transformers
from conftest import OBJECTIVE, SMALL, STILL, WORDS, stories

from llmkit.backbones.base import restart, same
from llmkit.data import tokenizer as tokenizers
from llmkit.objectives.base import only_at, part
from llmkit.recipe import fits, registry
from llmkit.system.errors import RequestError

FAMILIES = [name for name in registry.names("backbones") if name != "auto"]
SIZES = [(name, size) for name in FAMILIES for size in registry.find("backbones", name).sizes]


class Words:
    """A tokenizer of which only size and ids are asked."""

    pad_token_id, bos_token_id, eos_token_id, cls_token_id, sep_token_id = 0, 1, 2, 3, 4

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def get_vocab(self):
        return {str(i): i for i in range(self.size)}


def parameters(name, size, vocabulary, head):
    family = registry.find("backbones", name)
    with torch.device("meta"):
        model = getattr(transformers, head).from_config(family.config(size, {}, Words(vocabulary)))
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "size", "vocabulary", "head", "published"), [
    ("bert", "tiny", 30522, "AutoModel", 4_385_920),
    ("bert", "mini", 30522, "AutoModel", 11_170_560),
    ("bert", "small", 30522, "AutoModel", 28_763_648),
    ("bert", "medium", 30522, "AutoModel", 41_373_184),
    ("bert", "base", 30522, "AutoModel", 109_482_240),
    ("bert", "large", 30522, "AutoModel", 335_141_888),
    ("gpt2", "small", 50257, "AutoModelForCausalLM", 124_439_808),
    ("gpt2", "medium", 50257, "AutoModelForCausalLM", 354_823_168),
    ("gpt2", "large", 50257, "AutoModelForCausalLM", 774_030_080),
    ("gpt2", "xl", 50257, "AutoModelForCausalLM", 1_557_611_200),
    ("t5", "small", 32128, "AutoModelForSeq2SeqLM", 60_506_624),
    ("t5", "base", 32128, "AutoModelForSeq2SeqLM", 222_903_552),
    ("t5", "large", 32128, "AutoModelForSeq2SeqLM", 737_668_096),
    ("roberta", "base", 50265, "AutoModel", 124_645_632),
    ("roberta", "large", 50265, "AutoModel", 355_359_744),
    ("albert", "base", 30000, "AutoModel", 11_683_584),
    ("albert", "xxlarge", 30000, "AutoModel", 222_595_584),
    ("electra", "small", 30522, "AutoModelForPreTraining", 13_549_057),
    ("electra", "base", 30522, "AutoModel", 108_891_648),
    ("deberta", "base", 128100, "AutoModel", 183_831_552),
    ("deberta", "large", 128100, "AutoModel", 434_012_160),
    ("modernbert", "base", 50368, "AutoModelForMaskedLM", 149_655_232),
    ("modernbert", "large", 50368, "AutoModelForMaskedLM", 395_881_664),
    ("xlnet", "base", 32000, "AutoModel", 116_718_336),
    ("bart", "base", 50265, "AutoModel", 139_420_416),
    ("bart", "large", 50265, "AutoModel", 406_291_456),
    ("umt5", "small", 256384, "AutoModelForSeq2SeqLM", 306_601_984 - 256384 * 512),  # transformers ties the table
    ("qwen3", "0.6b", 151936, "AutoModelForCausalLM", 596_049_920),
    ("qwen3", "1.7b", 151936, "AutoModelForCausalLM", 1_720_574_976),
    ("qwen3_moe", "30b-a3b", 151936, "AutoModelForCausalLM", 30_532_122_624),
    ("llama", "base", 49152, "AutoModelForCausalLM", 134_515_008),  # SmolLM2-135M
])
def test_a_published_size_has_its_published_parameters(name, size, vocabulary, head, published):
    assert parameters(name, size, vocabulary, head) == published


@pytest.mark.parametrize(("name", "size"), SIZES)
def test_every_size_is_a_config_with_the_tokenizers_ids(name, size):
    family = registry.find("backbones", name)
    config = family.config(size, {}, Words(1000))
    assert (config.model_type, config.vocab_size) == (family.model_type, 1000)
    assert (config.pad_token_id, config.eos_token_id) == (0, 2)
    assert hasattr(config, "d_kv") or config.hidden_size % config.num_attention_heads == 0
    family.check_config(family.sizes[size])
    if family.shape == "encoder-decoder":
        assert config.decoder_start_token_id == (2 if name == "bart" else 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_sizes_grow_and_the_recipe_is_over_both(name):
    family = registry.find("backbones", name)
    widths = [family.config(size, {}, Words(10)).hidden_size for size in family.sizes]
    assert widths == sorted(widths)
    assert "tiny" in family.sizes
    assert family.config("tiny", {**SMALL[name], "vocab_size": 77}, Words(10)).vocab_size == 77
    assert family.config("tiny", SMALL[name], Words(10)).hidden_size == 32
    assert family.config(None, {}, Words(10)).vocab_size == 10


@pytest.mark.parametrize(("name", "fields", "message"), [
    ("bert", {"hidden_sise": 64}, r"backbone\.config\.hidden_sise: no such field of bert\. Did you mean 'hidden_size'"),
    ("gpt2", {"n_embed": 64}, "Did you mean 'n_embd'"),
    ("bert", {"hidden_size": 0}, "0 must be a whole number above 0"),
    ("bert", {"hidden_size": -4}, "-4 must be a whole number above 0"),
    ("bert", {"hidden_size": 64.0}, "64.0 must be a whole number above 0"),
    ("bert", {"num_hidden_layers": "2"}, "'2' must be a whole number above 0"),
    ("bert", {"num_hidden_layers": True}, "True must be a whole number above 0"),
    ("bert", {"hidden_dropout_prob": "much"}, "'much' must be a number, 0 or above"),
    ("t5", {"dropout_rate": -0.1}, "-0.1 must be a number, 0 or above"),
    ("gpt2", {"resid_pdrop": None}, "None must be a number, 0 or above"),
])
def test_a_field_that_the_config_cannot_have_is_refused(name, fields, message):
    with pytest.raises(RequestError, match=message):
        registry.find("backbones", name).check_config(fields)


def test_fields_go_by_either_of_their_names():
    gpt2 = registry.find("backbones", "gpt2")
    gpt2.check_config({"hidden_size": 64, "num_attention_heads": 2, "resid_pdrop": 0, "n_inner": 128})
    assert gpt2.config("tiny", {"hidden_size": 64}, Words(10)).n_embd == 64


def test_position_limits_are_those_of_the_config():
    def limit(name, size, **fields):
        family = registry.find("backbones", name)
        return family.position_limit(family.config(size, fields, Words(10)))

    assert limit("bert", "base") == 512
    assert limit("bert", "tiny", max_position_embeddings=64) == 64
    assert limit("gpt2", "small") == 1024
    assert limit("gpt2", "tiny") == 256
    assert limit("llama", "tiny") == 512
    assert limit("t5", "base") is None


@pytest.mark.parametrize(("name", "head"), [
    (name, head) for name in FAMILIES for head in registry.find("backbones", name).heads])
def test_the_parts_of_every_head_are_there(name, head):
    family = registry.find("backbones", name)
    tokenizer = tokenizers.train(stories(80), family.tokenizer, WORDS[name], None, family.special)
    model = getattr(transformers, head).from_config(family.config("tiny", {**SMALL[name], "num_labels": 3}, tokenizer))
    assert model.config.vocab_size == len(tokenizer)
    module = part(model, family.heads[head])
    last = list(module.parameters())[-1]
    if head not in ("AutoModelForQuestionAnswering", "AutoModelForPreTraining"):
        two = name in ("electra", "modernbert") and head == "AutoModelForMaskedLM"  # a table comes after this part
        assert two or last.shape[0] in (1, 2, 3, len(tokenizer), 32, 16)  # it ends in labels or in words
    if head == "AutoModelForQuestionAnswering" and family.shape == "decoder":
        return  # transformers calls the body by another name there
    alone = head == "AutoModelForTokenClassification"  # T5 has no decoder there
    for stack in family.layers[:1] if alone else family.layers:
        layers = part(model, stack)
        assert len(layers) == (1 if name == "albert" else 2)
        names = {inner for inner, _ in layers[0].named_modules()}
        for pattern in family.feed_forward:
            assert any(re.fullmatch(pattern, inner) for inner in names), pattern
    with pytest.raises(RequestError, match="has no part 'no_head'"):
        part(model, "no_head")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_can_learn_something(name):
    family = registry.find("backbones", name)
    can = [each for kind in ("objectives", "tasks") for each in registry.names(kind)
           if fits(registry.find(kind, each)(), family)]
    assert OBJECTIVE[name] in can


def words_model(name, **fields):
    """A model that writes or fills in words, with weights large enough that attention matters; and its batch."""
    family = registry.find("backbones", name)
    torch.manual_seed(0)
    head = {"encoder": "AutoModelForMaskedLM", "encoder-decoder": "AutoModelForSeq2SeqLM"}.get(
        family.shape, "AutoModelForCausalLM")
    config = family.config("tiny", {**SMALL[name], **STILL[name], **fields}, Words(90))
    model = getattr(transformers, head).from_config(
        config, attn_implementation=family.attention, dtype=torch.float32).eval()
    for parameter in model.parameters():  # far from zero: attention matters
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    batch = {"input_ids": torch.randint(5, 90, (2, 12))}
    if family.shape == "encoder-decoder":
        batch["decoder_input_ids"] = torch.randint(5, 90, (2, 12))
    return family, model, head, batch


@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_gives_the_same_logits_at_chosen_positions(name):
    family, model, head, batch = words_model(name)
    wanted = torch.rand(2, 12) > 0.5
    with torch.no_grad():
        whole = family.outputs(model, batch).logits[wanted]
        with only_at(model, family.heads[head], wanted):
            some = family.outputs(model, batch).logits
    assert some.shape == (int(wanted.sum()), 90)
    torch.testing.assert_close(some, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FAMILIES if not registry.find("backbones", name).mixes])
def test_documents_in_a_row_are_as_if_alone(name):
    family, model, _, batch = words_model(name, **({"local_attention": 4} if name == "modernbert" else {}))
    documents = torch.tensor([[0] * 5 + [1] * 7] * 2)
    packed = {**batch, "documents": documents}
    if family.shape == "encoder-decoder":
        packed["decoder_documents"] = documents

    def alone(start, stop):
        return family.outputs(model, {key: value[:, start:stop] for key, value in batch.items()}).logits

    with torch.no_grad():
        ours = family.outputs(model, packed).logits
        apart = torch.cat([alone(0, 5), alone(5, 12)], 1)
        mixed = family.outputs(model, batch).logits
    assert (ours - apart).abs().max() <= 1e-5 * apart.abs().max()
    assert (mixed - apart).abs().max() > 1e-2 * apart.abs().max()  # it does matter


@pytest.mark.parametrize("name", [name for name in FAMILIES if registry.find("backbones", name).mixes])
def test_a_family_that_mixes_documents_refuses_them(name, text, tmp_path):
    from conftest import tiny

    from llmkit import recipe
    from llmkit.planning.settle import settle

    tree = tiny(name, text, tmp_path)
    tree["data"]["packing"] = "documents"
    reason = registry.find("backbones", name).mixes
    with pytest.raises(RequestError, match=f"{name} can't keep documents in a row apart: {reason}; use blocks or none"):
        settle(recipe.load(tree))


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_a_prefix_is_seen_from_both_sides_and_the_rest_is_causal(name):
    family, model, _, batch = words_model(name)
    prefix = torch.tensor([[1] * 4 + [0] * 8, [1] * 7 + [0] * 5])

    def logits(ids):
        with torch.no_grad():
            return family.outputs(model, {"input_ids": ids, "prefix": prefix}).logits

    before = logits(batch["input_ids"])
    for changed in range(12):
        other = batch["input_ids"].clone()
        other[:, changed] = (other[:, changed] + 1) % 85 + 5
        moved = (logits(other) - before).abs().amax(-1) > 1e-4
        for row, length in enumerate((4, 7)):
            expected = [i >= changed or (changed < length and i < length) for i in range(12)]
            assert moved[row].tolist() == expected


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("special", ["bert", "gpt2", "t5", "roberta", "xlnet", "marian"])
def test_any_kind_of_tokenizer_takes_any_familys_special_tokens(kind, special, tmp_path):
    made = tokenizers.train(stories(80), kind, 420, None, special)
    made.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bart"}')  # beside any model
    again = tokenizers.load(tmp_path)
    assert again.get_vocab() == made.get_vocab()
    assert len(again) <= 420
    assert dict(again("the cat", "a dog")) == dict(made("the cat", "a dog"))
    template = {"bert": "c A s B s", "gpt2": "A B", "t5": "A e B e", "roberta": "c A s s B s", "xlnet": "A s B s c",
                "marian": "A B e"}[special]
    marks = {"c": [again.cls_token_id], "s": [again.sep_token_id], "e": [again.eos_token_id],
             "A": again("the cat", add_special_tokens=False)["input_ids"],
             "B": again("a dog", add_special_tokens=False)["input_ids"]}
    assert again("the cat", "a dog")["input_ids"] == [token for mark in template.split() for token in marks[mark]]
    if special == "t5":
        assert "<extra_id_99>" in again.get_vocab()
    again_made = tokenizers.train(stories(80), kind, 420, None, special)
    assert tokenizers.fingerprint(again_made) == tokenizers.fingerprint(made)


def test_roberta_counts_positions_from_after_the_padding():
    family = registry.find("backbones", "roberta")
    tokenizer = tokenizers.train(stories(80), "bpe", 300, None, "roberta")
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 0, 2)
    assert family.position_limit(family.config("base", {}, tokenizer)) == 512


def test_a_query_sees_its_own_document():
    seen = same(torch.tensor([[0, 0, 1, -1]]), torch.tensor([[0, 1, 1]]))
    assert seen.shape == (1, 1, 4, 3)
    assert seen[0, 0].int().tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 1], [0, 0, 0]]


def test_positions_start_again_with_each_document():
    assert restart(torch.tensor([[0, 0, 0, 1, 1, -1, -1], [0, 1, 2, 2, 3, 3, 3]])).tolist() == [
        [0, 1, 2, 0, 1, 0, 1], [0, 0, 0, 1, 0, 1, 2]]
