"""Instruction tuning: the prompt is given, and only the answer and its end are learned."""

import json

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories

from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.objectives.base import Setup
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.instruction import Instruction

CHAT = ("{% for message in messages %}<|{{ message.role }}|> {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|> {% endif %}")


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train([*stories(80), "what did he do ?", "ABC abc <|user|>"], "bpe", 300)


@pytest.fixture(scope="module")
def unigram():
    return tokenizers.train([*stories(80), "what did he do ?"], "unigram", 200)


def setup(tokenizer, family="gpt2", length=64):
    return Setup(tokenizer, registry.find("backbones", family), length, "none", seed=0)


def prepared(reader, tokenizer, family="gpt2", length=64, **options):
    sets = Instruction(**options).prepare([reader], None, setup(tokenizer, family, length))
    return sets.train[0].features, sets.notes


def answer(features):
    return [label for label in features["labels"].tolist() if label != -100]


ROW = {"prompt": "what did the cat do ?", "response": "the cat saw a hat"}


def test_only_the_answer_and_its_end_are_learned(write, bpe):
    (features,), _ = prepared(write(ROW), bpe)
    asked, said = (bpe(text)["input_ids"] for text in ("what did the cat do ?\n", "the cat saw a hat"))
    end = bpe.eos_token_id
    assert features["input_ids"].tolist() == [*asked, *said]
    assert features["labels"].tolist() == [-100] * (len(asked) - 1) + [*said, end]


def test_the_template_says_how_a_prompt_is_written(write, bpe):
    (features,), _ = prepared(write(ROW), bpe, template="Q: {prompt}\nA: ")
    assert bpe.decode(features["input_ids"]) == "Q: what did the cat do ?\nA: the cat saw a hat"
    with pytest.raises(ValueError, match="template must contain"):
        Instruction(template="Q:")


def test_braces_in_a_prompt_are_text(write, bpe):
    (features,), _ = prepared(write({"prompt": "{prompt} {0} {x", "response": "a"}), bpe)
    assert bpe.decode(features["input_ids"]) == "{prompt} {0} {x\na"


def test_the_chat_template_is_used_where_there_is_one(write):
    tokenizer = tokenizers.train(stories(80), "bpe", 300)
    tokenizer.chat_template = CHAT
    (features,), _ = prepared(write(ROW), tokenizer)
    text = tokenizer.decode(features["input_ids"])
    assert text == "<|user|> what did the cat do ?\n<|assistant|> the cat saw a hat"
    assert tokenizer.decode(answer(features)) == "the cat saw a hat<|endoftext|>"
    whole = tokenizer.apply_chat_template([{"role": "user", "content": ROW["prompt"]}], tokenize=False,
                                          add_generation_prompt=True)
    assert text.startswith(whole)


def test_a_tokenizer_that_begins_texts_begins_prompts(write):
    from tokenizers.processors import TemplateProcessing

    tokenizer = tokenizers.train(stories(80), "bpe", 300)
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A", special_tokens=[(end, tokenizer.eos_token_id)])
    (features,), _ = prepared(write(ROW), tokenizer)
    assert features["input_ids"][0] == tokenizer.bos_token_id
    assert tokenizer.decode(features["input_ids"]) == f"{end}what did the cat do ?\nthe cat saw a hat"
    assert tokenizer.decode(answer(features)) == f"the cat saw a hat{end}"
    tokenizer.chat_template = CHAT  # which writes what it wants before a text by itself
    (features,), _ = prepared(write(ROW), tokenizer)
    assert features["input_ids"][0] != tokenizer.bos_token_id


def test_alpacas_input_belongs_to_its_instruction(write, bpe):
    rows = [{"instruction": "say it", "input": "the cat", "output": "a"},
            {"instruction": "go", "input": "", "output": "b"},
            {"instruction": "go", "input": None, "output": "c"}]
    features, _ = prepared(write(*rows), bpe)
    assert [bpe.decode(row["input_ids"]) for row in features] == ["say it\nthe cat\na", "go\nb", "go\nc"]


def test_an_input_alone_is_the_prompt(write, bpe):
    (features,), _ = prepared(write({"input": "the cat", "output": "a"}), bpe)
    assert bpe.decode(features["input_ids"]) == "the cat\na"


