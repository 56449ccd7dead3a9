"""The documentation's Python, as it stands there."""

import re
from pathlib import Path

import pytest

from conftest import REPOSITORY


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_in_the_documentation_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if not (REPOSITORY / page).exists():
        pytest.skip(f"there is no {page} here")
    found = blocks(REPOSITORY / page)
    if any("matplotlib" in block for block in found):
        pytest.importorskip("matplotlib", reason=f"matplotlib is not installed: the Python of {page} was not run")
    assert found, f"{page} has no Python"
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page}
    for index, block in enumerate(found):
        exec(compile(block, f"{page}, block {index + 1}", "exec"), namespace)
