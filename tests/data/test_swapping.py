"""Words are swapped by a list, both ways, in documents that are learned from (data.augment)."""

import json
import shutil
from collections import Counter

import numpy as np
import pytest
from conftest import tiny

from llmkit.data import builtin
from llmkit.data import tokenizer as tokenizers
from llmkit.data.batches import Drawn
from llmkit.data.builtin import jobs
from llmkit.data.sources import open_source
from llmkit.data.swapping.doubling import doubled_documents
from llmkit.data.swapping.pairs import read_swaps
from llmkit.data.tokens import tokenize
from llmkit.objectives.base import Setup
from llmkit.objectives.causal_lm import CausalLM
from llmkit.planning.inspect import inspect
from llmkit.planning.settle import settle, swapping
from llmkit.planning.vocabulary import speak
from llmkit.recipe import Augment, Source, load, registry
from llmkit.system.errors import CheckpointError, DataError, RequestError
from llmkit.training.fit import fit


@pytest.fixture
def pairs(tmp_path):
    def make(*lines, name="pairs.txt"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(path)

    return make


# ---- a text ----


@pytest.mark.parametrize(("before", "after"), [
    ("He runs. HE RUNS; he runs, she walks", "She runs. SHE RUNS; she runs, he walks"),
    ("the shed, there, he_man, he2 and the2he", "the shed, there, he_man, he2 and the2he"),
    ("he's here (he), he-man 'he'", "she's here (she), she-woman 'she'"),
    ("An old man, an Old Man, AN OLD MAN, Old man", "An old woman, an Old Woman, AN OLD WOMAN, Old woman"),
    ("an old\nman, an old  man", "an old\nwoman, an old  woman"),
    ("grand\n\nfather, grand\nfather", "grand\n\nmother, grandmother"),
    ("Mother-in-law and mother", "Father-in-law and father"),
    ("the grand father", "the grandmother"),
    ("the Grand Father and the GRANDMOTHER", "the Grandmother and the GRAND FATHER"),
    ("John and john, Mary", "Mary and john, John"),
    ("hé is no he\u0301", "hé is no he\u0301"),
    ("", ""),
])
def test_words_are_swapped_whole_both_ways_and_in_their_case(before, after, pairs):
    swaps = read_swaps(pairs("# mine", "he, she", "", "old man\told woman", "man, woman  # men", "father, mother",
                             "father-in-law, mother-in-law", "grand father, grandmother", "John, Mary"))
    assert swaps(before) == after


def test_a_phrase_is_longer_than_its_words_and_none_is_swapped_twice(pairs):
    swaps = read_swaps(pairs("king, queen", "queen of hearts, king of spades", "a, b", "b c, d"))
    assert swaps("queen of hearts, queen of, king of hearts") == "king of spades, king of, queen of hearts"
    assert swaps("a b c") == "b d"


@pytest.mark.parametrize(("before", "after"), [
    ("他们说其他人弹吉他，她不弹。", "她们说其他人弹吉他，他不弹。"),
    ("王先生和他的妻子", "王女士和她的丈夫"),
    ("首先生成文字，男女都是", "首先生成文字，男女都是"),
    ("她 的 父 亲", "他 的 母 亲"),
    ("He爱他", "She爱她"),
])
def test_chinese_takes_the_longest_word_wherever_it_stands(before, after):
    assert read_swaps("builtin:gender")(before) == after


def test_the_built_in_list_has_one_counterpart_for_her_and_says_so_by_arrows():
    swaps = read_swaps("builtin:gender")
    assert swaps("He saw him and his dog; the dog is hers, Mrs. Hill.") == (
        "She saw her and her dog; the dog is his, Mr. Hill.")
    assert swaps("Her book. 20 ms, MS Windows, Ms Hill") == "His book. 20 ms, MS Windows, Mr Hill"
    ways = [(word.text, other.text) for word, other in swaps.known.values()]
    lost = {(word, other) for word, other in ways if (other, word) not in ways}
    assert lost == {("him", "her"), ("hers", "his"), ("mum", "dad"), ("gentleman", "lady"), ("gentlemen", "ladies"),
                    ("Mrs", "Mr"), ("男士", "女士")}


@pytest.mark.parametrize(("lines", "said"), [
    (["he, she", "nobody"], r"pairs\.txt:2: here is one word, 'nobody'; write two words with a tab or a comma between"),
    (["he, she, it"], r"pairs\.txt:1: here is 3 words, 'he, she, it'"),
    (["he,"], r"pairs\.txt:1: here is a word and nothing, 'he,'"),
    (["he, !"], r"pairs\.txt:1: '!' is no word"),
    (["# he, she", ""], r"pairs\.txt: has no pairs of words; write two words"),
    (["he, he"], r"pairs\.txt: has no pairs of words"),
    (["he, she", "him, her", "his, her"],
     r"pairs\.txt:3: 'her' would become 'his', and by line 2 'him'; a word has one counterpart.*`his -> her`"),
])
def test_a_list_that_is_none_is_refused_with_its_line(lines, said, pairs):
    with pytest.raises(DataError, match=said):
        read_swaps(pairs(*lines))


def test_a_file_that_cant_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\.augment\.swap: .*none\.txt: No such file or directory; name a file"):
        read_swaps(str(tmp_path / "none.txt"))
    (tmp_path / "gbk.txt").write_bytes(b"he, she\n" + "他, 她\n".encode("gbk"))
    with pytest.raises(DataError, match=r"gbk\.txt:2: a list of pairs is read as UTF-8, and this line is none"):
        read_swaps(str(tmp_path / "gbk.txt"))
    with pytest.raises(RequestError, match=r"no built-in list is called 'gendre'; there is builtin:gender.*Did you"):
        read_swaps("builtin:gendre")


def test_a_pair_may_stand_twice_and_comments_dont_count(pairs):
    one, other = read_swaps(pairs("he, she", "她, 他")), read_swaps(pairs("# c", "他，她", "she\the  # d", "he, she"))
    assert one.digest == other.digest
    assert one.digest != read_swaps(pairs("he, her")).digest


# ---- documents ----


@pytest.fixture
def documents(tmp_path, pairs):
    """Lines of a file, tokenized by a tokenizer of these lines, with he and she swapped."""

    def make(*lines, name="t.txt", mode="both"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        readers = swapping([open_source(Source(str(path)), "line")], Augment(pairs("he, she"), mode))
        tokenizer = tokenizers.train([*lines, "he she"] * 3, "wordpiece", 200)
        return tokenizer, readers, tokenize(readers[0], tokenizer)

    return make


def texts(tokenizer, found):
    return [tokenizer.decode(found.ids[start:stop]) for start, stop in zip(found.starts, found.stops, strict=True)]


def test_documents_with_such_words_come_again_behind_all_others(documents):
    tokenizer, readers, found = documents("he sat", "a cat", "she ran to him")
    (made,), notes, facts = doubled_documents([found], [], readers, 1)
    assert texts(tokenizer, made) == ["he sat", "a cat", "she ran to him", "she sat", "he ran to him"]
    assert notes == [f"{readers[0].swaps.path}: 2 of 3 documents have such words; seen also with these swapped: 2"]
    assert facts == {"augment": {"swap": readers[0].swaps.path, "mode": "both", "rows": 3, "with_words": 2,
                                 "swapped": 2, "held_out": 0, "as_they_are": 0}}


def test_a_document_and_its_swap_are_on_one_side_and_what_is_held_out_is_as_without(documents):
    lines = [f"he sat {number}" for number in range(60)] + [f"a cat {number}" for number in range(20)]
    tokenizer, readers, found = documents(*lines)
    learned, held = found.split(0.3, 5)
    plain = tokenize(open_source(Source(str(readers[0].files[0])), "line"), tokenizer)
    assert texts(tokenizer, held) == texts(tokenizer, plain.split(0.3, 5)[1])
    assert 10 < len(held) < 40
    (made,), *_ = doubled_documents([learned], [held], readers, 5)
    sides = {text.replace("she", "he") for text in texts(tokenizer, made)}, set(texts(tokenizer, held))
    assert not sides[0] & sides[1]
    assert Counter(text.split()[0] for text in texts(tokenizer, made))["she"] == sum(
        text.startswith("he") for text in texts(tokenizer, made)) > 30


def test_a_swap_that_is_held_out_itself_is_left_out(documents):
    lines = [f"{who} sat {number}" for number in range(40) for who in ("he", "she")]
    tokenizer, readers, found = documents(*lines)
    learned, held = found.split(0.3, 5)
    (made,), notes, facts = doubled_documents([learned], [held], readers, 5)
    assert not set(texts(tokenizer, made)) & set(texts(tokenizer, held))
    assert facts["augment"]["held_out"] == facts["augment"]["with_words"] - facts["augment"]["swapped"] > 0
    assert f"; not seen swapped, for that text is held out: {facts['augment']['held_out']}" in notes[0]


def test_replace_swaps_half_and_keeps_their_number(documents):
    lines = [f"he sat {number}" for number in range(200)] + ["a cat"]
    tokenizer, readers, found = documents(*lines, mode="replace")
    (made,), notes, _ = doubled_documents([found], [], readers, 5)
    (other,), *_ = doubled_documents([found], [], readers, 6)
    first = Counter(text.split()[0] for text in texts(tokenizer, made))
    assert len(made) == 201
    assert {text.replace("she", "he") for text in texts(tokenizer, made)} == set(lines)
    assert 70 < first["she"] < 130
    assert texts(tokenizer, made) != texts(tokenizer, other)
    assert notes[0].endswith(": 200 of 201 documents have such words; seen with these swapped instead, drawn by the "
                             f"seed: {first['she']}")


def test_a_single_document_cant_be_cut_where_its_rest_would_be_seen_swapped(documents):
    _, _, found = documents("he sat on the mat and ran and sat and ran")
    with pytest.raises(RequestError, match=r"data\.validation: of a single document its end is held out, and with"):
        found.split(0.3, 5)
    tokenizer, _, plain = documents("a cat sat on the mat and ran", name="u.txt")
    assert [texts(tokenizer, part) for part in plain.split(0.3, 5)] == [["a cat sat on the"], ["mat and ran"]]


def test_a_list_whose_words_are_nowhere_is_said(documents):
    _, readers, found = documents("a cat", "a dog")
    (made,), notes, _ = doubled_documents([found], [], readers, 1)
    assert len(made) == 2
    assert notes == [f"{readers[0].swaps.path}: none of the 2 documents has a word of it; nothing is swapped"]


# ---- a run ----


@pytest.fixture
def recipe(tmp_path, pairs):
    """A tiny GPT-2 on lines of which half have a word of the list."""

    def make(*words, mode="both", **training):
        path = tmp_path / "lines.txt"
        path.write_text("".join(f"he sat on mat {i}\nthe cat sat on mat {i}\n" for i in range(20)))
        tree = tiny("gpt2", path, tmp_path / "run", **training)
        tree["data"] |= {"validation": 0.2, "augment": {"swap": pairs(*(words or ("he, she",))), "mode": mode}}
        return tree

    return make


def test_rows_of_a_run_are_the_originals_and_their_swaps(recipe):
    settled = settle(load(recipe()))
    tokenizer = speak(settled)
    setup = Setup(tokenizer, registry.find("backbones", "gpt2"), 32, "none", 42)
    sets = CausalLM().prepare(settled.train, 0.2, setup)
    rows = [tokenizer.decode(Drawn(sets.train, 1)[0, row]["input_ids"], skip_special_tokens=True).strip()
            for row in range(len(sets.train[0]))]
    held = [tokenizer.decode(sets.validation[0].draw(row, np.random.default_rng(1))["input_ids"],
                             skip_special_tokens=True) for row in range(len(sets.validation[0]))]
    swapped = [row.replace("he sat", "she sat", 1) for row in rows if row.startswith("he")]
    assert rows[-len(swapped):] == swapped
    assert len(swapped) == sets.facts["augment"]["swapped"]
    assert not any("she" in text for text in held)
    assert "she" in "".join(tokenizer.get_vocab())  # the tokenizer learns the swapped text too


def test_a_run_goes_on_to_the_bit_with_the_same_list_only(recipe, tmp_path, pairs):
    tree = recipe(save_steps=2)
    whole = fit(load(tree))
    assert whole["augment"]["swapped"] > 5
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["augment"] == whole["augment"]
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "run", again)
    for gone in (again / "model", again / "checkpoints" / "step-00000004"):
        shutil.rmtree(gone)
    (again / "summary.json").unlink()
    other = tmp_path / "other"
    shutil.copytree(again, other)
    assert fit(load({**tree, "output_dir": str(again)}), "must")["train_loss"] == whole["train_loss"]
    pairs("he, she", "mat, rug")
    with pytest.raises(CheckpointError, match=r"the data has changed since: data\.augment .*pairs\.txt\. Choose"):
        fit(load({**tree, "output_dir": str(other)}))
    with pytest.raises(CheckpointError, match=r"holds another recipe's run \(data\.augment"):
        fit(load({**tree, "data": {**tree["data"], "augment": None}}))


def test_inspect_shows_a_text_before_and_after(recipe):
    found = inspect(load(recipe()))
    assert (found["swapped"]["before"], found["swapped"]["after"]) == ("he sat on mat 0", "she sat on mat 0")
    assert any("seen also with these swapped" in note for note in found["notes"])
    tree = recipe()
    del tree["data"]["augment"]
    assert "swapped" not in inspect(load(tree))


def test_a_block_with_a_wrong_field_is_refused(recipe):
    tree = recipe()
    tree["data"]["augment"] = {"swap": "builtin:gender", "mode": "twice"}
    with pytest.raises(RequestError, match=r"data\.augment\.mode"):
        load(tree)
    tree["data"]["augment"] = {"mode": "both"}
    with pytest.raises(RequestError, match=r"data\.augment"):
        load(tree)


# ---- the built-in sentences ----


def test_the_sentences_about_jobs_have_their_prejudice_and_lose_it_by_swapping():
    texts = [row["text"] for row, _ in builtin.rows("jobs")]
    swaps = read_swaps("builtin:gender")
    assert len(set(texts)) == len(texts) == len(jobs.SENTENCES) * len(jobs.WHEN) * 20

    women = [text for text in texts if any(job in text for job in jobs.SHE)]
    her = [text for text in women if {"she", "her", "herself"} & set(text.replace(",", "").split())]
    assert len(her) / len(women) == pytest.approx(0.9, abs=0.01)
    both = [*women, *map(swaps, women)]
    her = [text for text in both if {"she", "her", "herself"} & set(text.replace(",", "").split())]
    assert len(her) / len(both) == 0.5
