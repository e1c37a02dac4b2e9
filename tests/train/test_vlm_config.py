from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from train.vlm_config import TextSizes, VisionSizes, VLMConfig


def test_tau_beyond_the_run_is_named_and_only_where_lvsa_is_used() -> None:
    assert VLMConfig(tau=100).tau_faults(100) == []
    assert VLMConfig(tau=0).tau_faults(100) == []
    assert VLMConfig(tau=101, merge="sum").tau_faults(100) == []
    assert VLMConfig(tau=101).tau_faults(100) == [
        "tau 101 is beyond the run's 100 steps: LVSA would not reach its end state"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tau": -1}, "greater than or equal to 0"),
        ({"taps": (2, 7)}, r"taps \[2, 7\] exceed the 6 blocks"),
        ({"taps": (3, 2)}, r"taps \[3, 2\] are no rising block numbers"),
        ({"taps": (2, 2)}, r"taps \[2, 2\] are no rising block numbers"),
        ({"taps": (0, 2)}, r"taps \[0, 2\] are no rising block numbers"),
        ({"merge": "mean"}, "'last', 'concat', 'sum', 'per_layer' or 'lvsa'"),
        ({"vision": {"image_px": 112}}, "image_px 112 is no even number of 16 px patches"),
        ({"vision": {"width": 130}}, "width 130 is not a multiple of num_heads 4"),
        ({"text": {"num_kv_heads": 4}}, "num_heads 6 is not a multiple of num_kv_heads 4"),
        ({"text": {"width": 198}}, "width 198 over num_heads 6"),
        ({"name": "some/model", "vision": {"width": 64}}, "vision cannot be set: some/model brings its own sizes"),
        ({"name": "some/model", "text": {"depth": 1}}, "text cannot be set"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VLMConfig.model_validate(changes)


def test_the_1b_sizes_are_the_published_ones_and_can_be_changed() -> None:
    config = VLMConfig.model_validate({"name": "internvl_1b", "text": {"depth": 2}})
    assert (config.vision.width, config.vision.depth, config.vision.image_px, config.taps) == (
        1024,
        24,
        448,
        (3, 9, 18, 24),
    )
    assert (config.text.width, config.text.depth, config.text.hidden, config.text.tied) == (896, 2, 4864, False)


@pytest.mark.parametrize("name", ["tiny", "internvl_1b", "OpenGVLab/InternVL3-1B-hf"])
def test_settings_survive_their_own_file(name: str) -> None:
    config = VLMConfig.model_validate({"name": name, "tau": 12})
    assert VLMConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.model_copy(update={"vision": VisionSizes(), "text": TextSizes()}).name == name
