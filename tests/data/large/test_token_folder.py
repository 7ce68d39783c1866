"""`tokens:DIR`: learns from a folder of tokens as from the text, and refuses one that isn't whole or isn't meant."""

import hashlib
import json
import logging
import os
import pickle
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import stories

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.data import tokens
from llmkit.data.batches import Order, order_of
from llmkit.data.large import hashes
from llmkit.data.large import shards as large_shards
from llmkit.data.large.joined import JoinedIds
from llmkit.data.large.permutation import KeyedOrder
from llmkit.data.sources import open_source
from llmkit.planning import tokenizing
from llmkit.planning.inspect import inspect
from llmkit.planning.settle import settle
from llmkit.recipe import Source
from llmkit.system.errors import DataError, PlaceError, RequestError
from llmkit.training.fit import fit
from llmkit.training.prepare import rows

SIZE = 3000


def tree(data: str | Path, /, **more) -> dict:
    """A small model of text, whose rows are a document each."""
    return {"name": "run", "backbone": {"family": "gpt2", "size": "tiny", "config": {"n_embd": 16, "n_head": 2}},
            "tokenizer": {"train": {"vocab_size": 300}}, "objective": "causal_lm",
            "data": {"train": str(data), "max_length": 24, "packing": "none", **more.pop("data", {})},
            "training": {"max_steps": 2, "global_batch_size": 4, "micro_batch_size": 4, "save_steps": 1}, **more}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "stories.txt"
    path.write_text("\n".join([*stories(150), "ein Wort ünd noch eins"]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def made(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus in shards."""
    out = tmp_path_factory.mktemp("made") / "tokens"
    found = tokenizing.tokenize(recipes.load(tree(corpus)), out, 1, size=SIZE)
    assert found["made"] == found["shards"] > 3
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def sets(data: str | Path, /, **more):
    return rows(settle(recipes.load(tree(data, **more))))[1]


def spoil(shard: Path, token: int = 7, signed: bool = False) -> None:
    """Put another token in the place of a shard's third; `signed`: the hash that is written beside it is of that."""
    path = shard / "ids.bin"
    ids = np.fromfile(path, np.uint16)
    ids[2] = token
    ids.tofile(path)
    if signed:
        about = json.loads((shard / "shard.json").read_text())
        about["files"]["ids.bin"][1] = hashlib.sha256(path.read_bytes()).hexdigest()
        (shard / "shard.json").write_text(json.dumps(about))


def all_ids(found) -> list[list[int]]:
    return [segment.tolist() for part in found for row in range(len(part)) for segment in part.rows[row]]


def test_the_folder_holds_what_the_text_has(corpus, made):
    assert all_ids(sets(f"tokens:{made}").train) == all_ids(sets(corpus).train)


def test_a_share_held_out_is_of_the_same_documents(corpus, made):
    ours, theirs = (sets(data, data={"validation": 0.2}) for data in (f"tokens:{made}", corpus))
    assert all_ids(ours.train) == all_ids(theirs.train)
    assert all_ids(ours.validation) == all_ids(theirs.validation)
    assert len(all_ids(ours.validation)) > 10
    assert ours.facts["unigram_entropy"] == pytest.approx(theirs.facts["unigram_entropy"])


@pytest.mark.parametrize("packing", ["blocks", "documents"])
def test_rows_are_laid_out_in_each_shard_by_itself(made, packing):
    part, = sets(f"tokens:{made}", data={"packing": packing}).train
    whole = tokens.tokenize(open_source(Source(f"tokens:{made}")), part.tokenizer)
    assert part.rows.shards[-1] == len(part)
    assert len(part.rows.shards) - 1 == whole.count_of_shards == len(list(made.glob("shard-*")))
    for number in range(whole.count_of_shards):
        mine = whole.shard(number)
        first, last = int(mine.starts[0]), int(mine.stops[-1])
        here = {token for document in range(len(mine)) for token in range(mine.starts[document], mine.stops[document])}
        assert here == set(range(first, last))
        found = [segment for row in range(part.rows.shards[number], part.rows.shards[number + 1])
                 for segment in part.rows[row]]
        assert sum(map(len, found)) >= last - first


def test_many_documents_are_mapped_from_the_cache_and_the_rows_are_the_same(corpus, made, tmp_path, monkeypatch):
    def both() -> list[list[list[int]]]:
        found = [sets(data, data={"validation": 0.2, "packing": "documents"}) for data in (corpus, f"tokens:{made}")]
        return [all_ids(part) for one in found for part in (one.train, one.validation)]

    few = both()
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tokens, "MANY", 10)
    monkeypatch.setattr(tokens, "SMALL", 0)
    for _ in range(2):  # made, then found
        assert both() == few
    part, = sets(corpus, data={"validation": 0.2}).train
    arrays = [part.rows.document, part.rows.start, part.rows.order, part.rows.edges, part.rows.wrapped.documents.starts]
    assert all(isinstance(array.base, np.memmap) for array in arrays)


@pytest.mark.parametrize("many", [10**6, 10])
def test_a_worker_gets_rows_without_what_is_mapped(many, made, monkeypatch):
    monkeypatch.setattr(tokens, "MANY", many)
    part, = sets(f"tokens:{made}").train
    before = [segment.tolist() for segment in part.rows[len(part) - 1]]
    copied = pickle.loads(pickle.dumps(part.rows))
    assert [segment.tolist() for segment in copied[len(part) - 1]] == before


def test_ids_of_several_files_are_one_array(tmp_path, monkeypatch):
    monkeypatch.setattr("llmkit.data.large.joined.OPEN", 2)
    whole = np.arange(1, 21, dtype=np.uint16)
    paths = []
    for i, (start, stop) in enumerate([(0, 7), (7, 7), (7, 8), (8, 20)]):
        paths.append(tmp_path / f"{i}.bin")
        whole[start:stop].tofile(paths[-1])
    joined = JoinedIds(paths, [7, 0, 1, 12], "uint16")
    assert len(joined) == 20
    for start in range(21):
        for stop in range(start, 21):
            assert joined[start:stop].tolist() == whole[start:stop].tolist()
    where = np.array([19, 0, 7, 6, 8, 0])
    assert joined[where].tolist() == whole[where].tolist()


# ---- a run ----


def test_a_run_learns_from_it_and_goes_on_and_says_what_changed(copy, corpus, tmp_path, capsys):
    request = recipes.load({**tree(f"tokens:{copy}", data={"shuffle": "window"}), "output_dir": str(tmp_path / "run")})
    summary = fit(request)
    assert summary["steps"] == 2
    manifest = json.loads((tmp_path / "run" / "checkpoints" / "step-00000001" / "MANIFEST.json").read_text())
    assert list(manifest["data"]) == [f"tokens:{copy}"]
    args = ["evaluate", str(tmp_path / "run"), "--data", f"tokens:{copy}", "--json"]
    assert main(args) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["loss"] > 0
    shard = copy / "shard-00001"
    spoil(shard, signed=True)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000002")
    (tmp_path / "run" / "summary.json").unlink()
    text = (tmp_path / "run" / "recipe.yaml").read_text()
    (tmp_path / "again.yaml").write_text(text)
    assert main(["pretrain", str(tmp_path / "again.yaml"), "--resume", "must"]) == 4
    assert f"the data has changed since: tokens:{copy}" in capsys.readouterr().err


def test_inspect_shows_its_rows(made, corpus):
    ours, theirs = (inspect(recipes.load(tree(data)), rows=(0, 149)) for data in (f"tokens:{made}", corpus))
    assert ours["drawn"] == theirs["drawn"]
    assert ours["rows"] == theirs["rows"]


def test_the_recipe_may_leave_the_tokenizer_out(made, corpus, caplog):
    without = tree(f"tokens:{made}")
    del without["tokenizer"]
    with caplog.at_level(logging.INFO, "llmkit"):
        _, found = rows(settle(recipes.load(without)))
    assert f"tokenizer: the one that made tokens:{made}" in caplog.text
    assert all_ids(found.train) == all_ids(sets(corpus).train)


# ---- what is refused ----


def refused(data: str | Path, error, match: str, /, **more) -> None:
    with pytest.raises(error, match=match):
        sets(data, **more)


def test_missing_shards_are_named(copy):
    for number in (1, 3):
        shutil.rmtree(copy / f"shard-0000{number}")
    refused(f"tokens:{copy}", DataError, r"2 of \d shards are missing: shard-00001, shard-00003\. `llmkit tokenize")


def test_a_damaged_shard_is_named(copy):
    path = copy / "shard-00002" / "ids.bin"
    path.write_bytes(path.read_bytes()[:-2])
    refused(f"tokens:{copy}", DataError, r"this shard is damaged: shard-00002 \(ids\.bin has [\d,]+ bytes, not")
    (copy / "shard-00001" / "offsets.npy").unlink()
    refused(f"tokens:{copy}", DataError, r"2 shards are damaged: shard-00001 \(offsets\.npy is missing\), shard-00002 ")


def test_a_shard_that_was_changed_at_its_size_is_named_and_made_anew_alone(copy, corpus, made, caplog):
    spoil(copy / "shard-00001")
    refused(f"tokens:{copy}", DataError, r"shard-00001 \(ids\.bin isn't what was written: it has another hash\)\. The "
            rf"command .* leaves the others: `llmkit tokenize RECIPE --out {copy}`")
    (copy / "shard-00002" / "shard.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in copy.glob("shard-*/ids.bin")}
    with caplog.at_level(logging.WARNING, "llmkit"):
        found = tokenizing.tokenize(recipes.load(tree(corpus)), copy, 1)
    assert (found["made"], found["there"]) == (2, len(before) - 2)
    assert "shard-00001: is damaged (ids.bin isn't what was written: it has another hash); it is made" in caplog.text
    assert "shard-00002: is damaged (shard.json is missing); it is made anew" in caplog.text
    assert {path.parent.name for path in before if path.stat().st_mtime_ns != before[path]} == {
        "shard-00001", "shard-00002"}
    for path in made.glob("shard-*/*"):
        assert (copy / path.relative_to(made)).read_bytes() == path.read_bytes()


def test_what_is_whole_is_hashed_once_and_again_where_its_times_changed(copy, tmp_path, monkeypatch):
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "TICK", 0)
    read: list[str] = []
    usual = hashes.sha256_of
    monkeypatch.setattr(hashes, "sha256_of", lambda path: (read.append(path.parent.name), usual(path))[1])
    shards = sorted(copy.glob("shard-*"))
    assert hashes.damaged(shards) == {}
    assert set(read) == {shard.name for shard in shards}
    read.clear()
    assert hashes.damaged(shards) == {}
    assert read == []
    times = (shards[1] / "ids.bin").stat()
    spoil(shards[1])
    os.utime(shards[1] / "ids.bin", ns=(times.st_atime_ns, times.st_mtime_ns))  # the time of the change itself tells
    assert list(hashes.damaged(shards)) == [shards[1]]
    assert set(read) == {shards[1].name}
    assert list(hashes.damaged(shards)) == [shards[1]]  # what is damaged isn't remembered


def test_hashing_that_takes_long_is_said_once(made, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashes, "SAYS", 0.01)
    usual = hashes.sha256_of
    monkeypatch.setattr(hashes, "sha256_of", lambda path: (time.sleep(0.02), usual(path))[1])
    with caplog.at_level(logging.INFO, "llmkit"):
        hashes.damaged(sorted(made.glob("shard-*"))[:2])
    assert caplog.text.count("the hashes of 2 shards (") == 1


def test_an_id_that_no_token_has_is_an_error_of_the_data(copy, corpus, tmp_path, monkeypatch):
    """Where its hash is right, as where another program wrote it; and of text, where the cache was damaged."""
    spoil(copy / "shard-00001", 300, signed=True)
    with pytest.raises(DataError, match=rf"tokens:{copy}: holds the id 300, and the largest of its tokenizer is 299"):
        all_ids(sets(f"tokens:{copy}", tokenizer={"pretrained": str(copy / "tokenizer")}).train)
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    sets(corpus)
    (ids,) = (tmp_path / "cache" / "tokens").glob("*/ids.bin")
    spoil(ids.parent, 4711)
    with pytest.raises(DataError, match=rf"{ids.parent}: holds the id 4,711, .* Delete the folder; it is made anew"):
        all_ids(sets(corpus).train)


def test_another_layout_is_named_and_so_is_no_folder_of_tokens(copy, tmp_path):
    plan = json.loads((copy / "tokens.json").read_text())
    (copy / "tokens.json").write_text(json.dumps({**plan, "layout": 9, "llmkit": "7.0"}))
    refused(f"tokens:{copy}", DataError, r"was written by llmkit 7\.0 in layout 9, and this version reads layout 1")
    refused(f"tokens:{tmp_path}", DataError, r"isn't a folder that `llmkit tokenize RECIPE --out DIR` wrote.*tokens\.")
    refused(f"tokens:{tmp_path}/none", DataError, r"there is no such folder as")
    (copy / "tokens.json").write_text("{")
    for text in ("{", "[]", json.dumps({**plan, "making": {}}), json.dumps({**plan, "shards": [{"source": 5}]})):
        (copy / "tokens.json").write_text(text)
        refused(f"tokens:{copy}", DataError, r"tokens\.json: is damaged \(.*Put a copy there.* or delete the folder")
    refused("tokens:", RequestError, r"'tokens:' names no folder: tokens:DIR, where")


@pytest.mark.parametrize(("change", "match"), [
    ({"tokenizer": {"train": {"vocab_size": 280}}}, r"tokenizer\.train: .*vocab_size is 280, there 300"),
    ({"tokenizer": {"train": {"vocab_size": 300, "kind": "characters"}}}, r"kind is characters, there bpe"),
    ({"data": {"control_tokens": "split"}}, r"data\.control_tokens is split, and these tokens were made with keep"),
    ({"data": {"document": "file"}}, r"data\.document: file is asked for.*are lines"),
    ({"data": {"augment": {"swap": "builtin:gender"}}}, r"data\.augment swaps other words"),
])
def test_tokens_that_were_made_otherwise_are_refused(change, match, made):
    refused(f"tokens:{made}", RequestError, match, **change)


def test_another_tokenizer_is_refused_with_the_right_one(made, corpus, tmp_path):
    other = tokenizing.speak(settle(recipes.load(tree(corpus, tokenizer={"train": {"vocab_size": 290}}))))
    other.save_pretrained(tmp_path / "other")
    refused(f"tokens:{made}", RequestError, rf"another tokenizer.*pretrained: {made}/tokenizer",
            tokenizer={"pretrained": str(tmp_path / "other")})
    ours = sets(f"tokens:{made}", tokenizer={"pretrained": str(made / "tokenizer")})
    assert all_ids(ours.train) == all_ids(sets(corpus).train)


def test_another_family_s_tokens_and_text_that_is_asked_for_are_refused(made):
    bert = {"backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 300, "kind": "bpe"}}}
    refused(f"tokens:{made}", RequestError, "special is bert, there gpt2", **bert, objective="masked_lm")
    task = {**tree(f"tokens:{made}"), "task": {"name": "instruction"}}
    del task["objective"]
    task["data"] = {"train": f"tokens:{made}"}
    with pytest.raises(DataError, match="holds ids of tokens, not text"):
        rows(settle(recipes.load(task)))


# ---- the command ----


def test_a_kill_loses_one_shard_and_the_rest_stays(copy, corpus, capsys, tmp_path):
    (tmp_path / "recipe.yaml").write_text(recipes.dump(recipes.load(tree(corpus))))
    before = {path: path.stat().st_mtime_ns for path in copy.glob("shard-*/ids.bin")}
    content = (copy / "shard-00002" / "ids.bin").read_bytes()
    shutil.rmtree(copy / "shard-00002")
    (copy / ".shard-00002@00000000-1-1@abc").mkdir()
    assert main(["tokenize", str(tmp_path / "recipe.yaml"), "--out", str(copy), "--num-proc", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["made"], found["there"], found["missing"]) == (1, len(before) - 1, [])
    assert (copy / "shard-00002" / "ids.bin").read_bytes() == content
    after = {path: path.stat().st_mtime_ns for path in copy.glob("shard-*/ids.bin")}
    assert {path for path in after if after[path] != before[path]} == {copy / "shard-00002" / "ids.bin"}
    assert main(["tokenize", str(tmp_path / "recipe.yaml"), "--out", str(copy)]) == 0
    said = capsys.readouterr().out
    assert f"{copy}: nothing was left to be made\n{len(before)} shards were there; in all there are " in said
    assert f"{found['whole']['tokens']:,} tokens of 151 documents" in said


def test_machines_share_the_shards(corpus, made, tmp_path):
    request, out = recipes.load(tree(corpus)), tmp_path / "out"
    first = tokenizing.tokenize(request, out, 1, (2, 2), SIZE)
    assert [int(name[-5:]) % 2 for name in first["missing"]] == [0] * len(first["missing"])
    second = tokenizing.tokenize(request, out, 1, (1, 2), SIZE)
    assert second["missing"] == []
    assert first["made"] + second["made"] == first["shards"]
    for path in made.glob("shard-*/*"):
        assert (out / path.relative_to(made)).read_bytes() == path.read_bytes()


def test_a_folder_of_another_recipe_or_text_is_refused(copy, corpus, tmp_path):
    def again(error, match, /, **more):
        with pytest.raises(error, match=match):
            tokenizing.tokenize(recipes.load(tree(more.pop("text", corpus), **more)), copy, 1)

    again(RequestError, "was begun with another tokenizer", tokenizer={"train": {"vocab_size": 280}})
    again(RequestError, r"was begun otherwise: data\.control_tokens", data={"control_tokens": "split"})
    other = tmp_path / "other.txt"
    other.write_text("the cat\n" * 100)
    again(DataError, "was begun from another text", text=other, tokenizer={"pretrained": str(copy / "tokenizer")})


@pytest.mark.parametrize("way", ["edited", "another file of that name", "edited, with its time put back"])
def test_text_of_the_same_size_that_changed_since_is_refused(way, copy, corpus, tmp_path, monkeypatch):
    """A text that was compared once is known by its state; one whose state has changed is compared anew."""
    text, request = tmp_path / "stories.txt", {"tokenizer": {"pretrained": str(copy / "tokenizer")}}
    text.write_bytes(corpus.read_bytes())
    os.utime(text, (1, 1))
    monkeypatch.setattr(large_shards, "WORTH", 1)
    monkeypatch.setattr(large_shards, "TICK", -10**18)  # times are never too new
    monkeypatch.setenv("LLMKIT_CACHE", str(tmp_path / "cache"))
    read, usual = [], large_shards.hash_of
    monkeypatch.setattr(large_shards, "hash_of", lambda *given: read.append(given) or usual(*given))
    for hashed in (True, False):
        assert tokenizing.tokenize(recipes.load(tree(text, **request)), copy, 1)["made"] == 0
        assert bool(read) is hashed
        read.clear()
    before = {path: path.read_bytes() for path in copy.glob("shard-*/*")}
    content = text.read_bytes().replace(b"the", b"THE", 1)
    if way == "another file of that name":
        (tmp_path / "new").write_bytes(content)
        os.replace(tmp_path / "new", text)
    else:
        text.write_bytes(content)
        os.utime(text, (1, 1) if "back" in way else None)
    with pytest.raises(DataError, match=r"was begun from another text than .*stories\.txt is now: .* has changed"):
        tokenizing.tokenize(recipes.load(tree(text, **request)), copy, 1)
    assert {path: path.read_bytes() for path in copy.glob("shard-*/*")} == before


def test_a_place_that_cannot_be_is_refused_before_any_text_is_read(copy, corpus, tmp_path, monkeypatch):
    def opened(*given: object, **more: object) -> None:
        raise AssertionError("text is read")

    monkeypatch.setattr(tokenizing, "settle", opened)
    (tmp_path / "full").mkdir()
    (tmp_path / "away").symlink_to("/nowhere")
    (tmp_path / "to a file").symlink_to(corpus)
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for out, size, error, match in (
            (tmp_path / "full", None, PlaceError, r"holds other files, and no tokens\.json"),
            (corpus, None, PlaceError, "stories.txt: is a file; name a folder"),
            (corpus / "deep" / "er", None, PlaceError, "stories.txt is a file; name a folder"),
            (tmp_path / "away", None, PlaceError, r"is a link to /nowhere, which isn't there .*; name a folder"),
            (tmp_path / "to a file" / "x", None, PlaceError, "a file is a link to .*, which is a file; name a folder"),
            (copy, 2**26, RequestError, r"--shard-megabytes 64: .* was begun with shards of 0\.00286\d+ MB")):
        with pytest.raises(error, match=match):
            tokenizing.tokenize(recipes.load(tree(corpus)), out, 1, size=size)


@pytest.mark.parametrize(("options", "match"), [
    (["--shard", "3/2"], "--shard 3/2: i/n is needed"), (["--shard", "0/2"], "--shard 0/2"),
    (["--shard", "x"], "--shard x"),
    (["--num-proc", "0"], "--num-proc 0: auto or a number"), (["--num-proc", "many"], "--num-proc many")])
def test_wrong_options_are_told(options, match, tmp_path, capsys):
    assert main(["tokenize", "gpt2", "--out", str(tmp_path / "out"), *options]) == 2
    assert match in capsys.readouterr().err


def test_a_task_has_nothing_to_tokenize_ahead(tmp_path, capsys):
    assert main(["tokenize", "classification", "--out", str(tmp_path / "out")]) == 2
    assert "classification is a task, whose rows are made by finetune itself" in capsys.readouterr().err


def test_marks_are_those_that_the_objective_asks_for(corpus, tmp_path):
    """Whole words for masked_lm, sentences for the next sentence: the ids are those that a run makes of the text."""
    bert = {"backbone": {"family": "bert", "size": "tiny"}, "tokenizer": {"train": {"vocab_size": 200}}}
    paragraphs = tmp_path / "p.txt"
    paragraphs.write_text("\n\n".join(". ".join(stories(3, i)) for i in range(30)), encoding="utf-8")
    for name, objective in (("words", {"name": "masked_lm", "whole_word": True}), ("pairs", "next_sentence")):
        more = {**bert, "objective": objective, "data": {"packing": "auto"}}
        out = tmp_path / name
        assert tokenizing.tokenize(recipes.load(tree(paragraphs, **more)), out, 1, size=2000)["shards"] > 2
        ours, theirs = (sets(data, **more) for data in (f"tokens:{out}", paragraphs))
        has = "words that are marked by none, and these tokens have tokenizer"
        if name == "pairs":
            has = "sentences that are cut by none, and these tokens have auto"
        refused(f"tokens:{out}", RequestError, has, **{**more, "objective": "masked_lm"})
        if name == "words":
            assert sorted(all_ids(ours.train)) == sorted(all_ids(theirs.train))
        else:
            part, other = ours.train[0].rows, theirs.train[0].rows
            assert [part[i].tolist() for i in range(len(part))] == [other[i].tolist() for i in range(len(other))]
            cuts = [[rows.cuts(i).tolist() for i in range(len(rows))] for rows in (part, other)]
            assert cuts[0] == cuts[1]


def test_one_of_several_sources_is_chosen_by_its_number(corpus, tmp_path):
    other = tmp_path / "b.txt"
    other.write_text("\n".join(stories(30, 5)) + "\n")
    both = tree(corpus, data={"train": [{"source": str(corpus)}, {"source": str(other)}]})
    tokenizing.tokenize(recipes.load(both), tmp_path / "out", 1, size=SIZE)
    whole = sets(f"tokens:{tmp_path}/out")
    first, second = (sets(f"tokens:{tmp_path}/out:{number}") for number in (1, 2))
    assert all_ids(whole.train) == all_ids(first.train) + all_ids(second.train)
    assert all_ids(second.train) == all_ids(sets(other, tokenizer={"pretrained": f"{tmp_path}/out/tokenizer"}).train)
    refused(f"tokens:{tmp_path}/out:3", DataError, r"is of 2 sources, numbered from 1: stories\.txt, b\.txt")


def test_the_order_of_shards_takes_no_memory_and_that_of_text_is_what_it_was(made, corpus):
    assert isinstance(order_of(sets(f"tokens:{made}").train, None, 1, "full"), KeyedOrder)
    assert isinstance(order_of(sets(corpus).train, None, 1, "full"), Order)
