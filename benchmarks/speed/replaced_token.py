"""Replaced-token detection: ELECTRA of 4 layers of 256 and a generator a quarter as wide, rows of 128.

    LLMKIT_DATA=folder python -m benchmarks.speed.replaced_token

transformers has both models and no way to train them together. The stock way is what people add: a module that calls
ElectraForMaskedLM, samples at the masked places with Gumbel noise, calls ElectraForPreTraining and adds the losses;
the masked-LM collator and the Trainer around it.
"""

from pathlib import Path
from typing import Any

from benchmarks.speed import pairs, training

SIZE = {"num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024,
        "embedding_size": 128}
SMALLER = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 256}
"""The generator's, as llmkit makes it from SIZE."""
LENGTH, ROWS = 128, 32
RATE = 5e-4
WEIGHT = 50.0


def recipe(folder: Path, name: str, steps: int, turn: int = 0) -> dict[str, Any]:
    """llmkit's recipe for it."""
    objective = {"name": "replaced_token", "discriminator_weight": WEIGHT}
    return training.recipe(
        folder, name, turn, objective, LENGTH, pairs.data("tinystories/train.txt"), "blocks", max_steps=steps,
        global_batch_size=ROWS, learning_rate=RATE)


def prepare(folder: Path, **_: Any) -> dict[str, Any]:
    """The weights that both discriminators start from; each generator has its own, and the embeddings."""
    from transformers import BertTokenizer, ElectraConfig, ElectraForPreTraining, set_seed

    set_seed(1)
    model = ElectraForPreTraining(ElectraConfig(**SIZE))
    model.save_pretrained(folder / "start")
    BertTokenizer(str(pairs.data("tokenizers/bert-base-uncased/vocab.txt"))).save_pretrained(folder / "start")
    return {"parameters": model.num_parameters()}


def ours(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    return training.fit(recipe(folder, "ours", steps, turn))


def joined(folder: Path, tokenizer: Any) -> Any:
    """Both models as one whose forward gives the sum of their losses."""
    import torch
    from torch import nn
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.discriminator = ElectraForPreTraining.from_pretrained(folder / "start")
            self.generator = ElectraForMaskedLM(ElectraConfig(**{**SIZE, **SMALLER}))
            for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
                setattr(self.generator.electra.embeddings, name,
                        getattr(self.discriminator.electra.embeddings, name))
            self.generator.tie_weights()

        def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> dict[str, Any]:
            told = self.generator(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
            hidden = labels != -100
            with torch.no_grad():
                logits = told.logits[hidden]
                drawn = (logits - torch.rand_like(logits).clamp_min(1e-9).log().neg().log()).argmax(-1)
            original = torch.where(hidden, labels, input_ids)
            replaced = original.clone()
            replaced[hidden] = drawn
            found = self.discriminator(
                input_ids=replaced, attention_mask=attention_mask, labels=(replaced != original).long())
            return {"loss": told.loss + WEIGHT * found.loss, "logits": found.logits}

        def save_pretrained(self, place: Path) -> None:
            for name, one in (("model", self.discriminator), ("generator", self.generator)):
                one.save_pretrained(place / name)
            tokenizer.save_pretrained(place / "model")

    return Both()


def stock(folder: Path, steps: int, turn: int, **_: Any) -> dict[str, Any]:
    from transformers import AutoTokenizer, DataCollatorForLanguageModeling, set_seed

    tokenizer = AutoTokenizer.from_pretrained(folder / "start")
    data = training.blocks(pairs.data("tinystories/train.txt"), tokenizer, LENGTH).remove_columns("token_type_ids")
    set_seed(turn + 1)
    collator = DataCollatorForLanguageModeling(tokenizer, mask_replace_prob=0.85, random_replace_prob=0.0)
    return training.trainer(
        joined(folder, tokenizer), data, collator, folder / f"stock-{turn}", max_steps=steps,
        per_device_train_batch_size=ROWS, learning_rate=RATE, seed=turn + 1)


def judge(folder: Path, held: int, **_: Any) -> dict[str, Any]:
    """Every pair's loss on other stories: the generator's, and WEIGHT times the discriminator's."""
    import shutil

    from llmkit.inference.evaluate import evaluate

    text = training.held_out(folder, held)
    found = {}
    for run in sorted(folder.iterdir()):
        if run.name.startswith("stock-"):  # a run, as llmkit leaves one
            shutil.copy(folder / run.name.replace("stock", "ours") / "recipe.yaml", run)
        if run.name.startswith(("ours-", "stock-")):
            metrics = evaluate(run, text)["metrics"]
            found[run.name] = metrics["generator"] + WEIGHT * metrics["discriminator"]
    return found


def run(full: bool) -> list[pairs.Row]:
    return training.compared(__name__, "`replaced_token`, ELECTRA 4×256", full, 2.0)


if __name__ == "__main__":
    pairs.main(run, prepare=prepare, ours=ours, stock=stock, judge=judge)
