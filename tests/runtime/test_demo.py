"""Without ``--bundle`` the demo bundle in the package is run."""

from __future__ import annotations

from pathlib import Path

import pytest

import runtime.cli
from babelrs.bundle import Bundle
from tests.runtime.dots import write_dots


def test_the_bundle_in_the_package_is_the_default(
    toy_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime.cli, "DEMO_BUNDLE", toy_bundle.folder)
    image = write_dots(tmp_path / "a.png", 96, 64, [(30, 20, 250)])
    assert runtime.cli.main(["--sensor", "ir", str(image), "--out", str(tmp_path / "out")]) == 0
    assert "1 detections (bright-dot 1)" in capsys.readouterr().out


def test_an_installation_without_demo_bundle_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime.cli, "DEMO_BUNDLE", tmp_path / "demo")
    image = write_dots(tmp_path / "a.png", 96, 64, [])
    assert runtime.cli.main(["--sensor", "ir", str(image), "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert str(tmp_path / "demo") in message and "--bundle" in message
