"""Where a model is: at a path, under a name, or inside the package.

What ``rotor pull``, transformers or ``hf download`` have fetched is found by the name it has on the hub. Nothing is
fetched unasked.
"""

from __future__ import annotations

import os
import sys

from rotor import _rotor
from rotor.hub import known_models, pull

__all__ = ["BUILT_IN", "Place", "locate"]

BUILT_IN: str = _rotor.BUILT_IN
"""The name of the small model inside the package."""

Place = str | os.PathLike[str] | None


def locate(model: Place) -> str | None:
    """The path of a model, or ``None`` for the one inside the package.

    Args:
        model: a path; ``None`` or ``"rotor-tiny"``, the model inside the package; or the name of a model on this
            machine (``"organisation/name"``, a known model's short name, any name of :func:`rotor.models`). Where a
            file or a folder has the name, it is that. The interactive interpreter offers to fetch what is not here.

    Raises:
        FileNotFoundError: for a name that is neither a path nor a model on this machine.
        ValueError: where several models go by the name.
    """
    if model is None:
        return None
    path = os.fspath(model)
    if not isinstance(model, str) or os.path.exists(path):
        return path
    if path == BUILT_IN:
        return None
    return _find(path)


def _find(name: str) -> str:
    """The path of a model that is called by its name; a name that cannot be one is left to be opened as a path."""
    if path := _rotor.find_model(name):
        return str(path)
    if not _may_be_pulled(name):
        return name
    if hasattr(sys, "ps1") and sys.stdin.isatty() and sys.stderr.isatty():
        answer = input(f"{name} is not on this machine. Fetch it now? [Y/n] ")
        if answer.strip().lower() in ("", "y", "yes"):
            return str(pull(name))
    raise FileNotFoundError(
        f"{name}: there is no such file or folder, and no model of that name on this machine; "
        f"rotor.pull({name!r}) fetches it"
    )


def _may_be_pulled(name: str) -> bool:
    repository = name.split(":")[0].split("@")[0]
    parts = repository.split("/")
    if "\\" in name or not all(part and not part.startswith(".") for part in parts):
        return False
    if ":" not in name and name.endswith((".gguf", ".safetensors")):
        return False
    aliases = (alias for model in known_models() for alias in (model["name"], *model["aliases"]))
    return len(parts) == 2 or repository.lower() in aliases
