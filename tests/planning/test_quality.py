"""What a text is like: repeated documents, scripts, lengths and unknown tokens are counted by hand here."""

import json
from pathlib import Path

import pytest
from conftest import stories

from llmkit.cli import main
from llmkit.planning import quality as qualities
from llmkit.planning.quality import quality, scripts, shingles

LONG = ("the quick brown fox jumps over the lazy dog and runs far away into the dark green wood behind the old mill "
        "where nobody has been for many years but a grey cat that sleeps all day and hunts at night beside the road")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten documents: one comes twice, one once more with another last word, one is Chinese."""
    path = tmp_path_factory.mktemp("corpus") / "a.txt"
    others = [f"{i} " * 30 for i in (11, 22, 33, 44, 55, 66)]
    path.write_text("\n".join([LONG, *others, f"  {LONG} ", f"{LONG[:-4]}barn", "今天下雨，我们在家里看书。"]) + "\n",
                    encoding="utf-8")
    return path


def test_documents_are_counted_as_by_hand(corpus):
    found = quality(str(corpus))
    assert found["documents"] == 10
    lines = corpus.read_text(encoding="utf-8").splitlines()
    assert found["characters"] == sum(map(len, lines))
    assert (found["lengths"]["min"], found["lengths"]["max"]) == (13, len(LONG) + 3)
    assert found["exact"]["documents"] == 1
    assert found["exact"]["share"] == 0.1
    assert found["exact"]["examples"] == [[f"{corpus}:1", f"{corpus}:8", LONG[:60]]]
    letters = 3 * sum(map(str.isalpha, LONG))
    assert found["scripts"] == pytest.approx(
        {"LATIN": letters / (letters + 11), "CHINESE CHARACTERS": 11 / (letters + 11)})
    assert found["unknown"] is None


def test_near_duplicates_are_those_whose_words_are_nearly_the_same(corpus):
    pytest.importorskip("datasketch")
    one, other = shingles(LONG), shingles(f"{LONG[:-4]}barn")
    assert len(one & other) / len(one | other) > 0.8  # what is meant, counted exactly
    near = quality(str(corpus))["near"]
    assert (near["compared"], near["documents"]) == (10, 2)
    assert [pair[:2] for pair in near["examples"]] == [[f"{corpus}:1", f"{corpus}:9"]]


def test_without_datasketch_the_rest_is_there_and_it_is_said(corpus, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasketch", None)
    found = quality(str(corpus))
    assert found["near"] is None
    assert ("near duplicates aren't looked for: that needs datasketch: pip install 'llmkit-train[quality]'"
            in found["notes"])
    assert found["exact"]["documents"] == 1


def test_only_the_first_documents_are_compared_and_it_is_said(corpus, monkeypatch):
    pytest.importorskip("datasketch")
    monkeypatch.setattr(qualities, "NEAR", 8)
    found = quality(str(corpus))
    assert (found["near"]["compared"], found["near"]["documents"]) == (8, 1)
    assert any("in the first 8 of 10 documents" in note for note in found["notes"])


def test_scripts_and_shingles():
    assert scripts("the 猫 кот ひと") == {"LATIN": 3, "CYRILLIC": 3, "CHINESE CHARACTERS": 1, "JAPANESE KANA": 2}
    assert scripts("1 2 …") == {}
    assert shingles("A b c d e f") == {b"a b c d e", b"b c d e f"}
    assert len(shingles("今天下雨我们在家里看书")) == 7  # of characters, where there are no spaces


def test_a_recipe_says_what_its_tokenizer_doesn_t_know(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n".join(stories(60)), encoding="utf-8")
    (tmp_path / "r.yaml").write_text(
        f"backbone: {{family: bert, size: tiny}}\ntokenizer: {{train: {{vocab_size: 60}}}}\n"
        f"data: {{train: {tmp_path}/a.txt}}\nobjective: masked_lm\n")
    assert main(["inspect", str(tmp_path / "r.yaml"), "--quality", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["unknown"]["tokens"] > 500
    assert found["unknown"]["count"] == 0
    assert found["unknown"]["characters_per_token"] > 1
    assert main(["inspect", str(tmp_path / "r.yaml"), "--quality"]) == 0
    said = capsys.readouterr().out
    assert "documents   60, " in said
    assert "languages aren't told apart" in said


@pytest.mark.parametrize(("words", "status", "match"), [
    (["--quality"], 2, "--quality: name a RECIPE, or a file of text"),
    (["nothing.txt", "--quality"], 3, "nothing.txt: no such file"),
    (["a.txt", "--quality", "--set", "seed=1"], 2, "--set seed=1: is a field of a recipe")])
def test_what_is_wrong_is_told(words, status, match, capsys):
    assert main(["inspect", *words]) == status
    assert match in capsys.readouterr().err
