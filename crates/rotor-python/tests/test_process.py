"""Threads, forks and signals: each in a process of its own, because they change it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def python(code: str, *arguments: object, **environment: str) -> str:
    """Runs a script and returns what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_threads_set_the_size_of_the_pool(tiny: Path):
    assert python("import rotor; print(rotor.threads(3), rotor.threads())") == "3 3"
    assert python("import rotor; print(rotor.threads())", ROTOR_THREADS="2") == "2"
    code = """
import sys, rotor
with rotor.Model.load(sys.argv[1], threads=2):
    assert rotor.threads() == 2 == rotor.threads(2)
    try:
        rotor.threads(3)
    except RuntimeError as error:
        print(error)
assert rotor.threads(3) == 3
"""
    assert "it has 2 threads, not 3: close them first" in python(code, tiny)


@pytest.mark.parametrize("count", ["0", "-1", "5000"])
def test_sizes_of_no_pool_are_refused(count: str):
    code = f"""
import rotor
try:
    rotor.threads({count})
except (ValueError, OverflowError) as error:
    print(type(error).__name__)
"""
    assert python(code) in ("ValueError", "OverflowError")


def test_the_kernels_can_be_chosen():
    assert python("import rotor; print(rotor.isa())", ROTOR_ISA="scalar") == "scalar"
    code = """
import rotor
try:
    rotor.isa()
except RuntimeError as error:
    print(error)
"""
    assert "expected one of" in python(code, ROTOR_ISA="abacus")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork: a forked child was not tested")
def test_a_forked_child_has_a_pool_of_its_own_and_cannot_use_its_parents_model(tiny: Path):
    code = """
import os, sys, numpy as np, rotor
from rotor.core import RotorCore
layer = rotor.synth.create_bitnet_layer(256, 512)
planes = RotorCore.encode(layer)
packed = RotorCore.pack(*planes)
x = np.ones(512, np.int8)
model = rotor.Model.load(sys.argv[1], threads=2)
expected, text = packed.matvec(x), model.generate("Once", max_tokens=8)
stream = model.stream("Once", max_tokens=None, ignore_eos=True)
next(stream)
child = os.fork()
if child == 0:
    assert rotor.threads() >= 1
    assert np.array_equal(packed.matvec(x), expected)
    assert np.array_equal(RotorCore.matvec(*planes, x), expected)
    try:
        model.generate("Once")
    except RuntimeError as error:
        assert "load it in the child" in str(error)
    else:
        os._exit(1)
    with rotor.Model.load(sys.argv[1]) as mine:
        assert mine.generate("Once", max_tokens=8) == text
    try:
        next(stream)
    except RuntimeError as error:
        assert "load the model in the child" in str(error)
    else:
        os._exit(2)
    stream.close()
    model.close()
    del stream, model
    os._exit(0)
_, status = os.waitpid(child, 0)
assert next(stream)
stream.close()
assert model.generate("Once", max_tokens=8) == text
print(os.waitstatus_to_exitcode(status))
"""
    assert python(code, tiny) == "0"


# What a shell starts in the background ignores SIGINT, and so would this process.
INTERRUPTED = """
import signal, sys, time, rotor
signal.signal(signal.SIGINT, signal.default_int_handler)
model = rotor.Model.load(sys.argv[1], context=200000)
before = model.generate("Once", max_tokens=4)
print("ready", flush=True)
start = time.monotonic()
try:
    {work}
except KeyboardInterrupt:
    print("interrupted", flush=True)
assert model.generate("Once", max_tokens=4) == before
print("usable")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ on Windows: Ctrl-C was not tested")
@pytest.mark.parametrize(
    "work",
    [
        "model.generate('Once', max_tokens=None, ignore_eos=True)",
        "for piece in model.stream('Once', max_tokens=None, ignore_eos=True): pass",
        "model.logits([5] * 100000)",
        "model.perplexity([5] * 200000, context=1000)",
    ],
)
def test_ctrl_c_ends_what_is_under_way_and_leaves_the_model_usable(tiny: Path, work: str):
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED.format(work=work), str(tiny)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert out == "interrupted\nusable\n"
