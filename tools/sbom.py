"""What is inside a build: a CycloneDX bill of materials, and the licences of everything that is linked in.

Usage: sbom.py PACKAGE TARGET SBOM.json THIRD-PARTY.txt

Reads `cargo metadata` and `Cargo.lock`; asks nothing else, so two runs give the same bytes. Fails where a crate has neither a
licence text nor a licence that SPDX gives a name to.
"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

LICENSE_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "COPYRIGHT*", "NOTICE*", "UNLICENSE*", "license*", "licenses/*")


def main() -> None:
    package, target, sbom, notices = sys.argv[1:]
    metadata = json.loads(
        subprocess.check_output(
            ["cargo", "metadata", "--locked", "--format-version=1", f"--filter-platform={target}"], text=True
        )
    )
    packages = {entry["id"]: entry for entry in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    root = next(entry["id"] for entry in metadata["packages"] if entry["name"] == package)
    linked = reachable(nodes, root)
    checksums = {
        (entry["name"], entry["version"]): entry.get("checksum")
        for entry in tomllib.loads(Path("Cargo.lock").read_text(encoding="utf-8"))["package"]
    }
    Path(sbom).write_text(
        json.dumps(bill(packages, nodes, root, linked, checksums, target), indent=1) + "\n", encoding="utf-8"
    )
    Path(notices).write_text(third_party(packages, root, linked), encoding="utf-8")


def reachable(nodes: dict, root: str) -> list[str]:
    """Whatever is compiled into `root`, build scripts and procedural macros included, in a fixed order."""
    seen, waiting = {root}, [root]
    while waiting:
        for dependency in dependencies(nodes[waiting.pop()]):
            if dependency not in seen:
                seen.add(dependency)
                waiting.append(dependency)
    return sorted(seen)


def dependencies(node: dict) -> list[str]:
    """The packages a node uses outside its tests."""
    return sorted({d["pkg"] for d in node["deps"] if any(kind["kind"] != "dev" for kind in d["dep_kinds"])})


def purl(package: dict) -> str:
    return f"pkg:cargo/{package['name']}@{package['version']}"


def bill(packages: dict, nodes: dict, root: str, linked: list[str], checksums: dict, target: str) -> dict:
    def component(identifier: str, kind: str) -> dict:
        package = packages[identifier]
        entry = {
            "type": kind,
            "bom-ref": purl(package),
            "name": package["name"],
            "version": package["version"],
            "purl": purl(package),
            "licenses": [{"expression": spdx(package)}],
        }
        checksum = checksums.get((package["name"], package["version"]))
        return entry | ({"hashes": [{"alg": "SHA-256", "content": checksum}]} if checksum else {})

    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": component(root, "application"),
            "properties": [{"name": "target", "value": target}],
        },
        "components": [component(identifier, "library") for identifier in linked if identifier != root],
        "dependencies": [
            {"ref": purl(packages[i]), "dependsOn": [purl(packages[d]) for d in dependencies(nodes[i])]} for i in linked
        ],
    }


def spdx(package: dict) -> str:
    """The licence as an SPDX expression; older crates write a slash for OR."""
    license = package["license"]
    if not license:
        sys.exit(f"{package['name']} {package['version']}: expected an SPDX licence in its manifest, found none")
    return license.replace("/", " OR ")


def third_party(packages: dict, root: str, linked: list[str]) -> str:
    """The licence texts of all crates from elsewhere, each text once."""
    texts: dict[str, list[str]] = {}
    for identifier in linked:
        package = packages[identifier]
        if package["source"] is None:
            continue
        folder = Path(package["manifest_path"]).parent
        files = sorted({path for pattern in LICENSE_FILES for path in folder.glob(pattern) if path.is_file()})
        # Of a choice of licences we take MIT, whose text is the short one.
        if "MIT" in spdx(package).split(" OR "):
            files = [path for path in files if "MIT" in path.name.upper()] or files
        text = "\n\n".join(path.read_text(encoding="utf-8", errors="replace").strip() for path in files)
        title = f"{package['name']} {package['version']} ({spdx(package)})"
        texts.setdefault(text.replace("\r\n", "\n") or "(no text in the package: see its licence's)", []).append(title)
    sections = [", ".join(sorted(titles)) + "\n\n" + text for text, titles in texts.items()]
    rule = "\n\n" + "-" * 80 + "\n\n"
    heading = f"{packages[root]['name']} {packages[root]['version']} contains these packages under their licences."
    return rule.join([heading, *sorted(sections)]) + "\n"


if __name__ == "__main__":
    main()
