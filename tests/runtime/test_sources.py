"""Names, folders and patterns on a command line mean the image files a user expects."""

from __future__ import annotations

from pathlib import Path

import pytest

from babelrs.errors import BabelRSError
from runtime.sources.files import find_images


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(folder: Path, *sources: object) -> list[str]:
    return [image.path.relative_to(folder).as_posix() for image in find_images([str(source) for source in sources])]


def test_a_folder_is_searched_below_in_natural_order(tmp_path: Path) -> None:
    touch(tmp_path, "f10.png", "f9.JPG", "sub/f1.tif", "f9.txt", ".hidden.png", ".git/x.png", "f1.tiff", "f9b.jpeg")
    assert names(tmp_path, tmp_path) == ["f1.tiff", "f9.JPG", "f9b.jpeg", "f10.png", "sub/f1.tif"]


def test_digits_that_are_no_numbers_sort_as_letters(tmp_path: Path) -> None:
    touch(tmp_path, "5²3.png", "5²20.png")
    assert names(tmp_path, tmp_path) == ["5²3.png", "5²20.png"]


def test_sources_keep_their_order_and_files_come_once(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a.png", "c.png")
    assert names(tmp_path, tmp_path / "c.png", tmp_path, f"{tmp_path}/./a.png") == [
        "c.png",
        "a.png",
        "b.png",
    ]


def test_patterns_match_images_only(tmp_path: Path) -> None:
    touch(tmp_path, "s/a1.png", "s/a2.txt", "t/a3.tif", "t/b.png")
    assert names(tmp_path, tmp_path / "*" / "a*") == ["s/a1.png", "t/a3.tif"]
    assert names(tmp_path, tmp_path / "**" / "*.png") == ["s/a1.png", "t/b.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].png", "a1.png")
    assert names(tmp_path, tmp_path / "a[1].png") == ["a[1].png"]


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "frame.raw")
    assert names(tmp_path, tmp_path / "frame.raw") == ["frame.raw"]


def test_names_for_result_files_are_unique(tmp_path: Path) -> None:
    touch(tmp_path, "one/x.png", "one/x.tif", "two/x.png", "one/sub/x.png")
    found = find_images([str(tmp_path / "one"), str(tmp_path / "two")])
    assert [image.name for image in found] == ["sub__x", "x", "x-2", "x-3"]


def test_names_for_result_files_fit_a_file_system(tmp_path: Path) -> None:
    touch(tmp_path, f"{'é' * 120}.png", "/".join(["deep" * 20] * 10) + "/7.png", "/".join(["deep" * 20] * 9) + "/7.png")
    images = [image.name for image in find_images([str(tmp_path)])]
    assert len(set(images)) == 3 and sum(name.endswith("deep__7") for name in images) == 1
    for name in images:
        touch(tmp_path / "out", f".12-{name}-1234.geojson.part")


@pytest.mark.parametrize("sources", [["none.png"], ["empty"], ["*.tif"], []])
def test_what_holds_no_image_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sources: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "good.png")
    with pytest.raises(BabelRSError) as caught:
        find_images(["good.png", *sources] if sources else [])
    assert all(source in str(caught.value) for source in sources)
