"""The recipe: one YAML file that says everything a run needs, checked before anything is built."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from llmkit.recipe import registry
from llmkit.system.errors import RequestError, nearest

Positive: TypeAlias = Annotated[int, Field(gt=0)]
Share: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
Shortcut: TypeAlias = Literal[
    "target_heads", "chunked_loss", "fast_dropout", "short_attention", "two_streams", "unpadded",
    "fused_gelu"]
Tracker: TypeAlias = Literal[
    "tensorboard", "trackio", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab"]
"""What accelerate calls the trackers that it knows."""

BLOCKS = {"objective": ("objectives", "name"), "task": ("tasks", "name"), "prompting": ("prompting", "name"),
          "tuning": ("tuning", "method")}
"""The blocks that a plug-in's own fields make up: where it is looked up, and the key that names it."""

MOST_LAYERS = 1000
"""Layers of a stack: to build more takes minutes before anything is known of them."""
DEEPEST = 50
"""Levels that a recipe may nest."""
SECTIONS = ("backbone", "data", "training")
"""Blocks that have defaults of their own: one with nothing below it is one that isn't there."""
LENGTHS = ("max_steps", "num_train_epochs", "max_tokens", "max_minutes")
DATALESS = ("name", "output_dir")
FREE = ("logging_steps", "save_steps", "save_total_limit", "report_to", "dataloader_num_workers")


@dataclass(config=registry.OPTIONS)
class Backbone:
    """Which model to start from: random weights of a family's size, or a pretrained model."""

    family: str | None = None
    """A file in llmkit/backbones/; read from the model where `pretrained` is given."""
    size: str | None = None
    """A named size of the family: tiny, mini, small, base …"""
    pretrained: str | None = None
    """A hub id, a folder, a run's folder, or a name from `llmkit models list`."""
    config: dict[str, Any] = field(default_factory=dict)
    """Any field of the family's transformers config."""


@dataclass(config=registry.OPTIONS)
class TrainTokenizer:
    """A tokenizer trained on data.train."""

    kind: Literal["wordpiece", "bpe", "unigram", "characters"] | None = None
    """How text is cut; the family's own kind where nothing is said."""
    vocab_size: Annotated[int, Field(gt=1, le=2_000_000)] = 8192
    """Tokens in the vocabulary, special ones included."""
    lowercase: bool | None = None
    """Lower-case the text first; wordpiece does where nothing is said, as bert-base-uncased."""


@dataclass(config=registry.OPTIONS)
class Tokenizer:
    """Where the tokenizer comes from: trained here, or taken from elsewhere."""

    train: TrainTokenizer | None = None
    pretrained: str | None = None
    """A hub id, a folder, a run's folder, or a name from the catalogue."""


@dataclass(config=registry.OPTIONS)
class Source:
    """One place that data comes from."""

    source: str
    """A path, a glob, hub:<id> or builtin:<name>."""
    target: str | None = None
    """Of parallel text: the file whose lines are the translations of those of the file that source names."""
    weight: Annotated[float, Field(gt=0)] | None = None
    """Its share of the rows among all sources; by its size where no source has one."""
    split: str = "train"
    """The split of a hub data set."""
    fields: dict[str, str | int] = field(default_factory=dict)
    """Which field of the file is meant: {text: sentence}; numbers count the columns of a table without a header."""
    encoding: str = "utf-8"
    """How the bytes of a text file are read."""


@dataclass(config=registry.OPTIONS)
class Data:
    """What is learned from, and how it is cut into rows."""

    train: list[Source]
    validation: Share | list[Source] | None = None
    """Sources of its own, or a share: whole documents by a hash of seed and content; of one document, its end."""
    document: Literal["auto", "line", "paragraph", "file"] = "auto"
    """What a document is in a text file; auto: a paragraph where the text has blank lines, else a line."""
    max_length: Annotated[int, Field(gt=1)] | None = None
    """Tokens the model sees in a row; 128 where nothing is said, or fewer if the model has fewer positions."""
    packing: Literal["auto", "documents", "blocks", "none"] = "auto"
    """How rows are filled; auto is the best that objective and family can do."""
    on_bad_row: Literal["error", "skip"] = "error"
    """What a row that can't be read or learned from does: end the run, or be left out, counted and listed."""


