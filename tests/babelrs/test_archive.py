"""An archive is plain files of honest sizes, or it is refused before anything of it is unpacked."""

from __future__ import annotations

import fcntl
import io
import os
import random
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrs import archive as archives
from babelrs.archive import read_members
from babelrs.bundle import Bundle, open_bundle, pack_bundle, verify_files
from babelrs.errors import BabelRSError
from tests.babelrs.test_bundle import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("archive") / "bundle")


@pytest.fixture(scope="module")
def packed(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return pack_bundle(bundle, tmp_path_factory.mktemp("packed") / "toy.babelrs").read_bytes()


def members(data: bytes) -> list[tuple[str, int]]:
    return [(member.name, member.size) for member in read_members(io.BytesIO(data), Path("toy.babelrs"))]


def header(name: str = "file", size: int = 0, kind: bytes = b"0", **fields: tuple[int, bytes]) -> bytes:
    """A header with its checksum; ``fields`` are places and bytes that are written over it."""
    tar = tarfile.TarInfo(name)
    tar.size, tar.type = size, kind
    block = bytearray(tar.tobuf(tarfile.USTAR_FORMAT if size < 8 << 30 else tarfile.GNU_FORMAT)[-512:])
    for place, value in fields.values():
        block[place : place + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_the_members_are_those_that_python_s_tarfile_finds(packed: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert members(packed) == [(member.name, member.size) for member in tar]


def test_an_archive_of_gnu_format_is_read_too(bundle: Bundle, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "toy.babelrs", "w:", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted(bundle.folder.iterdir()):
            tar.add(path, path.name)
    verify_files(open_bundle(tmp_path / "toy.babelrs", tmp_path / "cache"))


def test_an_archive_cut_anywhere_before_its_end_is_refused(packed: bytes, tmp_path: Path) -> None:
    end = len(packed.rstrip(b"\0")) // 512 * 512 + 1024  # two blocks of zeros after the last that holds anything
    rng = random.Random(8)
    cuts = sorted({0, 1, 511, 512, 513, end - 1, *(rng.randrange(end) for _ in range(200)), *range(0, end, 512)})
    print(f"{len(cuts)} cuts of seed 8 before byte {end}")
    for cut in cuts:
        (tmp_path / "cut.babelrs").write_bytes(packed[:cut])
        with pytest.raises(BabelRSError, match="damaged"):
            open_bundle(tmp_path / "cut.babelrs", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


_HOSTILE: dict[str, Callable[[], bytes]] = {
    "a member of 1 TB": lambda: header("weights.bin", 1 << 40),
    "a member beyond the end": lambda: header("weights.bin", 1 << 20) + b"\0" * 1024,
    "5 GiB that are there": lambda: header("weights.bin", 5 << 30),
    "a negative size": lambda: header(size_=(124, b"-0000000001\0")),
    "a size in base 256": lambda: header(size_=(124, b"\x80" + b"\0" * 10 + b"\x01")),
    "a size that is blank": lambda: header(size_=(124, b" " * 12)),
    "a size in decimal": lambda: header(size_=(124, b"00000000089\0")),
    "a wrong checksum": lambda: header()[:-1] + b"!",
    "a prefix": lambda: header(prefix_=(345, b"../../etc")),
    "a zero byte in a name": lambda: header(name_=(0, b"file\0/../../evil")),
    "an extended header of 1 TB": lambda: header("pax", 1 << 40, b"x"),
    "an extended header": lambda: header("pax", 12, b"x") + b"12 path=evil" + b"\0" * 500,
    "a global extended header": lambda: header("pax", 0, b"g"),
    "a GNU long name": lambda: header("././@LongLink", 5, b"L"),
    "a GNU long link": lambda: header("long", 5, b"K"),
    "a sparse file": lambda: header("weights.bin", 0, b"S"),
    "a device": lambda: header("weights.bin", 0, b"3"),
    "a block device": lambda: header("weights.bin", 0, b"4"),
    "an unknown kind": lambda: header("weights.bin", 0, b"Z"),
    "a contiguous file": lambda: header("weights.bin", 0, b"7"),
}


@pytest.mark.parametrize("name", _HOSTILE)
def test_a_hostile_header_is_refused(name: str) -> None:
    with pytest.raises(BabelRSError, match=r"toy\.babelrs"):
        members(_HOSTILE[name]() + b"\0" * 1024)


def test_the_builder_of_hostile_headers_makes_good_ones_too() -> None:
    assert members(header("weights.bin", 3) + b"abc" + b"\0" * 509 + b"\0" * 1024) == [("weights.bin", 3)]


def test_what_goes_on_behind_the_end_is_refused(packed: bytes) -> None:
    for more in (header("evil") + b"\0" * 1024, b"\0" * 512 + b"!", b"\0" * (2 << 20)):
        with pytest.raises(BabelRSError, match="goes on behind its end"):
            members(packed + more)


def test_more_files_than_a_bundle_has_are_refused() -> None:
    data = b"".join(header(f"file{number}") for number in range(1000)) + b"\0" * 1024
    with pytest.raises(BabelRSError, match="more than 64 files"):
        members(data)


def test_sizes_that_together_are_too_much_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "sparse.babelrs").open("wb") as stream:
        for number in range(3):
            stream.seek(number * ((3 << 30) + 512))
            stream.write(header(f"file{number}", 3 << 30))
        stream.truncate(3 * ((3 << 30) + 512) + 1024)
    with pytest.raises(BabelRSError, match="8 GiB"):
        open_bundle(tmp_path / "sparse.babelrs", tmp_path / "cache")


def test_too_little_disk_is_said_with_numbers_before_anything_is_unpacked(
    packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.babelrs").write_bytes(packed)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5 << 20))
    with pytest.raises(BabelRSError, match=r"needs 64 MiB, and 5 MiB are free"):
        open_bundle(tmp_path / "toy.babelrs", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_full_disk_while_unpacking_leaves_nothing(
    packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.babelrs").write_bytes(packed)

    def full(*arguments: object) -> None:
        (arguments[2] / "weights.bin").write_bytes(b"half")  # type: ignore[operator]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("babelrs.bundle.extract", full)
    with pytest.raises(BabelRSError, match="No space left"):
        open_bundle(tmp_path / "toy.babelrs", tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_full_disk_while_packing_leaves_the_old_archive(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy.babelrs").write_bytes(b"old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.tarfile.TarFile, "addfile", full)
    with pytest.raises(BabelRSError, match="No space left"):
        pack_bundle(bundle, tmp_path / "toy.babelrs")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("toy.babelrs", b"old")]


def test_what_a_killed_process_left_unpacked_is_cleared_and_what_another_unpacks_is_not(
    packed: bytes, tmp_path: Path
) -> None:
    (tmp_path / "toy.babelrs").write_bytes(packed)
    for name in (".unpack-killed", ".unpack-busy"):
        (tmp_path / "cache" / name / "bundle").mkdir(parents=True)
    descriptor = os.open(tmp_path / "cache" / ".unpack-busy", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        folder = open_bundle(tmp_path / "toy.babelrs", tmp_path / "cache").folder
    finally:
        os.close(descriptor)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == [".unpack-busy", folder.name]


def test_an_unpacked_copy_that_is_a_link_is_not_followed(packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "toy.babelrs").write_bytes(packed)
    folder = open_bundle(tmp_path / "toy.babelrs", tmp_path / "cache").folder
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    opened = open_bundle(tmp_path / "toy.babelrs", tmp_path / "cache")
    assert opened.folder == folder and not folder.is_symlink() and (tmp_path / "elsewhere" / "weights.bin").exists()


def mutated(data: bytes, changes: list[tuple[int, int]]) -> bytes:
    changed = bytearray(data)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed)


@settings(max_examples=300)
@given(data=st.binary(max_size=2048))
def test_arbitrary_bytes_are_members_or_an_error(data: bytes) -> None:
    with suppress(BabelRSError):
        assert members(data) == []  # only zeros are an archive, and an empty one


def test_a_single_changed_byte_of_a_header_is_refused(packed: bytes) -> None:
    for place in [*range(148), *range(156, 512)]:  # all but the checksum itself, which can be spelled otherwise
        changed = mutated(packed, [(place, packed[place] ^ 1 << place % 8)])
        with pytest.raises(BabelRSError, match="damaged"):
            members(changed)


@settings(max_examples=150)
@given(
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6), cut=st.integers(0, 1 << 20)
)
def test_a_changed_archive_gives_its_bundle_or_an_error(
    packed: bytes,
    bundle: Bundle,
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, int]],
    cut: int,
) -> None:
    folder = tmp_path_factory.mktemp("changed")
    data = mutated(packed, changes)
    (folder / "toy.babelrs").write_bytes(data[: cut % len(data)] if cut % 3 == 0 else data)
    try:
        opened = open_bundle(folder / "toy.babelrs", folder / "cache")
        verify_files(opened)
    except BabelRSError:
        return
    # Bytes that no hash covers: times and owners in headers, and padding.
    assert opened.manifest == bundle.manifest
