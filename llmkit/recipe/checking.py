"""What can't work is refused before any library is loaded: names, shapes, numbers that contradict each other."""

from llmkit.recipe import registry
from llmkit.recipe.fields import Recipe, Training
from llmkit.recipe.optimizing import ADAMW, of_adamw
from llmkit.recipe.reading import Keys, Tree
from llmkit.recipe.seams import Learning, Method, Shaped
from llmkit.system.errors import RequestError, nearest


def check(recipe: Recipe, tree: Tree) -> None:
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
    if spec.revision is not None and spec.pretrained is None:
        raise RequestError(f"{tree.where(('backbone', 'revision'))}: a revision is of a hub's model; "
                           "backbone.pretrained says which.")
    if spec.layers is not None and spec.pretrained is None:
        raise RequestError(f"{tree.where(('backbone', 'layers'))}: these are of a pretrained model; "
                           "backbone.pretrained says which.")
    if spec.layers is not None and (not spec.layers or sorted(set(spec.layers)) != spec.layers):
        raise RequestError(f"{tree.where(('backbone', 'layers'))}: {spec.layers} must name layers in their order, each "
                           "once, as [0, 2, 4].")
    check_quantized(recipe, tree)
    if spec.size is not None and spec.pretrained is not None:
        raise RequestError(f"{tree.where(('backbone', 'size'))}: a pretrained model has its own size.")
    tokenized = any(source.source.startswith("tokens:") for source in recipe.data.train)  # their tokenizer is there
    if spec.pretrained is None and recipe.tokenizer is None and not tokenized:
        raise RequestError(f"{tree.where(('tokenizer',))}: a model from scratch needs a tokenizer: "
                           "{train: {vocab_size: 8192}} or {pretrained: …}.")
    if recipe.tokenizer is not None and (recipe.tokenizer.train is None) == (recipe.tokenizer.pretrained is None):
        raise RequestError(f"{tree.where(('tokenizer',))}: give one of train and pretrained.")
    weighted = [source.weight is not None for source in recipe.data.train]
    if any(weighted) and not all(weighted):
        raise RequestError(f"{tree.where(('data', 'train'))}: either every source has a weight or none.")
    if not recipe.data.train:
        raise RequestError(f"{tree.where(('data', 'train'))}: at least one source is needed.")
    if recipe.task is None and recipe.data.shots is not None:
        raise RequestError(f"{tree.where(('data', 'shots'))}: rows are counted by the labels of a task; an objective "
                           "learns from all of its text: training.max_tokens cuts it short.")
    if recipe.task is None and isinstance(recipe.data.validation, int):
        raise RequestError(f"{tree.where(('data', 'validation'))}: a number of rows is for tasks; hold out a share of "
                           "the text, as 0.05, or name sources.")
    plan = recipe.training
    for name in ("metric_for_best_model", "early_stopping_patience"):
        if getattr(plan, name) is not None and recipe.data.validation is None:
            raise RequestError(f"{tree.where(('training', name))}: there is nothing to evaluate on; "
                               "data.validation is needed.")
    for name in ("max_tokens", "max_minutes"):
        if getattr(plan, name) is not None and recipe.tuning.counted:
            raise RequestError(f"{tree.where(('training', name))}: {registry.name_of(recipe.tuning)} plans its steps "
                               "ahead; say how long the run is by max_steps or num_train_epochs.")
    check_whole(recipe.learning, recipe.tuning, tree.where(("tuning",)))
    check_teacher(recipe, tree)
    check_optimizer(recipe, tree)
    micro, whole = recipe.training.micro_batch_size, recipe.training.global_batch_size
    if micro != "auto" and whole % micro:
        raise RequestError(f"{tree.where(('training', 'micro_batch_size'))}: {micro} does not divide "
                           f"global_batch_size {whole}.")


def check_quantized(recipe: Recipe, tree: Tree) -> None:
    """Raise where a base can't be held in 4 or 8 bits: it trains, it is new, or what is said of it contradicts."""
    spec, chosen = recipe.backbone, recipe.backbone.quantization_config
    if chosen is None:
        return
    place: Keys = ("backbone", "quantization_config")
    where = tree.where(place)
    if chosen.load_in_4bit == chosen.load_in_8bit:
        wrong = "both are given, load_in_4bit and load_in_8bit" if chosen.load_in_4bit else "how many bits is missing"
        raise RequestError(f"{where}: {wrong}; say load_in_4bit: true or load_in_8bit: true.")
    if spec.pretrained is None:
        raise RequestError(f"{where}: a model from scratch trains all of its weights, and those of 4 or 8 bits have no "
                           "gradient. Give backbone.pretrained, or leave it out.")
    other = "bnb_4bit_" if chosen.load_in_8bit else "llm_int8_threshold"
    usual = type(chosen)()
    if odd := next((name for name, value in vars(chosen).items()
                    if name.startswith(other) and value != vars(usual)[name]), None):
        raise RequestError(f"{tree.where((*place, odd))}: is an option of {'4' if chosen.load_in_8bit else '8'} bits; "
                           "leave it out.")
    if why := recipe.tuning.unquantized:
        raise RequestError(f"{where}: {registry.name_of(recipe.tuning)} can't have it: {why}. lora over a quantised "
                           "base is QLoRA: tuning: {method: lora}.")
    if recipe.tokenizer is not None and recipe.tokenizer.train is not None:
        raise RequestError(f"{tree.where(('tokenizer',))}: a quantised base keeps its own tokenizer; leave it out.")


