"""Classification: rows with a text and a label become features, and predictions become figures."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import SMALL, STILL, stories

from llmkit.data import tokenizer as tokenizers
from llmkit.data.sources import open_source
from llmkit.objectives.base import Setup
from llmkit.recipe import Source, registry
from llmkit.system.errors import DataError, RequestError
from llmkit.tasks.base import hold_out, split
from llmkit.tasks.classification import Classification


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizers.train(stories(80), "wordpiece", 200)


def setup(tokenizer, family="bert", length=32, labels=None):
    return Setup(tokenizer, registry.find("backbones", family), length, "none", seed=0, labels=labels)


def rows(*labels, text="the cat saw a hat"):
    return [{"text": f"{text} {i}", "label": label} for i, label in enumerate(labels)]


# ---- labels -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "sorted_"), [
    (["dog", "cat", "dog", "ape"], ["ape", "cat", "dog"]),
    ([10, 2, 1, 2], ["1", "2", "10"]),
    (["x", "10", "9", "-1"], ["-1", "9", "10", "x"]),
    ([1.0, 0.0], ["0", "1"]),
    ([True, False], ["False", "True"]),
    (["²", "--5", "1"], ["1", "--5", "²"]),
    ([" a ", "b", "a"], ["a", "b"]),
])
def test_labels_are_numbered_in_their_order(write, wordpiece, given, sorted_):
    sets = Classification().prepare([write(rows(*given))], None, setup(wordpiece))
    assert sets.facts["labels"] == sorted_
    drawn = [int(features["labels"][0]) for features in sets.train[0].features]
    names = [str(int(label) if isinstance(label, float) else label).strip() for label in given]
    assert [sorted_[number] for number in drawn] == names


def test_label_names_are_in_the_models_config(wordpiece):
    from transformers import AutoModelForSequenceClassification

    fields = Classification().config({"labels": ["ape", "cat", "dog"]})
    config = registry.find("backbones", "bert").config("tiny", SMALL["bert"] | fields, wordpiece)
    assert (config.num_labels, config.id2label, config.label2id["dog"]) == (3, {0: "ape", 1: "cat", 2: "dog"}, 2)
    assert AutoModelForSequenceClassification.from_config(config).classifier.out_features == 3


def test_labels_of_the_recipe_or_of_a_trained_model_come_first(write, wordpiece):
    reader = write(rows("b", "a"))
    asked = Classification(labels=["c", "b", "a"])
    assert asked.prepare([reader], None, setup(wordpiece)).facts["labels"] == ["c", "b", "a"]
    known = asked.prepare([reader], None, setup(wordpiece, labels=("a", "b")))
    assert known.facts["labels"] == ["a", "b"]


def test_a_label_outside_the_set_is_told_with_its_line(write, wordpiece):
    with pytest.raises(DataError, match=r"other\.jsonl:3: the label 'dgo' is not among .* Did you mean 'dog'"):
        Classification().prepare([write(rows("cat", "dog"))], [write(rows("dog", "cat", "dgo"), name="other.jsonl")],
                                 setup(wordpiece))


def test_one_label_is_nothing_to_learn(write, wordpiece):
    with pytest.raises(DataError, match=r"rows\.jsonl: all rows have the label 'cat'"):
        Classification().prepare([write(rows("cat", "cat"))], None, setup(wordpiece))


def test_a_label_for_every_row_is_no_label(write, wordpiece):
    with pytest.raises(DataError, match="1,001 different labels"):
        Classification().prepare([write(rows(*range(1001)))], None, setup(wordpiece))


@pytest.mark.parametrize(("row", "message"), [
    ({"text": "a", "label": ""}, "the field 'label' is empty"),
    ({"text": "  ", "label": "x"}, "the field 'text' is empty"),
    ({"text": "a", "label": None}, "the field 'label' is empty"),
    ({"text": "a"}, "the field 'label' is empty"),
    ({"text": 5, "label": "x"}, "the field 'text' is no text: 5"),
    ({"text": "a", "label": 0.5}, "the label 0.5 is neither a word nor a whole number"),
    ({"text": "a", "label": [1]}, r"the label \[1\] is neither"),
])
def test_a_row_without_its_field_is_told_with_its_line(write, wordpiece, row, message):
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: {message}"):
        Classification().prepare([write([{"text": "a", "label": "x"}, row])], None, setup(wordpiece))


def test_floors_are_what_needs_no_language_model():
    learned = [{"text": text, "label": label} for text, label in
               [("good film", "a"), ("fine film", "a"), ("good play", "a"), ("bad film", "b"), ("poor play", "b")]]
    held = [{"text": "a good play", "label": "a"}, {"text": "bad play", "label": "b"}, {"text": "poor", "label": "b"}]
    floors = Classification().floors(learned, held)
    assert floors["majority class"] == {"accuracy": pytest.approx(1 / 3), "f1": pytest.approx(0.25)}
    assert floors["TF-IDF, logistic regression"] == {"accuracy": 1.0, "f1": 1.0}
    assert Classification().floors([], held) == {"majority class": {"accuracy": pytest.approx(2 / 3), "f1": 0.4}}


def test_a_floor_reads_chinese_by_the_character():
    learned = [{"text": text, "label": label} for text, label in [("好电影", "1"), ("很好看", "1"), ("坏电影", "0")]]
    held = [{"text": "这部好", "label": "1"}, {"text": "太坏了", "label": "0"}]
    assert Classification().floors(learned, held)["TF-IDF, logistic regression"]["accuracy"] == 1.0


# ---- features ---------------------------------------------------------------------------------------------------


def test_a_text_is_tokenized_as_the_tokenizer_does_it(write, wordpiece):
    sets = Classification().prepare([write(rows("a", "b"))], None, setup(wordpiece))
    features = sets.train[0].draw(0, np.random.default_rng(0))
    assert features["input_ids"].tolist() == wordpiece("the cat saw a hat 0")["input_ids"]
    assert set(features) == {"input_ids", "documents", "labels"}


def test_a_tokenizer_is_trained_on_the_texts(write):
    assert {"the cat saw a hat 0", "the cat saw a hat 1"} <= set(Classification().texts(write(rows("a", "b"))))


def test_a_pair_of_texts_is_one_row_of_two_types(write, wordpiece):
    reader = write([{"premise": "the cat saw", "hypothesis": "a dog", "label": "no"},
                    {"premise": "a hat", "hypothesis": "the moon", "label": "yes"}])
    sets = Classification().prepare([reader], None, setup(wordpiece))
    features = sets.train[0].features[0]
    assert wordpiece.decode(features["input_ids"]) == "[CLS] the cat saw [SEP] a dog [SEP]"
    first = len(wordpiece("the cat saw")["input_ids"])
    assert features["token_type_ids"].tolist() == [0] * first + [1] * (len(features["input_ids"]) - first)
    batch = Classification().collate(sets.train[0].features, wordpiece)
    assert batch["token_type_ids"].shape == batch["input_ids"].shape
    assert batch["labels"].tolist() == [0, 1]


def test_single_texts_and_pairs_make_one_batch(write, wordpiece):
    pair = {"text": "the cat", "sentence2": "a dog", "label": "a"}
    sets = Classification().prepare([write(rows("a", "b")), write([pair], name="pairs.jsonl")], None, setup(wordpiece))
    single, paired = sets.train[0].features[0], sets.train[1].features[0]
    for mixed in ([single, paired], [paired, single]):
        batch = Classification().collate(mixed, wordpiece)
        assert batch["token_type_ids"][mixed.index(single)].sum() == 0
        assert batch["token_type_ids"][mixed.index(paired)].sum() > 0


def test_a_decoder_gets_no_token_types(write, wordpiece):
    assert "token_type_ids" in wordpiece("a", "b")
    pairs = [{"text": "the cat", "text_pair": "a dog", "label": label} for label in "ab"]
    sets = Classification().prepare([write(pairs)], None, setup(wordpiece, "gpt2"))
    assert "token_type_ids" not in sets.train[0].features[0]


def test_what_is_cut_is_counted(write, wordpiece):
    long = {"text": "the cat saw the moon and the cat saw the moon", "label": "a"}
    whole = len(wordpiece(long["text"])["input_ids"])
    sets = Classification().prepare([write([long, {"text": "the cat", "label": "b"}, long])], None,
                                    setup(wordpiece, length=8))
    features = sets.train[0].features
    assert [len(row["input_ids"]) for row in features] == [8, len(wordpiece("the cat")["input_ids"]), 8]
    assert features[0]["input_ids"][-1] == wordpiece.sep_token_id
    assert f"2 rows are longer than 8 tokens and were cut ({2 * (whole - 8)} tokens left out)" in sets.notes


def test_of_a_pair_the_longer_text_is_cut(write, wordpiece):
    pair = {"text": "the cat saw the moon the cat saw the moon", "text_pair": "a dog", "label": "a"}
    sets = Classification().prepare([write([pair, pair | {"label": "b"}])], None, setup(wordpiece, length=10))
    features = sets.train[0].features[0]
    assert len(features["input_ids"]) == len(features["token_type_ids"]) == 10
    assert wordpiece.decode(features["input_ids"]).endswith("[SEP] a dog [SEP]")


# ---- held-out rows ----------------------------------------------------------------------------------------------


def test_equal_rows_go_to_the_same_side():
    some = [({"text": f"t{i % 40}"}, None) for i in range(120)]
    learned, held = hold_out(some, 0.3, seed=1)
    assert len(learned) + len(held) == 120
    assert not {row["text"] for row, _ in learned} & {row["text"] for row, _ in held}
    assert {row["text"] for row, _ in hold_out(some[:50], 0.3, seed=1)[1]} == {row["text"] for row, _ in held}
    assert hold_out(some, 0.3, seed=2)[1] != held
    learned, held = hold_out([({"text": f"t{i}"}, None) for i in range(5000)], 0.1, seed=3)
    assert 400 <= len(held) <= 600


@pytest.mark.parametrize("share", [0.0001, 0.1, 0.9999])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_of_few_rows_a_share_is_one_row_at_least(share, count):
    given = [({"text": f"t{i}"}, None) for i in range(count)]
    learned, held = split([given], share, 42)
    assert len(learned[0]) >= 1 and len(held[0]) >= 1 and len(learned[0]) + len(held[0]) == count
    assert split([given], share, 42) == (learned, held)
    if share == 0.0001:
        assert len(held[0]) == 1


def test_a_share_that_leaves_one_side_empty_is_refused():
    with pytest.raises(DataError, match=r"data\.validation: all 4 rows are equal, and equal rows stay on one side"):
        split([[({"text": "all the same"}, None)] * 4], 0.1, 42)


def test_a_small_source_beside_a_large_one_may_stay_whole(write, wordpiece):
    small, large = write(rows("a", "b", text="a dog"), name="small.jsonl"), write(rows(*"ab" * 40), name="large.jsonl")
    sets = Classification().prepare([small, large], 0.1, setup(wordpiece))
    assert [len(part) for part in sets.validation] == [0, 80 - len(sets.train[1])]
    assert [len(part) for part in sets.train] == [2, len(sets.train[1])]  # each keeps its place, and its weight


# ---- loss and figures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "t5"])
def test_the_loss_is_transformers_own(write, family):
    from transformers import AutoModelForSequenceClassification

    kind = registry.find("backbones", family)
    tokenizer = tokenizers.train(stories(80), kind.tokenizer, 300)
    task = Classification()
    some = [{"text": story, "label": "abc"[i % 3]} for i, story in enumerate(stories(7))]
    sets = task.prepare([write(some)], None, setup(tokenizer, family, length=48))
    torch.manual_seed(0)
    config = kind.config("tiny", SMALL[family] | STILL[family] | task.config(sets.facts), tokenizer)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    batch = task.collate(sets.train[0].features, tokenizer)
    losses, chances = task.judge(model, batch, kind)
    theirs = model(**batch)
    assert losses["loss"].item() == pytest.approx(7 * theirs.loss.item(), rel=1e-5)
    assert task.targets(batch)["loss"] == 7
    assert chances == [pytest.approx(row) for row in theirs.logits.softmax(-1).tolist()]
    asked = {name: value for name, value in batch.items() if name != "labels"}
    assert task.predict(model, asked, kind) == chances
    apart = sum(task.loss(model, task.collate([row], tokenizer), kind)["loss"].item() for row in sets.train[0].features)
    assert losses["loss"].item() == pytest.approx(apart, rel=1e-5)  # padding changes nothing


def said(number):
    return {"label": str(number)}


def test_a_prediction_is_the_name_of_the_likeliest_label(wordpiece):
    task, known = Classification(), setup(wordpiece, labels=("ape", "cat", "dog"))
    assert task.combine([[0.1, 0.2, 0.7]], {"text": "a"}, known) == {"label": "dog", "score": 0.7}


def test_accuracy_and_macro_f1_by_hand():
    pairs = [(said(a), said(b)) for a, b in [(0, 0), (0, 0), (0, 1), (1, 1), (2, 1), (1, 2)]]  # (predicted, true)
    figures = Classification().metrics({"loss": 0.5}, pairs)
    # 0: precision 2/3, recall 1 -> 0.8; 1: 1/2, 1/3 -> 0.4; 2: nothing right -> 0
    assert figures == {"loss": 0.5, "accuracy": pytest.approx(0.5), "f1": pytest.approx(0.4)}


def test_figures_are_those_of_scikit_learn():
    from sklearn.metrics import accuracy_score, f1_score

    rng = np.random.default_rng(0)
    predicted, true = rng.integers(0, 5, (2, 200))
    figures = Classification().metrics({"loss": 1.0}, [(said(a), said(b)) for a, b in zip(predicted, true)])
    assert figures["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert figures["f1"] == pytest.approx(f1_score(true, predicted, average="macro"))


# ---- several labels, numbers, weights ---------------------------------------------------------------------------


def prepared(task, write, wordpiece, some, held=None, **known):
    validation = None if held is None else [write(held, name="held.jsonl")]
    sets = task.prepare([write(some)], validation, setup(wordpiece, **known))
    return sets, sets.train[0].features


def test_lists_of_labels_are_several_labels_and_that_is_said(write, wordpiece):
    some = [{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": []}, {"text": "c", "labels": ["z", "x", "x"]}]
    sets, features = prepared(Classification(), write, wordpiece, some)
    assert sets.facts == {"problem": "multi_label_classification", "labels": ["x", "y", "z"]}
    assert [row["labels"].tolist() for row in features] == [[1, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert "rows have several labels: task.problem is multi_label" in sets.notes
    assert Classification().config(sets.facts)["problem_type"] == "multi_label_classification"


def test_several_labels_in_a_table_have_a_separator(tmp_path, wordpiece):
    path = tmp_path / "rows.csv"
    path.write_text("text,label\na,x; y\nb,\nc,z\n")
    sets = Classification(separator=";").prepare([open_source(Source(str(path)))], None, setup(wordpiece))
    assert [row["label"] for row in sets.train[0].rows] == [["x", "y"], [], ["z"]]
    assert [row["labels"].tolist() for row in sets.train[0].features] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("labels", [
    ["['x', 'y']", "[]", "['z']"], ['["x", "y"]', "[]", '["z"]'], ["['x' 'y']", "[]", "['z']"],
    ["('x', 'y')", "()", "('z',)"],
])
def test_lists_written_as_text_are_lists(tmp_path, wordpiece, labels):
    path = tmp_path / "rows.tsv"
    path.write_text("text\tlabel\n" + "".join(f"a {i}\t{label}\n" for i, label in enumerate(labels)))
    for task in (Classification(), Classification(problem="multi_label"), Classification(labels=["x", "y", "z"])):
        sets = task.prepare([open_source(Source(str(path)))], None, setup(wordpiece))
        assert [row["labels"].tolist() for row in sets.train[0].features] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize(("label", "said"), [
    ("['x', 'y'", "it breaks off, `]` is missing"), ("[x, y]", "it is neither JSON nor Python"),
    ("['x' ... 'y']", "it is cut short by `...`"),
])
def test_a_written_list_that_cant_be_read_is_no_label(write, wordpiece, label, said):
    with pytest.raises(DataError) as caught:
        prepared(Classification(), write, wordpiece, rows("x", label))
    assert f"rows.jsonl:2: the label {label!r} is a list written as text, and {said}; write it as" in str(caught.value)


PLACES = [[1, 1, 0], [0, 0, 0], [0, 1, 1]]


@pytest.mark.parametrize(("task", "given"), [
    (Classification(), PLACES), (Classification(), [[bool(one) for one in row] for row in PLACES]),
    (Classification(), [str(row) for row in PLACES]), (Classification(problem="multi_label"), PLACES),
    (Classification(separator="|"), ["|".join(map(str, row)) for row in PLACES]),
    (Classification(), [str(row).replace(",", "") for row in PLACES]),
])
def test_zeros_and_ones_in_a_list_say_which_labels_are_there(write, wordpiece, task, given):
    sets, features = prepared(task, write, wordpiece, rows(*given), rows(*given[:2]))
    assert sets.facts == {"problem": "multi_label_classification", "labels": ["0", "1", "2"]}
    assert [row["label"] for row in sets.train[0].rows] == [["0", "1"], [], ["1", "2"]]
    assert [row["labels"].tolist() for row in features] == PLACES
    assert "labels are lists of 3 zeros and ones, one for each label; task.labels says what these are called" in \
        sets.notes
    floors = task.floors([row for row, _ in task.read(write(rows(*given)))], sets.train[0].rows)
    assert floors["most frequent labels"]["f1_micro"] == pytest.approx(2 / 3.5)


def test_places_have_the_names_that_the_recipe_says_and_all_rows_as_many(write, wordpiece):
    named = Classification(labels=["glad", "proud", "sad"])
    sets, _ = prepared(named, write, wordpiece, rows(*PLACES))
    assert [row["label"] for row in sets.train[0].rows] == [["glad", "proud"], [], ["proud", "sad"]]
    with pytest.raises(DataError, match=r"rows\.jsonl:4: labels are lists of 3 zeros and ones, .* this is \[1, 0\]"):
        prepared(named, write, wordpiece, rows(*PLACES, [1, 0]))
    with pytest.raises(DataError, match=r"rows\.jsonl:1: labels are lists of 2 zeros and ones"):
        prepared(Classification(labels=["a", "b"]), write, wordpiece, rows(*PLACES))


@pytest.mark.parametrize(("given", "found"), [
    ([[0], [1], [0, 1]], [["0"], ["1"], ["0", "1"]]), ([[0, 2], [1], []], [["0", "2"], ["1"], []]),
    ([[1, 0], [0, 1], [1, 1]], [["0"], ["1"], ["0", "1"]]), ([[1, 0], [0, 1], [1, 0]], [["0"], ["1"], ["0"]]),
])
def test_numbers_of_labels_are_told_from_places(write, wordpiece, given, found):
    sets, _ = prepared(Classification(), write, wordpiece, rows(*given))
    assert [row["label"] for row in sets.train[0].rows] == found


@pytest.mark.parametrize("given", [[1.5, 2, 0], ["3.8", "5.000", "-1e-1"]])
def test_numbers_with_fractions_are_regression_and_that_is_said(write, wordpiece, given):
    sets, features = prepared(Classification(), write, wordpiece, rows(*given))
    assert sets.facts == {"problem": "regression", "labels": ["score"]}
    assert [row["labels"].tolist() for row in features] == [[pytest.approx(float(number))] for number in given]
    assert "labels are numbers with fractions: task.problem is regression" in sets.notes
    assert Classification().config(sets.facts)["num_labels"] == 1


@pytest.mark.parametrize(("task", "given", "problem"), [
    (Classification(problem="regression"), [1, 2, 3], "regression"),
    (Classification(), ["1.0", "2.0"], "single_label_classification"),
    (Classification(labels=["1.5", "2.5"]), ["1.5", "2.5"], "single_label_classification"),
    (Classification(problem="multi_label"), ["a", "b"], "multi_label_classification"),
])
def test_the_problem_is_what_the_recipe_says_and_guessed_only_where_obvious(write, wordpiece, task, given, problem):
    assert prepared(task, write, wordpiece, rows(*given))[0].facts["problem"] == problem


def test_a_trained_model_says_what_its_problem_is(write, wordpiece):
    known = Setup(wordpiece, registry.find("backbones", "bert"), 32, "none", 0, ("score",), "regression")
    assert Classification().prepare([write(rows(1, 2))], None, known).facts["problem"] == "regression"


@pytest.mark.parametrize(("task", "some", "message"), [
    (Classification(problem="regression"), rows(1.5, "good"), r"rows\.jsonl:2: the label 'good' is no number"),
    (Classification(problem="regression"), rows(1.5, -1e300),
     r"rows\.jsonl:2: the label -1e\+300 is too large to learn: fp32 ends at 3\.4e\+38"),
    (Classification(), [{"text": "a", "labels": ["x"]}, {"text": "b", "labels": [["y"]]}],
     r"rows\.jsonl:2: the label \['y'\] is neither"),
    (Classification(labels=["x", "yes"], problem="multi_label"), [{"text": "b", "labels": ["x", "yess"]}],
     r"rows\.jsonl:1: the label 'yess' is not among .* Did you mean 'yes'"),
    (Classification(problem="multi_label"), [{"text": "b", "labels": []}], "no row has a label"),
])
def test_an_answer_of_another_kind_is_told_with_its_line(write, wordpiece, task, some, message):
    with pytest.raises(DataError, match=message):
        prepared(task, write, wordpiece, some)


@pytest.mark.parametrize(("options", "message"), [
    ({"problem": "regression", "class_weights": "balanced"}, "class_weights is for labels"),
    ({"problem": "single_label", "separator": ","}, "separator is for problem: multi_label"),
    ({"label_smoothing": 1.0}, "less than 1"),
    ({"threshold": 0}, "greater than 0"),
    ({"class_weights": [1, 0]}, "greater than 0"),
])
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Classification(**options)


@pytest.mark.parametrize(("asked", "expected"), [
    ("balanced", [1, 1, 1, 3]),  # 4 rows / (2 labels x 3 or 1 occurrences), the least made 1
    ([1, 5], [1, 1, 1, 5]),
    ({"b": 3}, [1, 1, 1, 3]),
    ({"b": 0.01}, [100, 100, 100, 1]),  # a mean by weights: only their ratio counts
])
def test_a_row_counts_for_the_weight_of_its_label(write, wordpiece, asked, expected):
    sets, features = prepared(Classification(class_weights=asked), write, wordpiece, rows(*"aaab"), rows(*"ab"))
    assert [float(row["weights"][0]) for row in features] == pytest.approx(expected)
    batch = Classification().collate(features, wordpiece)
    assert float(Classification().targets(batch)["loss"]) == pytest.approx(sum(expected))
    assert "weights" not in sets.validation[0].features[0]  # an evaluation is of rows as they are
    assert [note for note in sets.notes if note.startswith("weights: a ")]


def test_several_labels_are_balanced_by_how_often_they_are_there(write, wordpiece):
    some = [{"text": "a", "labels": ["x", "y"]}, {"text": "b", "labels": ["x"]}, {"text": "c", "labels": ["x"]},
            {"text": "d", "labels": []}]
    features = prepared(Classification(class_weights="balanced"), write, wordpiece, some)[1]
    assert [row["weights"].tolist() for row in features] == [
        pytest.approx([1, 9]), pytest.approx([1, 3]), pytest.approx([1, 3]), pytest.approx([3, 3])]


@pytest.mark.parametrize(("weights", "message"), [
    ([1, 2, 3], "3 weights for 2 labels"), ({"c": 1}, "no label is called 'c'")])
def test_weights_that_fit_no_label_are_refused(write, wordpiece, weights, message):
    with pytest.raises(RequestError, match=message):
        prepared(Classification(class_weights=weights), write, wordpiece, rows(*"ab"))


class Fixed(torch.nn.Module):
    """A model that gives the same logits to whoever asks."""

    def __init__(self, logits, problem):
        super().__init__()
        self.given, self.config = torch.tensor(logits), SimpleNamespace(problem_type=problem)

    def forward(self, **inputs):
        return SimpleNamespace(logits=self.given)


def test_weighted_and_smoothed_losses_are_torchs_own(write, wordpiece):
    from torch.nn.functional import cross_entropy

    task, bert = Classification(class_weights=[1, 4], label_smoothing=0.2), registry.find("backbones", "bert")
    batch = task.collate(prepared(task, write, wordpiece, rows(*"abb"))[1], wordpiece)
    model = Fixed([[1.0, -1.0], [0.5, 2.0], [3.0, 1.0]], "single_label_classification")
    mean = task.loss(model, batch, bert)["loss"] / task.targets(batch)["loss"]
    each = cross_entropy(model.given, torch.tensor([0, 1, 1]), reduction="none", label_smoothing=0.2)
    assert float(mean) == pytest.approx(float((each * torch.tensor([1.0, 4, 4])).sum() / 9))
    plain = Classification(class_weights=[1, 4])
    theirs = cross_entropy(model.given, torch.tensor([0, 1, 1]), weight=torch.tensor([1.0, 4]))
    assert float(plain.loss(model, batch, bert)["loss"] / plain.targets(batch)["loss"]) == pytest.approx(float(theirs))


@pytest.mark.parametrize("some", [
    [{"text": "the cat saw", "labels": ["a"]}, {"text": "a hat", "labels": ["b", "c"]}], rows(0.5, 1.5, -2)])
def test_losses_of_several_labels_and_of_numbers_are_transformers_own(write, wordpiece, some):
    from transformers import AutoModelForSequenceClassification

    task, kind = Classification(), registry.find("backbones", "bert")
    sets, features = prepared(task, write, wordpiece, some)
    torch.manual_seed(0)
    config = kind.config("tiny", SMALL["bert"] | STILL["bert"] | task.config(sets.facts), wordpiece)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    batch = task.collate(features, wordpiece)
    ours, outcomes = task.judge(model, batch, kind)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    theirs = model(**inputs, labels=batch["labels"].squeeze(1) if len(sets.facts["labels"]) == 1 else batch["labels"])
    assert float(ours["loss"] / task.targets(batch)["loss"]) == pytest.approx(theirs.loss.item(), rel=1e-5)
    logits = theirs.logits if len(sets.facts["labels"]) == 1 else theirs.logits.sigmoid()
    assert outcomes == [pytest.approx(row) for row in logits.tolist()]


@pytest.mark.parametrize(("family", "layer"), [
    ("bert", "classifier"), ("gpt2", "score"), ("roberta", "classifier.out_proj")])
def test_numbers_are_as_fine_under_autocast_as_without(write, wordpiece, family, layer):
    """In bf16 all years from 1985 to 1991 are one number."""
    from transformers import AutoModelForSequenceClassification

    task, kind = Classification(problem="regression"), registry.find("backbones", family)
    sets, features = prepared(task, write, wordpiece, rows(1985, 1986, 1987, 1988.5))
    torch.manual_seed(0)
    config = kind.config("tiny", SMALL[family] | STILL[family] | task.config(sets.facts), wordpiece)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    last = model.get_submodule(layer)
    torch.nn.init.normal_(last.weight)
    moved = 0.0 if last.bias is None else torch.nn.init.constant_(last.bias, 1987.0)[0].item()
    batch = task.collate(features, wordpiece)
    for ids in batch["input_ids"]:
        ids[-1] = torch.randint(5, len(wordpiece), ())
    with torch.no_grad():
        whole = torch.tensor(task.predict(model, batch, kind)) - moved
        with torch.autocast("cpu", torch.bfloat16):
            ours = torch.tensor(task.predict(model, batch, kind)) - moved
    assert len(set(ours.flatten().tolist())) == len(ours)
    assert (ours - whole).abs().max() < 0.02  # bf16 knows 1984 and 1992, and nothing between


def test_predictions_of_several_labels_and_of_numbers(wordpiece):
    bert = registry.find("backbones", "bert")
    several = Setup(wordpiece, bert, 32, "none", 0, ("x", "y"), "multi_label_classification")
    assert Classification(threshold=0.6).combine([[0.7, 0.5]], {}, several) == {
        "labels": ["x"], "scores": {"x": 0.7, "y": 0.5}}
    number = Setup(wordpiece, bert, 32, "none", 0, ("score",), "regression")
    assert Classification().combine([[3.25]], {}, number) == {"score": 3.25}


def test_figures_of_several_labels_by_hand():
    pairs = [({"labels": ["x"]}, {"label": ["x"]}), ({"labels": ["x", "y"]}, {"label": ["x"]}),
             ({"labels": []}, {"label": ["y"]}), ({"labels": []}, {"label": []})]
    # x: 2 right; y: 1 too many, 1 missed -> F1 1 and 0; micro: 2 right of 3 said and of 3 true
    assert Classification().metrics({"loss": 1.0}, pairs) == {
        "loss": 1.0, "accuracy": 0.5, "f1": 0.5, "f1_micro": pytest.approx(2 / 3)}


def test_figures_of_numbers_are_those_of_scikit_learn_and_scipy():
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_squared_error, r2_score

    rng = np.random.default_rng(0)
    true = rng.integers(0, 6, 50) / 2
    predicted = true + rng.normal(size=50)
    figures = Classification().metrics({}, [({"score": a}, {"label": b}) for a, b in
                                            zip(predicted.tolist(), true.tolist())])
    assert figures == {"pearson": pytest.approx(pearsonr(true, predicted)[0]),
                       "spearman": pytest.approx(spearmanr(true, predicted)[0]),
                       "mse": pytest.approx(mean_squared_error(true, predicted)),
                       "r2": pytest.approx(r2_score(true, predicted))}


def test_floors_of_several_labels_numbers_and_pairs():
    some = [{"text": text, "label": label} for text, label in
            [("red hat", ["red", "hat"]), ("red ball", ["red"]), ("blue hat", ["hat"]), ("a moon", [])] * 3]
    floors = Classification().floors(some, some)
    assert floors["most frequent labels"]["accuracy"] == pytest.approx(1 / 4)
    assert floors["TF-IDF, logistic regression"]["f1_micro"] > 0.9
    numbers = [{"text": text, "label": label} for text, label in [("good", 2.5), ("bad", -1.0), ("good", 2.0)]]
    floors = Classification().floors([{"text": row["text"], "label": str(row["label"])} for row in numbers], numbers)
    assert floors["mean"]["r2"] == pytest.approx(0)
    assert floors["TF-IDF, ridge regression"]["pearson"] > 0.9
    twins = [{"text": a, "text_pair": b, "label": str(a == b)} for a in "pqrs" for b in "pqrs" for _ in range(3)]
    balanced = [row for row in twins if row["label"] == "True"] * 3 + [row for row in twins if row["label"] == "False"]
    floors = Classification().floors(balanced, balanced)  # words that both texts have tell it
    assert floors["TF-IDF, logistic regression"]["accuracy"] > floors["majority class"]["accuracy"]


def test_a_column_of_another_name_is_said_once(write, wordpiece):
    reader = write([{"review": "a", "stars": "x"}, {"review": "b", "stars": "y"}], label="stars")
    Classification().prepare([reader], None, setup(wordpiece))
    assert reader.notes == [f"{reader.name}: text is the column 'review' (data.train's `fields` says otherwise)"]


@pytest.mark.parametrize(("first", "second"), [
    ("question", "sentence"), ("question1", "question2"), ("Premise", "hypothesis"), ("query", "passage"),
    ("question", "passage"), ("claim", "evidence"), ("text1", "text2")])
def test_both_texts_of_a_known_pair_are_read(write, first, second):
    reader = write({"idx": 0, first: "who ran ?", second: "a dog ran .", "label": 1})
    assert [row for row, _ in Classification().read(reader)] == [
        {"text": "who ran ?", "label": 1, "text_pair": "a dog ran ."}]
    assert not any("nothing is learned" in note for note in reader.notes)


def test_a_pair_that_the_recipe_names_otherwise_is_as_it_says(write):
    reader = write({"question": "who ran ?", "sentence": "a dog ran .", "label": 1}, text="sentence")
    assert [row for row, _ in Classification().read(reader)] == [{"text": "a dog ran .", "label": 1}]
    assert reader.notes == [f"{reader.name}: nothing is learned from the column question"]


def test_a_title_beside_a_text_is_named(write):
    reader = write({"title": "news", "content": "a dog ran .", "label": 1})
    assert [row["text"] for row, _ in Classification().read(reader)] == ["a dog ran ."]
    assert f"{reader.name}: nothing is learned from the column title" in reader.notes