def test_columns_can_be_named(write, bpe):
    (features,), _ = prepared(write({"input": "no", "frage": "the cat", "antwort": "a"}, prompt="frage",
                                    response="antwort", context="frage"), bpe)
    assert bpe.decode(features["input_ids"]) == "the cat\na"


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_answer(write, unigram):
    (features,), _ = prepared(write(ROW), unigram, "t5")
    end, start = unigram.eos_token_id, unigram.pad_token_id
    asked, said = (unigram(text, add_special_tokens=False)["input_ids"] for text in
                   ("what did the cat do ?\n", "the cat saw a hat"))
    assert {name: ids.tolist() for name, ids in features.items()} == {
        "input_ids": [*asked, end], "labels": [*said, end], "decoder_input_ids": [start, *said],
        "documents": [0] * (len(asked) + 1), "decoder_documents": [0] * (len(said) + 1)}
    assert Instruction().head_for(registry.find("backbones", "t5")) == "AutoModelForSeq2SeqLM"


def test_an_encoder_decoder_cuts_both_sides_and_keeps_the_prompts_end(write, unigram):
    long = {"prompt": ROW["prompt"] * 4, "response": ROW["response"] * 4}
    whole, _ = prepared(write(long), unigram, "t5", 500)
    lost = sum(len(whole[0][name]) - 10 for name in ("input_ids", "labels"))
    features, notes = prepared(write(long), unigram, "t5", 10)
    assert features[0]["input_ids"].tolist() == [*whole[0]["input_ids"][:9], unigram.eos_token_id]
    assert features[0]["labels"].tolist() == whole[0]["labels"][:10].tolist()
    assert len(features[0]["decoder_input_ids"]) == 10
    assert f"1 row is longer than 10 tokens and was cut ({lost} tokens left out)" in notes


def test_an_answer_too_long_is_cut_and_counted(write, bpe):
    asked, said = len(bpe("what did the cat do ?\n")["input_ids"]), len(bpe("the cat saw a hat")["input_ids"])
    features, notes = prepared(write(ROW), bpe, length=asked + 2)
    assert len(features[0]["input_ids"]) == len(features[0]["labels"]) == asked + 2
    assert answer(features[0]) == bpe("the cat saw a hat")["input_ids"][:3]
    # the last token is never an input: one more target than positions after the prompt
    assert f"1 row is longer than {asked + 2} tokens and was cut ({said - 2} tokens left out)" in notes
    features, notes = prepared(write(ROW), bpe, length=asked + said)
    assert answer(features[0])[-1] == bpe.eos_token_id
    assert not any("were cut" in note for note in notes)


def test_a_prompt_too_long_is_told_with_its_line(write, bpe):
    asked = len(bpe("what did the cat do ?\n")["input_ids"])
    short = {"prompt": "a", "response": "b"}
    with pytest.raises(DataError, match=rf"rows\.jsonl:1: the prompt alone has {asked} tokens; .* is {asked - 1}"):
        prepared(write(ROW, ROW), bpe, length=asked - 1)
    reader = write(short, ROW, ROW)  # where others are left, it isn't the end of the run
    features, notes = prepared(reader, bpe, length=asked - 1)
    assert len(features) == 1
    assert "1 training row" in notes
    assert any(f"2 rows are left out, for the prompt alone is longer than data.max_length, {asked - 1}" in note
               for note in reader.notes)
    features, _ = prepared(write(short, ROW), bpe, length=asked)
    assert answer(features[1]) == bpe("the cat saw a hat")["input_ids"][:1]


@pytest.mark.parametrize(("row", "message"), [
    ({"prompt": "a", "response": " "}, "the field 'response' is empty"),
    ({"prompt": "", "response": "b"}, "the field 'prompt' is empty"),
    ({"prompt": "a", "response": 5}, "the field 'response' is no text: 5"),
    ({"prompt": ["a"], "response": "b"}, r"the field 'prompt' is no text: \['a'\]"),
])
def test_a_row_without_its_field_is_told_with_its_line(write, bpe, row, message):
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: {message}"):
        prepared(write(ROW, row), bpe)


def test_a_tokenizer_without_an_end_is_refused(write):
    with pytest.raises(RequestError, match="no eos token; instruction needs one"):
        prepared(write(ROW), tokenizers.train(stories(80), "wordpiece", 200))


