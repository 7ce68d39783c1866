"""A mistake in somebody's own plug-in is told by plug-in, method and what is wanted of it, whatever kind it is of."""

import dataclasses
import inspect
import itertools
import sys
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest
import yaml
from conftest import tiny

from llmkit import recipe as recipes
from llmkit.cli import main
from llmkit.recipe import registry
from llmkit.system.errors import DataError, LlmkitError, RequestError
from llmkit.training.fit import fit

TOP = """
    import numpy as np
    import torch
    from pydantic.dataclasses import dataclass
    from llmkit.registry import OPTIONS
"""
OBJECTIVE = """
    from llmkit.data.rows import Layout
    from llmkit.objectives.base import Objective

    @dataclass(config=OPTIONS)
    class Mine(Objective):
        shapes = frozenset({"decoder"})
        head = "AutoModelForCausalLM"

        def layout(self, tokenizer, max_length, packing):
            return Layout(length=max_length + 1, room=max_length, overlap=1, shortest=2,
                          positions=lambda lengths: lengths - 1)

        def draw(self, segment, rng, tokenizer):
            return {"input_ids": segment[:-1].astype(np.int64), "labels": segment[1:].astype(np.int64)}
"""
TASK = """
    from llmkit.tasks.base import Task

    @dataclass(config=OPTIONS)
    class Mine(Task):
        shapes = frozenset({"encoder"})
        head = "AutoModelForSequenceClassification"
        wanted = {"text": (), "label": ()}
        answers = ("label",)

        def config(self, facts):
            return {"num_labels": 1}

        def encode(self, rows, setup, cut):
            return [{"input_ids": np.array(setup.tokenizer(row["text"])["input_ids"][:setup.max_length]),
                     "labels": np.array([float(row["label"] == "animal")])} for row, _ in rows]

        def collate(self, rows, tokenizer):
            batch = super().collate([{"input_ids": row["input_ids"], "documents": row["input_ids"] * 0}
                                     for row in rows], tokenizer)
            return {**batch, "labels": torch.tensor([row["labels"][0] for row in rows])}

        def targets(self, batch):
            return {"loss": torch.tensor(len(batch["labels"]))}

        def logits(self, model, batch):
            return model(**{name: part for name, part in batch.items() if name != "labels"}).logits[:, 0]

        def loss(self, model, batch, family):
            return {"loss": ((self.logits(model, batch) - batch["labels"]) ** 2).sum()}

        def predict(self, model, batch, family):
            return self.logits(model, batch).tolist()

        def combine(self, outcomes, row, setup):
            return {"score": outcomes[0]}
"""
METHOD = """
    from llmkit.tuning.base import Tuning

    @dataclass(config=OPTIONS)
    class Mine(Tuning):
        adapter = False

        def apply(self, model, setting):
            return model
"""
MODE = """
    from llmkit.prompting.base import Prompt, Prompting

    @dataclass(config=OPTIONS)
    class Mine(Prompting):
        def prompt(self, row, kit):
            return Prompt("say: " + row["text"])
"""
FAMILY = """
    from llmkit.backbones.base import Family

    class Mine(Family):
        model_type = "gpt2"
        shape = "decoder"
        tokenizer = "bpe"
        sizes = {"tiny": {"n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 64}}
        positions = "n_positions"
        layers = ("transformer.h",)
        feed_forward = ("mlp",)
        heads = {"AutoModelForCausalLM": "lm_head"}
"""
NUMBERS = itertools.count()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Makes a module of a class, with methods added to it or lines taken out; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    packages = []

    def make(source: str, methods: str = "", without: str = "") -> str:
        text = dedent(TOP) + dedent(source) + indent(dedent(methods), "    ")
        assert without in text
        packages.append(f"own_{next(NUMBERS)}")
        (tmp_path / packages[-1]).mkdir()
        (tmp_path / packages[-1] / "mine.py").write_text(text.replace(without, "") if without else text)
        return f"{packages[-1]}.mine"

    yield make
    for package in packages:
        sys.modules.pop(package, None)
        sys.modules.pop(f"{package}.mine", None)


