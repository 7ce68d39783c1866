"""Texts that are held to a JSON schema: each parses and is valid, whatever the model, the tokenizer and the chance."""

import itertools
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from served import letters
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE, Unigram, WordPiece
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from llmkit.cli import main
from llmkit.inference.constraining.constraint import Constraint
from llmkit.inference.constraining.schema import CHARACTERS, checked
from llmkit.inference.constraining.tokens import readable, token_bytes
from llmkit.inference.writing.options import Options
from llmkit.inference.writing.writer import Writer
from llmkit.models import Opened
from llmkit.system.errors import RequestError

SHORT = {"type": "string", "maxLength": 5}
SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": {"type": "object", "properties": {"name": SHORT, "old": {"type": "boolean"}}, "required": ["name", "old"],
             "additionalProperties": False},
    "chinese": {"type": "object", "properties": {"姓名": SHORT, "城市": {"enum": ["北京", "上海"]}},
                "required": ["姓名", "城市"], "additionalProperties": False},
    "enum": {"enum": ["yes", "no", None, 3]},
    "integer": {"type": "integer", "minimum": -20, "maximum": 300},
    "array": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 4},
    "nested": {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"enum": [1, 2]}},
                                                      "required": ["b"], "additionalProperties": False}},
               "required": ["a"], "additionalProperties": False},
    "anyOf": {"anyOf": [{"const": "甲"}, {"type": "array", "items": SHORT, "maxItems": 2}]},
    "reference": {"$ref": "#/$defs/点", "$defs": {"点": {"type": "object", "properties": {"x": {"enum": [1, 2]}},
                                                       "required": ["x"], "additionalProperties": False}}},
    "pattern": {"type": "string", "pattern": "^[a-f]{2}-[0-9]{2}$"},
    "recursive": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}, "maxItems": 1}]},
}


def fallback() -> PreTrainedTokenizerFast:
    """SentencePiece's BPE with bytes, as Llama's: ▁ for a space, and a token a byte for what it doesn't know."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *'{}[]":,▁abcdef0123456789-',
              "▁{", '":', '▁"', "北京", "tr", "ue"]
    inner = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>",
                          fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                       decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                                   pad_token="</s>", clean_up_tokenization_spaces=False)


def unigram() -> PreTrainedTokenizerFast:
    """T5's kind: pieces of text alone."""
    pieces = ["</s>", "<unk>", "▁",
              *'{}[]":,.abcdefghijklmnopqrstuvwxyzE+-0123456789', "▁{", '":', *"甲北京上海姓名城市点"]
    inner = Tokenizer(Unigram([(piece, 0.0 if i < 2 else -1.0) for i, piece in enumerate(pieces)], unk_id=1))
    inner.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>", pad_token="</s>",
                                   clean_up_tokenization_spaces=False)


TOKENIZERS = {"bytes": letters, "fallback": fallback, "unigram": unigram}


@pytest.fixture(scope="module", params=TOKENIZERS)
def writer(request: pytest.FixtureRequest) -> Writer:
    """A random GPT-2, which has more ids than its tokenizer has tokens."""
    tokenizer = TOKENIZERS[request.param]()
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config(
        vocab_size=len(tokenizer) + 7, n_positions=512, n_embd=32, n_layer=1, n_head=2, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, initializer_range=0.3))
    return Writer("tiny", Opened(model.eval(), tokenizer, Path("tiny"), "AutoModelForCausalLM"))


def test_every_answer_is_json_of_its_schema(writer: Writer) -> None:
    prompt, ended = [5, 6, 7], 0
    for schema in SCHEMAS.values():
        for options in (Options(60, json_schema=schema, temperature=0),
                        Options(60, 2, seed=1, top_k=20, json_schema=schema)):
            for one in writer.write([prompt], options)[0]:
                assert one.finish_reason in ("stop", "length")
                if one.finish_reason == "stop":
                    jsonschema.validate(json.loads(one.text), schema)
                    ended += 1
    assert ended >= 24  # a text of bytes that are no end of a string may be cut; it says so


