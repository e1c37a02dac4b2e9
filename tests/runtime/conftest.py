from __future__ import annotations

import pytest

from babelrs.bundle import Bundle
from tests.runtime.toy_bundle import write_toy_bundle


@pytest.fixture(scope="session")
def toy_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    pytest.importorskip("onnx", reason="the toy graphs are made with onnx")
    return write_toy_bundle(tmp_path_factory.mktemp("toy") / "bundle")