@dataclass(config=registry.OPTIONS)
class Training:
    """How long, how fast, how often."""

    max_steps: Positive | None = None
    """Optimizer steps."""
    num_train_epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training rows; 3 where no length is given."""
    max_tokens: Positive | None = None
    """Model input positions that aren't padding."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Minutes of training; the schedule follows the clock."""
    global_batch_size: Annotated[int, Field(gt=0, le=2**20)] = 32
    """Rows that an optimizer step learns from, whatever the number of processes."""
    micro_batch_size: Positive | Literal["auto"] = "auto"
    """Rows that a process holds at once; accumulation follows."""
    learning_rate: Annotated[float, Field(ge=0)] | None = None
    """The highest learning rate; the tuning method's usual one where nothing is said."""
    head_learning_rate: Annotated[float, Field(ge=0)] | None = None
    """The same for parts that start from random weights beside an adapter; at most 1e-3 where nothing is said."""
    lr_scheduler_type: str = "linear"
    """A schedule of transformers: linear, cosine, constant, constant_with_warmup, cosine_with_min_lr …"""
    lr_scheduler_kwargs: dict[str, Any] = field(default_factory=dict)
    """That schedule's own options."""
    warmup_steps: Annotated[float, Field(ge=0)] = 0
    """Steps until the full learning rate; below 1, a share of all steps."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Decoupled weight decay; biases and normalisation have none."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this global norm."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Where a loss or a gradient isn't finite: stop with exit status 5, or skip the step, say so and count it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Numbers of the forward pass; weights and optimizer stay in fp32."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the model's layers (torch.compile); auto: on GPUs, for runs long enough to earn the time it takes."""
    tf32: bool = True
    """On GPUs, products of fp32 matrices may round their factors to 10 bits (TF32)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    shortcuts: list[Shortcut] = field(default_factory=lambda: list(get_args(Shortcut)))
    """Cheaper ways to the same numbers that may be taken; [] takes none, and trains as transformers does it.

    target_heads: logits where something is predicted only; chunked_loss: never all of them at once; fast_dropout: 16
    random bits an element; short_attention: plain products where torch's tiled attention is slower (both on a CPU);
    two_streams: XLNet's second stream at its targets only, and one encoding of positions for all rows of a batch;
    unpadded: layers that see no padding, in all families but DeBERTa, XLNet and encoder-decoders; fused_gelu: GPT-2's
    GELU, which T5 v1.1, UMT5 and ALBERT use too, in one kernel and not in eight.
    """
    dataloader_num_workers: Annotated[int, Field(ge=0, le=256)] = 0
    """Processes that prepare batches; 0: the training process itself."""
    logging_steps: Positive = 10
    """Steps between two lines of metrics.jsonl."""
    eval_steps: Positive | None = None
    """Steps between two evaluations; only at start and end where nothing is said."""
    save_steps: Positive = 500
    """Steps between two checkpoints."""
    save_total_limit: Positive = 2
    """Checkpoints that are kept."""
    metrics: list[str] = field(default_factory=list)
    """Metrics of the evaluate library beside a task's own: hub ids or absolute paths; `rouge` gives `rouge/rouge1` …"""
    metric_for_best_model: str | None = None
    """A figure of the evaluations: model/ then holds the weights that were best by it, not the last."""
    greater_is_better: bool | None = None
    """Whether more of it is better; as it is for all but losses, perplexities and distances where nothing is said."""
    early_stopping_patience: Positive | None = None
    """Evaluations without a better one after which the run ends."""
    report_to: list[Tracker] = field(default_factory=list)
    """Trackers of accelerate, beside metrics.jsonl, which is always written."""


