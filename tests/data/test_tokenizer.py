"""A trained tokenizer is a function of text and options: the same everywhere, after saving, and within its limits."""

import ast
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmkit.data import tokenizer as tokenizers
from llmkit.system.errors import CheckpointError, DataError, RequestError

KINDS = ("wordpiece", "bpe", "unigram", "characters")
TEXT = [
    "The cat sat on the mat.\nThe dog sat on the log, and the cat saw the dog.",
    "A café serves naïve guests: 1, 2 or 3 cups.  Two spaces.",
    "猫坐在垫子上。狗坐在木头上。",
    "def f(x):\n    return x + 1\n",
] * 5
STRANGE = ["the cat sat", "The  CAT\n\tsat ", "猫坐在。垫子", "😀 the 👩‍👩‍👧", "café naïve É", "", " ", "x\n\n",
           "<|endoftext|> [MASK] </s>"]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(tokenizers.__file__).parents[2])}


def tokens(tokenizer, text):
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


@pytest.fixture(scope="module")
def made():
    return {kind: tokenizers.train(TEXT, kind, 600) for kind in KINDS}


# ---- the same everywhere ----------------------------------------------------------------------------------------

SCRIPT = """
    import sys
    from llmkit.data import tokenizer
    lines = open(sys.argv[1], encoding="utf-8").read().split("\\n")
    step = int(sys.argv[2])
    documents = ["\\n".join(lines[i : i + step]) for i in range(0, len(lines), step)]
    for kind in ("wordpiece", "unigram"):
        print(kind, tokenizer.fingerprint(tokenizer.train(documents, kind, 2000)))
    for kind in ("bpe", "characters"):  # where a document ends counts: line breaks are text
        print(kind, tokenizer.fingerprint(tokenizer.train(lines, kind, 2000)))
"""


def test_text_and_options_alone_decide_the_tokenizer(tmp_path):
    text = [ast.get_docstring(node) or "" for path in sorted(Path(ast.__file__).parent.glob("a*.py"))
            for node in ast.walk(ast.parse(path.read_text("utf-8")))
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)]
    file = tmp_path / "text"
    file.write_text("\n".join([*text, *TEXT]), "utf-8")

    def run(seed, threads, step):
        chance = {"PYTHONHASHSEED": seed, "RAYON_NUM_THREADS": threads}
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(file), step]
        return subprocess.run(command, env={**ENVIRONMENT, **chance}, check=True, stdout=subprocess.PIPE).stdout

    assert run("1", "1", "1") == run("2", "2", "50")


