from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from babelrs.errors import BabelRSError
from tests.train.builders import tiny_backbone
from train.models.backbone import ConvViT, TimmViT, build_backbone

TIMM_NAME = "vit_tiny_patch16_224"


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (64, 160), (32, 32), (72, 100), (33, 65)])
def test_conv_vit_gives_tokens_and_fine_maps_of_any_image_size(height: int, width: int) -> None:
    torch.manual_seed(0)
    backbone = ConvViT(tiny_backbone()).eval()
    features = backbone(torch.randn(2, 3, height, width))
    rows, columns = -(-height // 32), -(-width // 32)
    assert features.grid == (rows, columns) and backbone.stride == 32
    assert [tap.shape for tap in features.taps] == [(2, rows * columns, 16)] * 2
    assert sorted(features.prior) == sorted(backbone.prior_channels) and {4, 8} <= set(features.prior)
    for stride, prior in features.prior.items():
        wanted = (2, backbone.prior_channels[stride], -(-height // stride), -(-width // stride))
        assert prior.shape == wanted, stride


def test_conv_vit_taps_are_the_outputs_of_the_named_blocks() -> None:
    torch.manual_seed(0)
    backbone = ConvViT(tiny_backbone(depth=4, taps=(1, 2, 4))).eval()
    seen: list[torch.Tensor] = []
    for block in backbone.blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    features = backbone(torch.randn(1, 3, 64, 96))
    assert len(seen) == 4
    for tap, number in zip(features.taps, (1, 2, 4), strict=True):
        assert torch.equal(tap, seen[number - 1])


def test_token_maps_are_laid_out_row_by_row() -> None:
    """A change in one corner moves the token of that corner most, before attention mixes them."""
    torch.manual_seed(0)
    backbone = ConvViT(tiny_backbone(depth=1, taps=(1,))).eval()
    for parameter in backbone.blocks[0].get_submodule("attn").parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.zeros(1, 3, 96, 160)
    changed = image.clone()
    changed[..., 70:, 10:20] = 3.0  # last row, first column of a 3 x 5 grid
    moved = (backbone(changed).taps[0] - backbone(image).taps[0]).norm(dim=-1)[0]
    assert int(moved.argmax()) == 2 * 5 + 0


@pytest.fixture(scope="module")
def timm_vit() -> TimmViT:
    torch.manual_seed(0)
    backbone = build_backbone(tiny_backbone(name=TIMM_NAME, taps=(2, 7, 12)))
    assert isinstance(backbone, TimmViT)
    return backbone.eval()


@pytest.mark.parametrize(("height", "width"), [(64, 96), (224, 224)])
def test_timm_taps_are_the_outputs_of_timm_s_blocks(timm_vit: TimmViT, height: int, width: int) -> None:
    seen: list[torch.Tensor] = []
    hooks = [b.register_forward_hook(lambda _m, _i, output: seen.append(output)) for b in timm_vit.vit.blocks]
    with torch.no_grad():
        features = timm_vit(torch.randn(2, 3, height, width))
    for hook in hooks:
        hook.remove()
    assert len(seen) == 12 and features.grid == (height // 16, width // 16)
    for tap, number in zip(features.taps, (2, 7, 12), strict=True):
        assert tap.shape == (2, 1 + height // 16 * (width // 16), 192)
        torch.testing.assert_close(tap, seen[number - 1], rtol=0, atol=0)
    for stride in (4, 8):
        assert features.prior[stride].shape == (2, timm_vit.prior_channels[stride], height // stride, width // stride)


def test_timm_names_its_prefix_tokens_stride_and_channels(timm_vit: TimmViT) -> None:
    assert (timm_vit.prefix_tokens, timm_vit.stride, timm_vit.channels) == (1, 16, 192)


def test_prefix_tokens_stay_in_front_for_models_with_registers() -> None:
    torch.manual_seed(0)
    name = next(n for n in timm.list_models("vit_*reg*") if "tiny" in n or "small" in n or "little" in n or "wee" in n)
    backbone = build_backbone(tiny_backbone(name=name, taps=(1, 2))).eval()
    assert isinstance(backbone, TimmViT) and backbone.prefix_tokens >= 1
    seen: list[torch.Tensor] = []
    backbone.vit.blocks[1].register_forward_hook(lambda _m, _i, output: seen.append(output))
    size = 4 * backbone.stride
    with torch.no_grad():
        taps = backbone(torch.randn(1, 3, size, size)).taps
    assert taps[1].shape[1] == backbone.prefix_tokens + 16
    torch.testing.assert_close(taps[1], seen[0], rtol=0, atol=0)


@pytest.mark.parametrize("taps", [(2, 1), (1, 1), (0, 2), (1, 4), (-1, 2)])
def test_taps_that_the_depth_does_not_have_are_refused(taps: tuple[int, ...]) -> None:
    with pytest.raises(BabelRSError, match=r"taps .*3 blocks"):
        build_backbone(tiny_backbone(depth=3, taps=taps))


@pytest.mark.parametrize("name", ["vit_of_nobody", "resnet18", ""])
def test_names_that_are_no_vit_are_refused(name: str) -> None:
    changes: dict[str, Any] = {"name": name}
    with pytest.raises(BabelRSError) as caught:
        build_backbone(tiny_backbone(**changes))
    assert repr(name) in str(caught.value)
