from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from tests.train.builders import CLASSES, random_pixels, tiny_backbone, tiny_model
from tests.train.models.vits import random_internvit, tiny_internvit
from train.config import BackboneConfig
from train.models.backbone import ConvViT, InternViTBackbone, TimmViT, build_backbone
from train.models.detector import Detector

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


STEM: dict[str, Any] = {"stem_widths": (8, 8, 8), "stem_blocks": (0, 0, 0)}
BACKBONES: dict[str, BackboneConfig] = {
    "conv_vit": tiny_backbone(),
    "conv_vit without a tap at the end": tiny_backbone(depth=4, taps=(1, 2)),
    "internvit_300m": tiny_internvit(patch_px=16, image_px=64),
    "internvit_300m without a tap at the end": tiny_internvit(patch_px=16, image_px=64, taps=(1, 2)),
    "vit_tiny_patch16_224": tiny_backbone(name="vit_tiny_patch16_224", taps=(1, 12), **STEM),
    "deit3_small_patch16_224": tiny_backbone(name="deit3_small_patch16_224", taps=(1, 3), **STEM),
    "vit_small_patch14_dinov2": tiny_backbone(name="vit_small_patch14_dinov2", taps=(1, 3), patch_px=16, **STEM),
    "vit_small_patch16_dinov3": tiny_backbone(name="vit_small_patch16_dinov3", taps=(1, 12), **STEM),
    "eva02_tiny_patch14_224": tiny_backbone(name="eva02_tiny_patch14_224", taps=(1, 12), patch_px=16, **STEM),
    "vit_base_patch16_siglip_224": tiny_backbone(name="vit_base_patch16_siglip_224", taps=(1, 2), **STEM),
    "vit_small_patch8_224": tiny_backbone(name="vit_small_patch8_224", taps=(1, 2), **STEM),
}


def step(detector: Detector, seed: int = 5) -> torch.Tensor:
    """A loss that depends on every output, from three sensors' images; its gradients are left in the parameters."""
    torch.manual_seed(seed)
    pixels = {sensor: random_pixels((2, 64, 96, sensor.num_channels), index) for index, sensor in enumerate(Sensor)}
    outputs = detector(pixels)
    tensors = [t for raw in outputs.values() for t in (raw.logits, raw.distributions, raw.directions) if t is not None]
    total = torch.stack([(tensor * torch.randn_like(tensor)).sum() for tensor in tensors]).sum()
    total.backward()
    return total.detach()


@pytest.mark.parametrize("kind", BACKBONES)
def test_every_parameter_of_every_backbone_gets_a_gradient(kind: str) -> None:
    """Distributed training waits for the gradient of every parameter, for ever."""
    torch.manual_seed(0)
    detector = Detector(tiny_model(backbone=BACKBONES[kind]), CLASSES).train()
    step(detector)
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []
    moved = [name for name, p in detector.backbone.named_parameters() if p.grad is not None and p.grad.any()]
    assert len(moved) >= 0.9 * len(list(detector.backbone.parameters()))


@pytest.mark.parametrize("kind", ["conv_vit", "internvit_300m", "vit_tiny_patch16_224", "vit_small_patch16_dinov3"])
def test_checkpointing_computes_blocks_twice_and_changes_no_gradient(kind: str) -> None:
    config, runs = BACKBONES[kind].model_copy(update={"drop_path": 0.3}), []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        changed = config.model_copy(update={"grad_checkpointing": checkpointing})
        detector = Detector(tiny_model(backbone=changed), CLASSES).train()
        calls: list[int] = []
        blocks = (detector.backbone if isinstance(detector.backbone, ConvViT) else detector.backbone.vit).blocks
        for block in blocks:
            block.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        loss = step(detector)
        assert len(calls) == (2 if checkpointing else 1) * len(blocks)
        runs.append((loss, {name: p.grad.clone() for name, p in detector.named_parameters() if p.grad is not None}))
    (plain_loss, plain), (loss, gradients) = runs
    torch.testing.assert_close(loss, plain_loss, rtol=1e-6, atol=0)
    assert plain.keys() == gradients.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", ["internvit_300m", "vit_tiny_patch16_224"])
def test_evaluation_checkpoints_nothing(kind: str) -> None:
    backbone = build_backbone(BACKBONES[kind].model_copy(update={"grad_checkpointing": True})).eval()
    calls: list[int] = []
    assert not isinstance(backbone, ConvViT)
    backbone.vit.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    sum(tap.sum() for tap in backbone(torch.randn(1, 3, 64, 64)).taps).backward()  # type: ignore[union-attr]
    assert len(calls) == 1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (128, 32)])
def test_internvit_gives_tokens_and_fine_maps_of_any_image_size(height: int, width: int) -> None:
    backbone = random_internvit(0, patch_px=16, image_px=64)
    with torch.no_grad():
        features = backbone(torch.randn(2, 3, height, width))
    rows, columns = height // 16, width // 16
    assert features.grid == (rows, columns)
    assert [tap.shape for tap in features.taps] == [(2, 1 + rows * columns, 32)] * 3
    assert (backbone.prefix_tokens, backbone.stride, backbone.channels) == (1, 16, 32)
    assert {s: m.shape for s, m in features.prior.items()} == {
        stride: (2, 8, height // stride, width // stride) for stride in (4, 8)
    }


@pytest.mark.parametrize(("height", "width"), [(64, 96), (64, 64)])
def test_a_fixed_image_size_gives_the_same_tokens_and_resamples_no_more(height: int, width: int) -> None:
    backbone = random_internvit(0, patch_px=16, image_px=64)
    images = torch.randn(2, 3, height, width)
    with torch.no_grad():
        before = backbone(images)
        backbone.fix_image_size(height, width)
        after = backbone(images)
    assert backbone.vit.pos_embed.shape == (1, 1 + height // 16 * (width // 16), 32)
    for one, other in zip(before.taps, after.taps, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_stochastic_depth_rises_from_block_to_block_and_acts_in_training_only() -> None:
    backbone = random_internvit(0, drop_path=0.6)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in backbone.vit.blocks]
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.6])
    images = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        still = [backbone.vit(images)[-1] for _ in range(2)]
        backbone.train()
        drawn = [backbone.vit(images)[-1] for _ in range(8)]
    assert torch.equal(*still) and any(not torch.equal(drawn[0], other) for other in drawn[1:])


def test_the_published_size_is_the_default_of_the_name() -> None:
    config = BackboneConfig(name="internvit_300m")
    assert (config.width, config.depth, config.num_heads, config.mlp_ratio) == (1024, 24, 16, 4.0)
    assert (config.patch_px, config.image_px, config.taps) == (14, 448, (3, 9, 18, 24))
    with torch.device("meta"):
        vit = InternViTBackbone(config).vit
    assert sum(parameter.numel() for parameter in vit.parameters()) == 304_012_288
    assert BackboneConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("name", ["vit_small_patch14_dinov2", "eva02_tiny_patch14_224"])
def test_a_timm_vit_of_14_px_is_refused_unless_its_patches_are_resized(name: str) -> None:
    backbone = tiny_backbone(name=name, taps=(1, 2), **STEM)
    with pytest.raises(BabelRSError, match="14 px") as caught:
        Detector(tiny_model(backbone=backbone), CLASSES)
    assert "rgb input (64, 96)" in str(caught.value) and "model.backbone.patch_px" in str(caught.value)
    resized = build_backbone(backbone.model_copy(update={"patch_px": 16}))
    assert resized.stride == 16 and resized(torch.randn(1, 3, 64, 96)).taps[0].shape[1] == 1 + 4 * 6
