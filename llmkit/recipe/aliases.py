"""What others call a plug-in: where a name isn't known, an error leads from here to the right one."""

from collections.abc import Iterable
from typing import Final

from llmkit.system.errors import nearest, plain

ENDINGS: Final = ("finetuning", "pretraining", "tuning", "training", "modeling", "modelling", "prediction", "adapters",
                  "adapter", "method", "objective", "task", "model", "loss", "only")
"""What people add to a name; `plain` has taken the hyphens."""

ALIASES: Final[dict[str, dict[str, str]]] = {
    "tuning": {
        "fft": "full", "all": "full", "fullparameter": "full", "fullparameters": "full", "sft": "full",
        "finetune": "full", "bitfit": "bias", "biases": "bias", "freeze": "layers", "freezing": "layers",
        "frozen": "layers", "layerwise": "layers", "lastlayer": "layers", "lastlayers": "layers",
        "toplayers": "layers", "partial": "layers", "gradualunfreezing": "layers unfreeze_every: 100",
        "unfreezing": "layers unfreeze_every: 100", "ulmfit": "layers unfreeze_every: 100", "linearprobe": "head",
        "linearprobing": "head", "probe": "head", "probing": "head", "classifier": "head", "lastlinear": "head",
        "ffn": "feed_forward", "mlp": "feed_forward", "layernorm": "layer_norm", "norm": "layer_norm",
        "norms": "layer_norm", "ln": "layer_norm", "prefixtuningv2": "prefix", "ptuningv2": "prefix",
        "ptuning2": "prefix", "deepprompt": "prefix", "softprompt": "prompt", "softprompts": "prompt",
        "prompts": "prompt", "virtualtokens": "prompt", "promptencoder": "p_tuning", "ptuningv1": "p_tuning",
        "lowrank": "lora", "lowrankadaptation": "lora", "adapter": "lora", "adapters": "lora", "qlora": "lora",
        "dora": "lora use_dora: true",
        "rslora": "lora use_rslora: true", "pissa": "lora init_lora_weights: pissa",
        "olora": "lora init_lora_weights: olora", "adaptivelora": "adalora", "loha": "peft peft_type: LOHA",
        "lokr": "peft peft_type: LOKR", "oft": "peft peft_type: OFT", "boft": "peft peft_type: BOFT",
        "hra": "peft peft_type: HRA", "vblora": "peft peft_type: VBLORA", "fourierft": "peft peft_type: FOURIERFT"},
    "tasks": {
        "sequenceclassification": "classification", "textclassification": "classification", "cls": "classification",
        "seqcls": "classification",
        "sentimentanalysis": "classification", "sentiment": "classification", "regression": "classification",
        "multilabel": "classification", "multilabelclassification": "classification", "nli": "classification",
        "pairclassification": "classification", "ner": "tagging", "tokenclassification": "tagging",
        "sequencelabeling": "tagging", "sequencelabelling": "tagging", "pos": "tagging", "postagging": "tagging",
        "namedentityrecognition": "tagging", "qa": "question_answering", "extractiveqa": "question_answering",
        "squad": "question_answering", "mrc": "question_answering", "readingcomprehension": "question_answering",
        "sum": "summarization", "summary": "summarization", "summarisation": "summarization",
        "seq2seq": "translation", "text2text": "translation", "mt": "translation", "nmt": "translation",
        "machinetranslation": "translation", "sft": "instruction", "chat": "instruction", "it": "instruction",
        "instruct": "instruction", "instructions": "instruction", "supervised": "instruction",
        "conversation": "instruction", "dialogue": "instruction", "dpo": "preference",
        "kto": "preference", "orpo": "preference", "ipo": "preference", "simpo": "preference",
        "preferences": "preference", "sts": "similarity", "sentencesimilarity": "similarity",
        "semanticsimilarity": "similarity", "sentenceembedding": "similarity", "sentenceembeddings": "similarity",
        "embedding": "similarity", "retrieval": "similarity", "mcq": "multiple_choice", "swag": "multiple_choice",
        "race": "multiple_choice", "choice": "multiple_choice"},
    "objectives": {
        "mlm": "masked_lm", "bertmlm": "masked_lm", "cloze": "masked_lm", "maskedlanguage": "masked_lm",
        "wwm": "masked_lm", "wholeword": "masked_lm", "wholewordmask": "masked_lm", "wholewordmasking": "masked_lm",
        "spanbert": "masked_lm", "clm": "causal_lm", "lm": "causal_lm", "causallanguage": "causal_lm",
        "language": "causal_lm", "autoregressive": "causal_lm", "nexttoken": "causal_lm", "gpt": "causal_lm",
        "fim": "causal_lm", "fillinthemiddle": "causal_lm", "nsp": "next_sentence",
        "bert": "masked_lm_next_sentence", "mlmnsp": "masked_lm_next_sentence", "sop": "sentence_order",
        "albert": "masked_lm_next_sentence pairs: order", "sentenceordering": "sentence_order",
        "t5": "span_corruption", "spandenoising": "span_corruption", "spanmasking": "span_corruption",
        "corruption": "span_corruption", "ul2": "span_corruption", "plm": "permuted_lm", "xlnet": "permuted_lm",
        "permutation": "permuted_lm", "permutationlm": "permuted_lm", "permutationlanguage": "permuted_lm",
        "permutedlanguage": "permuted_lm", "rtd": "replaced_token", "electra": "replaced_token",
        "replacedtokendetection": "replaced_token", "tokendetection": "replaced_token", "gan": "adversarial",
        "textgan": "adversarial", "simcse": "contrastive", "infonce": "contrastive", "bart": "denoising",
        "dae": "denoising", "denoisingautoencoder": "denoising", "textinfilling": "denoising",
        "prefixlanguage": "prefix_lm", "glm": "prefix_lm", "unilm": "prefix_lm"},
    "backbones": {
        "gpt": "gpt2", "openaigpt": "gpt2", "smollm": "llama", "smollm2": "llama", "qwen": "qwen3", "qwen2": "qwen3",
        "xlm": "roberta", "xlmr": "roberta", "xlmroberta": "roberta", "debertav2": "deberta", "debertav3": "deberta",
        "marian": "transformer", "mt": "transformer", "vanilla": "transformer", "flant5": "t5", "t5v11": "t5",
        "distilbert": "auto", "distilroberta": "auto", "mistral": "auto", "gemma": "auto", "phi": "auto",
        "opt": "auto", "bloom": "auto", "gptj": "auto", "gptneo": "auto", "gptneox": "auto", "mt5": "auto",
        "mbart": "auto", "pegasus": "auto", "longformer": "auto", "chatglm": "auto", "falcon": "auto"},
    "prompting": {
        "instruction": "prefix", "zeroshot": "prefix", "fewshot": "example", "examples": "example",
        "incontext": "example", "icl": "example", "fewshots": "example", "pet": "cloze", "mask": "cloze",
        "verbalizer": "cloze", "both": "hybrid", "backtranslation": "reverse", "calibration": "normalize",
        "calibrate": "normalize", "normalise": "normalize"},
    "optimizers": {
        "adam": "adamw", "adamwtorch": "adamw", "adamwtorchfused": "adamw", "adamwfused": "adamw",
        "adamwhf": "adamw", "adamwscale": "adamw_rms", "adamwscaled": "adamw_rms", "nanot5": "adamw_rms",
        "rmsadamw": "adamw_rms", "adam8bit": "adamw_8bit", "adamwbnb8bit": "adamw_8bit", "8bit": "adamw_8bit",
        "bitsandbytes": "adamw_8bit", "pagedadamw8bit": "adamw_8bit", "schedulefreeadamw": "schedule_free",
        "adamwschedulefree": "schedule_free", "schedulefreeadamwschedulefree": "schedule_free", "momentum": "sgd",
        "nesterov": "sgd nesterov: true", "lion32bit": "lion", "muonclip": "muon", "afactor": "adafactor"},
}
"""By kind, and by the letters that `plain` leaves: the name here, and the options that make it so."""

