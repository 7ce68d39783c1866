"""The command line as its users meet it: what it prints, where, and with which exit status."""

import json
import logging
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from conftest import tiny
from typer.main import get_command

from llmkit import recipe
from llmkit.cli import app, main, only
from llmkit.recipe import registry


class Said(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """The last line on stderr."""
        return self.err.rstrip("\n").rpartition("\n")[2]


Command = Callable[..., Said]


@pytest.fixture
def llmkit(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object) -> Said:
        capsys.readouterr()
        logging.getLogger("llmkit").handlers.clear()
        return Said(main([str(word) for word in words]), *capsys.readouterr())

    return run


def write(folder: Path, tree: dict[str, Any], name: str = "r.yaml") -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@pytest.fixture
def bert(text: Path, tmp_path: Path) -> Path:
    """A recipe that trains in a second."""
    return write(tmp_path, tiny("bert", text, tmp_path / "run", max_steps=2))


def sorter(data: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """A recipe for classification from scratch."""
    tree = tiny("bert", data, folder, max_steps=2)
    del tree["objective"]
    return {**tree, "task": {"name": "classification"}, **more}


def refused(said: Said, status: int, *parts: str) -> None:
    """One line, last on stderr, no traceback, nothing on stdout."""
    assert said.last.startswith("llmkit: error: "), said.err
    assert said.status == status, said.last
    for part in parts:
        assert part in said.last
    assert "Traceback" not in said.err
    assert said.out == ""


def child(code: str, **variables: str) -> str:
    """Run Python in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---- what is not imported ---------------------------------------------------------------------------------------

HEAVY = (
    "torch", "transformers", "datasets", "peft", "accelerate", "tokenizers", "numpy", "pydantic", "sklearn", "yaml")


def test_help_answers_at_once_and_imports_no_library() -> None:
    code = f"""
        import sys
        from llmkit.cli import main
        assert main(["--help"]) == 0
        print([name for name in {HEAVY!r} if name in sys.modules])
    """
    out = child(code)
    assert out.startswith("Usage: llmkit ")
    assert out.splitlines()[-1] == "[]"

    def user_seconds(*words: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([sys.executable, *words], check=True, capture_output=True)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before

    ours = min(user_seconds("-m", "llmkit", "--help") for _ in range(5))
    theirs = min(user_seconds("-c", "import typer.main") for _ in range(5))
    assert ours < 3 * theirs  # seconds differ by machine: .27 and .11 here


def test_only_the_named_command_is_built_and_help_is_that_of_all() -> None:
    every: Any = get_command(app)
    slim: Any = get_command(only(app, "runs"))
    assert {name: command.help for name, command in slim.commands.items()} == {
        name: command.help for name, command in every.commands.items()}
    for name, command in every.commands["runs"].commands.items():
        assert len(slim.commands["runs"].commands[name].params) == len(command.params)
    assert len(slim.commands["generate"].params) == 0 < len(every.commands["generate"].params)


def test_importing_llmkit_imports_no_library() -> None:
    assert child(f"import sys, llmkit; print([n for n in {HEAVY!r} if n in sys.modules])") == "[]\n"


def test_every_plugin_module_imports_without_the_libraries() -> None:
    code = """
        import sys
        from llmkit import registry
        found = [registry.find(kind, name) for kind in registry.KINDS for name in registry.names(kind)]
        heavy = ("torch", "transformers", "peft", "datasets", "accelerate", "tokenizers", "sklearn")
        print(len(found), [name for name in heavy if name in sys.modules])
    """
    count, _, heavy = child(code).strip().partition(" ")
    assert int(count) == sum(len(registry.names(kind)) for kind in registry.KINDS) >= 12
    assert heavy == "[]"


def test_mistakes_that_need_no_library_are_told_before_any_is_loaded(bert: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(bert.read_text().replace("learning_rate", "lerning_rate"))
    code = f"""
        import sys
        from llmkit.cli import main
        good, wrong = {str(bert)!r}, {str(wrong)!r}
        for words in ("pretrain WRONG", "pretrain nope.yaml", "pretrain GOOD --set backbone.family=gpt2",
                      "pretrain GOOD --set training.micro_batch_size=3", "pretrain GOOD --method prefx",
                      "pretrain GOOD --set objective.mlm_probabilty=1", "pretrain GOOD --processes 3",
                      "pretrain GOOD --set training.report_to=[x]", "finetune GOOD --task clasification",
                      "finetune --task nope", "pretrian", "generate", "evaluate x"):
            status = main([dict(GOOD=good, WRONG=wrong).get(word, word) for word in words.split()])
            print(status, [name for name in ("torch", "transformers", "peft", "datasets") if name in sys.modules])
    """
    assert set(child(code).splitlines()) == {"2 []"}


# ---- words of a command -----------------------------------------------------------------------------------------


def test_version(llmkit: Command) -> None:
    from llmkit.system.machine import installed

    assert llmkit("--version") == Said(0, f"llmkit {installed('llmkit')}\n", "")


@pytest.mark.parametrize(("words", "parts"), [
    (["pretrian", "x"], ["'pretrian'", "Did you mean 'pretrain'?"]),
    (["recipes", "shw"], ["'shw'", "Did you mean 'show'?"]),
    (["pretrain", "x", "--sett", "a=1"], ["--sett", "--set", "See llmkit pretrain --help."]),
    (["finetune", "--methd", "lora"], ["--methd", "--method"]),
    (["pretrain"], ["RECIPE"]),
    (["pretrain", "x", "--seed"], ["--seed"]),
    (["pretrain", "x", "--seed", "abc"], ["--seed abc: "]),
    (["pretrain", "x", "--processes=two"], ["--processes two: "]),
    (["pretrain", "x", "more"], ["more"]),
    (["finetune", "x", "more"], ["more"]),
    (["generate"], ["PROMPT"]),
    (["evaluate", "x"], ["--data"]),
    (["pretrain", "nope.yaml"], ["'nope.yaml'", "There is: adversarial, bert_mlm, "]),
    (["pretrain", "recipes/bert_mln.yaml"], ["'recipes/bert_mln.yaml'", "Did you mean 'bert_mlm'?"]),
    (["recipes", "show", "bert_mln"], ["Did you mean 'bert_mlm'?"]),
    (["finetune", "--task", "clasification"], ["Did you mean 'classification'?"]),
])
def test_words_that_are_wrong_are_told_with_the_nearest(llmkit: Command, words: list[str], parts: list[str]) -> None:
    refused(llmkit(*words), 2, *parts)


def test_no_command_at_all_shows_what_there_is(llmkit: Command) -> None:
    said = llmkit()
    refused(said, 2, "a command is needed")
    assert "\n  pretrain " in said.err


def test_the_program_itself_ends_with_the_status(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "llmkit", "pretrain", "nope.yaml"], capture_output=True, text=True,
                          cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("llmkit: error: no recipe at 'nope.yaml'")
    assert done.stderr.count("\n") == 1
    script = Path(sys.executable).with_name("llmkit")
    assert subprocess.run([script, "pretrian"], capture_output=True, check=False).returncode == 2


def test_a_traceback_is_shown_where_debug_asks_for_it(llmkit: Command, bert: Path) -> None:
    for words in (["--debug", "pretrain", bert], ["pretrain", bert, "--debug"]):
        said = llmkit(*words, "--set", "training.lerning_rate=1")
        assert "Traceback (most recent call last)" in said.err
        assert said.last.startswith("llmkit: error: --set training.lerning_rate: no such field.")
        assert said.status == 2
    refused(llmkit("pretrain", bert, "--set", "training.lerning_rate=1"), 2)


def test_a_mistake_nobody_foresaw_is_one_line_too(llmkit: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(recipe, "packaged", fail)
    refused(llmkit("recipes", "list"), 1, "unforeseen: ZeroDivisionError: two lines")


def test_what_follows_two_dashes_goes_to_the_launcher(
    llmkit: Command, bert: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llmkit.training.spread import launch

    seen: list[Any] = []

    def start(*words: object) -> int:
        seen.append(words)
        return 0

    monkeypatch.setattr(launch, "launch", start)
    options = ["--num_machines", "2", "--main_process_ip", "10.0.0.1", "--main_process_port", "29500"]
    assert llmkit("pretrain", bert, "--seed", 3, "--", *options).status == 0
    words, processes, launcher, folder = seen[0]
    assert (words, processes, launcher) == (["pretrain", str(bert), "--seed", "3"], 1, options)
    assert folder == bert.parent / "run"
    assert llmkit("finetune", "--model", "x", "--processes", 2, "--", "--multi_gpu").status == 0
    assert seen[1][:3] == (["finetune", "--model", "x", "--processes", "2"], 2, ["--multi_gpu"])


# ---- what is listed ---------------------------------------------------------------------------------------------


def test_recipes_are_listed_shown_and_copied(llmkit: Command, tmp_path: Path) -> None:
    listed = json.loads(llmkit("recipes", "list", "--json").out)
    assert set(listed) == set(recipe.packaged())
    assert all(about.strip() and not about.startswith("#") for about in listed.values())
    table = llmkit("recipes", "list").out
    assert all(f"{name} " in table for name in listed)
    shown = llmkit("recipes", "show", "bert_mlm").out
    assert shown == recipe.packaged()["bert_mlm"].read_text()
    assert llmkit("recipes", "copy", "bert_mlm") == Said(0, "bert_mlm.yaml\n", (
        "llmkit.schema.json: written beside it: the schema by which an editor knows the fields.\n"))
    line, _, rest = (tmp_path / "bert_mlm.yaml").read_text().partition("\n")
    assert (line, rest) == ("# yaml-language-server: $schema=./llmkit.schema.json", shown)
    assert json.loads((tmp_path / "llmkit.schema.json").read_text()) == recipe.schema()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "llmkit.schema.json").write_text("{}")
    kept = llmkit("recipes", "copy", "bert_mlm", "mine")
    assert kept.status == 0 and "is a file of yours and is left as it is" in kept.err
    assert (tmp_path / "mine" / "bert_mlm.yaml").read_text() == shown
    refused(llmkit("recipes", "copy", "bert_mlm"), 6, "bert_mlm.yaml: exists already")
    assert llmkit("recipes", "copy", "bert_mlm", "mine.yaml").status == 0
    refused(llmkit("recipes", "copy", "bert_mlm", "mine.yaml/below.yaml"), 6, "Not a directory")


@pytest.mark.parametrize("words", [("runs", "list"), ("generate", "hi", "--model"), ("report",), ("pretrain",)])
def test_a_path_that_no_system_takes_is_told(words: tuple[str, ...], llmkit: Command, tmp_path: Path) -> None:
    said = llmkit(*words, "a" * 5000)
    assert said.status in (2, 6)
    assert "File name too long" in said.last
    (tmp_path / "round").symlink_to("round")
    assert "unforeseen" not in llmkit(*words, "round/below").err


def test_models_are_listed_as_one_json_document(llmkit: Command) -> None:
    rows = json.loads(llmkit("models", "list", "--json").out)
    assert {"smollm2-135m-instruct", "minilm-l6"} <= {row["name"] for row in rows}
    assert all({"name", "hub", "licence", "cached"} <= row.keys() for row in rows)


def test_the_schema_is_one_json_document(llmkit: Command) -> None:
    assert json.loads(llmkit("schema").out) == recipe.schema()


# ---- data and models that can't work ----------------------------------------------------------------------------


@pytest.mark.parametrize(("setting", "status", "said"), [
    ("data.train=nope.txt", 3, "--set data.train: nope.txt: no such file or folder."),
    ("data.train=no/*.txt", 3, "no/*.txt: no file matches."),
    ("data.train=empty.txt", 3, "empty.txt: is empty."),
    ("data.train=blank.txt", 3, "blank.txt: is empty."),
    ("data.validation=nope.txt", 3, "nope.txt: no such file or folder."),
    ("data.max_length=65", 2, "data.max_length: 65 tokens need more than the 64 positions of this bert; make it 64"),
    ("backbone.config.hiden_size=3", 2, "config.hiden_size: no such field of bert. Did you mean 'hidden_size'?"),
    ("backbone.config.num_hidden_layers=-1", 2, "backbone.config.num_hidden_layers: -1 must be a whole number above"),
    ("backbone.config.vocab_size=10", 2, "backbone.config.vocab_size: 10 is less than the tokenizer's "),
    ("training.lr_scheduler_type=linea", 2, "no schedule is called 'linea'. Did you mean 'linear'?"),
    ("training.precision=fp16", 2, "training.precision: fp16 needs a GPU"),
])
def test_what_cannot_be_trained_is_refused_before_training(
    llmkit: Command, bert: Path, tmp_path: Path, setting: str, status: int, said: str,
) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text("\n \n")
    refused(llmkit("pretrain", bert, "--set", setting), status, said)
    assert not (tmp_path / "run" / "model").exists()


def test_a_file_that_is_not_there_is_told_with_the_line_that_names_it(llmkit: Command, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("backbone: {family: bert, size: tiny}\ntokenizer: {train: {vocab_size: 300}}\ndata:\n  train:\n"
                    "    - builtin:python-docs\n    - source: no/*.txt\nobjective: masked_lm\n")
    refused(llmkit("pretrain", path), 3, f"{path}:6: data.train.1: no/*.txt: no file matches.")
    refused(llmkit("tokenize", path, "--out", "t"), 3, f"{path}:6: data.train.1: no/*.txt: no file matches.")
    refused(llmkit("inspect", path, "--set", "data.train=$DATA/a.txt"), 3,
            "--set data.train: $DATA/a.txt: no such file or folder. $DATA stands for itself here")
    refused(llmkit("finetune", "--data", "no.csv"), 3, "--data: no.csv: no such file or folder.")


def test_virtual_tokens_take_positions(llmkit: Command, bert: Path) -> None:
    refused(llmkit("pretrain", bert, "--method", "prefix", "--set", "data.max_length=50"), 2,
            "data.max_length: 50 tokens and 20 virtual tokens need more than the 64 positions", "make it 44 or less")


def test_mistakes_in_the_models_config_wait_for_little_more_than_the_librarys_import(bert: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "llmkit", "pretrain", str(bert), "--set", "backbone.config.num_hidden_layers=-2"],
        capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2, done.stderr
    assert after.ru_utime - before.ru_utime < 8  # 4.4 s alone on a slow core, all but 0.1 s of it transformers' import


def test_a_row_without_its_field_is_told_with_file_and_line(llmkit: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n{"text": "c"}\n')
    path = write(tmp_path, sorter(Path("rows.jsonl"), tmp_path / "run"))
    refused(llmkit("finetune", path), 3, "rows.jsonl:3: ", "label")


def test_a_label_outside_the_set_is_told_with_file_line_and_the_nearest(llmkit: Command, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "the cat,animal\nthe hat,thing\n" * 8)
    (tmp_path / "held.csv").write_text("text,label\nthe cat,animal\nthe dog,anmial\n")
    path = write(tmp_path, sorter(Path("rows.csv"), tmp_path / "run"))
    said = llmkit("finetune", path, "--validation", "held.csv")
    refused(said, 3, "held.csv:3: ", "'anmial'", "Did you mean 'animal'?")


# ---- places and runs --------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_made_is_told(llmkit: Command, bert: Path, tmp_path: Path) -> None:
    (tmp_path / "in the way").touch()
    refused(llmkit("pretrain", bert, "--output-dir", "in the way"), 6, "in the way")
    refused(llmkit("pretrain", bert, "--output-dir", "in the way/below"), 6, "in the way: is a file, and a folder is")
    (tmp_path / "link").symlink_to(tmp_path / "unmounted" / "runs")
    for below in ("link", "link/below"):
        refused(llmkit("pretrain", bert, "--output-dir", below), 6,
                f"link: is a link to {tmp_path}/unmounted/runs, which isn't there (is its disk mounted?)")
    (tmp_path / "to a file").symlink_to("in the way")
    refused(llmkit("pretrain", bert, "--output-dir", "to a file"), 6,
            "to a file: is a link to in the way, which is a file, and a folder is needed. Choose another --output-dir")
    assert not (tmp_path / "unmounted").exists()


@pytest.mark.parametrize(("words", "said"), [
    (["--output-dir", "a", "--set", "output_dir=b"], "--output-dir a and --set output_dir=b: these are two values"),
    (["--seed", 3, "--set", "seed=4"], "--seed 3 and --set seed=4"),
    (["--method", "lora", "--set", "tuning={method: prefix}"], "--method lora and --set tuning={method: prefix}"),
    (["--method", "lora", "--set", "tuning.method=prefix"], "two values for tuning.method; leave one out"),
    (["--task", "tagging", "--set", "task=classification"], "--task tagging and --set task=classification"),
    (["--data", "a.csv", "--set", "data.train=b*.csv"], "--data a.csv and --set data.train=b*.csv"),
    (["--data", "a.csv", "--set", "data.train=[{source: b.csv}]"], "two values for data.train"),
    (["--validation", "a.csv", "--set", "data.validation=0.1"], "--validation a.csv and --set data.validation=0.1"),
    (["--model", "a", "--set", "backbone.pretrained=b"], "--model a and --set backbone.pretrained=b")], ids=str)
def test_an_option_and_a_setting_that_differ_are_refused(words: list[str], said: str, llmkit: Command) -> None:
    refused(llmkit("finetune", "classification", *words), 2, said)


@pytest.mark.parametrize("words", [
    ["--output-dir", "a", "--set", "output_dir=a/"], ["--seed", 3, "--set", "seed=3"],
    ["--method", "lora", "--set", "tuning.r=2"], ["--validation", "gone.csv", "--set", "data.max_length=20"],
    ["--validation", "gone.csv", "--set", "data.validation=gone.csv"]], ids=str)
def test_an_option_and_a_setting_may_say_one_thing_or_of_two_fields(words: list[str], llmkit: Command) -> None:
    """They come as far as data that isn't there."""
    words = [*words, "--data", "gone.csv", "--set", "data.train.0.fields={text: x}"]
    refused(llmkit("finetune", "classification", *words), 3, "gone.csv: no such file")


@pytest.mark.parametrize(("words", "said"), [
    (["compare", "--methods", "full,bias", "--set", "seed=3"], "--set seed: each run of a comparison has a seed of"),
    (["compare", "--methods", "full,bias", "--set", "output_dir=x"], "--set output_dir: runs of a comparison lie in"),
    (["prompts", "--modes", "example", "--set", "output_dir=x"], "--set output_dir: runs of a comparison lie in"),
    (["compare", "--methods", "full", "--task", "tagging", "--set", "task=classification"], "--task tagging and")],
    ids=str)
def test_settings_that_a_comparison_would_ignore_are_refused(words: list[str], said: str, llmkit: Command) -> None:
    refused(llmkit(words[0], "classification", *words[1:]), 2, said)


def test_a_folder_in_use_is_told_with_the_process_that_uses_it(llmkit: Command, bert: Path, tmp_path: Path) -> None:
    code = ("import pathlib, sys; from llmkit.training.folder.run_folder import RunFolder\n"
            "with RunFolder(pathlib.Path('run')).locked(): print('held', flush=True); sys.stdin.read()")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, cwd=tmp_path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        refused(llmkit("pretrain", bert), 6, f"{tmp_path}/run: in use by another run", f"process {other.pid} ")
        other.communicate()
    assert llmkit("pretrain", bert).status == 0


def test_a_run_is_written_reported_and_guarded(llmkit: Command, bert: Path, tmp_path: Path) -> None:
    refused(llmkit("pretrain", bert, "--resume", "must"), 4, "there is nothing to resume")

    first = llmkit("pretrain", bert, "--json", "--seed", 5)
    assert first.status == 0, first.err
    summary = json.loads(first.out)
    assert (summary["status"], summary["steps"]) == ("completed", 2)
    assert recipe.load(tmp_path / "run" / "recipe.yaml").seed == 5

    again = llmkit("pretrain", bert, "--json", "--seed", 5)
    assert again.status == 0
    assert json.loads(again.out)["train_loss"] == summary["train_loss"]
    assert "complete" in again.err
    assert llmkit("pretrain", bert, "--seed", 5, "--resume", "must", "--set", "training.save_steps=7").status == 0

    refused(llmkit("pretrain", bert), 4, "holds another recipe's run", "seed is 42, there 5")
    refused(llmkit("pretrain", bert, "--seed", 5, "--set", "training.learning_rate=2e-3"), 4,
            "training.learning_rate is 0.002, there 0.001")
    refused(llmkit("pretrain", bert, "--seed", 5, "--resume", "never"), 6, "holds a run already")
    refused(llmkit("pretrain", bert, "--seed", 5, "--resume", "nowhere"), 4, "nowhere")

    resolved = llmkit("pretrain", tmp_path / "run" / "recipe.yaml", "--output-dir", "elsewhere", "--json")
    assert resolved.status == 0, resolved.err
    assert json.loads(resolved.out)["train_loss"] == summary["train_loss"]
    assert (tmp_path / "elsewhere" / "model").is_dir()


def test_finetune_names_its_folder_by_task_and_method(llmkit: Command, labelled: Path, tmp_path: Path) -> None:
    tree = sorter(labelled, tmp_path / "unused", name="mine")
    del tree["output_dir"]
    said = llmkit("finetune", write(tmp_path, tree), "--method", "lora", "--set", "tuning.r=2", "--json")
    assert said.status == 0, said.err
    assert json.loads(said.out)["output_dir"] == "runs/mine-classification-lora"
    asked = recipe.load(tmp_path / "runs" / "mine-classification-lora" / "recipe.yaml")
    assert (registry.name_of(asked.tuning), asked.tuning.r) == ("lora", 2)


@pytest.mark.parametrize("setting", ["hidden_size=33", "hidden_act=gelo", "hidden_dropout_prob=1.5"])
def test_a_config_that_no_model_can_be_made_of_is_a_wrong_request(
    setting: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import yaml
    from conftest import tiny

    from llmkit.cli import main

    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny("bert", text, tmp_path / "run")))
    assert main(["pretrain", str(path), "--set", f"backbone.config.{setting}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("llmkit: error: backbone.config")


def test_a_tasks_own_example_keeps_its_options_and_data_of_ones_own_takes_the_defaults(
    llmkit: Command, labelled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmkit.training import fit as page

    seen: list[Any] = []

    def fit(asked: Any, resume: str) -> dict[str, Any]:
        seen.append(asked)
        return {}

    monkeypatch.setattr(page, "fit", fit)
    assert llmkit("finetune", "--task", "translation", "--method", "lora", "--json").status == 0
    assert "Python function" in seen[0].task.template
    assert seen[0].folder == Path("runs/python-to-english-translation-lora")
    assert llmkit("finetune", "--task", "translation", "--data", labelled, "--json").status == 0
    assert seen[1].task.template is None
    own = seen[1].training
    assert (own.micro_batch_size, own.global_batch_size, own.num_train_epochs) == ("auto", 16, 3)
    assert seen[0].training.micro_batch_size == 4
    assert llmkit("finetune", "--task", "preference", "--data", labelled, "--json").status == 0
    assert llmkit("finetune", "--task", "preference", "--data", labelled, "--method", "full", "--json").status == 0
    assert [one.training.learning_rate for one in seen[2:]] == [1e-4, None]  # the example's is low-rank adapters' own
    assert llmkit("finetune", "--task", "preference", "--data", labelled, "--method", "full", "--json",
                  "--set", "training.learning_rate=3e-6", "--set", "training.micro_batch_size=2").status == 0
    assert (seen[4].training.learning_rate, seen[4].training.micro_batch_size) == (3e-6, 2)
