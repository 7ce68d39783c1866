"""What a tag, an answer in a text and a choice rest on: against brute force, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from conftest import FAMILIES, SMALL, stories

from llmkit.cli import main
from llmkit.data import tokenizer as tokenizers
from llmkit.inference.explaining.explanation import explain
from llmkit.inference.explaining.gradients import integrated_gradients
from llmkit.inference.explaining.occlusion import occlusion
from llmkit.inference.explaining.opening import open_subject
from llmkit.system.errors import RequestError

TAGS, SPANS, CHOICES = (
    "AutoModelForTokenClassification", "AutoModelForQuestionAnswering", "AutoModelForMultipleChoice")
MODELS = (("bert", TAGS), ("gpt2", TAGS), ("bert", SPANS), ("gpt2", SPANS), ("bart", SPANS), ("bert", CHOICES))
LABELS = ["O", "B-WHO", "I-WHO"]
TEXT, QUESTION = "the old cat saw a dog .", "who saw a dog ?"
CHOSEN = ("the moon", "the old cat", "a hat and some bread")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Random models with heads of three tasks, with weights that are large enough for tokens to matter."""
    folder, out, words = tmp_path_factory.mktemp("rows"), {}, {}
    for family, head in MODELS:
        kind = FAMILIES[family]
        words[family] = words.get(family) or tokenizers.train(stories(40), kind.tokenizer, 300, special=kind.special)
        torch.manual_seed(3)
        labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
        spread = {"init_std": 0.3} if family == "bart" else {"initializer_range": 0.3}
        config = kind.config("tiny", {**SMALL[family], **spread, **(labels if head == TAGS else {})}, words[family])
        model = getattr(transformers, head).from_config(config)
        out[family, head] = folder / f"{family}-{head}"
        model.save_pretrained(out[family, head])
        words[family].save_pretrained(out[family, head])
    return out


def plain(folder: Path, head: str) -> Any:
    return getattr(transformers, head).from_pretrained(folder).eval()


def hidden(ids: list[int], place: int, how: str, mask: int | None) -> list[int]:
    return [*ids[:place], *([mask] if how == "mask" else []), *ids[place + 1:]]


# ---- a tag ----

@pytest.mark.parametrize(("family", "how"), [("bert", "mask"), ("bert", "remove"), ("gpt2", "remove")])
def test_occlusion_of_a_tag_is_what_brute_force_finds(
    family: str, how: Any, made: dict[tuple[str, str], Path],
) -> None:
    subject, model = open_subject(made[family, TAGS], TEXT, at="cat"), plain(made[family, TAGS], TAGS)
    ids, mask, (place,) = subject.ids, subject.tokenizer.mask_token_id, subject.aim.read_at
    assert (subject.tokens[place].text, subject.aim.of) == ("cat", "cat")

    def said(row: list[int], at: int) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([row])).logits[0, at].log_softmax(-1)

    best = int(said(ids, place).argmax())
    assert subject.aim.name == LABELS[best]
    told = {i: float(said(ids, place)[best]
                     - said(hidden(ids, i, how, mask), place - (how == "remove" and i < place))[best])
            for i in subject.places if how == "mask" or i != place}
    found = occlusion(subject, how)
    assert {i: value for i, value in enumerate(found.values) if value is not None} == pytest.approx(told, abs=1e-4)
    assert max(map(abs, told.values())) > 0.01


def test_a_word_is_chosen_by_name_by_number_or_by_the_surest_tag(made: dict[tuple[str, str], Path]) -> None:
    folder = made["bert", TAGS]
    model, subject = plain(folder, TAGS), open_subject(folder, TEXT)
    with torch.no_grad():
        chances = model(torch.tensor([subject.ids])).logits[0].softmax(-1)
    firsts = [subject.aim.where if word == subject.aim.of else open_subject(folder, TEXT, at=str(i)).aim.where
              for i, word in enumerate(TEXT.split())]
    marked = {place: float(chances[place].max()) for place in firsts if int(chances[place].argmax()) != 0}
    assert subject.aim.where == max(marked, key=lambda place: marked[place])
    assert open_subject(folder, TEXT, at="5").aim.of == "dog"
    assert open_subject(folder, TEXT, at="cat", target="I-WHO").aim.name == "I-WHO"


# ---- an answer in a text ----

@pytest.mark.parametrize(("family", "how"), [("bert", "mask"), ("bert", "remove"), ("gpt2", "remove"),
                                             ("bart", "mask")])
