"""A pretrained model's folder, opened once: its config, its family, its tokenizer, the adapter in it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.data import tokenizer as tokenizers
from llmkit.models import layout
from llmkit.models.checking.computing import OPENED
from llmkit.models.checking.weighing import check_size, check_types
from llmkit.models.families import family_named, file_for
from llmkit.models.fetch import commit_of, on_disk, resolve
from llmkit.models.files import changed, check_weights, read_config, read_json, usable
from llmkit.system.errors import RequestError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from llmkit.backbones.base import Family


@dataclass(frozen=True)
class Base:
    """A pretrained model, be it whole or an adapter. Each of its files is read once, when it is first asked for."""

    name: str
    """What it was asked for by: a path, a run, a name of the catalogue, a hub id."""
    folder: Path

    @classmethod
    def open(cls, model: str | Path | Base, revision: str | None = None) -> Base:
        """The model that a name stands for, fetched where it isn't here; RequestError where nothing has that name."""
        return model if isinstance(model, Base) else cls(str(model), resolve(model, revision))

    @property
    def commit(self) -> str | None:
        """The commit of a hub's model; None of any other."""
        return commit_of(self.folder)

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds what is to be put over another model."""
        return (self.folder / layout.ADAPTER).is_file()

    @cached_property
    def adapter(self) -> dict[str, Any]:
        """What peft's file says of its adapter; empty where it is a whole model."""
        return read_json(self.folder / layout.ADAPTER) if self.is_adapter else {}

    @cached_property
    def below(self) -> Base:
        """The whole model that its adapter stands on; RequestError where that can't be had.

        One that trained with the adapter lies in its folder, and goes wherever that goes.
        """
        try:
            if (self.folder / layout.BASE / layout.CONFIG).is_file():
                found = Base.open(self.folder / layout.BASE)
            elif not (name := self.adapter.get("base_model_name_or_path")) or not isinstance(name, str):
                raise RequestError("names no model that the adapter stands on; write its folder or hub id there.")
            else:
                found = Base.open(name, self._revision)
        except RequestError as error:
            raise RequestError(f"{self.folder / layout.ADAPTER}: base_model_name_or_path: {error}") from error
        if found.is_adapter:
            raise RequestError(f"{self.folder}: its base {found.folder} is an adapter too; merge that into its own "
                               "base first.")
        return found

    @property
    def _revision(self) -> str | None:
        """The commit of the base that peft's file names, where that is a hub's."""
        name, said = str(self.adapter.get("base_model_name_or_path") or ""), self.adapter.get("revision")
        return said if isinstance(said, str) and on_disk(name) is None else None

    @property
    def has_config(self) -> bool:
        """Whether it says its own config; an adapter needn't."""
        return (self.folder / layout.CONFIG).is_file()

    @cached_property
    def said(self) -> dict[str, Any]:
        """Its config as it is written; CheckpointError where there is none."""
        return read_json(self.folder / layout.CONFIG)

    def config(self, **fields: Any) -> PretrainedConfig:
        """Its config, with some fields changed; RequestError where transformers doesn't know it. Each call makes one.

        What it names to be run is left aside: modules beside it, kernels of a hub.
        """
        made = changed(self.folder, self._config, self.said, fields) if fields else deepcopy(self._config)
        return usable(self.folder, made)

    @cached_property
    def _config(self) -> PretrainedConfig:
        return read_config(self.folder)

    @cached_property
    def family(self) -> type[Family]:
        """Its family; where llmkit has no file for it, what can be read from its config."""
        source = self.below if self.is_adapter and not self.has_config else self
        return family_named(file_for(source.said.get("model_type")) or "auto", source)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer as it was saved: copy it to change it. CheckpointError where there is none."""
        return tokenizers.load(self.folder)

    def check_weights(self) -> None:
        """RequestError where its weights are no safetensors, CheckpointError where they aren't those of its config."""
        OPENED.set(self.folder)
        check_weights(self.folder)
        check_size(self.folder, self.config())
        check_types(self.folder, self.config())
