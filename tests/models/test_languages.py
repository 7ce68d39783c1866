"""What script a text is in, and whether a model can have learned it: by the catalogue, else by its tokenizer."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmkit.models.languages import UnreadScript, pieces, script, unread

CHINESE, RUSSIAN, KOREAN = "给我讲一个关于猫的故事", "Расскажи мне сказку о кошке", "고양이 이야기를 들려주세요"
NOWHERE = Path("nowhere")


def bytewise(text: str, size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE that learned from a text; padded with tokens of English to a size."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.train_from_iterator([text] * 3, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    inner.add_tokens([f"word{i}" for i in range(size - inner.get_vocab_size())])
    return PreTrainedTokenizerFast(tokenizer_object=inner)


@pytest.mark.parametrize(("text", "known"), [
    ("Tell me a story about a cat", "Latin"), ("Raconte-moi l'été", "Latin"), (CHINESE, "Chinese"),
    ("给我讲 Tom 的故事吧朋友", "Chinese"), ("猫の話をして", "Japanese"), ("猫", None),
    (KOREAN, "Korean"), (RUSSIAN, "Cyrillic"),
    ("احكي لي قصة", "Arabic"), ("ספר לי סיפור", "Hebrew"), ("Πες μου", "Greek"), ("मुझे कहानी सुनाओ", "Hindi"),
    ("3 + 4 = ?", None), ("", None), ("translate to English: 猫", "Latin"),
], ids=range(15))
def test_a_text_is_of_the_script_that_most_of_its_letters_have(text, known):
    assert script(text) == known


def test_the_catalogue_knows_what_its_models_learned():
    assert unread(CHINESE, "smollm2-135m-instruct", NOWHERE, bytewise(CHINESE, 4000)) == (
        "most of the text is Chinese, and smollm2-135m-instruct was trained on English; what it writes will make "
        "little sense. Write in another language, or choose a model that knows Chinese.")
    assert "trained on English and French and German" in str(unread(RUSSIAN, "t5-small", NOWHERE, bytewise("a", 300)))


@pytest.mark.parametrize("text", [CHINESE, RUSSIAN, KOREAN], ids=["Chinese", "Russian", "Korean"])
def test_a_tokenizer_that_cuts_characters_to_pieces_never_learned_the_script(text):
    english = bytewise("Tell me a story about a cat.", 4000)
    assert pieces(text, english) == (len(text.replace(" ", "")), len(text.encode()))  # a token a byte
    assert "the tokenizer of gpt knows hardly any of it: it cuts" in str(unread(text, "gpt", NOWHERE, english))
    learned = bytewise(text, 4000)
    assert pieces(text, learned)[1] <= len(text.split())  # a token a word
    assert unread(text, "gpt", NOWHERE, learned) is None


def test_nothing_is_said_of_latin_letters_or_of_a_vocabulary_of_bytes():
    assert unread("Tell me a story", "gpt", NOWHERE, bytewise("x", 4000)) is None
    assert unread("Ünïcödé żółć", "gpt", NOWHERE, bytewise("x", 4000)) is None
    assert unread(CHINESE, "gpt", NOWHERE, bytewise("x", 300)) is None


def test_it_is_said_once(caplog):
    note = UnreadScript("gpt", NOWHERE, bytewise("x", 4000))
    for text in ("Hello", [{"role": "user", "content": CHINESE}], RUSSIAN):
        note.warn(text)
    assert [record.getMessage()[:28] for record in caplog.records] == ["most of the text is Chinese,"]
