"""Question answering: contexts in parts, spans as labels, and predictions that say where they are."""

import json
from pathlib import Path

import pytest
import torch
from conftest import SMALL, STILL, stories, tiny

from llmkit import recipe
from llmkit.data import tokenizer as tokenizers
from llmkit.data.batches import stack
from llmkit.data.sources import open_source
from llmkit.inference import evaluate as evaluation
from llmkit.inference import predict as prediction
from llmkit.objectives.base import Setup
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError
from llmkit.tasks.question_answering import QuestionAnswering, closest
from llmkit.tasks.shared.answers import exact, longest_run, normalized, overlap, scores, segments
from llmkit.tasks.shared.frame import frame_of
from llmkit.training.fit import fit

CONTEXT = "the cat saw the moon . a dog found a hat ."


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train([*stories(80), "who what ?"], "wordpiece", 200)


def setup(tokenizer, family="bert", length=32):
    return Setup(tokenizer, registry.find("backbones", family), length, "none", seed=0)


def row(text=None, start=None, context=CONTEXT):
    answers = [] if text is None else [{"text": text, "answer_start": context.index(text) if start is None else start}]
    return {"question": "who ?", "context": context, "answers": answers}


def encoded(task, some, known):
    return task.encode([(one, "here") for one in some], known, [])


def tokens_of(tokenizer):
    kind = {"gpt2": "bpe", "t5": "unigram", "roberta": "bpe", "xlnet": "unigram", "bert": "wordpiece"}[tokenizer]
    special = registry.find("backbones", tokenizer).special
    return tokenizers.trained(["asked"], lambda: iter([*stories(80), "who what ?"]), kind, 300, None, special)[0]


def squad(paragraphs, indent=1):
    return json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}, indent=indent)


# ---- files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indent", [None, 1])
def test_squads_articles_are_a_row_a_question_with_its_line(write, indent):
    text = squad([{"context": "the \"question\": cat", "qas": [
        {"id": "a", "question": "q1", "answers": [{"text": "cat", "answer_start": 16}]},
        {"question": "q2", "id": 7, "is_impossible": True, "answers": []}]}], indent)
    read = QuestionAnswering(version_2_with_negative=True).read(write(text, name="s.json"))
    assert [one for one, _ in read] == [
        {"id": "a", "question": "q1", "context": "the \"question\": cat",
         "answers": [{"text": "cat", "answer_start": 16}]},
        {"id": 7, "question": "q2", "context": "the \"question\": cat", "answers": []}]
    lines = [1, 1] if indent is None else [i for i, line in enumerate(text.split("\n"), 1) if '"question":' in line]
    assert [place.line for _, place in read] == lines


@pytest.mark.parametrize("answers", [
    {"text": ["moon"], "answer_start": [16]}, {"text": ["moon"]}, {"text": "moon", "answer_start": 16},
    [{"text": "moon", "answer_start": 16}], [{"text": "moon"}], ["moon"], "moon",
])
def test_answers_have_any_of_the_usual_forms(write, answers):
    ((one, _),) = QuestionAnswering().read(write([{"question": "q", "context": CONTEXT, "answers": answers}]))
    assert one["answers"] == [{"text": "moon", "answer_start": 16}]


def test_a_table_has_answers_as_text(write):
    ((one, _),) = QuestionAnswering().read(write("query,passage,answer\nwho,the cat sat,cat\n", name="a.csv"))
    assert one == {"question": "who", "context": "the cat sat", "answers": [{"text": "cat", "answer_start": 4}]}


def test_an_answer_beside_its_place_is_moved_to_the_nearest_and_that_is_told(write):
    reader = write([{"question": "q", "context": "a hat and a hat", "answers": {"text": ["hat"], "answer_start": [11]}},
                    {"question": " ", "context": "a hat", "answers": "hat"}])
    assert [one["answers"][0]["answer_start"] for one, _ in QuestionAnswering().read(reader)] == [12, 2]
    QuestionAnswering().read(reader)
    assert [note.replace(str(reader.files[0]), "F") for note in reader.notes] == [
        "1 answer isn't where answer_start says, the first at F:1 ('hat'); of each, the nearest place where it is "
        "was taken", "1 question is empty, the first at F:2"]


