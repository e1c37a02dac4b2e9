"""The fuzzing benchmark: valid examples are taken, findings are found, and clean targets end clean."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path

import pytest

from babelrs.errors import BabelRSError
from benchmarks import fuzz
from benchmarks.fuzz_targets import TARGETS, own_folder


@pytest.mark.parametrize("name", TARGETS)
def test_every_first_example_is_taken_without_an_error(name: str) -> None:
    with own_folder() as folder:
        TARGETS[name].run(TARGETS[name].examples()[0], folder)


@pytest.mark.parametrize("name", TARGETS)
def test_bytes_that_are_nothing_raise_users_errors_only(name: str, tmp_path: Path) -> None:
    refused = 0
    for data in (b"", b"\0", b"--sensor\nradio", b"\xff" * 600, zlib.compress(b"x" * 999)):
        try:
            TARGETS[name].run(data, tmp_path)
        except BabelRSError:
            refused += 1
    assert refused or name == "stream", "nothing was refused"  # a stream gives its errors as items


def test_executions_are_shared_out_in_full() -> None:
    shares = fuzz.shared_out(list(TARGETS), 1_000_000)
    assert sum(shares.values()) >= 1_000_000
    assert shares["image"] > shares["raster"] > shares["command-line"] > 0


def test_a_short_run_of_a_target_counts_its_executions(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="atheris is not installed")
    out = tmp_path / "fuzz.json"
    assert fuzz.main(["--targets", "image", "--executions", "300", "--out", str(out)]) == 0
    row = json.loads(out.read_text())["targets"]["image"]
    assert row["executions"] >= 300
    assert row["branches"] > 50, "the code under test does not tell its branches"
    assert row["findings"] == {}


def test_a_finding_is_kept_with_its_bytes(tmp_path: Path) -> None:
    """The child is the real one, but for what it fuzzes, which raises on every input that begins with an E."""
    pytest.importorskip("atheris", reason="atheris is not installed")
    child = tmp_path / "child.py"
    child.write_text(
        "import sys\n"
        "from benchmarks import fuzz_child, fuzz_targets\n"
        "def run(data, folder):\n"
        "    if data[:1] == b'E':\n"
        "        raise ValueError('found')\n"
        "fuzz_child.TARGETS['image'] = fuzz_targets.Target(run, lambda: [b'ABC'])\n"
        "fuzz_child.main(sys.argv[1], sys.argv[2], sys.argv[3:])\n"
    )
    row = fuzz.fuzz("image", 200_000, seed=1, child=[str(child)])
    assert row["exit_code"] != 0
    assert "ValueError: found" in row["report"]
    (data,) = (base64.b64decode(text) for text in row["findings"].values())
    assert data[:1] == b"E"
