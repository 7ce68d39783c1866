"""The recipe's fields: every block is a frozen dataclass, whose docstrings are its help and its schema."""

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args

from pydantic import Field
from pydantic.dataclasses import dataclass

from llmkit.recipe import registry
from llmkit.system.addresses import at_home

if TYPE_CHECKING:
    from llmkit.recipe.seams import Answering, Learning, Method, PromptMode, UpdateRule
else:  # `build` has made and checked the plug-ins: pydantic takes them as they are
    Answering = Learning = Method = PromptMode = UpdateRule = Any

Positive: TypeAlias = Annotated[int, Field(gt=0)]
Count: TypeAlias = Annotated[int, Field(gt=0, strict=True)]
Share: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
Shortcut: TypeAlias = Literal[
    "target_heads", "chunked_loss", "fast_dropout", "short_attention", "two_streams", "unpadded",
    "fused_gelu", "shared_casts", "fused_norms"]
LATER: tuple[Shortcut, ...] = ("shared_casts", "fused_norms")
"""Those that 0.1.0 lacked: a run of it goes on without them."""
ROUNDING: dict[Shortcut, int] = {"chunked_loss": 2, "fast_dropout": 2, "short_attention": 2, "unpadded": 2}
"""How many ways of rounding a shortcut has had so far, where it has had several; written into checkpoints. Who changes
the order of its sums counts on: a run that another version began goes on then, and ends with other last digits."""
Attention: TypeAlias = Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
Tracker: TypeAlias = Literal[
    "tensorboard", "trackio", "wandb", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab"]
"""What accelerate calls the trackers that it knows."""
BLOCKS: dict[str, tuple[registry.Kind, str]] = {
    "objective": ("objectives", "name"), "task": ("tasks", "name"), "prompting": ("prompting", "name"),
    "tuning": ("tuning", "method"), "optimizer": ("optimizers", "name")}
"""The blocks that a plug-in's own fields make up: where it is looked up, and the key that names it."""
MOST_LAYERS = 1000
"""Layers of a stack: to build more takes minutes before anything is known of them."""
LENGTHS = ("max_steps", "num_train_epochs", "max_tokens", "max_minutes")


@dataclass(config=registry.OPTIONS)
class Quantization:
    """How bitsandbytes holds the layers of a base that doesn't train (QLoRA, Dettmers et al. 2023)."""

    load_in_4bit: bool = False
    """A number in 4 bits, with a scale for each block of 64."""
    load_in_8bit: bool = False
    """A number in 8 bits, with a scale for each row (LLM.int8, Dettmers et al. 2022)."""
    bnb_4bit_quant_type: Literal["fp4", "nf4"] = "fp4"
    """What 16 values there are; nf4, QLoRA's, loses less than transformers' own choice."""
    bnb_4bit_compute_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """What 4 bits become for a product; the numbers of training.precision where nothing is said."""
    bnb_4bit_use_double_quant: bool = False
    """Quantise the scales too: 0.37 bits a number less."""
    llm_int8_threshold: Annotated[float, Field(ge=0)] = 6.0
    """In 8 bits: inputs beyond it are multiplied in 16 bits; 0 for none."""
    llm_int8_skip_modules: list[str] | None = None
    """Names of further layers that stay whole; heads, poolers and the output's layer always do."""


@dataclass(config=registry.OPTIONS)
class Backbone:
    """Which model to start from: random weights of a family's size, or a pretrained model."""

    family: str | None = None
    """A file in llmkit/backbones/; read from the model where `pretrained` is given."""
    size: str | None = None
    """A named size of the family: tiny, mini, small, base …"""
    pretrained: str | None = None
    """A hub id, a folder, a run's folder, or a name from `llmkit models list`."""
    revision: str | None = None
    """Of a hub's model: a branch, a tag or a commit; its newest where nothing is said."""
    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Of a pretrained model, the layers that stay, counted from 0: [0, 2, 4] starts a student of half of six."""
    config: dict[str, Any] = field(default_factory=dict)
    """Any field of the family's transformers config."""
    attn_implementation: Attention = "auto"
    """How it attends: a name of transformers; auto is the family's usual one, sdpa where it has that."""
    quantization_config: Quantization | None = None
    """Hold a pretrained model in 4 or 8 bits, for adapters over it: {load_in_4bit: true, bnb_4bit_quant_type: nf4}."""


@dataclass(config=registry.OPTIONS)
class TrainTokenizer:
    """A tokenizer trained on data.train."""

    kind: Literal["wordpiece", "bpe", "unigram", "characters"] | None = None
    """How text is cut; the family's own kind where nothing is said."""
    vocab_size: Annotated[int, Field(gt=1, le=2_000_000)] = 8192
    """Tokens in the vocabulary, special ones included."""
    lowercase: bool | None = None
    """Lower-case the text first; wordpiece does where nothing is said, as bert-base-uncased."""
    sample: Positive | None = None
    """Of a huge text, about how many bytes it is trained on: documents that a hash of their text chooses, so that they
    are the same ones on any machine. All of it where nothing is said."""


@dataclass(config=registry.OPTIONS)
class Tokenizer:
    """Where the tokenizer comes from: trained here, or taken from elsewhere."""

    train: TrainTokenizer | None = None
    pretrained: str | None = None
    """A hub id, a folder, one file (tokenizer.json, vocab.txt), a run's folder, or a name from the catalogue."""


@dataclass(config=registry.OPTIONS)
class Source:
    """One place that data comes from."""

    source: str
    """A path, a glob, hub:<id>, builtin:<name>, or tokens:<folder> that `llmkit tokenize` wrote."""
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
class Augment:
    """Training rows with words swapped for their counterparts, he for she (Lu et al. 2018, Zmigrod et al. 2019)."""

    swap: Annotated[str, Field(min_length=1)]
    """Pairs of words: a UTF-8 file, a pair a line with a tab or a comma between the two, or builtin:gender."""
    mode: Literal["both", "replace"] = "both"
    """both: a row that has such words is seen as it is, and once more with these swapped (Lu et al. 2018); replace:
    half of such rows, drawn by the seed, are seen swapped and not as they are (Hall Maudslay et al. 2019)."""


@dataclass(config=registry.OPTIONS)
class Data:
    """What is learned from, and how it is cut into rows."""

    train: list[Source]
    validation: Share | Count | list[Source] | None = None
    """Sources of its own, or a share: whole documents by a hash of seed and content; of one document, its end. Of a
    task's rows also so many, 1000: the same ones whatever the seed is."""
    shots: Positive | None = None
    """Of a task, how many training rows a label are learned from, drawn by the seed; rows in all where it has no
    labels. All where nothing is said."""
    document: Literal["auto", "line", "paragraph", "file"] = "auto"
    """What a document is in a text file; auto: a paragraph where the text has blank lines, else a line."""
    max_length: Annotated[int, Field(gt=1)] | None = None
    """Tokens the model sees in a row; 128 where nothing is said, or fewer if the model has fewer positions."""
    packing: Literal["auto", "documents", "blocks", "none"] = "auto"
    """How rows are filled; auto is the best that objective and family can do."""
    on_bad_row: Literal["error", "skip"] = "error"
    """What a row that can't be read or learned from does: end the run, or be left out, counted and listed."""
    control_tokens: Literal["keep", "split"] = "keep"
    """What `[MASK]` or `<|endoftext|>` is that stands in a text: the model's own token, or text like any other. How
    many there are is said. What users say in a conversation is always text."""
    num_proc: Positive | Literal["auto"] = "auto"
    """Processes that tokenize; auto: one a core, for text that is large enough. Not compared when a run goes on."""
    shuffle: Literal["full", "window"] = "full"
    """In which order rows are seen. full: every order of all rows is as likely; window: stretches of the text in a new
    order in each pass, and rows mixed with those near them, so that a disk or a network is read from front to end."""
    augment: Augment | None = None
    """Training rows that are seen also with their words swapped: {swap: builtin:gender}. Validation rows never are."""


@dataclass(config=registry.OPTIONS)
class Distributed:
    """How a run's model lies on its processes; names are accelerate's own."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: each process has the whole model; fsdp: each has a part of every tensor, of its gradient and of what the
    optimizer keeps (torch's FSDP2; Zhao et al. 2023)."""
    reshard_after_forward: bool = True
    """fsdp: layers are parted again after their forward pass, and gathered once more for the backward pass."""
    cpu_offload: bool = False
    """fsdp, on GPUs: parts wait in main memory, and the optimizer steps there."""
    dp_replicate_size: Positive = 1
    """fsdp: so many groups of processes, each of which has the whole model in parts."""
    dp_shard_size: Positive | None = None
    """fsdp: processes of a group; all of them by dp_replicate_size where nothing is said."""


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
    """The highest learning rate; the usual one of tuning method and optimizer where nothing is said."""
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
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The first of adamw's betas, which its block has too; with it, a recipe that names no optimizer has adamw."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] | None = None
    """The second of them."""
    adam_epsilon: Annotated[float, Field(gt=0)] | None = None
    """adamw's eps."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this global norm."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Where a loss or a gradient isn't finite: stop with exit status 5, or skip the step, say so and count it."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Numbers of the forward pass; weights and optimizer stay in fp32."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the model's layers (torch.compile); auto: on GPUs, for runs long enough to earn the time it takes."""
    full_determinism: bool = False
    """On GPUs, only kernels that give the same numbers each time: slower, by a tenth to a half. On a CPU it is so."""
    distributed: Distributed = field(default_factory=Distributed)
    """How the model lies on several processes; not compared when a run goes on."""
    ddp_timeout: Positive = 1800
    """Seconds that a process waits for the others before it gives up; not compared when a run goes on."""
    tf32: bool = True
    """On GPUs, products of fp32 matrices may round their factors to 10 bits (TF32)."""
    cache_frozen: bool = False
    """What the layers below the first that trains make of a row is computed once, without dropout, and kept: for head,
    layers and their like. Tasks of a pretrained model, on one text a row."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    shortcuts: list[Shortcut] = field(default_factory=lambda: list(get_args(Shortcut)))
    """Cheaper ways to the same numbers that may be taken; [] takes none, and trains as transformers does it.

    target_heads: logits where something is predicted only; chunked_loss: never all of them at once; fast_dropout: 16
    random bits an element; short_attention: plain products where torch's tiled attention is slower (both on a CPU);
    two_streams: XLNet's second stream at its targets only, and one encoding of positions for all rows of a batch;
    unpadded: layers that see no padding, in all families but DeBERTa, XLNet and encoder-decoders; fused_gelu: GPT-2's
    GELU, which T5 v1.1, UMT5 and ALBERT use too, in one kernel and not in eight; shared_casts: in bf16 on a CPU, what
    several layers read is turned to 16 bits once; fused_norms: norms of T5, Llama and Qwen in half the passes on a CPU.
    """
    use_liger_kernel: bool = False
    """On GPUs: losses over words by Liger's fused linear cross-entropy (llmkit-train[liger]), not by chunked_loss. Its
    other kernels aren't used. Which of the two is faster was never measured here."""
    dataloader_num_workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = "auto"
    """Processes that prepare batches, beside each that trains; 0: that one itself. auto: none on a CPU, on a GPU up to
    4, as cores allow."""
    logging_steps: Positive = 10
    """Steps between two lines of metrics.jsonl."""
    eval_steps: Positive | None = None
    """Steps between two evaluations; only at start and end where nothing is said."""
    save_steps: Positive = 500
    """Steps between two checkpoints."""
    async_save: bool = False
    """Write checkpoints while the run goes on, which waits only until they are copied: that takes as much main memory
    as a checkpoint has bytes, of each process for its part. Not compared when a run goes on."""
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
    figures: bool = True
    """Leave pictures of the run: loss.png, report.html, and what the model says of a few rows. They cost at most a
    hundredth of its time or 2 seconds, what the model says apart; weights are the same without."""
    report_to: list[Tracker] = field(default_factory=list)
    """Trackers of accelerate, beside metrics.jsonl, which is always written."""


@dataclass(config=registry.OPTIONS)
class HiddenStates:
    """The student's layers learn to hold what the teacher's hold, position by position."""

    weight: Annotated[float, Field(gt=0)] = 1.0
    """What their loss counts for, beside the two of the answers."""
    loss: Literal["cosine", "mse"] = "cosine"
    """cosine: 1 - cosine of the two states (DistilBERT); mse: squared error, a mean over their width (TinyBERT)."""
    layers: Literal["auto", "last"] | dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = "auto"
    """Which layer of the student learns from which of the teacher, counted from 0: {0: 1, 1: 3}; auto: each of the
    student's, from teacher's layers at even distances; last: the last from the last."""


@dataclass(config=registry.OPTIONS)
class Teacher:
    """A model that answers the same rows, for the run's model, its student, to learn from (Hinton et al. 2015)."""

    model: str
    """A run's folder, a folder, a hub id, or a name from `llmkit models list`: a model that knows what is learned."""
    revision: str | None = None
    """Of a hub's model: a branch, a tag or a commit."""
    temperature: Annotated[float, Field(ge=0.01, le=1000)] = 2.0
    """What the logits of both are divided by before they are compared; the loss is multiplied by its square."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The share of the loss against the teacher's answers; the rest is the loss against the labels."""
    hidden: HiddenStates | None = None
    """Whether hidden states are learned too: {weight: 1.0, layers: auto}."""
    cache: Literal["auto", "never"] = "auto"
    """auto: answers to a task's rows are computed once and kept, where they fit in 1 GiB; never: at every step."""


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
    objective: Learning | None = None
    """What pretraining learns: {name: masked_lm, …}."""
    task: Answering | None = None
    """What fine-tuning learns: {name: classification, …}."""
    prompting: PromptMode | None = None
    """What is put around every text that the task reads: {name: prefix, instruction: "summarize: "}."""
    tuning: Method = field(default_factory=lambda: registry.find("tuning", "full")())
    """What trains: {method: full}."""
    optimizer: UpdateRule | None = None
    """What moves it: {name: adamw, …}; the family's usual one where nothing is said."""
    teacher: Teacher | None = None
    """Whose answers are learned beside the labels: {model: runs/large, temperature: 2.0, alpha: 0.5}."""
    training: Training = field(default_factory=Training)
    output_dir: str | None = None

    @property
    def learning(self) -> Learning:
        """The objective or the task, whichever the recipe has."""
        if self.objective is not None:
            return self.objective
        assert self.task is not None  # a recipe has one of the two: `build` refuses others
        return self.task

    @property
    def rule(self) -> UpdateRule:
        """The optimizer of a recipe that was settled."""
        assert self.optimizer is not None
        return self.optimizer

    @property
    def folder(self) -> Path:
        """Where the run leaves what it makes."""
        return at_home(self.output_dir or f"runs/{self.name}")
