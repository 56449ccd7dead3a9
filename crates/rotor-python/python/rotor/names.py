"""Where a model is: at a path, under a name, or inside the package.

Nothing is downloaded. What transformers or ``hf download`` have fetched is found by the name it has on the hub.
"""

from __future__ import annotations

import os
from pathlib import Path

from rotor import _rotor

__all__ = ["BUILT_IN", "Place", "locate"]

BUILT_IN: str = _rotor.BUILT_IN
"""The name of the small model inside the package."""

Place = str | os.PathLike[str] | None


def locate(model: Place) -> str | None:
    """The path of a model, or ``None`` for the one inside the package.

    Args:
        model: a path; ``None`` or ``"rotor-tiny"``, the model inside the package; or ``"organisation/name"``, a model
            in the hub's cache on this machine. Where a file or a folder has the name, it is that.

    Raises:
        FileNotFoundError: for ``"organisation/name"`` that is neither a path nor in the cache.
        FormatError: where the cache has several GGUF files under the name, or no model.
    """
    if model is None:
        return None
    path = os.fspath(model)
    if not isinstance(model, str) or os.path.exists(path):
        return path
    if path == BUILT_IN:
        return None
    return str(_in_hub_cache(path)) if _is_hub_name(path) else path


def _is_hub_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(part and not part.startswith(".") for part in parts) and "\\" not in name


def _hub_cache() -> Path:
    """Where huggingface_hub keeps what it has fetched."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "huggingface" / "hub"


def _in_hub_cache(name: str) -> Path:
    folder = _hub_cache() / f"models--{name.replace('/', '--')}"
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text().strip()
    except OSError:
        raise FileNotFoundError(
            f"{name}: there is no such file or folder, and no such model in the hub's cache {folder.parent}"
        ) from None
    if (snapshot / "config.json").is_file():
        return snapshot
    files = sorted(snapshot.rglob("*.gguf"))
    # Of a split model the first file stands for all.
    files = [file for file in files if "-of-" not in file.stem or "-00001-of-" in file.name]
    if len(files) == 1:
        return files[0]
    found = ", ".join(str(file.relative_to(snapshot)) for file in files) or "none"
    raise _rotor.FormatError(f"{name}: expected a config.json or one GGUF file in {snapshot}, found {found}")