@dataclasses.dataclass
class Trial:
    """Recipes of tiny runs, with a block that names somebody's own plug-in."""

    text: Path
    labelled: Path
    folder: Path

    def of(self, block: str, name: str, **training: Any) -> dict[str, Any]:
        tree = tiny("gpt2", self.text, self.folder, max_steps=1, **training)
        if block == "task":
            tree = {**tiny("bert", self.labelled, self.folder, max_steps=1, **training), "task": {"name": name}}
            tree["data"]["validation"] = 0.2
            del tree["objective"]
        elif block == "objective":
            tree["objective"] = {"name": name}
            tree["data"]["validation"] = 0.2
        elif block == "tuning":
            tree["tuning"] = {"method": name}
        elif block == "backbone":
            tree["backbone"] = {"family": name, "size": "tiny"}
        return tree


@pytest.fixture
def trial(text, labelled, tmp_path):
    return Trial(text, labelled, tmp_path / "run")


def told(tree: Any) -> str:
    """The message of a run that its recipe is to blame for."""
    with pytest.raises(LlmkitError) as error:
        fit(tree)
    assert isinstance(error.value, RequestError), repr(error.value)
    return str(error.value)


@pytest.mark.parametrize(("block", "source"), [
    ("objective", OBJECTIVE), ("task", TASK), ("tuning", METHOD), ("backbone", FAMILY)])
def test_a_plug_in_without_a_mistake_trains(block, source, mine, trial):
    assert fit(trial.of(block, mine(source)))["steps"] == 1


FEATURES = "It must return a dict of arrays of one row, {'input_ids': …, 'labels': …}."
LOSSES = ("It must return a dict with a tensor of one number for each head, the loss summed over the head's targets: "
          "{'loss': …}.")


@pytest.mark.parametrize(("methods", "said"), [
    ("def draw(self, segment, rng, tokenizer):\n    {'input_ids': segment}",
     f".draw() returned None. {FEATURES}"),
    ("def draw(self, segment, rng, tokenizer):\n    return segment[:-1], segment[1:]",
     f".draw() returned a tuple of 2. {FEATURES}"),
    ("def draw(self, segment, rng, tokenizer):\n    return {'ids': segment, 'labels': segment}",
     f".draw() returned ids, labels, and no input_ids. {FEATURES}"),
    ("def draw(self, segment, rng, tokenizer):\n    return {'input_ids': segment}",
     f".draw() returned input_ids, and no labels. {FEATURES}"),
    ("def draw(self, segment, rng, tokenizer):\n    return {'input_ids': segment[:3], 'labels': segment[:2]}",
     f".draw() returned 2 labels for 3 input_ids. {FEATURES}"),
    ("def draw(self, segment, rng, tokenizer):\n    return {'input_ids': segment[None], 'labels': segment[None]}",
     ".draw() returned a ndarray of shape (1, "),
    ("def draw(self, segment, rng, tokenizer):\n    return {'input_ids': segment, 'labels': segment[0]}",
     f" for labels. {FEATURES}"),
    ("def draw(self, segment, rng, tokenizer):\n    return {}['a']",
     ".draw() fails: KeyError: 'a', in "),
    ("def draw(self, segment, rng):\n    return {}",
     ".draw() fails: TypeError: Mine.draw() takes 3 positional arguments but 4 were given. "),
    ("def layout(self, tokenizer, max_length, packing):\n    return max_length",
     ".layout() returned a int, 32. It must return llmkit.data.rows.Layout."),
    ("def layout(self, tokenizer, max_length, packing):\n    return Layout(max_length)",
     ".layout() fails: TypeError: Layout.__init__() missing 1 required positional argument: 'room', in "),
    ("def finish(self, row, rng, tokenizer):\n    row['seed'] = np.array([1])",
     f".finish() returned None. It must return the row, {FEATURES.removeprefix('It must return ')}"),
    ("def collate(self, rows, tokenizer):\n    return [row['input_ids'] for row in rows]",
     ".collate() returned a list of 34. It must return a dict of tensors (rows, longest)."),
    ("def collate(self, rows, tokenizer):\n    return {'input_ids': rows[0]['input_ids']}",
     " for input_ids. It must return a dict of tensors (rows, longest)."),
    ("def targets(self, batch):\n    return (batch['labels'] != -100).sum()",
     ".targets() returned a Tensor of shape (); its heads are loss. It must return a dict with a tensor of one number "
     "for each head, how many targets it has: {'loss': …}."),
    ("def loss(self, model, batch, family):\n    return super().loss(model, batch, family)['loss']",
     f".loss() returned a Tensor of shape (); its heads are loss. {LOSSES}"),
    ("def loss(self, model, batch, family):\n    return {'mlm': 1.0}",
     f".loss() returned {{'mlm': a float, 1.0}}; its heads are loss. {LOSSES}"),
    ("def loss(self, model, batch, family):\n    return {'loss': model(input_ids=batch['input_ids']).logits[:, 0, 0]}",
     f".loss() returned a Tensor of shape (8,) for loss. {LOSSES}"),
    ("def loss(self, model, batch, family):\n    return {'loss': super().loss(model, batch, family)['loss'].item()}",
     f" for loss. {LOSSES}"),
    ("def loss(self, model, batch, family):\n    return {'loss': super().loss(model, batch, family)['loss'].detach()}",
     f".loss() returned losses without a gradient: something took them apart from the model. {LOSSES}"),
    ("def loss(self, model, batch, family):\n    return model(ids=batch['input_ids'])",
     ".loss() fails: ValueError: You have to specify either input_ids or inputs_embeds, in "),
    ("def judge(self, model, batch, family):\n    return super().judge(model, batch, family)[0]",
     ".judge() returned {'loss': a Tensor of shape ()}. It must return (losses, outcomes): "),
    ("def metrics(self, means, pairs):\n    means['loss'] + 1",
     ".metrics() returned None. It must return a dict of numbers, {'accuracy': 0.5}."),
    ("def metrics(self, means, pairs):\n    return {'share': np.float32(1)}",
     ".metrics() returned a float32 of shape () for share. It must return a dict of numbers, {'accuracy': 0.5}."),
    ("def metrics(self, means, pairs):\n    return {'best': means['accuracy']}",
     ".metrics() fails: KeyError: 'accuracy', in "),
    ("def pace(self, step):\n    pass", ".pace() returned None. It must return a number."),
    ("def config(self, facts):\n    pass", ".config() returned None. It must return a dict of fields of the model's "
                                           "config."),
    ("def assemble(self, model, family, tokenizer, folder):\n    model.train()",
     ".assemble() returned None. It must return the module that trains."),
    ("def prepare(self, train, validation, setup):\n    return []",
     ".prepare() returned a list of 0. It must return llmkit.objectives.base.Sets."),
    ("draw = 3", ".draw() is no method, but a int, 3. It must return a dict of arrays of one row"),
    ("loss = None", ".loss() is no method, but None. It must return a dict with a tensor of one number for each head"),
    ("def loss(self, model, batch, family):\n    return super().loss(model, batch, family)['loss'], 8",
     ".loss() returned a tuple of 2; its heads are loss. It must return a dict with a tensor of one number"),
    ("def texts(self, reader):\n    yield 7",
     ".texts() returned a int, 7. It must return texts, one after the other."),
    ("def texts(self, reader):\n    yield reader.nothing",
     ".texts() fails: AttributeError: "),
    ("weights = property(lambda self: self.no_such_field)", ".weights() fails: AttributeError: "),
])
def test_an_objectives_mistake_is_told(methods, said, mine, trial):
    name = mine(OBJECTIVE, methods)
    tree = trial.of("objective", name)
    tree["tokenizer"]["train"]["vocab_size"] -= "texts" in methods  # trained anew
    message = told(tree).removeprefix("objective.name: ")  # where it is told as the recipe is read
    assert message.startswith(f"{name}.Mine."), message
    assert said in message


