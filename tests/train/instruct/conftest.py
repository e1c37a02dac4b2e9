from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tests.train.instruct.builders import small_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))