@pytest.mark.parametrize(("answers", "said"), [
    ({"text": ["sun"], "answer_start": [16]}, "the answer 'sun' isn't in the context at 16"),
    ("sun", "the answer 'sun' isn't in the context; an answer is a part of it"),
    ("", r"the question has no answer; .* task\.version_2_with_negative: true"),
    ({"text": ["moon"], "answer_start": [1, 2]}, "1 answers, whose answer_start is"),
    ([{"text": 5}], "an answer is {text, answer_start} or a text, not {'text': 5}"),
    (7, "the answers are neither a text nor a list: 7"),
])
def test_an_answer_that_is_none_is_told_with_its_line(write, answers, said):
    good = {"question": "q", "context": CONTEXT, "answers": "moon"}
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: {said}"):
        QuestionAnswering().read(write([good, {"question": "q", "context": CONTEXT, "answers": answers}]))


@pytest.mark.parametrize(("text", "said"), [
    ('{"data": [\n{"paragraphs": [}]}', r"s\.json:2: bad JSON"),
    ('{"data": [{"paragraphs": 3}]}', r"s\.json: 'paragraphs' must be a list of objects"),
    (squad([{"context": "a", "qas": [{"question": "q", "answers": [{"text": "b", "answer_start": 0}]}]}]),
     r"s\.json:11: the answer 'b' isn't in the context at 0"),
])
def test_squads_json_that_is_wrong_is_told_with_its_line(write, text, said):
    with pytest.raises(DataError, match=said):
        QuestionAnswering().read(write(text, name="s.json"))


def test_questions_about_one_context_are_held_out_together(write, wordpiece):
    some = [{"question": f"q {i}", "context": f"the cat saw {i % 12}", "answers": "cat"} for i in range(60)]
    sets = QuestionAnswering().prepare([write(some)], 0.3, setup(wordpiece))
    sides = [{one["context"] for one in part[0].rows} for part in (sets.train, sets.validation)]
    assert not sides[0] & sides[1]
    assert sum(map(len, sides)) == 12


# ---- features ---------------------------------------------------------------------------------------------------


def test_a_question_and_its_context_are_one_row_of_two_types(wordpiece):
    (one,) = encoded(QuestionAnswering(), [row("moon")], setup(wordpiece))
    pair = wordpiece("who ?", CONTEXT)
    assert one["input_ids"].tolist() == pair["input_ids"]
    assert one["token_type_ids"].tolist() == pair["token_type_ids"]
    place = wordpiece.convert_ids_to_tokens(one["input_ids"]).index("moon")
    assert (one["start_positions"].tolist(), one["end_positions"].tolist(), one["null"].tolist()) == ([place], [place],
                                                                                                      [0])
    assert [CONTEXT[a:b] for a, b in zip(one["starts"], one["ends"], strict=True) if a >= 0] == CONTEXT.split()


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "xlnet"])
def test_a_row_is_what_the_tokenizer_makes_of_a_pair(family):
    tokenizer = tokens_of(family)
    (one,) = encoded(QuestionAnswering(), [row("moon")], setup(tokenizer, family, 128))
    pair = tokenizer("who ?", CONTEXT)
    assert one["input_ids"].tolist() == pair["input_ids"]
    if "token_type_ids" in pair and "token_type_ids" in one:
        assert one["token_type_ids"].tolist() == pair["token_type_ids"]
    start, end = one["starts"][one["start_positions"][0]], one["ends"][one["end_positions"][0]]
    assert CONTEXT[start:end] == "moon"


def test_a_decoder_reads_question_context_and_end_and_says_none_at_the_end():
    bpe = tokens_of("gpt2")
    (one,) = encoded(QuestionAnswering(version_2_with_negative=True), [row()], setup(bpe, "gpt2", 64))
    assert bpe.decode(one["input_ids"]) == f"who ?\n{CONTEXT}<|endoftext|>"
    assert "token_type_ids" not in one
    last = len(one["input_ids"]) - 1
    assert one["null"].tolist() == one["start_positions"].tolist() == one["end_positions"].tolist() == [last]