def test_texts_of_a_batch_have_a_form_each_and_streams_are_the_texts(writer: Writer) -> None:
    told = ["", ""]

    def hear(at: int, piece: str) -> None:
        told[at] += piece

    written = writer.write([[5, 6], [7, 8, 9, 5]], Options(60, json_schema=SCHEMAS["nested"], seed=3, temperature=1.5),
                           stream=hear)
    texts = [some[0].text for some in written]
    assert told == texts
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMAS["nested"])


def test_what_is_cut_is_told(writer: Writer) -> None:
    one = writer.write([[5]], Options(3, json_schema={"type": "object", "properties": {"a": {"enum": [1]}},
                                                      "required": ["a"]}))[0][0]
    assert (one.finish_reason, one.tokens) == ("length", 3)
    with pytest.raises(ValueError, match=r"."):
        json.loads(one.text)


def test_a_penalty_and_rules_of_the_model_leave_the_form(writer: Writer) -> None:
    options = Options(80, json_schema=SCHEMAS["array"], repetition_penalty=5.0)
    model: Any = writer.opened.model
    model.generation_config.no_repeat_ngram_size = 1  # "[3, 3" repeats its tokens: the form comes first
    try:
        text = writer.write([[5]], options)[0][0].text
    finally:
        model.generation_config.no_repeat_ngram_size = None
    jsonschema.validate(json.loads(text), SCHEMAS["array"])


@pytest.mark.parametrize("make", TOKENIZERS.values(), ids=TOKENIZERS)
def test_the_allowed_tokens_are_those_that_a_text_of_the_form_goes_on_with(make: Any) -> None:
    """By brute force: all texts of the form are few, so a token may come where one of them begins with it."""
    tokenizer = make()
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"enum": [1, 12]}, "maxItems": 1},
                                               "b": {"enum": [True, "名" if make is not unigram else "北"]}},
              "required": ["a"], "additionalProperties": False}
    lists = [list(some) for count in range(2) for some in itertools.product([1, 12], repeat=count)]
    lasts = [{}, *({"b": value} for value in schema["properties"]["b"]["enum"])]
    texts = [json.dumps({"a": some, **last}, ensure_ascii=False).encode() for some in lists for last in lasts]
    size, end = len(tokenizer) + 3, tokenizer.eos_token_id
    tokens, _ = token_bytes(tokenizer, size)
    ready, told, seen, waiting = readable(tokenizer, size), checked(schema), set(), [()]
    while waiting:
        ids = waiting.pop()
        before = b"".join(tokens[one] for one in ids)
        if before in seen:
            continue
        seen.add(before)
        constraint = Constraint(ready, told, {end})
        for one in ids:
            constraint.take(one)
        expected = {number for number, token in enumerate(tokens)
                    if token and any(text.startswith(before + token) for text in texts)}
        expected |= {end} if before in texts else set()
        assert set(constraint.allowed(size).nonzero()[:, 0].tolist()) == expected, before
        assert constraint.whole == (before in texts)
        waiting += [(*ids, one) for one in expected - {end}]
    assert set(texts) <= seen


def test_tokens_are_the_bytes_that_they_add_to_a_text() -> None:
    for make in TOKENIZERS.values():
        tokenizer = make()
        tokens, special = token_bytes(tokenizer, len(tokenizer) + 2)
        assert special[-2:] == [len(tokenizer), len(tokenizer) + 1]
        ids = [number for number in range(len(tokenizer)) if number not in special]
        for number in ids:  # behind a token that ends with no space and is whole
            first = tokenizer.convert_tokens_to_ids("a")
            said = tokenizer.decode([first, number, first]).encode()
            assert said == b"a" + tokens[number] + b"a" or not _whole(tokens[number])


