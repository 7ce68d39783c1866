"""Prompts: what a model is given, letter by letter, in each mode; what is drawn, what is left out, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers import models as token_models
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from llmkit import recipe
from llmkit.inference.comparing import inline as variants
from llmkit.prompting.base import Kit, Prompting, Shot
from llmkit.system.errors import DataError, RequestError

CHAT = ("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}")


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    """A token is what stands between spaces; there is no unknown word but one."""
    inner = Tokenizer(token_models.WordLevel({"?": 0}, unk_token="?"))
    inner.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?")
    tokenizer.chat_template = CHAT
    return tokenizer


def mode(text: str) -> Prompting:
    made: Prompting = variants.plugin(text, "prompting", "--prompt")
    return made


POOL = [Shot({"text": text}, label) for text, label in (
    ("warm bread", "1"), ("cold rain", "0"), ("a smile", "1"), ("a lie", "0"), ("mud", "0"), ("the sea", "1"))]


def kit(tokenizer: Any, **options: Any) -> Kit:
    return Kit(tokenizer, **{"pool": POOL, "words": {"0": "bad", "1": "good"}, **options})


def first(many: int) -> str:
    return f"k={many}, selection=first"


@pytest.mark.parametrize(("text", "wanted"), [
    ("prefix(instruction='Is it good?')", "Is it good?\n\nInput: snow\nOutput:"),
    ("prefix(instruction='summarize: ', input_template='{text}')", "summarize: snow"),
    (f"example({first(2)})",
     "Input: warm bread\nOutput: good\n\nInput: cold rain\nOutput: bad\n\nInput: snow\nOutput:"),
    (f"hybrid({first(1)}, instruction=Say it:, input_template=\"{{text}} is\")",
     "Say it:\n\nwarm bread is good\n\nsnow is"),
    (f"reverse({first(1)}, instruction=Write about:)",
     "Write about:\n\nInput: good\nOutput: warm bread\n\nInput: snow\nOutput:"),
    ("normalize", "snow"),
    ("normalize(of=prefix(instruction='A:'), template='<{text}>')", "A:\n\nInput: <snow>\nOutput:"),
    (f"normalize(of=example({first(1)}), template='<{{text}}>')",
     "Input: <warm bread>\nOutput: good\n\nInput: <snow>\nOutput:"),
])
def test_a_plain_model_is_given_text(text: str, wanted: str, words: Any) -> None:
    prompt = mode(text).prompt({"text": "snow"}, kit(words))
    assert (prompt.text, prompt.messages, prompt.gap) == (wanted, None, False)


@pytest.mark.parametrize(("text", "wanted"), [
    ("prefix(instruction='Is it good?')", "<user>Is it good?\n\nsnow</><assistant>"),
    ("prefix(instruction='Judge.', role=system)", "<system>Judge.</><user>snow</><assistant>"),
    (f"example({first(1)})", "<user>warm bread</><assistant>good</><user>snow</><assistant>"),
    (f"hybrid({first(1)}, instruction=Judge:)",
     "<user>Judge:\n\nwarm bread</><assistant>good</><user>snow</><assistant>"),
    (f"reverse({first(1)}, instruction='')", "<user>good</><assistant>warm bread</><user>snow</><assistant>"),
    (f"example({first(1)}, raw=true)", "Input: warm bread\nOutput: good\n\nInput: snow\nOutput:"),
    ("normalize", "<user>snow</><assistant>"),
])
def test_a_chat_model_is_given_turns(text: str, wanted: str, words: Any) -> None:
    prompt = mode(text).prompt({"text": "snow"}, kit(words, chat=True))
    assert prompt.text == wanted
    assert (prompt.messages is None) == ("raw" in text)


def test_an_encoder_decoder_reads_an_input_without_examples_as_it_is(words: Any) -> None:
    reads = kit(words, shape="encoder-decoder")
    assert mode("prefix(instruction='summarize: ')").prompt({"text": "snow"}, reads).text == "summarize: snow"
    assert mode(f"example({first(1)})").prompt({"text": "snow"}, reads).text == (
        "Input: warm bread\nOutput: good\n\nInput: snow\nOutput:")


@pytest.mark.parametrize(("text", "row", "shape", "before", "after"), [
    ("cloze", {"text": "snow"}, "encoder", "snow It was ", "."),
    ("cloze", {"text": "snow"}, "decoder", "snow It was ", ""),
    (f"cloze({first(1)})", {"text": "snow"}, "encoder-decoder", "warm bread It was good.\n\nsnow It was ", "."),
    ("cloze(template='{mask} news: {text}')", {"text": "snow"}, "decoder", "", " news: snow"),
    ("cloze(template='{text}? {mask}, {text_pair}')", {"text": "snow", "text_pair": "ice"}, "decoder", "snow? ",
     ", ice"),
    ("cloze(template='{text} {mask}')", {"text": "snow", "text_pair": "ice"}, "encoder", "snow\nice ", ""),
    ("cloze(template='{text} {mask}')", {"text": "{mask} {text}"}, "encoder", "{mask} {text} ", ""),
])
def test_a_cloze_has_a_gap(
    text: str, row: dict[str, str], shape: str, before: str, after: str, words: Any
) -> None:
    prompt = mode(text).prompt(row, kit(words, shape=shape))
    assert (prompt.text, prompt.after, prompt.gap) == (before, after, True)


def test_examples_come_from_a_file_by_the_names_that_people_use(tmp_path: Path, words: Any) -> None:
    lines = tmp_path / "shots.jsonl"
    lines.write_text("".join(json.dumps({"question": f"q{i}", "response": f"a{i}"}) + "\n" for i in range(3)))
    table = tmp_path / "shots.tsv"
    table.write_text("good film\t1\nbad film\t0\nfine film\t1\n")
    here = Kit(words)
    assert mode(f"example({first(1)}, file={lines})").prompt({"text": "q"}, here).text == (
        "Input: q0\nOutput: a0\n\nInput: q\nOutput:")
    assert mode(f"example({first(1)}, file={table})").prompt({"text": "q"}, here).text.startswith(
        "Input: good film\nOutput: 1\n\n")
    other = mode(f"example({first(1)}, file={lines}, fields={{text: response, answer: question}})")
    assert other.prompt({"text": "q"}, here).text.startswith("Input: a0\nOutput: q0")
    given = mode("example(k=1, examples=[{text: x, answer: y}])")
    assert given.prompt({"text": "q"}, here).text == "Input: x\nOutput: y\n\nInput: q\nOutput:"


def drawn(text: str, row: str, words: Any, **options: Any) -> list[tuple[str, str]]:
    one: Any = mode(text)
    return [(shot.row["text"], shot.answer) for shot in one.chosen({"text": row}, kit(words, **options))]


def test_what_is_drawn_depends_on_the_seed_alone(words: Any) -> None:
    assert drawn("example(k=3, seed=1)", "snow", words) == drawn("example(k=3, seed=1)", "ice", words)
    orders = {tuple(drawn(f"example(k=3, seed={seed})", "snow", words)) for seed in range(6)}
    assert len(orders) > 3
    assert all(len(set(order)) == 3 for order in orders)


def test_balanced_examples_are_as_many_of_each_label_in_no_fixed_order(words: Any) -> None:
    orders = [tuple(label for _, label in drawn(f"example(k=4, selection=balanced, seed={seed})", "snow", words))
              for seed in range(8)]
    assert all(sorted(order) == ["0", "0", "1", "1"] for order in orders)
    assert len(set(orders)) > 2


def test_the_input_is_no_example_of_itself(words: Any) -> None:
    for text, _ in drawn("example(k=6)", "snow", words):
        others = drawn("example(k=5)", text, words)
        assert len(others) == 5
        assert text not in [name for name, _ in others]


def test_the_nearest_examples_stand_last(words: Any) -> None:
    vectors = {one.row["text"]: np.eye(6)[i] for i, one in enumerate(POOL)}
    vectors["snow"] = np.array([0.1, 0.9, 0.0, 0.2, 0.5, 0.0])  # like rain, then mud, then a lie

    def embed(name: str) -> Any:
        assert name == "minilm-l6"
        return lambda texts: np.stack([vectors[text] for text in texts])

    assert [text for text, _ in drawn("example(k=3, selection=nearest)", "snow", words, embed=embed)] == [
        "a lie", "mud", "cold rain"]
    vectors["cold rain"] = vectors["snow"]
    assert "cold rain" not in [text for text, _ in drawn("example(k=3, selection=nearest)", "cold rain", words,
                                                         embed=embed)]


def test_examples_that_do_not_fit_are_left_out_and_told(words: Any) -> None:
    one = mode(f"example({first(3)})")
    whole = kit(words)
    longest = whole.size(one.prompt({"text": "snow"}, whole))
    tight = kit(words, room=longest - 1)
    prompt = one.prompt({"text": "snow"}, tight)
    assert (prompt.examples, prompt.text.startswith("Input: cold rain")) == (2, True)
    assert tight.notes(3) == [
        f"1 of 1 prompts have fewer than 3 examples: the model has room for {longest - 1} tokens of prompt"]
    assert whole.notes(3) == []


def test_an_input_that_is_too_long_is_cut_only_where_that_is_wanted(words: Any) -> None:
    long = " ".join(f"word{i}" for i in range(40))
    one = mode("prefix(instruction='Go:')")
    left = kit(words, room=20)
    assert long in one.prompt({"text": long}, left).text
    cut = kit(words, room=20, cuts=True)
    assert one.prompt({"text": long}, cut).text == (
        "Go:\n\nInput: " + " ".join(f"word{i}" for i in range(17)) + "\nOutput:")
    assert cut.notes(0) == ["1 of 1 inputs were cut to fit"]
    with pytest.raises(RequestError, match="without its input has 3 tokens, and there is room for 4"):
        one.prompt({"text": long}, kit(words, room=4, cuts=True))


@pytest.mark.parametrize(("options", "text", "wanted"), [
    ("", "  a   b\t c \n d ", "a b c\nd"),
    ("spaces=false", " a  b ", " a  b "),
    ("", "e\u0301 \ufb01 \uff21", "\xe9 \ufb01 \uff21"),
    ("unicode=NFKC", "\ufb01 \uff21", "fi A"),
    ("unicode=none", "e\u0301", "e\u0301"),
    ("punctuation=english", "你好，世界！“好”。Yes，no", "你好, 世界!\"好\". Yes, no"),
    ("punctuation=chinese", "你好, 世界! (好) 3.5 A, b 好.", "你好，世界！（好）3.5 A, b 好。"),
    ("unicode=NFKC, punctuation=chinese", "你好，世界", "你好，世界"),
])
def test_texts_are_written_one_way(options: str, text: str, wanted: str, words: Any) -> None:
    assert mode(f"normalize({options})").prompt({"text": text}, kit(words)).text == wanted


@pytest.mark.parametrize(("text", "message"), [
    ("prefix", "instruction is needed"),
    ("exampel", "Did you mean 'example'"),
    ("example(kk=3)", "kk: no such field of example. Did you mean 'k'"),
    ("example(k=-1)", "k: -1 should be greater than or equal to 0"),
    ("cloze(template='{text} It was')", "template must contain {text}, and {mask} once"),
    ("normalize(of=cloze(kk=1))", "of: kk: no such field of cloze"),
    ("normalize(of=normalize)", "say all in one"),
    ("normalize(of=cloze(k=2, selection=nearest), calibration=true)", "same examples for every input"),
    ("normalize(of=reverse, pmi=true)", "compare labels after a text"),
    ("prefix(instruction=Good, or bad)", "a value with a comma in quotes"),
    ("prefix(instruction=a, instruction=b)", "instruction is given twice"),
    ("cloze(k=2", "write a name with its options"),
])
def test_modes_that_cannot_be_are_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message.replace("{", r"\{").replace("(", r"\(")):
        mode(text)


@pytest.mark.parametrize(("text", "error", "message"), [
    ("example(k=2)", RequestError, "from where"),
    ("example(k=2, examples=[{text: a, answer: b}])", DataError, "there are 1, and k is 2"),
    ("example(k=2, examples=[{text: a, answer: b},{text: a}])", RequestError, "the 2. has no 'answer'"),
    ("example(k=2, selection=nearest, examples=[{text: a, answer: b},{text: c, answer: d}])", RequestError,
     "needs a sentence encoder"),
    ("example(k=2, selection=balanced, examples=[{text: a, answer: b},{text: c, answer: d}])", RequestError,
     "balanced is for labels"),
    ("example(k=1, file={odd})", DataError, "which column is the answer[?] There is text, odd; say fields"),
    ("example(k=1, file=nowhere.jsonl)", DataError, "no such file"),
])
def test_examples_that_are_not_there_are_refused(
    text: str, error: type[Exception], message: str, words: Any, tmp_path: Path
) -> None:
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"text": "a", "odd": "b"}\n')
    text = text.replace("{odd}", str(odd))
    with pytest.raises(error, match=message):
        mode(text).prompt({"text": "snow"}, Kit(words))


@pytest.mark.parametrize(("labels", "message"), [
    ("{0: bad, 2: good}", "no label is called '2'"), ("{0: bad}", "the label '1' has no word"),
    ("{0: bad, 1: bad}", "the word 'bad' is there twice"), ("{0: bad, 1: ''}", "a label's word is empty"),
])
def test_words_that_do_not_fit_the_labels_are_refused(labels: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        mode(f"cloze(labels={labels})").words(["0", "1"])


def test_a_label_may_have_several_words() -> None:
    assert mode("cloze(labels={0: [bad, awful], 1: good})").words(["0", "1"]) == {
        "0": ("bad", "awful"), "1": ("good",)}
    assert mode("cloze").words(["yes", "no"]) == {"yes": ("yes",), "no": ("no",)}


def test_a_template_that_a_chat_template_refuses_is_told(words: Any) -> None:
    strict = PreTrainedTokenizerFast(tokenizer_object=words.backend_tokenizer, unk_token="?")
    strict.chat_template = "{{ raise_exception('no system here') }}"
    with pytest.raises(RequestError, match="refuses this prompt: no system here"):
        mode("prefix(instruction=Judge., role=system)").prompt({"text": "snow"}, Kit(strict, chat=True))


def test_a_mode_written_out_gives_the_same_prompts_without_its_file(words: Any) -> None:
    for text in ("example(k=3, seed=4)", "normalize(of=hybrid(k=2, instruction='Say:', seed=2), template='<{text}>')"):
        one = mode(text)
        alone = one.settled(kit(words))
        assert alone.prompt({"text": "snow"}, kit(words, pool=None)) == one.prompt({"text": "snow"}, kit(words))
        assert alone.settled(kit(words)) == alone
        again = recipe.plugin("prompting", recipe.block("prompting", alone), "here")
        assert again == alone


def test_options_on_a_command_line_may_hold_commas_quotes_and_modes() -> None:
    found = variants.variants("cloze(k=2, template=\"{text}, {mask}\"),prefix(instruction=It's good),"
                              "normalize(of=cloze(labels={0: a, 1: b}), pmi=true)", "prompting", "--modes")
    assert [(one.name, dict(one.options)) for one in found] == [
        ("cloze", {"k": 2, "template": "{text}, {mask}"}), ("prefix", {"instruction": "It's good"}),
        ("normalize", {"of": {"name": "cloze", "labels": {"0": "a", "1": "b"}}, "pmi": True})]