@dataclass(config=registry.OPTIONS)
class Recipe:
    """A whole run: backbone x objective (or task) x tuning x data."""

    data: Data
    backbone: Backbone = field(default_factory=Backbone)
    name: Annotated[str, Field(pattern=r"^\w[\w.+-]{0,99}$")] = "run"
    """Names the run and, where output_dir is not given, its folder: a letter or digit, then also `_`, `-`, `.`, `+`."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    tokenizer: Tokenizer | None = None
    """A pretrained model brings its own."""
    objective: Any = None
    """What pretraining learns: {name: masked_lm, …}."""
    task: Any = None
    """What fine-tuning learns: {name: classification, …}."""
    prompting: Any = None
    """What is put around every text that the task reads: {name: prefix, instruction: "summarize: "}."""
    tuning: Any = None
    """What trains: {method: full}."""
    training: Training = field(default_factory=Training)
    output_dir: str | None = None

    @property
    def learning(self) -> Any:
        """The objective or the task, whichever the recipe has."""
        return self.task if self.objective is None else self.objective

    @property
    def folder(self) -> Path:
        """Where the run leaves what it makes."""
        return Path(self.output_dir or f"runs/{self.name}")


# ---- reading ----------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2's scalars: `3e-4` is a number, `no` is a word, `12:30` is no number."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, Any]]] = {}


def _scalar(tag: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))


_scalar("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_scalar("null", "~|null|Null|NULL|", "~nN\0")
_Loader.yaml_implicit_resolvers.setdefault("", []).extend(_Loader.yaml_implicit_resolvers["~"])
_scalar("int", r"[-+]?(?:0|[1-9][0-9_]*)", "-+0123456789")
_scalar("float", r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+0123456789.")
_scalar("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.")

Keys: TypeAlias = tuple[str | int, ...]


@dataclass
class Tree:
    """A recipe as plain dicts and lists, and where each field of it was said."""

    root: dict[str, Any]
    origin: dict[Keys, str]

    def where(self, path: Keys) -> str:
        """`recipe.yaml:12: training.learning_rate`, or the option that said it."""
        dotted = ".".join(map(str, path))
        for end in range(len(path), -1, -1):
            if path[:end] in self.origin:
                place = self.origin[path[:end]]
                said = not dotted or (place.startswith("-") and end == len(path))  # an option names its field itself
                return place if said else f"{place}: {dotted}"
        return dotted or "recipe"


def read(path: Path) -> Tree:
    """Parse a YAML file, remembering lines; duplicate keys, aliases and tags are errors."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from error
    if len(raw) > 1_000_000:
        raise RequestError(f"{path}: {len(raw):,} bytes is too long for a recipe.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise RequestError(f"{path}:{line}: not UTF-8: byte 0x{raw[error.start]:02x}.") from error
    origin: dict[Keys, str] = {}
    root = _parse(text, str(path), origin)
    if not isinstance(root, dict):
        kind = "empty" if root is None else f"a {type(root).__name__}"
        raise RequestError(f"{path}: a recipe is a mapping of sections (backbone, data, …); this file is {kind}.")
    return Tree(root, origin)


def _parse(text: str, name: str, origin: dict[Keys, str]) -> Any:
    def read_node(node: yaml.Node, path: Keys) -> Any:
        here = f"{name}:{node.start_mark.line + 1}"
        origin.setdefault(path, here)
        if isinstance(node, yaml.MappingNode):
            out: dict[str, Any] = {}
            for key_node, value_node in node.value:
                line = key_node.start_mark.line + 1
                if not isinstance(key_node, yaml.ScalarNode):
                    raise RequestError(f"{name}:{line}: a field's name must be a word.")
                key = str(key_node.value)
                if key in out:
                    raise RequestError(f"{name}:{line}: {'.'.join(map(str, (*path, key)))} is given twice.")
                origin[(*path, key)] = f"{name}:{line}"
                out[key] = read_node(value_node, (*path, key))
            return out
        if isinstance(node, yaml.SequenceNode):
            return [read_node(item, (*path, i)) for i, item in enumerate(node.value)]
        try:
            return loader.construct_object(node)
        except ValueError as error:  # Python reads no number of thousands of digits
            raise RequestError(f"{here}: {str(node.value)[:40]!r} can't be read: {error}.") from error

    try:
        _plain(text, name)
        loader = _Loader(text)
        node = loader.get_single_node()
        return None if node is None else read_node(node, ())
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RequestError(f"{name}:{line}: not YAML: the character {text[error.position]!r} can't be here.") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}" if mark is not None else ""
        raise RequestError(f"{name}{place}: not YAML: {getattr(error, 'problem', None) or error}.") from error


def value(text: str, where: str) -> Any:
    """What a text on the command line is as YAML; RequestError where it is none."""
    return _parse(text, where, {})