def test_a_long_context_is_read_in_parts_and_only_it_is_cut(write, wordpiece):
    context = "the cat saw a dog . the dog found the moon ."
    task = QuestionAnswering(doc_stride=4)
    question = len(wordpiece("who ?", add_special_tokens=False)["input_ids"])
    parts = encoded(task, [row("moon", context=context), row("cat", context=context)],
                    setup(wordpiece, length=question + 3 + 8))
    words = context.split()
    spans = [[context[a:b] for a, b in zip(one["starts"], one["ends"], strict=True) if a >= 0] for one in parts]
    assert spans == [words[:8], words[4:]] * 2
    assert [one["of"].tolist() for one in parts] == [[0], [0], [1], [1]]
    begin = question + 2
    assert [one["start_positions"][0] for one in parts] == [0, begin + 6, begin + 1, 0]  # 0: isn't in this part
    assert all(wordpiece.decode(one["input_ids"]).startswith("[CLS] who? [SEP]") for one in parts)
    short = task.prepare([write([row("cat", context=context)])], None, setup(wordpiece, length=question + 11))
    assert any("2 parts of 1 contexts" in note for note in short.notes)
    with pytest.raises(DataError, match=r"here: the question has \d+ tokens, which leaves 0 of data\.max_length"):
        encoded(task, [row("cat")], setup(wordpiece, length=question + 3))


def test_an_answer_of_which_a_part_is_missing_is_none(wordpiece):
    context = "the cat saw a dog . the dog found the moon ."
    question = len(wordpiece("who ?", add_special_tokens=False)["input_ids"])
    parts = encoded(QuestionAnswering(doc_stride=0), [row("dog . the dog", context=context)],
                    setup(wordpiece, length=question + 3 + 6))
    assert [(one["start_positions"][0], one["end_positions"][0]) for one in parts] == [(0, 0), (0, 0)]


def test_a_frame_is_read_from_what_a_tokenizer_does_with_a_pair(wordpiece):
    frame = frame_of(wordpiece, ends=False)
    cls, sep = wordpiece.cls_token_id, wordpiece.sep_token_id
    assert (frame.before, frame.between, frame.after, frame.types) == ((cls,), (sep,), (sep,), (0, 1, 0, 0, 1))
    xlnet = tokens_of("xlnet")
    frame = frame_of(xlnet, ends=False)
    assert frame.null([1] * 9) == 8 and frame.after == (xlnet.sep_token_id, xlnet.cls_token_id)


# ---- predictions ------------------------------------------------------------------------------------------------


def test_the_best_spans_are_those_of_all_that_are_short_enough():
    start = torch.tensor([[5.0, 0.0, 3.0, 0.5, 0.0, 9.0]])
    end = torch.tensor([[5.0, 9.0, 0.0, 2.0, 4.0, 9.0]])
    batch = {"starts": torch.tensor([[-1, 0, 2, 4, 6, -1]]), "ends": torch.tensor([[-1, 1, 3, 5, 7, -1]]),
             "null": torch.tensor([0])}
    task = QuestionAnswering(n_best_size=3, max_answer_length=2)
    ((none, spans),) = task.best_spans(start, end, batch)
    assert none == 10.0
    assert spans == [(9.0, 0, 1), (5.0, 2, 5), (4.5, 4, 7)]  # 2 to 7 would be 7.0, and is three tokens
    ((_, longer),) = QuestionAnswering(n_best_size=2).best_spans(start, end, batch)
    assert longer == [(9.0, 0, 1), (7.0, 2, 7)]
    ((_, every),) = QuestionAnswering().best_spans(start, end, batch)
    assert len(every) == 4 * 5 // 2