REINFORCED: Final = ("reinforcement learning isn't done here, beyond learning from pairs of answers (`task: "
                     "preference`: DPO and its kin). Use TRL, which opens the folder of a run: https://huggingface.co/docs/trl")
SEEN: Final = ("only text is read and written here. For images, sound and video use the examples of transformers: "
               "https://huggingface.co/docs/transformers")
SPLIT: Final = ("batches, weights and optimizers are split over processes here (DDP, FSDP2), and no "
                "single layer, pipeline or sequence is. For that use Megatron-LM or torchtitan: "
                "https://github.com/NVIDIA/Megatron-LM, https://github.com/pytorch/torchtitan")
ELSEWHERE: Final[dict[str, str]] = {
    **dict.fromkeys((
        "ppo", "grpo", "rloo", "rlhf", "rlaif", "rlvr", "rl", "reinforce", "reinforcement", "reinforcementlearning",
        "policygradient", "a2c", "dapo", "gspo", "nashmd", "xpo", "onlinedpo", "gkd", "prm", "reward", "rewardmodel",
        "rewardmodeling", "rewardmodelling"), REINFORCED),
    **dict.fromkeys((
        "imageclassification", "imagetotext", "imagetexttotext", "imagecaptioning", "imagesegmentation",
        "imagegeneration", "texttoimage", "objectdetection", "visualquestionanswering", "vqa",
        "documentquestionanswering", "videoclassification", "audioclassification", "automaticspeechrecognition", "asr",
        "speechrecognition", "speechtotext", "texttospeech", "tts", "ocr", "multimodal", "contrastiveimagetext",
        "vit", "clip", "siglip", "blip", "blip2", "llava", "whisper", "wav2vec2", "hubert", "qwen2vl", "qwen25vl",
        "qwen3vl", "stablediffusion", "diffusion"), SEEN),
    **dict.fromkeys((
        "megatron", "megatronlm", "tensorparallel", "tensorparallelsize", "tensormodelparallelsize", "tpsize",
        "pipelineparallel", "pipelineparallelsize", "pipelinemodelparallelsize", "ppsize", "contextparallel",
        "contextparallelsize", "cpsize", "sequenceparallel", "sequenceparallelsize", "expertparallel",
        "expertparallelsize", "expertmodelparallelsize", "epsize"), SPLIT),
}
"""What others can be asked for and llmkit can't, by the letters that `plain` leaves: why, and where to go."""
PAGE: Final = "docs/limits.md"
"""Where all of that is said."""