def _plain(text: str, name: str) -> None:
    """Refuse what YAML can do and a recipe doesn't need: aliases, tags, deep nesting."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        here = f"{name}:{event.start_mark.line + 1}" if event.start_mark is not None else name
        if isinstance(event, yaml.AliasEvent):
            raise RequestError(f"{here}: a recipe has no aliases (`*{event.anchor}`); a text that starts with `*` "
                               "needs quotes.")
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent) and event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise RequestError(f"{here}: a recipe has no tags (`{tag}`); a text that starts with `!` needs quotes.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise RequestError(f"{here}: nested too deeply for a recipe: more than {DEEPEST} levels.")


def packaged() -> dict[str, Path]:
    """The recipes that llmkit brings, by name."""
    inside = Path(str(files("llmkit"))) / "recipes"
    folder = inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(recipe: str | Path) -> Path:
    """A recipe's file: a path, or the bare name of a packaged one."""
    path = Path(recipe)
    if path.is_file():
        return path
    known = packaged()
    if str(recipe) in known:
        return known[str(recipe)]
    if path.stem in known and path.parent.name in ("recipes", ""):
        return known[path.stem]
    raise RequestError(f"no recipe at {str(recipe)!r}, and none is called that.{nearest(path.stem, known)}")


def override(tree: Tree, settings: Iterable[str]) -> None:
    """Apply `section.key=value`, each value read as YAML."""
    given: list[str] = []
    for item in settings:
        dotted, equals, text = item.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys):
            raise RequestError(f"--set {item!r}: write section.key=value, as training.max_steps=100.")
        try:
            found = value(text, f"--set {dotted}")
        except RequestError as error:
            if text.lstrip().startswith(("[", "{")):
                raise RequestError(f"--set {item!r}: the value isn't YAML.") from error
            found = text  # `*.txt` is a glob here, not an alias
        put(tree, tuple(keys), found, f"--set {dotted}")
        if len(keys) == 2 and keys[0] == "training" and keys[1] in LENGTHS and found is not None:
            given.append(keys[1])
    if len(set(given)) > 1:
        raise RequestError(f"--set training.{given[0]} and --set training.{given[1]}: only one length can hold.")


def put(tree: Tree, path: Sequence[str], value: Any, origin: str) -> None:
    """Set one field from outside the file; a length replaces the file's length."""
    node: Any = tree.root
    for depth, key in enumerate(path[:-1]):
        below = tuple(path[: depth + 1])
        if isinstance(node, list):
            key_: Any = _index(node, key, tree, path)
            node = node[key_]
            continue
        if node.get(key) is None:
            node[key] = {}
            tree.origin[below] = origin
        elif isinstance(node[key], str) and below in {(block,) for block in BLOCKS}:
            node[key] = {BLOCKS[key][1]: node[key]}
        node = node[key]
        if not isinstance(node, dict | list):
            raise RequestError(f"{origin}: {'.'.join(below)} is {node!r}, it has no fields.")
    if isinstance(node, list):
        node[_index(node, path[-1], tree, path)] = value
    else:
        node[path[-1]] = value
        if len(path) == 2 and path[0] == "training" and path[1] in LENGTHS and value is not None:
            for other in LENGTHS:
                if other != path[1]:
                    node.pop(other, None)
    for known in [p for p in tree.origin if p[: len(path)] == tuple(path)]:
        del tree.origin[known]
    tree.origin[tuple(path)] = origin


def _index(node: list[Any], key: str, tree: Tree, path: Sequence[str]) -> int:
    if not key.isdigit() or int(key) >= len(node):
        raise RequestError(f"--set {'.'.join(path)}: {key!r} is no place in a list of {len(node)}.")
    return int(key)


# ---- checking ---------------------------------------------------------------------------------------------------


def build(tree: Tree) -> Recipe:
    """Turn a tree into a recipe; every field is checked, the first error is raised with its place."""
    root = dict(tree.root)
    plugins = {block: _plugin(tree, block, root.pop(block)) for block in BLOCKS if root.get(block) is not None}
    root = {key: value for key, value in root.items()
            if key not in BLOCKS and not (value is None and key in SECTIONS)}
    data = root.get("data")
    if isinstance(data, dict):
        root["data"] = data = dict(data)
        for part in ("train", "validation"):
            if isinstance(data.get(part), str | dict | list):
                data[part] = _sources(data[part])
    if isinstance(root.get("tokenizer"), str):
        root["tokenizer"] = {"pretrained": root["tokenizer"]}
    if isinstance(root.get("backbone"), str):
        root["backbone"] = {"pretrained": root["backbone"]}
    recipe: Recipe = _checked(Recipe, root, tree, ())
    if (plugins.get("objective") is None) == (plugins.get("task") is None):
        both = "both objective and task are given" if "task" in plugins else "neither objective nor task is given"
        where = tree.where(("task",) if "task" in plugins else ())
        raise RequestError(f"{where}: {both}; a recipe has one: objective to pretrain, task to fine-tune.")
    if "tuning" not in plugins:
        plugins["tuning"] = registry.find("tuning", "full")()
    lengths = [name for name in LENGTHS if getattr(recipe.training, name) is not None]
    if len(lengths) > 1:
        raise RequestError(f"{tree.where(('training', lengths[1]))}: a run has one length; {lengths[0]} is given too.")
    if not lengths:
        recipe = replace(recipe, training=replace(recipe.training, num_train_epochs=3.0))
    recipe = replace(recipe, **plugins)
    _check(recipe, tree)
    return recipe


