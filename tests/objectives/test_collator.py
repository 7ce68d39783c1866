"""An objective in somebody's own loop."""

import pickle

import pytest
import torch
from conftest import random_encoder, stories
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, BertForMaskedLM, DataCollatorForLanguageModeling

from llmkit.objectives.shared.collator import DataCollator, listed
from llmkit.system.errors import DataError, RequestError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_encoder(tmp_path_factory.mktemp("encoder"), stories(64))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def rows(tokenizer):
    return [{"input_ids": tokenizer(text, add_special_tokens=False)["input_ids"], "text": text} for text in stories(32)]


def test_a_row_of_an_epoch_is_drawn_the_same_in_any_order_and_company(tokenizer, rows):
    collator = DataCollator("masked_lm", tokenizer)
    together, alone = collator(rows[:4]), collator([rows[2]])
    length = alone["input_ids"].shape[1]
    assert together["input_ids"][2, :length].tolist() == alone["input_ids"][0].tolist()
    assert together["labels"][2, :length].tolist() == alone["labels"][0].tolist()
    collator.epoch = 1
    assert collator([rows[2]])["labels"].tolist() != alone["labels"].tolist()


def test_it_hides_as_many_tokens_as_transformers_collator(tokenizer, rows):
    theirs = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.3, seed=1)(
        [{"input_ids": tokenizer(row["text"])["input_ids"]} for row in rows])
    ours = DataCollator("masked_lm", tokenizer, mlm_probability=0.3)(rows)
    assert ours["input_ids"].shape == theirs["input_ids"].shape
    shares = [float((batch["labels"] != -100).sum()) / sum(len(row["input_ids"]) for row in rows)
              for batch in (ours, theirs)]
    assert shares[0] == pytest.approx(0.3, abs=0.03)
    assert shares[0] == pytest.approx(shares[1], abs=0.06)


def test_a_loader_and_a_plain_model_train_with_it(folder, tokenizer, rows):
    model = BertForMaskedLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for epoch in range(4):
        collator = DataCollator("masked_lm", tokenizer, mlm_probability=0.3)
        collator.epoch = epoch
        for batch in DataLoader(rows, batch_size=16, collate_fn=collator):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss))
    assert losses[-1] < losses[0] - 0.5


def test_a_decoders_labels_stand_where_they_are_predicted(tokenizer):
    tokenizer.add_special_tokens({"eos_token": "[SEP]"})
    batch = DataCollator("causal_lm", tokenizer, "gpt2", add_eos_token=False)([{"input_ids": [7, 8, 9, 10]}])
    assert batch["labels"][0, : batch["input_ids"].shape[1] - 1].tolist() == batch["input_ids"][0, 1:].tolist()


@pytest.mark.parametrize(("objective", "options", "what"), [
    ("next_sentence", {}, "next_sentence makes its rows from more than one text"),
    ("maskd_lm", {}, "Did you mean 'masked_lm'"),
    ("masked_lm", {"mlm_probability": 2}, "mlm_probability"),
    ("span_corruption", {}, "the tokenizer lacks 100 tokens, <extra_id_0> … <extra_id_99>; add what"),
    ("span_corruption", {"denoisers": [{"mode": "[NLU]"}]}, "lacks 101 tokens, <extra_id_0> … \\[NLU\\]; add what"),
    ("causal_lm", {"add_eos_token": False}, "causal_lm needs a backbone of shape decoder; bert is encoder"),
])
def test_what_cannot_be_drawn_is_refused(tokenizer, objective, options, what):
    with pytest.raises(RequestError, match=what):
        DataCollator(objective, tokenizer, **options)


@pytest.mark.parametrize(("missing", "said"), [
    ({"mask_token": "<mask>"}, "mask_token <mask>"), ({"extra_special_tokens": ["[NLG]"]}, "[NLG]"),
    ({"extra_special_tokens": ["a", "b", "c"], "pad_token": "<pad>"}, "pad_token <pad>, 3 tokens, a … c")])
def test_what_a_tokenizer_lacks_is_said_by_its_names(missing, said):
    assert listed(missing) == said


def test_workers_of_every_kind_draw_the_same_and_hear_of_the_epoch(tokenizer, rows):
    collator = DataCollator("masked_lm", tokenizer)
    again = pickle.loads(pickle.dumps(collator))
    assert again(rows[:3])["labels"].tolist() == collator(rows[:3])["labels"].tolist()
    loader = DataLoader(rows[:4], batch_size=4, collate_fn=collator, num_workers=1, persistent_workers=True)
    for epoch in (0, 3):
        collator.epoch = epoch
        (batch,) = list(loader)
        assert batch["labels"].tolist() == collator(rows[:4])["labels"].tolist()


@pytest.mark.parametrize("ids", [[1.5, 2.0, 3.0], "abc", [[5, 6], [7, 8]], [5, -1, 7], [5, 10**6, 7]])
def test_ids_that_the_tokenizer_does_not_have_are_refused(tokenizer, ids):
    with pytest.raises(DataError, match="row 0: input_ids must be a list of whole numbers from 0 to"):
        DataCollator("masked_lm", tokenizer)([{"input_ids": ids}])


@pytest.mark.parametrize("given", [None, "bert-base-uncased"])
def test_a_tokenizer_is_needed(given):
    with pytest.raises(RequestError, match="tokenizer: a tokenizer of transformers is needed"):
        DataCollator("masked_lm", given)


def test_a_row_without_ids_is_named(tokenizer):
    with pytest.raises(DataError, match="row 1: has no input_ids; it has text"):
        DataCollator("masked_lm", tokenizer)([{"input_ids": [5, 6, 7]}, {"text": "a"}])