def test_parts_are_combined_and_no_answer_needs_all_of_them(wordpiece):
    outcomes = [(4.0, [(5.0, 4, 7), (1.0, 0, 3)]), (7.0, [(6.0, 16, 20), (5.5, 4, 7)])]
    said = QuestionAnswering().combine(outcomes, row("cat"), setup(wordpiece))
    assert (said["answer"], said["start"], said["end"]) == ("moon", 16, 20)
    assert said["score"] == pytest.approx(torch.tensor([6.0, 5.5, 1.0]).softmax(0)[0].item())
    two = QuestionAnswering(version_2_with_negative=True)
    said = two.combine(outcomes, {**row("cat"), "id": "x"}, setup(wordpiece))
    assert (said["id"], said["answer"], said["null_score_diff"]) == ("x", "moon", -2.0)
    said = QuestionAnswering(version_2_with_negative=True, null_score_diff_threshold=-3.0).combine(
        outcomes, row("cat"), setup(wordpiece))
    assert (said["answer"], said["start"], said["end"], said["null_score_diff"]) == ("", None, None, -2.0)
    spaced = QuestionAnswering().combine([(0.0, [(1.0, 3, 7)])], row("cat"), setup(wordpiece))
    assert (spaced["answer"], spaced["start"], spaced["end"]) == ("cat", 4, 7)


# ---- figures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "plain"), [
    ("The  Broncos", "broncos"), ("a cat, an owl; the end.", "cat owl end"), ("$1,000.50", "100050"),
    ("Theatre", "theatre"), ("don't", "dont"), ("the", ""), ("10–5", "10–5"),
])
def test_normalisation_is_squads(text, plain):
    assert normalized(text) == plain


@pytest.mark.parametrize(("said", "true", "em", "f1"), [
    ("the Denver Broncos", "Denver Broncos!", 1, 1), ("Broncos", "Denver Broncos", 0, 2 / 3),
    ("cat cat dog", "cat dog dog", 0, 2 / 3), ("hat", "moon", 0, 0), ("", "", 1, 1), ("the", "moon", 0, 0),
    ("", "moon", 0, 0),
])
def test_exact_match_and_f1_are_squads(said, true, em, f1):
    assert exact(said, true, chinese=False) == em
    assert overlap(said, true, chinese=False) == pytest.approx(f1)


def test_chinese_is_compared_by_the_character():
    assert segments("由韩国Nexon开发，2004年。") == [*"由韩国", "nexon", *"开发", "2004", "年"]
    assert longest_run("abcxbcd", "bcd") == 3
    assert exact("《泡泡堂》", "泡泡堂", chinese=True) == 1
    assert exact("泡泡", "泡泡堂", chinese=True) == 0
    assert overlap("韩国的Nexon公司", "韩国Nexon", chinese=True) == pytest.approx(2 * 2 / (6 + 3))  # one run, not all
    assert scores(["泡泡堂。"], [["泡泡堂"]], ["谁？"]) == {"exact_match": 1.0, "f1": 1.0}


def test_figures_are_the_best_of_the_answers_and_apart_where_some_have_none():
    said = scores(["cat", "", "hat", "moon"], [["dog", "the cat"], [], [], ["red moon"]], ["q"] * 4)
    assert said == {"exact_match": 0.5, "f1": pytest.approx((1 + 1 + 0 + 2 / 3) / 4), "HasAns_exact": 0.5,
                    "HasAns_f1": pytest.approx(5 / 6), "NoAns_exact": 0.5, "NoAns_f1": 0.5}
    assert set(scores(["cat"], [["cat"]], ["q"])) == {"exact_match", "f1"}


def test_floors_are_a_sentence_with_the_questions_words_and_no_answer():
    assert closest("谁住在洞庭湖？", "杨瑛来了。他住在洞庭湖。") == "他住在洞庭湖。"
    asked = {"question": "Who saw the moon?", "context": "A dog ran. The cat saw the moon.",
             "answers": [{"text": "The cat", "answer_start": 11}]}
    floors = QuestionAnswering().floors([], [asked, {**asked, "answers": []}])
    assert floors["most similar sentence"]["HasAns_f1"] == pytest.approx(2 * 1 / (3 + 1))
    assert floors["no answer"] == {"exact_match": 0.5, "f1": 0.5, "HasAns_exact": 0.0, "HasAns_f1": 0.0,
                                   "NoAns_exact": 1.0, "NoAns_f1": 1.0}