def _sources(value: Any) -> Any:
    """A path, a mapping or a list of them, as a list of mappings."""
    if isinstance(value, str) and value.replace(".", "", 1).isdigit():
        return value  # a share in quotes
    items = value if isinstance(value, list) else [value]
    return [{"source": item} if isinstance(item, str) else item for item in items]


def key_of(kind: str) -> str:
    """The key that names a plug-in of a kind in its block."""
    return next(key for folder, key in BLOCKS.values() if folder == kind)


def plugin(block: str, value: Any, where: str) -> Any:
    """The plug-in that a block of a recipe names, given elsewhere: `where` is what errors call it, as `--prompt`."""
    return _plugin(_Elsewhere({block: value}, {(): where}), block, value)


class _Elsewhere(Tree):
    """A block that stands in no recipe: `--prompt example: k`."""

    def where(self, path: Keys) -> str:
        return f"{self.origin[()]}: {'.'.join(map(str, path[1:]))}" if path[1:] else self.origin[()]


def _plugin(tree: Tree, block: str, value: Any) -> Any:
    """Turn `{name: masked_lm, mlm_probability: 0.15}` into the plug-in it names."""
    kind, key = BLOCKS[block]
    options = {key: value} if isinstance(value, str) else value
    if not isinstance(options, dict):
        raise RequestError(f"{tree.where((block,))}: write {{{key}: …}} with its options, not {value!r}.")
    options = dict(options)
    name = options.pop(key, None)
    if name is None:
        raise RequestError(f"{tree.where((block,))}: {key} is missing.{nearest('', registry.names(kind))}")
    try:
        cls = registry.find(kind, str(name))
    except RequestError as error:
        raise RequestError(f"{tree.where((block, key))}: {error}") from error
    if not is_dataclass(cls):
        raise RequestError(f"{tree.where((block, key))}: {cls.__name__} of {name!r} must be a dataclass: its fields "
                           "are its options.")
    return _checked(cls, options, tree, (block,), plugin=(key, name))


def _checked(cls: type[Any], value: Any, tree: Tree, path: Keys, plugin: tuple[str, str] | None = None) -> Any:
    try:
        built = TypeAdapter(cls).validate_python(value)
    except ValidationError as error:
        raise RequestError(_explain(error, cls, tree, path, plugin)) from error
    _no_truths(value, built, tree, path)
    return built


def _no_truths(raw: Any, built: Any, tree: Tree, path: Keys) -> None:
    """`max_steps: true` is no number, though Python would count it as 1."""
    if isinstance(raw, bool) and not isinstance(built, bool):
        kind = "number" if isinstance(built, int | float) else "text"
        raise RequestError(f"{tree.where(path)}: {str(raw).lower()} is no {kind}.")
    if isinstance(raw, dict):
        for key, below in raw.items():
            _no_truths(below, built[key] if isinstance(built, dict) else getattr(built, key), tree, (*path, key))
    if isinstance(raw, list):
        for i, (below, made) in enumerate(zip(raw, built, strict=True)):
            _no_truths(below, made, tree, (*path, i))


