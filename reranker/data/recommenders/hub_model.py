"""A model of transformers that data are scored with, by a folder or an id of the Hub → what it loads, or why it can't."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from reranker.errors import EnvironmentFault, Fault, InputError, first_line
from reranker.storage.hub import hub_answers, why_silent
from reranker.storage.user_paths import user_path

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN = 3


@dataclass(frozen=True)
class HubModel:
    """A model by its name.

    Attributes:
        name: a folder, or an id of the Hub.
        kind: what it is to be, such as "encoder".
        field: of the study file that names it.
        example: of an id.
    """

    name: str
    kind: str
    field: str
    example: str

    def is_here(self) -> bool:
        """Whether it can be loaded without a network.

        Raises:
            InputError: there can be no such model.
        """
        self._check_name()
        if self._is_folder:
            return True
        try:
            self._from_pretrained("AutoConfig", local_files_only=True)
            self._from_pretrained("AutoTokenizer", local_files_only=True)
        except (OSError, ValueError):
            return False
        return True

    def loaded(self, auto_class: str, **options: Any) -> Any:
        """What this class of transformers makes of it.

        Raises:
            InputError: there is no such model.
            EnvironmentFault: it is not here and can't be fetched, or can't be loaded.
        """
        self._check_name()
        try:
            return self._from_pretrained(auto_class, local_files_only=True, **options)
        except (OSError, ValueError) as error:
            if self._is_folder:
                raise self._unloadable(error) from error
        if not hub_answers():
            raise EnvironmentFault(
                f"the {self.kind} {self.name!r} is not on this machine, and the Hub {why_silent()}; fetch it where there is a "
                f"network (hf download {self.name} --local-dir FOLDER) and name that folder as {self.field.split('.')[-1]}"
            )
        try:
            return self._from_pretrained(auto_class, **options)
        except (OSError, ValueError) as error:
            if isinstance(error.__cause__, RepositoryNotFoundError | GatedRepoError):
                rule = f"the Hub knows no such {self.kind}, or you have no access to it (log in with `hf auth login`)"
                raise self.fault(rule) from error
            raise self._unloadable(error) from error

    def whole(self, auto_class: str, may_lack: str = "", **options: Any) -> Any:
        """The model with all its weights.

        Args:
            may_lack: what the names of weights hold that are not used.

        Raises:
            InputError: as `loaded`, or weights are missing.
            EnvironmentFault: as `loaded`.
        """
        model, info = self.loaded(auto_class, output_loading_info=True, **options)
        if missing := [name for name in info["missing_keys"] if not may_lack or may_lack not in name]:
            shown = ", ".join(sorted(missing)[:_SHOWN])
            raise self.fault(f"the {self.kind} must hold all its weights; these are missing: {shown}")
        return model

    def fault(self, rule: str) -> InputError:
        """That the model which is named breaks a rule."""
        return InputError([Fault(rule, field=self.field, value=self.name)])

    @property
    def _is_folder(self) -> bool:
        return os.path.isdir(user_path(self.name))

    def _check_name(self) -> None:
        if not self._is_folder and not _HUB_ID.fullmatch(self.name):
            raise self.fault(
                f"the {self.kind} must be a folder that exists, or an id of the Hub such as {self.example}"
            )

    def _unloadable(self, error: Exception) -> EnvironmentFault:
        return EnvironmentFault(f"the {self.kind} {self.name!r} could not be loaded: {first_line(error)}")

    def _from_pretrained(self, auto_class: str, **options: Any) -> Any:
        import transformers  # takes seconds
        from transformers.utils import logging

        logging.disable_progress_bar()
        name = str(user_path(self.name)) if self._is_folder else self.name
        return getattr(transformers, auto_class).from_pretrained(name, trust_remote_code=False, **options)
