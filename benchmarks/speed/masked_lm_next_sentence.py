"""BERT's pretraining, both heads: 4 layers of 256 with its own vocabulary, pairs of segments up to 128 tokens.

    LLMKIT_DATA=folder python -m benchmarks.speed.masked_lm_next_sentence

transformers once had a data set of such pairs, TextDatasetForNextSentencePrediction, and people still build them so:
sentences of a document are collected up to the longest length and cut in two at random, half of the time the second
part is of another document; the collator of masked LM pads a batch, BertForPreTraining has both heads.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.speed import pairs, training

SIZE = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024}
LENGTH, ROWS = 128, 32
RATE = 5e-4


def recipe(folder: Path, name: str, steps: int, turn: int = 0) -> dict[str, Any]:
    """llmkit's recipe for it."""
    return training.recipe(
        folder, name, turn, "masked_lm_next_sentence", LENGTH, folder / "sentences.txt", max_steps=steps,
        global_batch_size=ROWS, learning_rate=RATE)


def prepare(folder: Path, held: int, **_: Any) -> dict[str, Any]:
    """The weights that both start from; the stories with a sentence a line and a blank line between two."""
    from transformers import BertConfig, BertForPreTraining, BertTokenizer, set_seed

    from llmkit.data.sentences import sentences

    for name, stories in (("sentences", training.stories()), ("held", training.stories("validation")[:held])):
        text = "\n\n".join("\n".join(sentences(" ".join(story.split()), "punctuation")) for story in stories)
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    set_seed(1)
    model = BertForPreTraining(BertConfig(**SIZE))
    model.save_pretrained(folder / "start")
    BertTokenizer(str(pairs.data("tokenizers/bert-base-uncased/vocab.txt"))).save_pretrained(folder / "start")
    return {"parameters": model.num_parameters()}


def ours(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    return training.fit(recipe(folder, "ours", steps, turn))


def made(documents: list[list[list[int]]], tokenizer: Any, seed: int) -> Iterator[dict[str, Any]]:
    """Pairs from documents of sentences of ids."""
    import random

    rng, room = random.Random(seed), LENGTH - 3
    for document in documents:
        chunk: list[list[int]] = []
        for i, sentence in enumerate(document):
            chunk.append(sentence)
            if sum(map(len, chunk)) < room and i + 1 < len(document):
                continue
            cut = rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
            a = [token for part in chunk[:cut] for token in part]
            b = [token for part in chunk[cut:] for token in part]
            other = len(chunk) == 1 or rng.random() < 0.5
            if other:
                elsewhere = rng.choice(documents)
                start = rng.randrange(len(elsewhere))
                b = [token for part in elsewhere[start:] for token in part][: max(1, room - len(a))]
            while len(a) + len(b) > room:
                longer = a if len(a) > len(b) else b
                del longer[0 if rng.random() < 0.5 else -1]
            yield {"input_ids": [tokenizer.cls_token_id, *a, tokenizer.sep_token_id, *b, tokenizer.sep_token_id],
                   "token_type_ids": [0] * (len(a) + 2) + [1] * (len(b) + 1), "next_sentence_label": int(other)}
            chunk = []


def stock(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    from datasets import Dataset
    from transformers import AutoTokenizer, BertForPreTraining, DataCollatorForLanguageModeling

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    stories = (folder / "sentences.txt").read_text(encoding="utf-8").split("\n\n")
    documents = [tokenizer(story.strip().split("\n"), add_special_tokens=False)["input_ids"] for story in stories]
    data = Dataset.from_list(list(made(documents, tokenizer, turn + 1)))
    model = BertForPreTraining.from_pretrained(folder / "start")
    tokenizer.save_pretrained(folder / f"stock-{turn}")
    return training.trainer(
        model, data, DataCollatorForLanguageModeling(tokenizer), folder / f"stock-{turn}", max_steps=steps,
        per_device_train_batch_size=ROWS, learning_rate=RATE, seed=turn + 1)


def judge(folder: Path, steps: int, **_: Any) -> dict[str, Any]:
    """Every model's loss on other stories, both heads' together; the same pairs and masks for all."""
    return training.judged(folder, recipe(folder, "judge", steps), folder / "held.txt")


def run(full: bool) -> list[pairs.Row]:
    return training.compared(__name__, "`masked_lm_next_sentence`, BERT 4×256", full, 2.0)


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock, judge=judge)