def _whole(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


# ---- what can't be ----


@pytest.mark.parametrize(("schema", "message"), [
    ({"type": "object", "properties": {"n": {"type": "intger"}}}, "s.properties.n.type: 'intger' is not valid"),
    ({"items": [{"minLength": -1}]}, "s.items"),
    ({"properties": {"a": {"items": {"not": {}}}}}, "s.properties.a.items: no text can be held to that: `not` can't be "
                                                    "looked after while a text is written; leave it out."),
    ({"properties": {"a": {"oneOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]}}},
     "s.properties.a: no text can be held to that: the alternatives of this oneOf may fit one text at once, and that "
     "can't be seen while it is written; write anyOf."),
    ({"type": "object", "properties": {f"p{i}": {} for i in range(340)}},
     "s.properties: 340 of them may be left out, and a text can be held to at most 300 such ones; list some"),
    ({"$ref": "#"}, "s: no text can be held to that: it refers to itself (`$ref`) before anything is written"),
    ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}, "s: no text can be held to that: it"),
    ({"$ref": "https://json-schema.org/x"}, "s.$ref: 'https://json-schema.org/x' is another document, and none is"),
    ({"properties": {"a": {"$ref": "#/$defs/no"}}}, "Pointer '/$defs/no' does not exist"),
    ({"properties": {"a": {"type": "integer", "minimum": 5, "maximum": 3}}, "required": ["a"], "type": "object"},
     "s: no text can be held to that: Unsatisfiable schema: required property 'a' is unsatisfiable."),
    ({"description": "x" * CHARACTERS}, "s: the schema has 65,555 characters; at most 65,536"),
    ("{", "s: it isn't JSON: Expecting property name"),
    ("[1]", 's: must be an object, as {"type": "object"}, not [1].'),
    (False, "s: must be an object"),
    ("[" * 100_000, "s: it isn't JSON"),
])
def test_a_bad_schema_is_named_by_its_path(schema: Any, message: str) -> None:
    with pytest.raises(RequestError) as error:
        checked(schema, "s")
    assert str(error.value).startswith(message) or message in str(error.value)


def test_properties_that_are_required_and_lists_of_itself_are_held_to() -> None:
    every = {f"p{i}": {"type": "string"} for i in range(340)}
    assert checked({"type": "object", "properties": every, "required": [*every]}, "s")
    assert checked({"type": "object", "properties": {"inner": {"type": "array", "items": {"$ref": "#"}}}}, "s")


def test_a_schema_that_is_too_deep_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(80):
        deep = {"items": deep}
    with pytest.raises(RequestError, match=r"^s: the schema has more than 64 levels, at s\.items\.items"):
        checked(deep, "s")


def test_without_the_extra_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from llmkit.inference.constraining import schema as module

    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"^json_schema: .* needs llguidance: pip install 'llmkit-train\[json\]'"):
        Options(json_schema={})


def test_a_tokenizer_that_can_not_be_held_is_refused() -> None:
    inner = Tokenizer(WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    with pytest.raises(RequestError, match="puts spaces between tokens"):
        readable(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]"), 3)
    constraint = Constraint(readable(unigram(), 60), checked({"const": "龙"}), {0})
    for letter in ('"',):
        constraint.take(unigram().convert_tokens_to_ids(letter))
    with pytest.raises(RequestError, match="no token of the model goes on with what the schema asks for"):
        constraint.allowed(60)


def test_beams_are_refused() -> None:
    with pytest.raises(RequestError, match="json_schema: goes with no beams"):
        Options(num_beams=2, json_schema={})


def test_generate_writes_json_of_a_files_schema(
    tmp_path: Path, endless: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMAS["chinese"]), encoding="utf-8")
    how = ["generate", "hi", "--model", str(endless), "--max-new-tokens", "120", "--seed", "1", "--temperature", "1"]
    assert main([*how, "--json-schema", str(schema)]) == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), SCHEMAS["chinese"])
    for value, status, message in (("no.json", 3, "--json-schema no.json: No such file or directory; give a file"),
                                   (__file__, 2, "test_constraining.py: it isn't JSON")):
        assert main([*how, "--json-schema", value]) == status
        assert message in capsys.readouterr().err.splitlines()[-1]
