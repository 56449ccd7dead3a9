"""Runs the examples of docs/server.md as they stand, against the server at ROTOR_URL: examples.py docs/server.md."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

RUNNERS = {"sh": ["sh", "-e", "-c"], "python": [sys.executable, "-c"], "js": ["node", "--input-type=module", "-e"]}

text = Path(sys.argv[1]).read_text()
found = re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
assert {language for language, _ in found} == set(RUNNERS), "an example in every language"
for language, code in found:
    runner = RUNNERS[language]
    if shutil.which(runner[0]) is None:
        print(f"SKIPPED: the {language} example. {runner[0]} is not here")
        continue
    assert "http://127.0.0.1:8080" in code, code
    code = code.replace("http://127.0.0.1:8080", os.environ["ROTOR_URL"])
    output = subprocess.run([*runner, code], check=True, capture_output=True, text=True, timeout=120).stdout
    assert output.strip(), f"the {language} example printed nothing"
print(f"{len(found)} examples ran")
