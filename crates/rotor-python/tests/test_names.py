"""Models by name: the one inside the package, and those that the hub's cache has."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import rotor
from conftest import HF_TINY, REPOSITORY
from rotor import gguf

COMMIT = "0123abcd" * 5


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a working directory where nothing has a name."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def keep(cache: Path, name: str, *sources: Path) -> Path:
    """Puts files into the cache as huggingface_hub does: once as blobs, and by name as links to them."""
    folder = cache / f"models--{name.replace('/', '--')}"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (folder / "blobs").mkdir()
    for source in sources:
        shutil.copy(source, folder / "blobs" / f"blob-{source.name}")
        (snapshot / source.name).symlink_to(Path("..") / ".." / "blobs" / f"blob-{source.name}")
    return snapshot


def test_the_model_inside_the_package_is_the_repositorys(cache: Path):
    published = REPOSITORY / "crates" / "rotor-engine" / "models" / "rotor-tiny.gguf"
    with rotor.Model.load() as model, rotor.Model.load("rotor-tiny") as named, rotor.Model.load(published) as opened:
        assert model.path is None and "rotor-tiny" in repr(model)
        text = model.generate("Once upon a time", max_tokens=16)
        assert (
            text
            == named.generate("Once upon a time", max_tokens=16)
            == opened.generate("Once upon a time", max_tokens=16)
        )
    ours, theirs = gguf.load_layer(None, 3, "int8"), gguf.load_layer(published, 3, "int8")
    assert all(np.array_equal(ours[part].values, theirs[part].values) for part in ours)
    assert np.array_equal(
        gguf.load_tensor("rotor-tiny", "blk.0.attn_q.weight", "int8").values,
        gguf.load_layer(None, 0, "int8")["attn_q"].values,
    )
    inside, outside = rotor.inspect(trits=True), rotor.inspect(published, trits=True)
    assert inside.pop("path") == "rotor-tiny" and outside.pop("path") == str(published)
    assert inside == outside


def test_the_model_inside_the_package_can_be_converted(cache: Path, tmp_path: Path):
    report = rotor.convert(None, tmp_path / "planes.safetensors", "rotor", verify=True)
    assert report["verified"]
    with rotor.Model.load() as model, rotor.Model.load(tmp_path / "planes.safetensors") as converted:
        assert model.logits([1, 2, 3]).tobytes() == converted.logits([1, 2, 3]).tobytes()


def test_a_name_is_looked_up_in_the_hubs_cache(cache: Path, tiny: Path):
    folder = keep(cache, "someone/folder", *sorted((HF_TINY / "bitnet-packed").iterdir()))
    with rotor.Model.load("someone/folder") as model, rotor.Model.load(HF_TINY / "bitnet-packed") as opened:
        assert model.path == str(folder)
        assert model.logits([1, 2, 3]).tobytes() == opened.logits([1, 2, 3]).tobytes()
    file = keep(cache, "someone/file", tiny) / "tiny.gguf"
    with gguf.open("someone/file") as opened:
        assert opened.kind == "GGUF"
    assert rotor.inspect("someone/file")["path"] == str(file)


def test_the_cache_is_where_the_hubs_library_keeps_it(cache: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    keep(cache, "someone/file", tiny)
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(cache.parent))
    assert rotor.inspect("someone/file")["format"] == "GGUF"
    monkeypatch.delenv("HF_HOME")
    (cache.parent / "caches" / "huggingface").mkdir(parents=True)
    cache.rename(cache.parent / "caches" / "huggingface" / "hub")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent / "caches"))
    assert rotor.inspect("someone/file")["format"] == "GGUF"


def test_what_is_there_goes_before_what_is_called_so(cache: Path, tiny: Path):
    keep(cache, "someone/file", tiny)
    for path in ("rotor-tiny", "someone/file"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("this is not a model")
        with pytest.raises(rotor.FormatError, match=path):
            rotor.Model.load(path)


def test_names_of_nothing_are_refused(cache: Path, tiny: Path):
    with pytest.raises(
        FileNotFoundError, match=r"nobody/nothing: there is no .* rotor\.pull\('nobody/nothing'\) fetches it"
    ):
        rotor.Model.load("nobody/nothing")
    with pytest.raises(FileNotFoundError, match=r"rotor\.pull\('bitnet-2b'\)"):
        rotor.Model.load("bitnet-2b")
    with pytest.raises(FileNotFoundError, match="rotor-huge"):
        rotor.Model.load("rotor-huge")
    second = tiny.with_name("second.gguf")
    shutil.copy(tiny, second)
    keep(cache, "someone/several", tiny, second)
    with pytest.raises(ValueError, match=r"name one of someone/several:second\.gguf .*, someone/several:tiny\.gguf"):
        rotor.Model.load("someone/several")
    assert rotor.inspect("someone/several:second.gguf")["format"] == "GGUF"
    keep(cache, "someone/nothing")
    with pytest.raises(FileNotFoundError, match="someone/nothing"):
        rotor.Model.load("someone/nothing")


def test_models_on_this_machine_are_listed(cache: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(cache.parent))
    assert [model for model in rotor.models() if model.origin == "hugging-face"] == []
    keep(cache, "someone/file", tiny)
    (model,) = (model for model in rotor.models() if model.origin == "hugging-face")
    assert (model.name, model.commit, model.size) == ("someone/file", COMMIT, tiny.stat().st_size)
    assert model.path.read_bytes() == tiny.read_bytes() and model.modified is not None
    assert "bitnet-2b" in [known["name"] for known in rotor.known_models()]


def test_offline_a_pull_is_what_is_here(cache: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    snapshot = keep(cache, "someone/file", tiny)
    assert rotor.pull("someone/file") == snapshot / "tiny.gguf"
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE"):
        rotor.pull("someone/else")
    with pytest.raises(ValueError, match="is no model's name"):
        rotor.pull("../../etc/passwd")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:1"):
        rotor.pull("someone/else")