TURNS = [{"role": "system", "content": "say it"}, {"role": "user", "content": "what did he do ?"},
        {"role": "assistant", "content": "the cat saw a hat"}, {"role": "user", "content": "a dog\n"},
        {"role": "assistant", "content": "a hat"}]


@pytest.mark.parametrize("special", [None, "roberta"], ids=["no begin token", "a begin token"])
@pytest.mark.parametrize("template", ["{prompt}\n", 'Q "{prompt}" \\ 猫\nA: ', "{prompt} {prompt} {{ x }}"])
def test_the_chat_template_that_is_left_writes_what_was_learned_from(write, tmp_path, special, template):
    """By whoever asks: a conversation in it is, token for token, the one of training."""
    tokenizer = tokenizers.train([*stories(80), "what did he do ? say it 猫 QA:"], "bpe", 400,
                                 special=special)
    asked = [{"role": "user", "content": "what did he do ?"}, {"role": "assistant", "content": "the cat saw a hat"}]
    reader = write({"messages": TURNS}, {"messages": asked})
    learned, _ = prepared(reader, tokenizer, "llama", 128, template=template)
    Instruction(template=template).describe(tmp_path, setup(tokenizer, "llama"))
    tokenizer.chat_template = (tmp_path / "chat_template.jinja").read_text()
    again, _ = prepared(reader, tokenizer, "llama", 128)
    for one, other in zip(learned, again, strict=True):
        assert {name: ids.tolist() for name, ids in one.items()} == {name: ids.tolist() for name, ids in other.items()}
    ids = tokenizer.apply_chat_template(asked[:1], add_generation_prompt=True)["input_ids"]
    assert learned[1]["input_ids"][:len(ids)].tolist() == ids
    assert learned[1]["labels"][:len(ids)].tolist() == [-100] * (len(ids) - 1) + [answer(learned[1])[0]]


def test_a_tokenizer_with_a_chat_template_keeps_it_and_what_is_no_question_gets_none(tmp_path, bpe, unigram):
    Instruction().describe(tmp_path, setup(unigram, "t5"))
    Instruction(reverse=True).describe(tmp_path, setup(bpe))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5"])
def test_the_loss_is_transformers_own(asked, family):
    import transformers

    kind = registry.find("backbones", family)
    tokenizer = tokenizers.train([*stories(80), "what did ?"], kind.tokenizer, 300)
    task = Instruction()
    features = task.prepare([open_source(Source(str(asked)))], None, setup(tokenizer, family, 60)).train[0].features[:6]
    torch.manual_seed(0)
    config = kind.config("tiny", SMALL[family] | STILL[family], tokenizer)
    model = getattr(transformers, task.head_for(kind)).from_config(config).eval()
    batch = task.collate(features, tokenizer)
    ours, count = task.loss(model, batch, kind)["loss"], task.targets(batch)["loss"]
    assert count == sum(len(answer(row)) for row in features)
    # decoders shift labels by themselves unless they are given shifted; T5 shifts them to its decoder's inputs
    shifted = {} if family == "t5" else {"shift_labels": batch["labels"]}
    theirs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"],
                   **shifted).loss
    assert ours.item() == pytest.approx((theirs * count).item(), rel=1e-5)
    apart = sum(task.loss(model, task.collate([row], tokenizer), kind)["loss"].item() for row in features)
    assert ours.item() == pytest.approx(apart, rel=1e-5)
    assert np.exp(0.5) == pytest.approx(task.metrics({"loss": 0.5}, [])["perplexity"])


# ---- conversations ----------------------------------------------------------------------------------------------

TALK = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "what did he do ?"},
        {"role": "assistant", "content": "the cat saw a hat"}, {"role": "user", "content": "the dog ?"},
        {"role": "assistant", "content": "a dog"}]
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[one["role"]], "value": one["content"]} for one in TALK[1:]]


@pytest.fixture
def chat():
    """A tokenizer with ChatML's tokens and template."""
    tokenizer = tokenizers.train([*stories(80), "what did he do ?", "system user assistant be kind"], "bpe", 300)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    return tokenizer


def spans(features, tokenizer):
    """What is learned, one text for each run of targets."""
    out, before = [], -100
    for label in features["labels"].tolist():
        if label != -100:
            out[-1:] = [[*out[-1], label]] if before != -100 else [*out[-1:], [label]]
        before = label
    return [tokenizer.decode(run) for run in out]


