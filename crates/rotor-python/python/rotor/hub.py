"""Models by name: fetching them, and what is on this machine.

The hub's own cache is used, in the layout of its official tools: what they have fetched is found, and they find what is
fetched here. ``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``, ``HF_HUB_CACHE`` and ``HF_HUB_OFFLINE`` mean what they mean to
those.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rotor import _rotor

__all__ = ["LocalModel", "known_models", "models", "pull"]

Progress = Callable[[str, int, int], object]


@dataclass(frozen=True)
class LocalModel:
    """A model on this machine."""

    name: str
    """What to call it by, here and on the command line."""
    path: Path
    """Its file, or its folder in Hugging Face layout."""
    size: int
    """Bytes of its files."""
    modified: datetime | None
    """When its files were last written."""
    origin: str
    """Who has stored it: ``hugging-face``, ``llama-cpp``, ``ollama`` or ``lm-studio``."""
    commit: str | None
    """The commit, of a model in the hub's cache."""


def models() -> list[LocalModel]:
    """The models on this machine: in the hub's cache, and those that llama.cpp, Ollama and LM Studio have stored."""
    return [
        LocalModel(
            name=model["name"],
            path=Path(model["path"]),
            size=model["size"],
            modified=None if model["modified"] is None else datetime.fromtimestamp(model["modified"], timezone.utc),
            origin=model["origin"],
            commit=model["commit"],
        )
        for model in json.loads(_rotor.models())
    ]


def known_models() -> list[dict[str, Any]]:
    """The published models that go by a short name, with what is known about them and where that is from."""
    known: list[dict[str, Any]] = json.loads(_rotor.known_models())
    return known


def pull(
    model: str,
    *,
    local_dir: str | os.PathLike[str] | None = None,
    any: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Fetches a model, or what of it is not here yet, and returns where it is.

    What was interrupted goes on where it stopped, and nothing is kept whose checksum is not the hub's.

    Args:
        model: ``REPO[:FILE or QUANT][@REVISION]``, or the short name of a known model.
        local_dir: a folder for the files, instead of the cache.
        any: fetches a file even if its beginning shows that it cannot be run.
        progress: called now and then with a file's name, how many bytes of it are here, and its size; without one, a
            terminal shows them.

    Raises:
        FileNotFoundError: where the hub has no such model, revision or file, or in offline mode.
        PermissionError: where the model's terms have to be accepted first.
        ConnectionError: where the hub cannot be reached; what has come is kept.
        FormatError: where the beginning of the file shows that it cannot be run.
        ValueError: for a name that is none, or that several files go by.
    """
    if progress is not None or not sys.stderr.isatty():
        return Path(_rotor.pull(model, local_dir, any, progress))
    try:
        return Path(_rotor.pull(model, local_dir, any, _show))
    finally:
        print("\r\x1b[K", end="", file=sys.stderr)


def _show(file: str, done: int, total: int) -> None:
    share = 100 * done // max(total, 1)
    text = f"{file}: {done / 1e6:.0f} of {total / 1e6:.0f} MB ({share} %)"
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