def _explain(error: ValidationError, cls: type[Any], tree: Tree, path: Keys, plugin: tuple[str, str] | None) -> str:
    """The first complaint as one line: place, field, value, and what would do."""
    errors = error.errors(include_url=False)
    details = sorted(errors, key=lambda e: e["type"] != "unexpected_keyword_argument")[0]
    raw: Any = tree.root
    spelled: list[str | int] = [*path]
    for key in path:
        raw = raw[key]
    node: Any = raw
    for key in details["loc"]:  # leave out the parts of the location that name a member of a union
        if (isinstance(node, dict) and key in node) or (isinstance(node, list) and isinstance(key, int)):
            node = node[key]  # type: ignore[index]
            spelled.append(key)
        elif details["type"] in ("missing", "missing_argument") and key == details["loc"][-1]:
            spelled.append(key)
    where = tree.where(tuple(spelled))
    kind = details["type"]
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        owner = _owner(cls, [key for key in spelled[len(path) : -1] if isinstance(key, str)])
        known = [f.name for f in fields(owner)] if owner is not None else []
        of = f" of {plugin[1]}" if plugin else ""
        return f"{where}: no such field{of}.{nearest(str(spelled[-1]), known)}"
    if kind in ("missing", "missing_argument"):
        return f"{where}: this field is needed."
    shown = json.dumps(node, ensure_ascii=False, default=str)[:80]
    if kind == "value_error":  # what a plug-in says of its options together
        return f"{where}: {details['msg'].removeprefix('Value error, ')}: {shown}."
    if isinstance(node, bool) and kind in ("less_than", "less_than_equal", "greater_than", "greater_than_equal"):
        return f"{where}: {shown} is no number."
    message = re.sub("^(Input|String) ", "", details["msg"])
    if kind == "dataclass_type":
        message = "should be a mapping of fields"
    words = [e["ctx"]["expected"] for e in errors if e["type"] == "literal_error" and e["input"] == node] \
        if isinstance(node, str) else []
    if words and kind != "literal_error":
        message += f"; or {words[0]}"
    hint = nearest(node, words[0].replace(" or ", ", ").replace("'", "").split(", ")) if words else ""
    return f"{where}: {shown} {message}.{hint}"


def _owner(cls: Any, keys: Sequence[str]) -> Any:
    """The dataclass of a nested block."""
    from typing import get_args

    for key in keys:
        kinds = {f.name: f.type for f in fields(cls)}
        options = [kinds.get(key), *get_args(kinds.get(key))]
        options += [arg for option in options for arg in get_args(option)]
        cls = next((option for option in options if is_dataclass(option)), None)
        if cls is None:
            return None
    return cls


def _check(recipe: Recipe, tree: Tree) -> None:
    """Refuse what can't work before any library is loaded: names, shapes, numbers that contradict each other."""
    spec, block = recipe.backbone, "objective" if recipe.task is None else "task"
    if spec.family is None and spec.pretrained is None:
        raise RequestError(f"{tree.where(('backbone',))}: family (and size), or pretrained, is needed.")
    if spec.family is not None:
        try:
            family = registry.find("backbones", spec.family)
        except RequestError as error:
            raise RequestError(f"{tree.where(('backbone', 'family'))}: {error}") from error
        if spec.size is not None and spec.size not in family.sizes:
            raise RequestError(f"{tree.where(('backbone', 'size'))}: {spec.family} has no size {spec.size!r}."
                               f"{nearest(spec.size, family.sizes)}")
        if spec.family == "auto" and spec.pretrained is None:
            raise RequestError(f"{tree.where(('backbone', 'family'))}: auto reads a pretrained model's config; give "
                               "backbone.pretrained, or a family that llmkit has a file for.")
        try:
            if spec.family != "auto":  # what it is shows in the model's config
                fit_together(recipe.learning, spec.family, family)
        except RequestError as error:
            raise RequestError(f"{tree.where((block,))}: {error}") from error
    if recipe.prompting is not None and (recipe.task is None or recipe.task.prompted is None):
        can = [name for name in registry.names("tasks") if registry.find("tasks", name).prompted is not None]
        raise RequestError(f"{tree.where(('prompting',))}: a prompt goes around the texts of a task that reads texts: "
                           f"{', '.join(can)}; {registry.name_of(recipe.learning)} is none of these.")
    if spec.size is not None and spec.pretrained is not None:
        raise RequestError(f"{tree.where(('backbone', 'size'))}: a pretrained model has its own size.")
    if spec.pretrained is None and recipe.tokenizer is None:
        raise RequestError(f"{tree.where(('tokenizer',))}: a model from scratch needs a tokenizer: "
                           "{train: {vocab_size: 8192}} or {pretrained: …}.")
    if recipe.tokenizer is not None and (recipe.tokenizer.train is None) == (recipe.tokenizer.pretrained is None):
        raise RequestError(f"{tree.where(('tokenizer',))}: give one of train and pretrained.")
    weighted = [source.weight is not None for source in recipe.data.train]
    if any(weighted) and not all(weighted):
        raise RequestError(f"{tree.where(('data', 'train'))}: either every source has a weight or none.")
    if not recipe.data.train:
        raise RequestError(f"{tree.where(('data', 'train'))}: at least one source is needed.")
    plan = recipe.training
    for name in ("metric_for_best_model", "early_stopping_patience"):
        if getattr(plan, name) is not None and recipe.data.validation is None:
            raise RequestError(f"{tree.where(('training', name))}: there is nothing to evaluate on; "
                               "data.validation is needed.")
    for name in ("max_tokens", "max_minutes"):
        if getattr(plan, name) is not None and recipe.tuning.counted:
            raise RequestError(f"{tree.where(('training', name))}: {registry.name_of(recipe.tuning)} plans its steps "
                               "ahead; say how long the run is by max_steps or num_train_epochs.")
    if not recipe.learning.adapters and not recipe.tuning.whole:
        raise RequestError(f"{tree.where(('tuning',))}: {registry.name_of(recipe.learning)} trains two networks whole; "
                           "it takes the method full.")
    micro, whole = recipe.training.micro_batch_size, recipe.training.global_batch_size
    if micro != "auto" and whole % micro:
        raise RequestError(f"{tree.where(('training', 'micro_batch_size'))}: {micro} does not divide "
                           f"global_batch_size {whole}.")