def check_optimizer(recipe: Recipe, tree: Tree) -> None:
    """Raise where an optimizer's options are given twice, or are another's, or the tuning method cuts what it keeps."""
    rule = recipe.optimizer
    if rule is None:
        return
    name, said = registry.name_of(rule), tree.root.get("optimizer")
    for field in of_adamw(recipe):
        where, option = tree.where(("training", field)), ADAMW[field]
        if name != "adamw":
            raise RequestError(f"{where}: is an option of adamw, and the optimizer is {name}; leave it out.")
        if isinstance(said, dict) and option in said:
            raise RequestError(f"{where}: is given here and as optimizer.{option}; leave one out.")
    if rule.averages and recipe.tuning.counted:
        raise RequestError(f"{tree.where(('optimizer',))}: {name} keeps averages, which what "
                           f"{registry.name_of(recipe.tuning)} cuts would come back from; use adamw.")


def check_teacher(recipe: Recipe, tree: Tree) -> None:
    """Raise where what is learned has no answers that a teacher could give, or the layers of states can't be seen."""
    teacher = recipe.teacher
    if teacher is None:
        return
    if why := recipe.learning.unteachable:
        raise RequestError(f"{tree.where(('teacher',))}: {registry.name_of(recipe.learning)} can't be learned from a "
                           f"teacher: {why}.")
    if teacher.hidden is None:
        return
    where = tree.where(("teacher", "hidden"))
    if recipe.learning.whole:
        raise RequestError(f"{where}: {registry.name_of(recipe.learning)} compares the rows of a step, and layers "
                           "aren't seen there; leave hidden out.")
    if recipe.tuning.virtual_tokens and not recipe.tuning.whole:
        raise RequestError(f"{where}: {registry.name_of(recipe.tuning)} puts virtual tokens before the text, which the "
                           "teacher doesn't have; leave hidden out, or tune by another method.")
    if recipe.training.compile is True:
        raise RequestError(f"{tree.where(('training', 'compile'))}: compiled layers can't be looked into, as "
                           "teacher.hidden does; leave one of them out.")
    if teacher.hidden.layers == {}:
        raise RequestError(f"{where}: layers names none; auto takes all of the student's.")


def check_whole(learning: Learning, tuning: Method, where: str) -> None:
    """Raise if an objective of two networks is to be tuned in part; `where` is what names the method."""
    if not learning.adapters and not tuning.whole:
        raise RequestError(f"{where}: {registry.name_of(learning)} trains two networks whole; it takes the method "
                           "full.")


def check_processes(training: Training, processes: int, option: str | None = None) -> None:
    """Raise if processes can't share the rows of a step evenly; `option` is what asked for so many."""
    rows = training.global_batch_size
    if rows % processes == 0:
        return
    if option is not None:
        raise RequestError(f"{option} {processes}: training.global_batch_size {rows} can't be shared by so many.")
    raise RequestError(f"training.global_batch_size: {rows} can't be shared by {processes} processes.")


def fit_together(learning: Learning, name: str, family: Shaped) -> None:
    """Raise if a family's shape can't do an objective or task; say what it can, and who can."""
    if fits(learning, family):
        return
    answers = any(cls.__module__ == "llmkit.tasks.base" for cls in type(learning).__mro__)
    kind: registry.Kind = "tasks" if answers else "objectives"
    can = [other for other in registry.names(kind) if fits(registry.find(kind, other)(), family)]
    who = [other for other in registry.names("backbones") if fits(learning, registry.find("backbones", other))]
    needs = f"needs a backbone of shape {' or '.join(sorted(learning.shapes))}; {name} is {family.shape}."
    if family.shape in learning.shapes:
        needs = f"needs a head that transformers doesn't have for {name}."
    raise RequestError(
        f"{registry.name_of(learning)} {needs} {name} can do: {', '.join(can) or 'none'}. "
        f"{registry.name_of(learning)} can be done by: {', '.join(who)}.")


def fits(learning: Learning, family: Shaped) -> bool:
    """Whether a family has the shape, and transformers the head, that an objective or task takes."""
    if family.shape not in learning.shapes:
        return False
    head = learning.head_for(family)
    return head == "AutoModel" or head in family.heads
