"""Translation: pairs of texts become features, what is written becomes BLEU and chrF."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from conftest import SMALL, STILL, stories, tiny

from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.inference import predict as prediction
from llmkit.objectives.base import Setup
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.shared.writing import spread
from llmkit.tasks.translation import Translation
from llmkit.training.fit import fit


@pytest.fixture(scope="module")
def unigram():
    return tokenizers.train([*stories(80), "what did he do ?"], "unigram", 200)


@pytest.fixture(scope="module")
def bpe():
    return tokenizers.train([*stories(80), "Translation:"], "bpe", 300)


def setup(tokenizer, family="transformer", length=64):
    return Setup(tokenizer, registry.find("backbones", family), length, "none", seed=0)


def read(reader, **options):
    return [row for row, _ in Translation(**options).read(reader)]


PAIR = {"source": "the cat saw a hat", "target": "a dog found the moon"}


# ---- rows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("row", "options"), [
    (PAIR, {}),
    ({"src": PAIR["source"], "tgt": PAIR["target"]}, {}),
    ({"en": PAIR["source"], "de": PAIR["target"]}, {}),
    ({"de": PAIR["target"], "en": PAIR["source"]}, {"source_lang": "en"}),
    ({"de": PAIR["target"], "en": PAIR["source"]}, {"target_lang": "de"}),
    ({"xx": PAIR["source"], "yy": PAIR["target"]}, {"source_lang": "xx", "target_lang": "yy"}),
    ({"translation": {"en": PAIR["source"], "de": PAIR["target"]}}, {}),
    ({"translation": {"de": PAIR["target"], "en": PAIR["source"]}}, {"source_lang": "en", "target_lang": "de"}),
])
def test_columns_are_found_by_their_names_or_languages(write, row, options):
    assert read(write(row), **options) == [PAIR]


def test_what_was_guessed_of_languages_is_said_once(write):
    reader = write({"de": "a", "en": "b"})
    assert read(reader) == read(reader) == [{"source": "a", "target": "b"}]
    assert [note.rpartition(": ")[2] for note in reader.notes] == ["translated from 'de'"]


@pytest.mark.parametrize(("row", "message"), [
    ({"source": "a", "target": " "}, "the field 'target' is empty"),
    ({"source": "a"}, "the field 'target' is empty"),
    ({"source": 5, "target": "b"}, "the field 'source' is no text: 5"),
])
def test_a_row_without_its_field_is_told_with_its_line(write, row, message):
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: {message}"):
        read(write(PAIR, row))


def test_two_files_are_read_side_by_side(tmp_path):
    one, two = tmp_path / "a.en.gz", tmp_path / "a.de"
    one.write_bytes(gzip.compress(b"one\n\ntwo\nthree\n"))
    two.write_text("eins\n\nzwei\ndrei\n")
    reader = open_source(Source(str(one), target=str(two)))
    pairs = Translation().read(reader)
    assert [row for row, _ in pairs] == [{"source": a, "target": b} for a, b in
                                         [("one", "eins"), ("two", "zwei"), ("three", "drei")]]
    assert [str(place) for _, place in pairs][1] == f"{one}:3"
    two.write_text("eins\n\nzwei\n")
    with pytest.raises(DataError, match=r"a\.de:3: is the last line, and .*a\.en\.gz goes on"):
        read(reader)
    two.write_text("eins\n\n\ndrei\n")
    with pytest.raises(DataError, match=r"a\.en\.gz:3: the field 'target' is empty"):
        read(reader)
    with pytest.raises(RequestError, match="target is for parallel text"):
        open_source(Source(str(one), target=str(two), fields={"source": "x"}))


# ---- features ---------------------------------------------------------------------------------------------------


def test_an_encoder_reads_the_source_and_a_decoder_writes_the_target(write, unigram):
    (features,) = Translation().prepare([write(PAIR)], None, setup(unigram)).train[0].features
    read_, said = (unigram(text, add_special_tokens=False)["input_ids"] for text in PAIR.values())
    end, start = unigram.eos_token_id, unigram.pad_token_id
    assert {name: ids.tolist() for name, ids in features.items()} == {
        "input_ids": [*read_, end], "labels": [*said, end], "decoder_input_ids": [start, *said],
        "documents": [0] * (len(read_) + 1), "decoder_documents": [0] * (len(said) + 1)}


def test_a_decoder_goes_on_after_a_heading_or_the_recipes_template(write, bpe):
    def text(**options):
        (features,) = Translation(**options).prepare([write(PAIR)], None, setup(bpe, "gpt2")).train[0].features
        learned = [label for label in features["labels"].tolist() if label != -100]
        assert bpe.decode(learned) == PAIR["target"] + bpe.eos_token
        return bpe.decode(features["input_ids"])

    assert text() == "the cat saw a hat\n\nTranslation:\na dog found the moon"
    asked = text(template="{source_lang} {source} {target_lang}: ", source_lang="en", target_lang="de")
    assert asked == "en the cat saw a hat de: a dog found the moon"
    with pytest.raises(ValueError, match="template must contain"):
        Translation(template="x")


def test_a_tokenizer_is_trained_on_both_sides(write):
    assert list(Translation().texts(write(PAIR))) == list(PAIR.values())


# ---- loss and figures -------------------------------------------------------------------------------------------


def test_smoothing_is_transformers_own_while_training_and_none_in_an_evaluation(write, unigram):
    from transformers import AutoModelForSeq2SeqLM
    from transformers.trainer_pt_utils import LabelSmoother

    kind = registry.find("backbones", "transformer")
    torch.manual_seed(0)
    config = kind.config("tiny", SMALL["transformer"] | STILL["transformer"], unigram)
    model = AutoModelForSeq2SeqLM.from_config(config)
    task = Translation(label_smoothing_factor=0.1)
    rows = Translation().prepare([write(PAIR, {"source": "a hat", "target": "the moon"})], None, setup(unigram))
    batch = task.collate(rows.train[0].features, unigram)
    count = task.targets(batch)["loss"]
    theirs = LabelSmoother(epsilon=0.1)(model(**batch), batch["labels"])
    assert (task.loss(model.train(), batch, kind)["loss"] / count).item() == pytest.approx(theirs.item(), rel=1e-5)
    plain = model.eval()(**batch).loss
    assert (task.loss(model, batch, kind)["loss"] / count).item() == pytest.approx(plain.item(), rel=1e-5)


def test_bleu_and_chrf_are_sacrebleus():
    import sacrebleu

    task, written = Translation(), ["a dog found the moon and a hat .", "two stones"]
    rows = [{"target": "a dog found the moon and two hats."}, {"target": "three stones"}]
    figures = task.metrics({"loss": 1.0}, [({"text": text}, row) for text, row in zip(written, rows)])
    true = [[row["target"] for row in rows]]
    assert figures["bleu"] == pytest.approx(sacrebleu.corpus_bleu(written, true).score)
    assert figures["chrf"] == pytest.approx(sacrebleu.corpus_chrf(written, true).score)
    # of 11 words 8 are in the reference, of 9 pairs 5, of 7 threes 4, of 6 fours 3
    assert figures["bleu"] == pytest.approx(100 * (8 / 11 * 5 / 9 * 4 / 7 * 3 / 6) ** 0.25)
    assert figures["perplexity"] == pytest.approx(2.71828, abs=1e-5)
    assert task.metrics({"loss": 1.0}, []).keys() == {"loss", "perplexity"}


@pytest.mark.parametrize(("language", "targets", "splitter"), [
    ("de", ["ein Hund"], "13a"), ("zh", ["a dog"], "zh"), ("zh-CN", ["a"], "zh"), ("ja", ["x"], "char"),
    (None, ["ein Hund"], "13a"), (None, ["我看见一只狗。", "GPT-2 很好"], "zh"), (None, ["私は犬を見た。"], "char"),
    (None, ["..."], "13a"),
])
def test_bleu_splits_words_as_the_target_language_wants(language, targets, splitter):
    assert Translation(target_lang=language).splitter(targets) == splitter


def test_chinese_is_split_by_character():
    task = Translation()
    figures = task.scores(["我看见一只狗。"], [{"target": "我看见一只猫。"}])
    assert figures["bleu"] == pytest.approx(100 * (6 / 7 * 4 / 6 * 3 / 5 * 2 / 4) ** 0.25)
    assert task.floors([], [{"source": "我看见一只狗。", "target": "我看见一只猫。"}]) == {"the source copied": figures}


def test_some_rows_are_written_while_training_and_all_at_the_end():
    assert list(Translation(generation_rows=4).to_write(10, last=False)) == [0, 2, 5, 7]
    assert list(Translation(generation_rows=4).to_write(10, last=True)) == list(range(10))
    assert list(spread(3, 5)) == [0, 1, 2]
    assert list(Translation(generation_rows=0).to_write(10, last=False)) == []


# ---- a run ------------------------------------------------------------------------------------------------------


def test_a_run_translates_some_rows_then_all_and_predicts_what_generate_writes(parallel: Path, tmp_path: Path) -> None:
    from llmkit.inference import evaluate as evaluation

    tree = tiny("transformer", parallel, tmp_path / "run", still=True, max_steps=3, eval_steps=2, micro_batch_size=4)
    del tree["objective"]
    tree["task"] = {"name": "translation", "max_new_tokens": 5, "generation_rows": 3, "num_beams": 2,
                    "length_penalty": 0.5, "label_smoothing_factor": 0.1}
    tree["data"] |= {"train": [{"source": str(parallel)}], "validation": [{"source": str(parallel)}]}
    calls: list[int] = []
    plain = Translation.scores

    def scores(self, written, rows):
        calls.append(len(written))
        return plain(self, written, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Translation, "scores", scores)
        summary = fit(recipe.load(tree))
    assert calls == [48, 3, 3, 48]  # the floor, before, in between, at the end
    assert summary["bleu_signature"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert {"loss", "perplexity", "bleu", "chrf"} == set(summary["evaluation"])
    assert set(summary["floors"]) == {"the source copied"}

    rows = list(map(json.loads, parallel.read_text().splitlines()))
    sides = [tmp_path / f"lines.{name}" for name in ("en", "de")]
    for side, name in zip(sides, ("source", "target"), strict=True):
        side.write_text("".join(row[name] + "\n" for row in rows))
    measured = evaluation.evaluate(tmp_path / "run", sides[0], target=sides[1])
    assert measured["metrics"] == pytest.approx(summary["evaluation"], rel=1e-5)
    assert measured["rows"] == 48

    said = list(prediction.predict(tmp_path / "run", parallel))
    ready = evaluation.make_ready(tmp_path / "run")
    tokenizer, model = ready.setup.tokenizer, ready.learner.model.eval()
    for row, one in zip(rows[:4], said, strict=False):
        ids = torch.tensor([[*tokenizer(row["source"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]])
        written = model.generate(input_ids=ids, max_new_tokens=5, num_beams=2, length_penalty=0.5, do_sample=False)
        assert one == {"text": tokenizer.decode(written[0], skip_special_tokens=True).strip()}