def fit_together(learning: Any, name: str, family: Any) -> None:
    """Raise if a family's shape can't do an objective or task; say what it can, and who can."""
    if fits(learning, family):
        return
    kind = "tasks" if any(cls.__module__ == "llmkit.tasks.base" for cls in type(learning).__mro__) else "objectives"
    can = [other for other in registry.names(kind) if fits(registry.find(kind, other)(), family)]
    who = [other for other in registry.names("backbones") if fits(learning, registry.find("backbones", other))]
    needs = f"needs a backbone of shape {' or '.join(sorted(learning.shapes))}; {name} is {family.shape}."
    if family.shape in learning.shapes:
        needs = f"needs a head that transformers doesn't have for {name}."
    raise RequestError(
        f"{registry.name_of(learning)} {needs} {name} can do: {', '.join(can) or 'none'}. "
        f"{registry.name_of(learning)} can be done by: {', '.join(who)}.")


def fits(learning: Any, family: Any) -> bool:
    """Whether a family has the shape, and transformers the head, that an objective or task takes."""
    if family.shape not in learning.shapes:
        return False
    head = learning.head_for(family)
    return head == "AutoModel" or head in family.heads


def load(
    recipe: str | Path | Mapping[str, Any],
    settings: Iterable[str] = (),
    *,
    method: str | None = None,
    task: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Recipe:
    """Read a recipe from a path, a packaged name or a dict, and apply what the command line says over it.

    `method` and `task` replace their whole block, `fields` maps dotted names to values, and `settings` are
    `section.key=value` texts; each goes over the one before. Raises RequestError with file and line.
    """
    tree = Tree(json.loads(json.dumps(recipe, default=str)), {}) if isinstance(recipe, Mapping) else read(find(recipe))
    settings = list(settings)
    if task is not None:
        put(tree, ("task",), {}, f"--task {task}")
        put(tree, ("task", "name"), task, f"--task {task}")
        tree.root.pop("objective", None)
    if method is not None:
        put(tree, ("tuning",), {}, f"--method {method}")
        put(tree, ("tuning", "method"), method, f"--method {method}")
    for dotted, value in (fields or {}).items():
        put(tree, dotted.split("."), value, f"--{dotted.rpartition('.')[2].replace('_', '-')}")
    override(tree, settings)
    return build(tree)


# ---- writing ----------------------------------------------------------------------------------------------------


def tree_of(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain data, plug-ins with their names: what `load` reads back."""
    tree = _said(recipe, set(BLOCKS))
    for name in BLOCKS:
        if getattr(recipe, name) is not None:
            tree[name] = block(name, getattr(recipe, name))
    order = ("name", "seed", "backbone", "tokenizer", "data", "objective", "task", "prompting", "tuning", "training",
             "output_dir")
    return {key: tree[key] for key in order if tree.get(key) is not None}


def block(name: str, plugin: Any) -> dict[str, Any]:
    """A plug-in as the block of a recipe that makes it."""
    return {BLOCKS[name][1]: registry.name_of(plugin), **_said(plugin)}


def _said(options: Any, leave: set[str] | None = None) -> dict[str, Any]:
    """A dataclass as plain data, without what is null where null is the default anyway."""

    def shorter(value: Any, of: Any) -> Any:
        if is_dataclass(of):
            usual = {option.name: option.default for option in fields(of)}
            return {key: shorter(below, getattr(of, key)) for key, below in value.items()
                    if below is not None or usual[key] is not None}
        return [shorter(*pair) for pair in zip(value, of, strict=True)] if isinstance(value, list) else value

    plain = shorter(TypeAdapter(type(options)).dump_python(options, mode="json", exclude=leave), options)
    return dict(plain)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 or the loader above would read as something else: `no`, `1e5`."""

    _old, _new = yaml.SafeDumper.yaml_implicit_resolvers, _Loader.yaml_implicit_resolvers
    yaml_implicit_resolvers = {}
    for _first in {**_old, **_new}:
        yaml_implicit_resolvers[_first] = [*_old.get(_first, []), *_new.get(_first, [])]

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """Between single quotes, the line breaks of Unicode would come back as spaces."""
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)

    def ignore_aliases(self, data: Any) -> bool:
        """Write a list twice that stands in two places."""
        return True


_Dumper.add_representer(str, _Dumper.represent_str)


def dump(recipe: Recipe) -> str:
    """A recipe as YAML, with every default written out."""
    return yaml.dump(tree_of(recipe), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def differences(ours: Recipe, theirs: Recipe) -> dict[str, tuple[Any, Any]]:
    """What differs between two recipes, but for name, folder, logging, saving and trackers: (ours, theirs) by field."""

    def flat(value: Any, path: str = "") -> dict[str, Any]:
        if isinstance(value, dict):
            return {k: v for key, below in value.items() for k, v in flat(below, f"{path}.{key}").items()}
        return {path[1:]: value}

    a, b = flat(tree_of(ours)), flat(tree_of(theirs))
    free = {*DATALESS, *(f"training.{name}" for name in FREE)}
    return {key: (a.get(key), b.get(key)) for key in {**a, **b} if key not in free and a.get(key) != b.get(key)}


def options_schema(cls: type[Any]) -> dict[str, Any]:
    """The JSON Schema of a plug-in's options, inherited ones with their help too, which pydantic leaves out."""
    whole = TypeAdapter(cls).json_schema()
    for base in cls.__mro__[1:]:
        if is_dataclass(base):
            for name, about in TypeAdapter(base).json_schema().get("properties", {}).items():
                if "description" in about and name in whole["properties"]:
                    whole["properties"][name].setdefault("description", about["description"])
    return whole


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe, with every plug-in's options, for editors."""
    whole = TypeAdapter(Recipe).json_schema()
    definitions = whole.setdefault("$defs", {})
    for block, (kind, key) in BLOCKS.items():
        choices = []
        for name in registry.names(kind):
            part = options_schema(registry.find(kind, name))
            definitions.update(part.pop("$defs", {}))
            part["properties"] = {key: {"const": name, "type": "string"}, **part.get("properties", {})}
            part["required"] = [key, *part.get("required", [])]
            choices.append(part)
        described = {k: v for k, v in whole["properties"][block].items() if k == "description"}
        whole["properties"][block] = {**described, "anyOf": [{"enum": list(registry.names(kind))}, *choices]}
    source = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Source"}]}
    listed = {"anyOf": [*source["anyOf"], {"type": "array", "items": source}]}
    data = definitions["Data"]["properties"]
    share = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    for name, others in (("train", []), ("validation", [share])):
        described = {k: v for k, v in data[name].items() if k == "description"}
        data[name] = {**described, "anyOf": [*listed["anyOf"], *others]}
    for block in ("backbone", "tokenizer"):
        whole["properties"][block] = {"anyOf": [{"type": "string"}, {"$ref": f"#/$defs/{block.capitalize()}"}]}
    family = definitions["Backbone"]["properties"]["family"]
    family["anyOf"] = [{"enum": list(registry.names("backbones"))}, {"type": "string"}, {"type": "null"}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "llmkit recipe", **whole}