def test_wordpiece_is_the_same_at_every_training():
    # `tokenizers` alone gives another vocabulary nearly every time: eight equal ones are no luck.
    words = [" ".join(f"{a}{b}{c}" for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx")] * 2
    assert len({tokenizers.fingerprint(tokenizers.train(words, "wordpiece", 80)) for _ in range(8)}) == 1


def test_a_rare_character_of_chinese_gets_a_place_that_merges_leave_free():
    common = "".join(map(chr, range(0x4E00, 0x4E00 + 40)))
    tokenizer = tokenizers.train([common] * 3000 + ["龙"], "wordpiece", 60)
    assert tokens(tokenizer, "龙") == ["[CLS]", "龙", "[SEP]"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_documents_does_not_matter(kind, made):
    assert tokenizers.fingerprint(tokenizers.train(TEXT[::-1], kind, 600)) == tokenizers.fingerprint(made[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_an_iterator_does_as_well_as_a_list(kind, made):
    assert tokenizers.fingerprint(tokenizers.train(iter(TEXT), kind, 600)) == tokenizers.fingerprint(made[kind])


# ---- saved and loaded -------------------------------------------------------------------------------------------


CASES = [(kind, lowercase) for kind in KINDS for lowercase in (None, False, True)]
CASES.remove(("unigram", True))


@pytest.mark.parametrize(("kind", "lowercase"), CASES)
def test_a_saved_tokenizer_does_the_same(kind, lowercase, tmp_path):
    before = tokenizers.train(TEXT, kind, 600, lowercase)
    before.save_pretrained(tmp_path)
    after = tokenizers.load(tmp_path)
    assert [dict(after(text)) for text in STRANGE] == [dict(before(text)) for text in STRANGE]
    for text in STRANGE:
        ids = before(text)["input_ids"]
        assert after.decode(ids) == before.decode(ids)
    assert after.special_tokens_map == before.special_tokens_map
    assert len(after) == len(before)
    assert tokenizers.fingerprint(after) == tokenizers.fingerprint(before)


@pytest.mark.parametrize("kind", ["bpe", "characters"])
def test_text_comes_out_as_it_went_in(kind):
    texts = [*TEXT[:4], *STRANGE[:-1], "the cat , isn't . it ' s"]
    tokenizer = tokenizers.train(texts, kind, 600)
    for text in texts:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_lower_casing_is_honoured_after_loading(tmp_path):
    for kind, lowercase, same in [("wordpiece", None, True), ("wordpiece", False, False), ("bpe", True, True),
                                  ("bpe", None, False), ("characters", True, True), ("characters", None, False)]:
        folder = tmp_path / f"{kind}-{lowercase}"
        tokenizers.train(TEXT, kind, 600, lowercase).save_pretrained(folder)
        tokenizer = tokenizers.load(folder)
        assert (tokens(tokenizer, "The Cat") == tokens(tokenizer, "the cat")) is same


# ---- literal small cases ----------------------------------------------------------------------------------------


def test_wordpiece_ids_are_special_then_continuations_then_letters_then_merges():
    tokenizer = tokenizers.train(["low low lower lower"], "wordpiece", 100)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##e", "##o", "##r", "##w", "e", "l", "o", "r", "w",
        "##ow", "low", "##er", "lower",
    ]  # fmt: skip
    assert tokens(tokenizer, "Low LOWER") == ["[CLS]", "low", "lower", "[SEP]"]
    assert tokenizer("low", "low")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_only_the_five_special_tokens_of_wordpiece_are_special(made):
    assert made["wordpiece"].all_special_ids == [1, 3, 0, 2, 4]
    assert set(made["wordpiece"].added_tokens_decoder) == {0, 1, 2, 3, 4}


def test_wordpiece_cuts_chinese_into_characters(made):
    assert tokens(made["wordpiece"], "猫坐在") == ["[CLS]", "猫", "坐", "在", "[SEP]"]


def test_bpe_pads_with_a_token_that_is_not_its_end(made):
    assert (made["bpe"].eos_token, made["bpe"].eos_token_id) == ("<|endoftext|>", 0)
    assert (made["bpe"].bos_token_id, made["bpe"].pad_token, made["bpe"].pad_token_id) == (0, "<|pad|>", 1)
    assert tokens(made["bpe"], "The cat sat") == ["The", "Ġcat", "Ġsat"]


def test_unigram_has_t5s_special_tokens_and_sentinels(made):
    t5 = made["unigram"]
    assert t5.convert_ids_to_tokens([0, 1, 2]) == ["<pad>", "</s>", "<unk>"]
    assert t5.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_99>"]) == [len(t5) - 100, len(t5) - 1]
    assert tokens(t5, "the cat <extra_id_7>")[-2:] == ["<extra_id_7>", "</s>"]
    assert t5.decode(t5("the cat sat")["input_ids"], skip_special_tokens=True) == "the cat sat"


def test_characters_come_by_frequency_after_the_special_tokens():
    tokenizer = tokenizers.train(["b\nbb a"], "characters", 100)
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == [
        "<|pad|>", "<|unk|>", "<|endoftext|>", "[CLS]", "[SEP]", "[MASK]", "b", "\n", " ", "a",
    ]  # fmt: skip
    assert tokenizer("ab\nz")["input_ids"] == [9, 6, 7, 1]


def test_no_text_is_lost_in_a_document_without_spaces_or_with_odd_characters():
    documents = ["猫" * 5000 + "狗" * 5000, "left\0right", "up\u2585down"]
    pieces = set(tokenizers.train(documents * 3, "unigram", 200).get_vocab())
    assert {"猫", "狗", *"leftrightupdown"} <= {letter for piece in pieces for letter in piece}


# ---- limits and errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [300, 301, 450])
@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_is_never_larger_than_asked(kind, vocab_size):
    assert len(tokenizers.train(TEXT, kind, vocab_size)) <= vocab_size


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_letter_is_enough_text(kind):
    assert tokenizers.train(["a"], kind, 8192)("a")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("documents", [[], [""], [" \n", "\t"]])
def test_no_text_is_an_error_of_the_data(kind, documents):
    with pytest.raises(DataError, match="no text"):
        tokenizers.train(documents, kind, 8192)


@pytest.mark.parametrize(
    ("kind", "least"), [("wordpiece", 5 + 3 + 2), ("bpe", 258), ("unigram", 104 + 3), ("characters", 7)]
)
def test_the_least_vocabulary_is_said_and_works(kind, least):
    with pytest.raises(RequestError, match=f"vocab_size: {least - 1} is too small .* the least is {least}"):
        tokenizers.train(["abc"], kind, least - 1)
    assert len(tokenizers.train(["abc"], kind, least)) <= least


def test_rare_characters_go_before_the_vocabulary_is_full_of_them():
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))
    vocab = tokenizers.train(["the cat sat on the mat " * 500] * 80 + [rare], "wordpiece", 60).get_vocab()
    assert "the" in vocab
    assert "cat" in vocab


def test_what_cannot_be_is_refused():
    with pytest.raises(RequestError, match="Did you mean 'wordpiece'"):
        tokenizers.train(TEXT, "wordpeice", 600)
    with pytest.raises(RequestError, match=r"unigram tokenizer .* can't lower-case"):
        tokenizers.train(TEXT, "unigram", 600, lowercase=True)


def test_a_folder_without_a_whole_tokenizer_is_an_error_of_the_checkpoint(tmp_path, made):
    with pytest.raises(CheckpointError, match="no tokenizer"):
        tokenizers.load(tmp_path)
    made["bpe"].save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match="can't be read"):
        tokenizers.load(tmp_path)


# ---- fingerprint and cache --------------------------------------------------------------------------------------


def test_a_fingerprint_is_of_what_a_tokenizer_does_not_of_how_it_was_used(made):
    before = tokenizers.fingerprint(made["wordpiece"])
    made["wordpiece"](["a cat", "a"], padding=True, truncation=True, max_length=3)
    assert tokenizers.fingerprint(made["wordpiece"]) == before
    assert len({tokenizers.fingerprint(tokenizer) for tokenizer in made.values()}) == 4


def test_a_fingerprint_sees_lower_casing_special_tokens_and_chat_template():
    plain = tokenizers.fingerprint(tokenizers.train(["abc"], "bpe", 300))
    chat = tokenizers.train(["abc"], "bpe", 300)
    chat.chat_template = "{{ messages }}"
    end = tokenizers.train(["abc"], "bpe", 300)
    end.eos_token = "<|pad|>"
    lower = tokenizers.train(["abc"], "bpe", 300, lowercase=True)
    assert len({plain, *map(tokenizers.fingerprint, (chat, end, lower))}) == 4


def test_training_happens_once_for_the_same_content(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path))
    read = []

    def documents() -> Iterator[str]:
        read.append(1)
        yield from TEXT

    first, folder = tokenizers.trained(["abc"], documents, "wordpiece", 600, None)
    times = len(read)
    second, same = tokenizers.trained(["abc"], documents, "wordpiece", 600, True)  # what None means
    assert (same, len(read)) == (folder, times)
    assert folder.parent == tmp_path / "tokenizers"
    assert tokenizers.fingerprint(first) == tokenizers.fingerprint(second)
    others = [(["abd"], "wordpiece", 600, None), (["abc"], "wordpiece", 601, None), (["abc"], "wordpiece", 600, False)]
    for fingerprints, kind, size, lowercase in others:
        assert tokenizers.trained(fingerprints, documents, kind, size, lowercase)[1] != folder


def test_the_module_imports_no_heavy_library():
    heavy = "{'torch', 'transformers', 'tokenizers', 'sentencepiece', 'numpy'}"
    code = f"import sys, llmkit.data.tokenizer; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True, stdout=subprocess.PIPE)
    assert done.stdout.strip() == b"set()"


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram"])
def test_a_word_without_end_takes_no_time(kind: str) -> None:
    """300,000 letters: half a minute where merges are counted in one word; by CPU time, beside the same in words."""
    import time

    def seconds(text: str) -> float:
        began = time.process_time()
        tokenizers.train([text, "the cat saw the moon . " * 50], kind, 400)
        return time.process_time() - began

    words = seconds("abcdefgh " * 40_000)
    assert seconds("abcdefgh" * 40_000) < 10 * words + 3
