"""The cache that rotor shares with the official huggingface_hub: what one has fetched the other does not fetch again.

Usage: check_hub.py ROTOR HUB SYNTHETIC_GGUF SYNTHETIC_FOLDER
ROTOR is the command, HUB the tests' hub (crates/rotor-hub/examples/hub.rs).
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROTOR, HUB, GGUF, FOLDER = (Path(argument).resolve() for argument in sys.argv[1:])
FILE, CHECKPOINT = "org/tiny-gguf", "org/tiny"


class Hub:
    """The hub on loopback, and what was asked of it."""

    def __init__(self, root: Path):
        self.root = root

    def __enter__(self) -> "Hub":
        self.process = subprocess.Popen([HUB, self.root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().strip()
        return self

    def __exit__(self, *_: object) -> None:
        out, _ = self.process.communicate()
        lines = [line.split() for line in out.splitlines()]
        self.contents = [path for method, path, _, sent in lines if method == "GET" and int(sent) > 0]


def environment(home: Path, hub: Hub | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "ROTOR_"))}
    where = {"HF_ENDPOINT": hub.url} if hub else {"HF_HUB_OFFLINE": "1"}
    return kept | where | {"HF_HOME": str(home), "HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}


def run(home: Path, hub: Hub | None, *command: object) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment(home, hub), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def python(home: Path, hub: Hub | None, code: str) -> str:
    return run(home, hub, sys.executable, "-c", f"from huggingface_hub import *\n{code}").strip()


def pull(home: Path, hub: Hub, model: str, *options: str) -> dict:
    return json.loads(run(home, hub, ROTOR, "pull", model, "--json", *options))


def speaks(home: Path, model: object) -> str:
    """What a model says, without a network."""
    return run(home, None, ROTOR, "run", model, "-p", "Hello", "-n", 8)


def officially_filled(work: Path) -> None:
    home = work / "official"
    with Hub(work / "hub") as hub:
        path = python(home, hub, f"print(hf_hub_download('{FILE}', 'tiny-i2_s.gguf'))")
        folder = python(home, hub, f"print(snapshot_download('{CHECKPOINT}'))")
    assert speaks(home, FILE) == speaks(home, path) == speaks(home, CHECKPOINT) == speaks(home, folder)
    with Hub(work / "hub") as hub:
        for model, expected in ((FILE, path), (CHECKPOINT, folder)):
            pulled = pull(home, hub, model)
            assert (pulled["fetched"], pulled["path"]) == (0, expected), pulled
    assert hub.contents == [], hub.contents
    names = [model["name"] for model in json.loads(run(home, None, ROTOR, "list", "--json"))["models"]]
    assert names == [CHECKPOINT, FILE], names


def filled_by_rotor(work: Path) -> None:
    home = work / "ours"
    with Hub(work / "hub") as hub:
        file, checkpoint = pull(home, hub, FILE), pull(home, hub, CHECKPOINT)
    with Hub(work / "hub") as hub:
        path = python(home, hub, f"print(hf_hub_download('{FILE}', 'tiny-i2_s.gguf'))")
        # What rotor has no use for is fetched by whoever wants everything, and nothing else is.
        folder = python(home, hub, f"print(snapshot_download('{CHECKPOINT}'))")
        verified = run(home, hub, Path(sys.executable).with_name("hf"), "cache", "verify", FILE)
        run(home, hub, Path(sys.executable).with_name("hf"), "cache", "verify", CHECKPOINT)
    assert (path, folder) == (file["path"], checkpoint["path"]), (path, folder)
    assert all(path.endswith("README.md") for path in hub.contents), hub.contents
    print(verified.strip())
    # Programs that ask for what a repository does not have are told so without a network.
    for repo, absent in ((FILE, "config.json"), (CHECKPOINT, "chat_template.json")):
        code = f"import huggingface_hub\nprint(try_to_load_from_cache('{repo}', '{absent}') is huggingface_hub._CACHED_NO_EXIST)"
        assert python(home, None, code) == "True", (repo, absent)
    assert python(home, None, f"print(hf_hub_download('{FILE}', 'tiny-i2_s.gguf'))") == path
    scan = "cache = scan_cache_dir(); print(cache.warnings, sorted((r.repo_id, r.nb_files) for r in cache.repos))"
    scanned = python(home, None, scan)
    assert scanned.startswith("[] [('org/tiny', "), scanned
    print(scanned)
    run(home, None, ROTOR, "rm", FILE)
    scanned = python(home, None, scan)
    assert scanned.startswith("[] [('org/tiny', ") and "gguf" not in scanned, scanned


def folders_of_ones_own(work: Path) -> None:
    ours, theirs = work / "folder-ours", work / "folder-theirs"
    with Hub(work / "hub") as hub:
        pull(work / "home", hub, FILE, "--local-dir", str(ours))
        python(work / "home", hub, f"hf_hub_download('{FILE}', 'tiny-i2_s.gguf', local_dir='{theirs}')")
    with Hub(work / "hub") as hub:
        python(work / "home", hub, f"hf_hub_download('{FILE}', 'tiny-i2_s.gguf', local_dir='{ours}')")
        assert pull(work / "home", hub, FILE, "--local-dir", str(theirs))["fetched"] == 0
    assert hub.contents == [], hub.contents


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "hub" / FILE).mkdir(parents=True)
        shutil.copy(GGUF, work / "hub" / FILE / "tiny-i2_s.gguf")
        shutil.copytree(FOLDER, work / "hub" / CHECKPOINT)
        for name in (FILE, CHECKPOINT):
            (work / "hub" / name / "README.md").write_text("read me")
        officially_filled(work)
        filled_by_rotor(work)
        folders_of_ones_own(work)
    print("rotor and huggingface_hub share a cache: nothing was fetched twice, scan and verify found nothing wrong")


main()