# ---- loss, and a run from end to end ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "t5", "xlnet"])
def test_the_loss_is_transformers_own_and_padding_changes_nothing(family):
    from transformers import AutoModelForQuestionAnswering

    kind, tokenizer = registry.find("backbones", family), tokens_of(family)
    task = QuestionAnswering(version_2_with_negative=True, doc_stride=4)
    some = [row(story.split()[4], context=story) if i % 3 else row(context=story) for i, story in enumerate(stories(5))]
    rows = [{name: one[name] for name in one if name != "of"}
            for one in encoded(task, some, setup(tokenizer, family, 48))]
    torch.manual_seed(0)
    config = kind.config("tiny", SMALL[family] | STILL[family] | task.config({}), tokenizer)
    model = AutoModelForQuestionAnswering.from_config(config, attn_implementation=kind.attention).eval()
    alone = task.collate(rows[:1], tokenizer)
    losses, (said,) = task.judge(model, alone, kind)
    theirs = model(**{name: alone[name] for name in ("input_ids", "token_type_ids", "start_positions", "end_positions")
                      if name in alone})
    assert losses["loss"].item() == pytest.approx(theirs.loss.item(), rel=1e-5)
    none = (theirs.start_logits + theirs.end_logits)[0, alone["null"][0]].item()
    assert said[0] == pytest.approx(none, rel=1e-4, abs=1e-5)
    together = task.collate(rows, tokenizer)
    assert "attention_mask" in together and task.targets(together)["loss"] == len(rows)
    summed, outcomes = task.judge(model, together, kind)
    apart = [task.judge(model, task.collate([one], tokenizer), kind) for one in rows]
    assert summed["loss"].item() == pytest.approx(sum(loss["loss"].item() for loss, _ in apart), rel=1e-5)
    for (ours, spans), (_, ((own, theirs_), )) in zip(outcomes, apart, strict=True):
        assert ours == pytest.approx(own, rel=1e-4, abs=1e-5)
        assert [score for score, *_ in spans] == pytest.approx([score for score, *_ in theirs_], rel=1e-4, abs=1e-5)


def test_places_in_a_text_are_padded_by_what_is_no_place():
    rows = [{"input_ids": torch.arange(n).numpy(), "starts": torch.arange(n).numpy()} for n in (2, 3)]
    assert stack(rows, {"starts": -1})["starts"].tolist() == [[0, 1, -1], [0, 1, 2]]


def test_a_run_predicts_what_it_evaluates(questions: Path, tmp_path: Path):
    tree = tiny("bert", questions, tmp_path / "run", max_steps=3)
    del tree["objective"]
    fit(recipe.load({**tree, "task": {"name": "question_answering", "doc_stride": 4}, "data": {
        "train": str(questions), "validation": 0.2, "max_length": 24}}))
    measured = evaluation.evaluate(tmp_path / "run", questions)
    assert set(measured["metrics"]) == {"loss", "exact_match", "f1"}
    assert set(measured["floors"]) == {"most similar sentence"}
    said = list(prediction.predict(tmp_path / "run", questions, batch_size=3))
    true = [one for one, _ in QuestionAnswering().read(open_source(Source(str(questions))))]
    assert [one["id"] for one in said] == [one["id"] for one in true]
    assert all(one["context"][answer["start"] : answer["end"]] == answer["answer"]
               for one, answer in zip(true, said, strict=True))
    right = scores([one["answer"] for one in said], [[true_["text"] for true_ in one["answers"]] for one in true],
                   ["q"] * len(true))
    assert right == pytest.approx({name: measured["metrics"][name] for name in right})
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({name: one[name] for name in ("question", "context")}) + "\n" for one in true))
    assert [one["answer"] for one in prediction.predict(tmp_path / "run", bare)] == [one["answer"] for one in said]