def test_every_turn_of_the_assistant_is_learned_with_its_end(write, chat):
    (features,), _ = prepared(write({"messages": TALK}), chat, length=200)
    assert chat.decode(features["input_ids"]) == (
        "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nwhat did he do ?<|im_end|>\n"
        "<|im_start|>assistant\nthe cat saw a hat<|im_end|>\n<|im_start|>user\nthe dog ?<|im_end|>\n"
        "<|im_start|>assistant\na dog")
    # the end is what the template ends a turn with, be it the tokenizer's own or not
    assert spans(features, chat) == ["the cat saw a hat<|im_end|>", "a dog<|im_end|>"]
    ids, labels = features["input_ids"], features["labels"]
    assert all(labels[i] == ids[i + 1] for i in range(len(ids) - 1) if labels[i] != -100)


def test_the_mask_of_a_conversation_is_literal(write):
    tokenizer = tokenizers.train(["a b c d e f U A"] * 9, "bpe", 280)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'A' if m.role == 'assistant' else 'U' }}{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}A{% endif %}")
    said = [{"role": role, "content": word} for role, word in
            [("user", "a"), ("assistant", "bc"), ("user", "d"), ("assistant", "e")]]
    (features,), _ = prepared(write({"messages": said}), tokenizer)
    end = tokenizer.eos_token_id

    def ids(text):
        return [tokenizer.convert_tokens_to_ids(letter) for letter in text]

    assert features["input_ids"].tolist() == ids("UaAbcUdAe")
    # no special token ends a turn here: after each answer the end is learned, though the template writes none
    b, c, e = ids("bce")
    assert features["labels"].tolist() == [-100, -100, b, c, end, -100, -100, e, end]


def test_sharegpt_and_messages_are_the_same_conversation(write, chat):
    (one,), _ = prepared(write({"messages": TALK[1:]}), chat, length=200)
    (two,), _ = prepared(write({"conversations": SHAREGPT}), chat, length=200)
    (three,), _ = prepared(write({"id": 3, "conversations": SHAREGPT, "system": "be kind"}), chat, length=200)
    (four,), _ = prepared(write({"messages": TALK}), chat, length=200)
    assert one["input_ids"].tolist() == two["input_ids"].tolist()
    assert three["input_ids"].tolist() == four["input_ids"].tolist()


def test_without_a_chat_template_turns_are_written_in_the_recipes(write, bpe):
    (features,), _ = prepared(write({"messages": TALK}), bpe, template="Q: {prompt}\nA: ", length=100)
    end = bpe.eos_token
    assert bpe.decode(features["input_ids"]) == (
        f"Q: be kind\nwhat did he do ?\nA: the cat saw a hat{end}Q: the dog ?\nA: a dog")
    assert spans(features, bpe) == [f"the cat saw a hat{end}", f"a dog{end}"]


def test_an_encoder_decoder_learns_the_last_answer(write, unigram):
    (features,), _ = prepared(write({"messages": TALK[1:]}), unigram, "t5")
    assert unigram.decode(features["labels"], skip_special_tokens=True) == "a dog"
    read = unigram.decode(features["input_ids"])
    assert read.index("what did he do ?") < read.index("the cat saw a hat") < read.index("the dog ?")


def test_what_comes_after_the_last_answer_is_left_out(write, chat):
    (one,), _ = prepared(write({"messages": TALK[:3]}), chat, length=200)
    (two,), _ = prepared(write({"messages": TALK[:4]}), chat, length=200)
    assert one["input_ids"].tolist() == two["input_ids"].tolist()


def test_a_conversation_too_long_is_cut_at_its_end_and_counted(write, chat):
    (whole,), _ = prepared(write({"messages": TALK}), chat, length=200)
    first = int(np.flatnonzero(whole["labels"] == chat.convert_tokens_to_ids("<|im_end|>"))[0]) + 1
    for length in (first, first + 5):  # inside the second question: nothing of it is of use
        (features,), notes = prepared(write({"messages": TALK}), chat, length=length)
        assert features["input_ids"].tolist() == whole["input_ids"][:first].tolist()
        assert spans(features, chat) == ["the cat saw a hat<|im_end|>"]
        lost = len(whole["input_ids"]) - first
        assert f"1 row is longer than {length} tokens and was cut ({lost} tokens left out)" in notes


