"""Whatever stands in a bundle's place gives a bundle or an error that says what is wrong; it never hangs or grows."""

from __future__ import annotations

import io
import json
import os
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrs.bundle import Bundle, open_bundle, open_trusted, read_selftest, verify_files
from babelrs.errors import BabelRSError
from babelrs.manifest import MAX_INPUT_BYTES, Manifest
from babelrs.sensors import Sensor
from tests.babelrs.test_bundle import make_bundle
from tests.unprivileged import permissions_count


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_bundle(tmp_path_factory.mktemp("text") / "bundle").manifest.to_json()


def linked(path: Path) -> None:
    """The file, elsewhere, with a link to it in its place."""
    elsewhere = path.parent.parent / path.name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["manifest.json", "weights.bin", "model.ir.onnx", "selftest.sar.npz"])
@pytest.mark.parametrize(
    ("replaced", "said"), [(linked, "a link"), (piped, "not a regular file"), (a_folder, "not a regular file")]
)
def test_links_pipes_and_folders_are_no_files_of_a_bundle(
    bundle: Bundle, name: str, replaced: Callable[[Path], None], said: str
) -> None:
    replaced(bundle.folder / name)
    with pytest.raises(BabelRSError, match=said) as caught:
        open_trusted(bundle.folder)
    assert name in str(caught.value)


def test_a_link_to_the_whole_bundle_is_followed(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(bundle.folder)
    assert open_trusted(tmp_path / "current").digest == bundle.digest


def test_a_pipe_or_device_in_the_bundle_s_place_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.babelrs")
    for path in (tmp_path / "pipe.babelrs", Path("/dev/zero")):
        with pytest.raises(BabelRSError, match="no such bundle"):
            open_bundle(path)


def test_a_name_that_no_file_can_have_is_refused() -> None:
    with pytest.raises(BabelRSError, match="no such bundle"):
        open_bundle("a\0b")


def test_a_manifest_of_1_gb_is_refused_unread(bundle: Bundle) -> None:
    os.truncate(bundle.folder / "manifest.json", 1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(BabelRSError, match=r"manifest\.json: 1073741824 bytes, too many for a manifest"):
            open_bundle(bundle.folder)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_listed_file_of_1_tb_is_refused_unread(bundle: Bundle) -> None:
    os.truncate(bundle.folder / "weights.bin", 1 << 40)
    with pytest.raises(BabelRSError, match=r"weights\.bin: 1099511627776 bytes, too many"):
        verify_files(bundle)


def test_a_folder_of_very_many_files_is_refused_with_some_of_them(bundle: Bundle) -> None:
    for number in range(3000):
        (bundle.folder / f"extra{number}").touch()
    with pytest.raises(BabelRSError, match="not listed") as caught:
        verify_files(bundle)
    assert len(str(caught.value)) < 20_000


@pytest.mark.parametrize("name", ["", "manifest.json", "weights.bin"])
def test_what_may_not_be_read_is_said(bundle: Bundle, name: str) -> None:
    path = bundle.folder / name
    path.chmod(0)
    try:
        with permissions_count(), pytest.raises(BabelRSError, match=r"Permission denied"):
            open_trusted(bundle.folder)
    finally:
        path.chmod(0o700)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace('"taps"', '"name": "other",\n "taps"', 1), "'name' stands twice"),
        (lambda text: text.replace("0.25", "NaN", 1), "not finite"),
        (lambda text: text.replace("0.25", "-Infinity", 1), "not finite"),
        (lambda text: text.replace("0.25", "1e999", 1), "not finite"),
        (lambda text: text.replace("0.25", "9" * 500 + ".0", 1), "not finite"),
        (lambda text: text.replace('"nms_iou": 0.1', '"nms_iou": ' + "9" * 400, 1), "more than 64 bits"),
        (lambda text: text.replace("0.25", "9" * 5000, 1), "more than 64 bits"),
        (lambda text: text.replace("0.25", "9223372036854775808", 1), "more than 64 bits"),
        (lambda text: text.replace("0.25", "[" * 100_000 + "]" * 100_000, 1), "nested deeper than 32"),
        (lambda text: text.replace("0.25", "[" * 40 + "]" * 40, 1), "nested deeper than 32"),
        (lambda text: text.replace("0.25", '{"a":' * 900 + "1" + "}" * 900, 1), "nested deeper than 32"),
        (lambda text: text.replace('"toy"', r'"\ud800"', 1), "surrogate"),
        (lambda text: text.replace("0.25", r'{"\udfff": 1}', 1), "surrogate"),
        (lambda text: text.replace('"toy"', r'"\u001b[2J"', 1), "name: .* is not a name"),
        (lambda text: text.replace('"toy"', r'"two\nlines"', 1), "name: .* is not a name"),
        (lambda text: text.replace('"ship"', r'"a\tb"', 1), "classes"),
        (lambda text: text.replace('"toy"', '"' + "x" * 300 + '"', 1), "is not a name"),
        (lambda text: text.replace('"weights.bin"', '"manifest.json"', 1), "files"),
        (lambda text: text.replace('"weights.bin"', '"manifest.sig"', 1), "files"),
        (lambda text: text.replace('"input_height": 8', '"input_height": 65536', 1), ""),
        (lambda text: text.replace("babelrs.bundle/1", "x" * 10_000), "schema"),
    ],
)
def test_json_that_two_readers_would_take_differently_is_refused(
    text: str, change: Callable[[str], str], said: str
) -> None:
    changed = change(text)
    assert changed != text
    if not said:  # an input that only together with its width is too large
        changed = changed.replace('"input_width": 16', '"input_width": 65536', 1)
        said = f"more than {MAX_INPUT_BYTES} bytes"
    with pytest.raises(BabelRSError, match=said) as caught:
        Manifest.from_json(changed)
    assert len(str(caught.value)) < 1000