def elsewhere(name: str) -> str:
    """Where to go for what isn't done here; empty for any other name.

    >>> elsewhere("GRPO")[:40]
    " Reinforcement learning isn't done here,"
    """
    words = plain(name)
    cut = (words.removesuffix(ending) for ending in ENDINGS if words.endswith(ending))
    said = next((ELSEWHERE[one] for one in (words, *cut) if one in ELSEWHERE), None)
    return "" if said is None else f" {said[0].upper()}{said[1:]} ({PAGE})."


def near(kind: str, name: str, names: Iterable[str]) -> str:
    """` Did you mean 'prefix'?` of `Prefix-tuning`, `P-tuning v2` and `prefx`; or else what there is.

    Of what isn't done here, where to go.
    """
    if away := elsewhere(name):
        return away
    names, aliases = list(names), ALIASES[kind]
    known = {*map(plain, names), *(alias for alias, leads in aliases.items() if leads.partition(" ")[0] in names)}
    wanted = plain(name)
    cut = (wanted.removesuffix(ending) for ending in ENDINGS if wanted.endswith(ending))
    meant = next((one for one in (wanted, *cut) if one in known), None)
    if meant is None and kind == "backbones":  # a checkpoint's name begins with its family's
        meant = max((one for one in known if wanted.startswith(one)), key=len, default=None)
    return nearest(name if meant is None else meant, names, aliases)