@pytest.mark.parametrize("at", [None, "start", "end"])
def test_occlusion_of_an_answer_is_what_brute_force_finds(
    family: str, how: Any, at: str | None, made: dict[tuple[str, str], Path],
) -> None:
    folder = made[family, SPANS]
    subject = open_subject(folder, QUESTION, context=TEXT, target="old cat", at=at)
    model, ids, mask = plain(folder, SPANS), subject.ids, subject.tokenizer.mask_token_id
    whole = open_subject(folder, QUESTION, context=TEXT, target="old cat")
    first, last = whole.aim.where, whole.aim.until
    assert "".join(token.text for token in subject.tokens[first:last + 1]) == "oldcat"
    types = subject.inputs.get("token_type_ids")

    def said(row: list[int], start: int, end: int, segments: list[int] | None) -> float:
        more = {} if segments is None else {"token_type_ids": torch.tensor([segments])}
        with torch.no_grad():
            out = model(input_ids=torch.tensor([row]), **more)
        told = {"start": out.start_logits[0].log_softmax(-1)[start], "end": out.end_logits[0].log_softmax(-1)[end]}
        return float(told["start"] + told["end"] if at is None else told[at])

    segments = None if types is None else types[0].tolist()
    before = said(ids, first, last, segments)
    held = {None: {first, last}, "start": {first}, "end": {last}}[at]
    told = {}
    for i in subject.places:
        if how == "mask":
            told[i] = before - said(hidden(ids, i, how, mask), first, last, segments)
        elif i not in held:
            shorter = None if segments is None else [*segments[:i], *segments[i + 1:]]
            told[i] = before - said(hidden(ids, i, how, mask), first - (i < first), last - (i < last), shorter)
    found = occlusion(subject, how)
    assert {i: value for i, value in enumerate(found.values) if value is not None} == pytest.approx(told, abs=1e-4)
    assert max(map(abs, told.values())) > 0.01


def test_the_answer_is_the_one_that_predict_gives(made: dict[tuple[str, str], Path]) -> None:
    from llmkit.inference.predict import predict

    folder = made["bert", SPANS]
    context = " ".join(stories(3))
    (told,) = predict(folder, [{"question": QUESTION, "context": context}])
    found = explain(folder, QUESTION, context=context, what=["tokens"])
    assert (found.subject.aim.name, found.likeliest[0][0]) == (told["answer"], told["answer"])
    assert found.likeliest[0][1] == pytest.approx(found.probability)


def test_of_a_context_in_parts_the_one_with_the_answer_is_shown(made: dict[tuple[str, str], Path]) -> None:
    context = f"{'the moon . ' * 30}a tall tree ."
    found = explain(made["bert", SPANS], QUESTION, context=context, target="tall tree", what=["tokens"])
    assert re.search(r"longer than the model reads at once; what is shown is part (\d) of \1, which has the answer",
                     found.notes[0])
    assert "talltree" in "".join(token.text for token in found.subject.tokens)


# ---- a choice ----

@pytest.mark.parametrize("how", ["mask", "remove"])
def test_occlusion_of_a_choice_is_what_brute_force_finds(how: Any, made: dict[tuple[str, str], Path]) -> None:
    folder = made["bert", CHOICES]
    subject, model = open_subject(folder, QUESTION, choices=CHOSEN), plain(folder, CHOICES)
    mask, choices = subject.tokenizer.mask_token_id, subject.choices
    rows = [row["input_ids"][0].tolist() for row in choices.rows]
    kinds = [row["token_type_ids"][0].tolist() for row in choices.rows]

    def said(ids: list[list[int]], types: list[list[int]]) -> torch.Tensor:
        with torch.no_grad():  # one by one: nothing is padded
            return torch.cat([model(input_ids=torch.tensor([[row]]), token_type_ids=torch.tensor([[kind]])).logits[0]
                              for row, kind in zip(ids, types, strict=True)]).log_softmax(-1)

    before = said(rows, kinds)
    best = int(before.argmax())
    assert subject.aim.name == CHOSEN[best] and subject.ids == rows[best]
    asked = rows[0].index(subject.tokenizer.sep_token_id)  # all before it is the question, the same in all rows

    def without(number: int, place: int) -> float:
        chosen = range(len(rows)) if place < asked else [number]
        ids, types = list(rows), list(kinds)
        for i in chosen:
            ids[i] = hidden(rows[i], place, how, mask)
            types[i] = kinds[i] if how == "mask" else [*kinds[i][:place], *kinds[i][place + 1:]]
        return float(before[best] - said(ids, types)[best])

    found = occlusion(subject, how)
    told = {place: without(best, place) for place in subject.places}
    assert {i: value for i, value in enumerate(found.values) if value is not None} == pytest.approx(told, abs=1e-4)
    others = [without(number, place) for number in range(len(rows)) if number != best
              for place in range(asked + 1, len(rows[number]) - 1)]
    assert list(found.beside) == pytest.approx(others, abs=1e-4)
    assert max(map(abs, others)) > 0.001
    assert len(subject.beside) == len(others)


def test_with_a_context_the_question_stands_in_the_row_of_each_choice(made: dict[tuple[str, str], Path]) -> None:
    subject = open_subject(made["bert", CHOICES], "who saw it ?", context=TEXT, choices=CHOSEN, target="B")
    spots = subject.choices.spots[1]
    own = [token.text for token, spot in zip(subject.tokens, spots, strict=True) if spot and spot.choice > 0]
    assert (subject.aim.name, own) == ("the old cat", ["the", "old", "cat"])
    shared = [spot for spot in spots if spot is not None and spot.choice == -1]
    assert all(len(subject.choices.same(spot)) == 3 for spot in shared)