def test_more_files_than_a_bundle_may_have_are_refused(text: str) -> None:
    values = json.loads(text)
    values["files"].update({f"extra{number}": "0" * 64 for number in range(64)})
    with pytest.raises(BabelRSError, match="at most 64"):
        Manifest.from_json(json.dumps(values))


def test_messages_about_strange_names_are_short_and_do_not_move_the_cursor(text: str) -> None:
    values = json.loads(text)
    values["\x1b[2J" + "x" * 10_000] = values["sensors"]["\x1b[2J" + "y" * 10_000] = 1
    with pytest.raises(BabelRSError, match="unknown field") as caught:
        Manifest.from_json(json.dumps(values))
    assert "\x1b" not in str(caught.value) and len(str(caught.value)) < 1000


CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=5)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values stand in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


@settings(max_examples=200)
@given(data=st.data())
def test_a_manifest_with_another_value_anywhere_is_a_manifest_or_an_error(text: str, data: st.DataObject) -> None:
    values = json.loads(text)
    *path, last = data.draw(st.sampled_from(places(values)[1:]))
    holder = values
    for key in path:
        holder = holder[key]
    holder[last] = data.draw(ANY_JSON)
    with suppress(BabelRSError):
        found = Manifest.from_bytes(json.dumps(values).encode())
        assert Manifest.from_json(found.to_json()) == found


@settings(max_examples=200)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=5), cut=st.integers(0, 1 << 16)
)
def test_a_manifest_with_other_bytes_is_a_manifest_or_an_error(
    text: str, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(text.encode())
    for place, value in changes:
        data[place % len(data)] = value
    for each in (bytes(data), bytes(data[: cut % len(data)])):
        with suppress(BabelRSError):
            Manifest.from_bytes(each)


@settings(max_examples=200)
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(BabelRSError, match="manifest"):
        Manifest.from_bytes(data)


def npz(**arrays: Any) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def with_member(whole: bytes, name: str, content: bytes) -> bytes:
    """A self-test whose member ``name`` holds other bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for each in old.namelist():
            new.writestr(each, content if each == name else old.read(each))
    return out.getvalue()


def declared(shape: str, descr: str = "|u1", rest: bytes = b"") -> bytes:
    """An array file that says it is of this shape and type."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + rest


BOMBS = {
    "a shape of 1 PB": declared("(1, 33554432, 33554432, 1)"),
    "a negative shape": declared("(1, -8, 16, 1)"),
    "objects": declared("(1, 8, 16, 1)", "|O"),
    "a header that is code": declared("__import__('os')"),
    "a deep header": declared("(" * 500 + ")" * 500),
    "another type": declared("(1, 8, 16, 1)", "<f8", b"\0" * 1024),
    "too few bytes": declared("(1, 8, 16, 1)", rest=b"\0" * 127),
    "nothing": b"",
    "half a header": declared("(1, 8, 16, 1)")[:20],
    "another version": b"\x93NUMPY\x03\x00" + b"\0" * 100,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_self_test_that_declares_something_else_is_refused(bundle: Bundle, name: str) -> None:
    path = bundle.folder / "selftest.sar.npz"
    path.write_bytes(with_member(path.read_bytes(), "pixels.npy", BOMBS[name]))
    with pytest.raises(BabelRSError, match=r"selftest\.sar\.npz: not a self-test"):
        read_selftest(bundle, Sensor.SAR)


def test_of_a_self_test_that_unpacks_to_1_gb_only_what_belongs_is_unpacked(bundle: Bundle) -> None:
    path = bundle.folder / "selftest.sar.npz"
    content = declared("(1, 8, 16, 1)") + bytes(range(128)) + b"\0" * (64 << 20)
    path.write_bytes(with_member(path.read_bytes(), "pixels.npy", content))
    del content
    tracemalloc.start()
    try:
        assert read_selftest(bundle, Sensor.SAR).pixels.tobytes() == bytes(range(128))
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_tolerances_that_are_no_numbers_are_refused(bundle: Bundle) -> None:
    path = bundle.folder / "selftest.sar.npz"
    with np.load(path) as arrays:
        values = dict(arrays)
    for bad in (np.nan, np.inf):
        path.write_bytes(npz(**{**values, "score_tolerance": np.float64(bad)}))
        with pytest.raises(BabelRSError, match="score_tolerance is"):
            read_selftest(bundle, Sensor.SAR)


@settings(max_examples=200)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4), cut=st.integers(0, 1 << 16)
)
def test_a_changed_self_test_is_one_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "changed-selftest"
    whole = folder / "whole"
    if not folder.exists():
        make_bundle(whole)
        shutil.copytree(whole, folder / "bundle")
    bundle = open_bundle(folder / "bundle")
    data = bytearray((whole / "selftest.ir.npz").read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    (bundle.folder / "selftest.ir.npz").write_bytes(data[: cut % len(data)] if cut % 4 == 0 else data)
    with suppress(BabelRSError):
        assert read_selftest(bundle, Sensor.IR).pixels.shape == (1, 8, 16, 1)