def test_the_command_line_ends_with_2_and_python_sees_what_it_comes_from(mine, trial, tmp_path, capsys):
    name = mine(OBJECTIVE, """
        def draw(self, segment, rng, tokenizer):
            return self.pieces[0]
        """)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(trial.of("objective", name)))
    assert main(["pretrain", str(path)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
    line = file.read_text().splitlines().index("        return self.pieces[0]") + 1
    assert last == (f"llmkit: error: {name}.Mine.draw() fails: AttributeError: 'Mine' object has no attribute "
                    f"'pieces', in {file}:{line}. {FEATURES}")
    with pytest.raises(RequestError) as error:
        fit(trial.of("objective", name))
    assert isinstance(error.value.__cause__, AttributeError)


@pytest.mark.parametrize(("raised", "kind"), [
    ("MemoryError()", MemoryError), ("RuntimeError('not enough memory: you tried to allocate 9 bytes')", RuntimeError),
    ("OSError(28, 'No space left on device')", OSError), ("DataError('a.txt:3: it is empty.')", DataError),
    ("KeyboardInterrupt()", KeyboardInterrupt)])
def test_what_is_no_mistake_of_a_plug_in_isnt_told_as_one(raised, kind, mine, trial):
    name = mine(OBJECTIVE, f"""
        def loss(self, model, batch, family):
            from llmkit.system.errors import DataError

            raise {raised}
        """)
    with pytest.raises(kind):
        fit(trial.of("objective", name))


def test_llmkits_own_plug_ins_are_as_they_are_written():
    for kind in registry.KINDS:
        for plugin in registry.names(kind):
            members = vars(registry.find(kind, plugin)).values()
            assert not any(member.__code__.co_name == "watched" for member in members if inspect.isfunction(member))


def test_a_class_of_a_class_of_ones_own_is_told_by_its_own_name(mine, trial):
    name = mine(OBJECTIVE)
    other = mine(f"""
        from {name} import Mine as _First

        @dataclass(config=OPTIONS)
        class Second(_First):
            def draw(self, segment, rng, tokenizer):
                return super().draw(segment, rng)
        """)
    assert told(trial.of("objective", other)).startswith(f"{other}.Second.draw() fails: TypeError: ")
    assert fit(trial.of("objective", name))["steps"] == 1


def test_a_method_that_trains_nothing_is_told(mine, trial):
    name = mine(METHOD, """
        def apply(self, model, setting):
            return model.requires_grad_(False)
        """)
    assert told(trial.of("tuning", name)) == f"tuning: {name} leaves nothing to train: no parameter has requires_grad."


def test_a_rate_of_a_parameter_that_isnt_there_is_told(mine, trial):
    name = mine(METHOD, """
        def rates(self, model, setting):
            return {"transformer.wte.weights": 0.1}
        """)
    assert told(trial.of("tuning", name)) == (
        f"tuning: {name} has a rate or a first step for 'transformer.wte.weights', and the tuned model has no such "
        "parameter. Did you mean 'transformer.wte.weight'?")


def test_a_mistake_in_a_loader_worker_is_told_as_in_the_run_itself(mine, trial):
    name = mine(OBJECTIVE, """
        def finish(self, row, rng, tokenizer):
            return {**row, "weight": row["weights"]}
        """)
    trees = [trial.of("objective", name), trial.of("objective", name, dataloader_num_workers=1)]
    for tree in trees:
        del tree["data"]["validation"]  # evaluations have no workers
    here, there = map(told, trees)
    assert there == here
    assert here.startswith(f"{name}.Mine.finish() fails: KeyError: 'weights', in ")


@pytest.mark.parametrize(("methods", "said"), [
    ("def encode(self, rows, setup, cut):\n    return [{'input_ids': row['txt']} for row, _ in rows]",
     ".encode() fails: KeyError: 'txt', in "),
    ("def encode(self, rows, setup, cut):\n    pass",
     ".encode() returned None. It must return a list with features for each row: a dict of arrays of one row, "
     "{'input_ids': …, 'labels': …}."),
    ("def encode(self, rows, setup, cut):\n    return [{'ids': [1]} for row in rows]",
     ".encode() returned ids, and no input_ids, as one of its rows. It must return a list with features"),
    ("def encode(self, rows, setup, cut):\n    return super().encode(rows, setup, cut)",
     ".encode() is asked for, and the class doesn't define it. It must return a list with features for each row"),
    ("def encode(self, rows, setup, cut):\n    return [{'input_ids': np.array([1, 2])}]",
     " rows, and doesn't say in `of` which is whose. It must return a list with features for each row"),
    ("def check(self, row, columns, place):\n    super().check(row, columns, place)",
     ".check() returned None. It must return the row, a dict."),
    ("def check(self, row, columns, place):\n    return {**row, 'label': {'good': 1}[row['label']]}",
     ".check() fails: KeyError: '"),
    ("def stream(self, reader, answered=True):\n    for row, place in reader.rows():\n        yield row",
     ".stream() gave {'text': a str, "),
    ("def stream(self, reader, answered=True):\n    yield from reader.row()",
     ".stream() fails: AttributeError: "),
    ("def predict(self, model, batch, family):\n    return None",
     ".predict() returned None. It must return a list with what the model says of each row."),
    ("def predict(self, model, batch, family):\n    return self.logits(model, batch).tolist()[1:]",
     " rows where there are "),
    ("def combine(self, outcomes, row, setup):\n    return outcomes[0]",
     ". It must return the prediction, a dict: {'label': …, 'score': …}."),
    ("def combine(self, outcomes, row, setup):\n    return {'score': outcomes[0][1]}",
     ".combine() fails: TypeError: 'float' object is not subscriptable, in "),
    ("def metrics(self, means, pairs):\n    return {**means, 'right': torch.tensor(1.0)}",
     ".metrics() returned a Tensor of shape () for right. It must return a dict of numbers"),
    ("def floors(self, learned, held):\n    return 0.5",
     ".floors() returned a float, 0.5. It must return a dict of figures by what reaches them."),
    ("def columns(self, row, reader, answered=True):\n    return list(row)",
     ".columns() returned a list of 2. It must return a dict from fields to the columns that they stand in."),
    ("def loss(self, model, batch, family):\n    return self.logits(model, batch) - batch['labels'][:3]",
     ".loss() fails: RuntimeError: The size of tensor a (16) must match the size of tensor b (3) "),
])
def test_a_tasks_mistake_is_told(methods, said, mine, trial):
    name = mine(TASK, methods)
    message = told(trial.of("task", name))
    assert message.startswith(f"{name}.Mine."), message
    assert said in message


@pytest.mark.parametrize(("methods", "said"), [
    ("def apply(self, model, setting):\n    model.requires_grad_(True)",
     ".apply() returned None. It must return the model, whose parameters that train have requires_grad."),
    ("def apply(self, model, setting):\n    return model.no_such_part",
     ".apply() fails: AttributeError: 'GPT2LMHeadModel' object has no attribute 'no_such_part', in "),
    ("def apply(self, model, setting):\n    return super().apply(model, setting)",
     ".apply() is asked for, and the class doesn't define it. It must return the model, whose parameters"),
    ("def penalty(self, model):\n    return 0.5",
     ".penalty() returned a float, 0.5. It must return a tensor of one number, or None."),
    ("def after_step(self, model, step):\n    self.steps.append(step)",
     ".after_step() fails: AttributeError: 'Mine' object has no attribute 'steps', in "),
    ("def state(self, model):\n    return {'ranks': 4}",
     ".state() returned a int, 4 for ranks. It must return a dict of tensors by name."),
    ("def rates(self, model, setting):\n    return [1.0]",
     ".rates() returned a list of 1. It must return a dict of numbers by a parameter's name."),
    ("def wakes(self, model, setting):\n    return {name: None for name, _ in model.named_parameters()}",
     ".wakes() returned None for transformer.wte.weight. It must return a dict of steps by a parameter's name."),
    ("def save(self, model, folder):\n    model.save(folder)",
     ".save() fails: AttributeError: 'GPT2LMHeadModel' object has no attribute 'save', in "),
    ("def describe(self):\n    pass", ".describe() returned None. It must return a text."),
    ("def check(self, family, head):\n    assert family.no_part",
     ".check() fails: AttributeError: type object 'GPT2' has no attribute 'no_part', in "),
    ("@property\ndef virtual_tokens(self):\n    return None",
     ".virtual_tokens() returned None. It must return a number of positions."),
])
def test_a_methods_mistake_is_told(methods, said, mine, trial):
    name = mine(METHOD, methods)
    message = told(trial.of("tuning", name))
    assert message.startswith(f"{name}.Mine."), message
    assert said in message


@pytest.mark.parametrize(("methods", "said"), [
    ("@classmethod\ndef config(cls, size, fields, tokenizer):\n    return {}",
     ".config() returned {}. It must return a config of transformers."),
    ("@classmethod\ndef outputs(cls, model, batch):\n    model(**batch)",
     ".outputs() returned None. It must return what the model returned."),
    ("@classmethod\ndef position_limit(cls, config):\n    return config.no_such_field",
     ".position_limit() fails: AttributeError: "),
    ("@classmethod\ndef position_limit(cls, config):\n    return '64'",
     ".position_limit() returned a str, '64'. It must return a number of positions, or None."),
])
def test_a_familys_mistake_is_told(methods, said, mine, trial):
    name = mine(FAMILY, methods)
    message = told(trial.of("backbone", name))
    assert message.startswith(f"{name}.Mine."), message
    assert said in message


@pytest.mark.parametrize(("methods", "said"), [
    ("def prompt(self, row, kit):\n    return 'say: ' + row['text']",
     ".prompt() returned a str, 'say: the cat'. It must return llmkit.prompting.base.Prompt."),
    ("def prompt(self, row, kit):\n    return Prompt(row['txt'])", ".prompt() fails: KeyError: 'txt', in "),
    ("def prompt(self, row, kit):\n    return super().prompt(row, kit)",
     ".prompt() is asked for, and the class doesn't define it. It must return llmkit.prompting.base.Prompt."),
])
def test_a_prompt_modes_mistake_is_told(methods, said, mine):
    from llmkit.prompting.base import Around, Kit

    name = mine(MODE, methods)
    mode = recipes.plugin("prompting", name, "--prompt")
    with pytest.raises(RequestError) as error:
        Around(mode, Kit(None))({"text": "the cat"})
    assert str(error.value).startswith(f"{name}.Mine."), str(error.value)
    assert said in str(error.value)


def test_words_and_questions_of_a_prompt_mode_are_looked_at_too(mine):
    from llmkit.prompting.base import Kit

    mode = recipes.plugin("prompting", mine(MODE, """
        def words(self, labels):
            return labels

        def questions(self, row, words, kit):
            return [self.prompt(row, kit)]
        """), "--prompt")
    with pytest.raises(RequestError, match=r"\.words\(\) returned a list of 2\. It must return a dict with the words"):
        mode.words(["yes", "no"])
    with pytest.raises(RequestError, match=r"It must return a list of llmkit\.prompting\.base\.Question\."):
        mode.questions({"text": "the cat"}, ["yes", "no"], Kit(None))


# ---- what a class lacks, and what can't be imported or made ----


@pytest.mark.parametrize(("block", "source", "without", "said"), [
    ("objective", OBJECTIVE, 'shapes = frozenset({"decoder"})',
     "has no 'shapes', the backbone shapes that it fits: frozenset({'encoder'})."),
    ("objective", OBJECTIVE, 'head = "AutoModelForCausalLM"',
     "has no 'head', the transformers auto class that carries its head: 'AutoModelForCausalLM'."),
    ("task", TASK, 'wanted = {"text": (), "label": ()}',
     "has no 'wanted', the fields of a row, and their other names: {'text': ()}."),
    ("backbone", FAMILY, 'shape = "decoder"', "has no 'shape', encoder, decoder, encoder-decoder or permuted."),
    ("backbone", FAMILY, 'model_type = "gpt2"', "has no 'model_type', the `model_type` of its transformers config:"),
    ("backbone", FAMILY, 'positions = "n_positions"', "has no 'positions', the config field with the number of"),
    ("backbone", FAMILY, 'heads = {"AutoModelForCausalLM": "lm_head"}', "has no 'heads', the part of each auto class"),
    ("backbone", FAMILY, 'tokenizer = "bpe"', "has no 'tokenizer', the kind of tokenizer that is trained for it:"),
])
def test_an_attribute_that_is_missing_is_named(block, source, without, said, mine, trial):
    name = mine(source, without=without)
    assert f"{name}.Mine {said}" in told(trial.of(block, name))


def test_what_nothing_asks_for_may_be_missing(mine, trial):
    name = mine(FAMILY, without='feed_forward = ("mlp",)')
    assert fit(trial.of("backbone", name))["steps"] == 1
    assert told({**trial.of("backbone", name), "tuning": "feed_forward",
                 "output_dir": str(trial.folder.with_name("other"))}).startswith(
        f"{name}.Mine has no 'feed_forward', the parts of a layer that are feed-forward: ('mlp',).")


@pytest.mark.parametrize(("top", "said"), [
    ("import numpyy", "fails: ModuleNotFoundError: No module named 'numpyy', in {file}:"),
    ("class Other(:", "fails: SyntaxError: invalid syntax"),
    ("x = 1 / 0", "fails: ZeroDivisionError: division by zero, in {file}:"),
    ("from llmkit.objectives.base import Objektive", "fails: ImportError: cannot import name 'Objektive' from "),
])
def test_a_module_that_cant_be_imported_says_why_and_where(top, said, mine, tmp_path):
    name = mine(f"\n{top}\n")
    with pytest.raises(RequestError) as error:
        registry.find("objectives", name)
    file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
    assert str(error.value).startswith(f"{name}, imported for the objective, {said.format(file=file)}")


def test_options_that_a_plug_in_cant_be_made_of_are_its_mistake(mine):
    name = mine(METHOD, """
        rank: int = 4

        def __post_init__(self):
            {4: "four"}[self.rank]
        """)
    assert recipes.load({"backbone": {"family": "gpt2"}, "tokenizer": "x", "objective": "causal_lm",
                         "data": {"train": "a.txt"}, "tuning": {"method": name}}).tuning.rank == 4
    with pytest.raises(RequestError) as error:
        recipes.load({"backbone": {"family": "gpt2"}, "tokenizer": "x", "objective": "causal_lm",
                      "data": {"train": "a.txt"}, "tuning": {"method": name, "rank": 5}})
    assert str(error.value).startswith(f"{name}.Mine, made of its options, fails: KeyError: 5, in ")