def test_empty_thoughts_before_an_answer_are_learned_with_it(write, chat):
    chat.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<t>\n</t>\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    said = [TALK[1], {"role": "assistant", "content": "t"}]
    (features,), _ = prepared(write({"messages": said}), chat)
    assert spans(features, chat) == ["<t>\n</t>\nt<|im_end|>"]


@pytest.mark.parametrize(("template", "message"), [
    ("{{ messages[-1].content }}{% if add_generation_prompt %}>{% endif %}",
     r"rows\.jsonl:2: the chat template doesn't write the conversation up to message 2"),
    ("{% for m in messages %}{{ m.role }}{{ m.content | upper }}{% endfor %}"
     "{% if add_generation_prompt %}assistant{% endif %}",
     r"rows\.jsonl:1: the chat template doesn't write"),
    ("{{ raise_exception('no system') }}", r"rows\.jsonl:1: the chat template refuses this conversation: no system"),
])
def test_a_template_that_cannot_be_told_apart_is_refused(write, chat, template, message):
    chat.chat_template = template
    with pytest.raises(DataError, match=message):
        prepared(write({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "ab"}]}
                       if "messages[-1]" not in template else {"messages": [
                           {"role": "user", "content": "a"}, {"role": "assistant", "content": "a>b"}]},
                       {"messages": TALK[1:]}), chat, length=200)


@pytest.mark.parametrize(("messages", "message"), [
    ([], r"the field 'messages' must be a list of messages, not \[\]"),
    ("hello", "the field 'messages' must be a list of messages, not 'hello'"),
    (["hello"], "message 1 of 'messages' must be an object, not 'hello'"),
    ([TALK[1], {"role": "judge", "content": "a"}], "message 2 of 'messages': its role is 'judge'; known are system"),
    ([{"role": ["user"], "content": "a"}], r"message 1 of 'messages': its role is \['user'\]; known are system"),
    ([TALK[1], {"role": "assistant", "content": None}], "message 2 of 'messages': the assistant says None"),
    ([TALK[1]], "the assistant says nothing in this conversation"),
])
def test_a_conversation_that_is_none_is_told_with_its_line(write, chat, messages, message):
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: {message}"):
        prepared(write({"messages": TALK}, {"messages": messages}), chat, length=200)


def test_what_is_written_after_a_turns_end_is_no_answer(chat):
    ids = chat("a dog<|im_end|>\nthe cat")["input_ids"]
    assert Instruction().combine([ids], {}, setup(chat)) == {"text": "a dog"}


def test_a_prediction_answers_the_last_question(write, chat):
    rows = list(Instruction().stream(write({"messages": TALK[:4]}, {"messages": TALK}), answered=False))
    assert [row["messages"] for row, _ in rows] == [TALK[:4], TALK[:4]]
    (one, two) = Instruction().encode(rows, setup(chat, length=200), [])
    whole = chat.apply_chat_template(TALK[:4], tokenize=False, add_generation_prompt=True)
    assert chat.decode(one["input_ids"]) == whole
    assert set(one) == {"input_ids", "documents"}
    assert one["input_ids"].tolist() == two["input_ids"].tolist()


def test_system_and_context_belong_to_alpacas_prompt(write, bpe):
    row = {"system": "be kind", "instruction": "say it", "input": "the cat", "output": "a"}
    (features,), _ = prepared(write(row), bpe)
    assert bpe.decode(features["input_ids"]) == "be kind\nsay it\nthe cat\na"


@pytest.mark.parametrize("bad", [
    {"messages": []}, {"messages": "x"}, {"messages": [3]}, {"other": 1},
    {"messages": [{"role": "alien", "content": "x"}, {"role": "assistant", "content": "y"}]},
    {"messages": [{"role": "user", "content": "  "}, {"role": "assistant", "content": "y"}]},
])
def test_one_bad_conversation_costs_no_other(bad, tmp_path):
    good = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}
    for rows in ([good, bad, good], [bad, good, good], [good, good, bad]):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        reader = open_source(Source(str(path)), spares=True)
        assert [row for row, _ in Instruction().read(reader)] == [good, good]
        assert len(reader.bad) == 1 and next(iter(reader.bad)).startswith(f"{path}:{rows.index(bad) + 1}: ")