# ---- integrated gradients ----

@pytest.mark.parametrize(("family", "head", "asked"), [
    ("bert", TAGS, {}), ("gpt2", TAGS, {"at": "dog"}), ("bert", SPANS, {"context": TEXT}),
    ("bert", CHOICES, {"choices": CHOSEN})])
def test_integrated_gradients_are_complete(
    family: str, head: str, asked: dict[str, Any], made: dict[tuple[str, str], Path],
) -> None:
    pytest.importorskip("captum")
    subject = open_subject(made[family, head], TEXT if head == TAGS else QUESTION, **asked)
    found = integrated_gradients(subject)
    assert sum(found.values) + sum(found.beside) == pytest.approx(found.difference, rel=0.01, abs=1e-3)
    assert abs(found.difference) > 0.01
    assert len(found.beside) == len(subject.beside)
    if head == CHOICES:
        rows = [row["input_ids"][0].tolist() for row in subject.choices.rows]
        with torch.no_grad():
            told = [torch.cat([plain(made[family, head], head)(
                input_ids=torch.tensor([[[one if one in (2, 3) or not empty else subject.tokenizer.mask_token_id
                                          for one in row]]]),
                token_type_ids=some["token_type_ids"][None]).logits[0]
                for row, some in zip(rows, subject.choices.rows, strict=True)]).log_softmax(-1)
                for empty in (False, True)]
        assert {subject.tokenizer.cls_token_id, subject.tokenizer.sep_token_id} == {2, 3}
        assert found.difference == pytest.approx(float((told[0] - told[1])[subject.aim.index]), abs=1e-4)


# ---- the command ----

def test_the_command_tells_and_draws_all_three(
    made: dict[tuple[str, str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", str(made["bert", TAGS]), TEXT, "--at", "cat", "--what", "tokens"]) == 0
    assert re.search(r"tag '[BIO-WH]+' of 'cat', probability 0\.\d+", capsys.readouterr().out)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": QUESTION, "context": TEXT, "answers": "the old cat"}) + "\n"
                    + json.dumps({"question": "你 <script> ?", "context": "<script>alert(1)</script> 你好"}) + "\n")
    assert main(["explain", str(made["bert", SPANS]), str(rows), "--row", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["row"]["context"], document["explained"]["kind"]) == ("<script>alert(1)</script> 你好", "answer")
    page = tmp_path / "page.html"
    assert main(["explain", str(made["bert", CHOICES]), QUESTION, "--choice", "<script>alert(1)</script>",
                 "--choice", "a hat", "-o", str(page)]) == 0
    assert "<script" not in page.read_text() and "The other choices" in page.read_text()


@pytest.mark.parametrize(("family", "head", "words", "said"), [
    ("bert", TAGS, (TEXT, "--at", "kat"), r"--at kat: is none of the 7 words, and no number from 0 to "
                                          r"6\. Did you mean 'cat'\?$"),
    ("bert", TAGS, ("a cat a dog", "--at", "a"), "--at a: the word stands there 2 times; name it by its number, "
                                                 r"counted from 0: 0, 2\.$"),
    ("bert", TAGS, (TEXT, "--target", "B-WOH"), r"--target B-WOH: no tag is called so\. Did you mean 'B-WHO'\?$"),
    ("bert", TAGS, (TEXT, "--context", "x"), r"--context: .* does tagging, which has none; leave it out\.$"),
    ("bert", TAGS, (TEXT, "--pair", "x"), r"--pair: .* does tagging, which has no such text; leave it out\.$"),
    ("bert", SPANS, (QUESTION,), r"--context: .* finds answers in a text\. Say in which, as in"),
    ("bert", SPANS, (QUESTION, "--context", TEXT, "--target", "dogs"), r"--target dogs: isn't in the context, letter "
                                                                       "for letter"),
    ("bert", SPANS, (QUESTION, "--context", TEXT, "--at", "stat"), r"--at stat: of an answer it is start or end\."),
    ("bert", SPANS, (QUESTION, "--context", "  "), "--context: is empty"),
    ("bert", CHOICES, (QUESTION, "--choice", "a"), "--choice: .* Name two or more"),
    ("bert", CHOICES, (QUESTION, "--choice", "a", "--choice", "b", "--target", "C"), "--target C: is none of the 2 "
                                                                                   "choices: a number from 0 to 1"),
])
def test_wrong_requests_have_one_line(
    family: str, head: str, words: tuple[str, ...], said: str, made: dict[tuple[str, str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["explain", str(made[family, head]), *words]) in (2, 3)
    last = capsys.readouterr().err.rstrip().rpartition("\n")[2]
    assert last.startswith("llmkit: error: ") and re.search(said, last)


def test_options_of_other_tasks_are_refused(tmp_path: Path, encoder: Path) -> None:
    with pytest.raises(RequestError, match=r"--at: is for models of question_answering, multiple_choice and tagging"):
        explain(encoder, TEXT, at="cat")
