from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from babelrs.errors import BabelRSError, run_command
from tests.train.builders import random_detector, save_tiny, tiny_backbone, tiny_model, write_all_sensors
from tests.train.models.vits import (
    authors_names_and_shapes,
    authors_weights,
    hugging_face_weights,
    random_internvit,
    tiny_internvit,
)
from train.config import BackboneConfig
from train.models.backbone import ConvViT, InternViTBackbone, TimmViT, build_backbone
from train.models.backbone_names import bare_name, to_own_names
from train.models.backbone_weights import (
    LoadReport,
    initialise_backbone,
    load_backbone_weights,
    set_backbone_weights,
)
from train.models.resample import resample_positions, resize_patch_kernel

TOWER = ("embeddings", "layer", "layers", "cls_token", "pos_embed", "patch_embed", "blocks", "spatial_prior")


def transformers_model(weights: dict[str, Tensor]) -> Any:
    """transformers' InternVL vision model of the small size, with ``weights`` under its own names."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    config = transformers.InternVLVisionConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=128, image_size=56,
        attention_bias=True,
    )  # fmt: skip
    model = transformers.InternVLVisionModel(config).eval()
    assert model.state_dict().keys() == weights.keys()
    model.load_state_dict(weights)
    return model


def test_the_small_synthetic_file_has_the_authors_names() -> None:
    """340 tensors and 304,012,288 values at the published size, counted by hand from the architecture."""
    shapes = authors_names_and_shapes(1024, 24, 4096, 14, 1025)
    block = 4 * 1024 * 1024 + 4 * 1024 + 2 * 4 * 1024 * 1024 + 4096 + 1024 + 4 * 1024 + 2 * 1024
    assert len(shapes) == 4 + 24 * 14 == 340
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert total == 24 * block + 1024 + 1025 * 1024 + 3 * 14 * 14 * 1024 + 1024 == 304_012_288


@pytest.mark.parametrize("size", [(56, 56), (56, 112), (28, 42), (84, 70)])
@pytest.mark.parametrize(
    ("prefix", "layers"),
    [("", ""), ("vision_model.", "encoder."), ("encoder.", ""), ("model.vision_model.", "encoder.")],
)
def test_the_authors_file_gives_what_transformers_gives(prefix: str, layers: str, size: tuple[int, int]) -> None:
    authors = authors_weights()
    backbone = InternViTBackbone(tiny_internvit()).eval()
    report = set_backbone_weights(backbone, authors_weights(prefix=prefix, layers=layers), "authors'")
    assert len(report.used) == len(authors) == 60
    assert not report.ignored and not report.resized
    assert all(name.startswith("spatial_prior.") for name in report.missing)
    theirs = transformers_model(hugging_face_weights(authors))
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = theirs(images, output_hidden_states=True)
        taps = backbone.vit(images)
    for tap, number in zip(taps, backbone.taps, strict=True):
        torch.testing.assert_close(tap, wanted.hidden_states[number], rtol=0, atol=1e-4)
    torch.testing.assert_close(taps[-1], wanted.last_hidden_state, rtol=0, atol=1e-4)
    assert taps[0].std() > 0.5 and (taps[0] - taps[-1]).abs().max() > 0.1


@pytest.mark.parametrize("prefix", ["", "vision_tower.", "model.vision_tower.", "module."])
def test_transformers_names_give_the_same_weights_as_the_authors(prefix: str) -> None:
    one, other = (InternViTBackbone(tiny_internvit()) for _ in range(2))
    set_backbone_weights(one, authors_weights(), "authors'")
    report = set_backbone_weights(other, hugging_face_weights(authors_weights(), prefix), "hf")
    assert len(report.used) == 60 and not report.ignored
    assert all(torch.equal(tensor, other.vit.state_dict()[name]) for name, tensor in one.vit.state_dict().items())


def test_the_rest_of_a_whole_model_is_named_and_counted(tmp_path: Path) -> None:
    rest = {
        "model.language_model.layers.0.mlp.up_proj.weight": torch.zeros(2),
        "model.language_model.layers.1.mlp.up_proj.weight": torch.zeros(2),
        "model.multi_modal_projector.linear_1.weight": torch.zeros(2),
        "lm_head.weight": torch.zeros(2),
        "model.vision_tower.embeddings.mask_token": torch.zeros(1, 1, 32),
        "model.vision_tower.layernorm.weight": torch.zeros(32),
    }
    weights = hugging_face_weights(authors_weights(), "model.vision_tower.") | rest
    halves = [dict(list(weights.items())[:30]), dict(list(weights.items())[30:])]
    files = {name: f"model-{index}.safetensors" for index, half in enumerate(halves) for name in half}
    for index, half in enumerate(halves):
        save_file({name: tensor.contiguous() for name, tensor in half.items()}, tmp_path / f"model-{index}.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    report = load_backbone_weights(InternViTBackbone(tiny_internvit()), tmp_path)
    assert set(report.ignored) == set(rest) and len(report.used) == 60
    for part in ("60 weights used", "language_model.layers (2)", "lm_head.weight (1)", "resized: none"):
        assert part in report.summary()
    assert report.summary().count("\n") == 1


def test_every_name_of_a_file_is_accounted_for_once() -> None:
    weights = {
        **hugging_face_weights(authors_weights()),
        "head.weight": torch.zeros(1),
        "encoder.layer.0.attention.q_norm.weight": torch.zeros(1),
    }
    renamed = to_own_names(weights, TOWER)
    sources = [name for group in renamed.sources.values() for name in group]
    assert sorted([*sources, *renamed.foreign, "encoder.layer.0.attention.q_norm.weight"]) == sorted(weights)
    assert renamed.faults == ("unexpected encoder.layer.0.attention.q_norm.weight",)
    assert renamed.foreign == ("head.weight",) and renamed.weights.keys() == renamed.sources.keys()


def test_split_projections_are_joined_in_order_whatever_the_file_s_order() -> None:
    weights = {
        f"encoder.layer.7.attention.{letter}_proj.bias": torch.full((2,), float(index))
        for letter, index in (("v", 2), ("q", 0), ("k", 1))
    }
    renamed = to_own_names(weights, TOWER)
    assert renamed.weights["blocks.7.attn.qkv.bias"].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("name", ["model.vision_tower.encoder.layer.0.lambda_1", "module.layer.0.lambda_1"])
def test_wrappers_are_no_part_of_a_name(name: str) -> None:
    assert bare_name(name) == "layer.0.lambda_1" and bare_name("encoder") == "encoder"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers.2.mlp.fc1.bias": None}, "missing vit.blocks.2.mlp.fc1.bias"),
        ({"layers.2.mlp.fc3.bias": torch.zeros(3)}, "unexpected layers.2.mlp.fc3.bias"),
        ({"layers.4.ls1": torch.zeros(32)}, "unexpected layers.4.ls1"),
        ({"layers.2.ls1": torch.zeros(31)}, "layers.2.ls1 31 does not fit 32"),
        ({"embeddings.position_embedding": torch.zeros(1, 16, 32)}, "embeddings.position_embedding 1x16x32"),
        ({"embeddings.position_embedding": torch.zeros(1, 17, 31)}, "embeddings.position_embedding 1x17x31"),
        ({"embeddings.patch_embedding.weight": torch.zeros(32, 3, 14, 12)}, "32x3x14x12 does not fit 32x3x14x14"),
        ({"layers.2.ls1": torch.full((32,), torch.nan)}, "layers.2.ls1 32 has values that are not finite"),
        ({"blocks.0.ls1.gamma": torch.zeros(32)}, "blocks.0.ls1.gamma and layers.0.ls1 are the same weight"),
        ({"layer.0.attention.k_proj.bias": torch.zeros(32)}, "blocks.0.attn.qkv.bias cannot be made of"),
        ({"spatial_prior.stages.0.0.0.weight": torch.zeros(8, 3, 3, 3)}, "missing spatial_prior.stages.0.0.1.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_change_nothing(change: dict[str, Tensor | None], words: str) -> None:
    weights = {name: tensor for name, tensor in {**authors_weights(), **change}.items() if tensor is not None}
    backbone = random_internvit(3)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    with pytest.raises(BabelRSError, match=r"file\.pt") as caught:
        set_backbone_weights(backbone, weights, "file.pt")
    assert words in str(caught.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def test_blocks_after_the_last_tap_are_not_built_and_their_weights_named() -> None:
    backbone = InternViTBackbone(tiny_internvit(taps=(1, 3)))
    report = set_backbone_weights(backbone, authors_weights(), "file")
    assert len(backbone.vit.blocks) == 3 and len(report.ignored) == 14
    assert all(name.startswith("layers.3.") for name in report.ignored) and "blocks" not in report.summary()


def test_a_patch_of_another_size_and_a_table_of_another_image_are_resized() -> None:
    native = InternViTBackbone(tiny_internvit()).eval()
    larger = InternViTBackbone(tiny_internvit(patch_px=16, image_px=96)).eval()
    set_backbone_weights(native, authors_weights(), "file")
    report = set_backbone_weights(larger, authors_weights(), "file")
    assert report.resized == {
        "vit.patch_embed.weight": ((32, 3, 14, 14), (32, 3, 16, 16)),
        "vit.pos_embed": ((1, 17, 32), (1, 37, 32)),
    }
    assert "vit.patch_embed.weight 32x3x14x14 to 32x3x16x16" in report.summary()
    colour = torch.tensor([0.3, -1.0, 2.0]).view(1, 3, 1, 1)  # the same in every patch of every size
    with torch.no_grad():
        wanted = native.vit.patch_embed(colour.expand(1, 3, 14, 14))
        torch.testing.assert_close(larger.vit.patch_embed(colour.expand(1, 3, 16, 16)), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("side", [15, 16, 20, 32])
def test_an_enlarged_kernel_gives_patches_that_pillow_enlarged_the_embedding_they_had(side: int) -> None:
    generator = torch.Generator().manual_seed(side)
    kernel, patches = (torch.randn(5, 3, 14, 14, generator=generator) for _ in range(2))
    enlarged = [
        np.asarray(Image.fromarray(plane.numpy(), "F").resize((side, side), Image.Resampling.BICUBIC))
        for plane in patches.flatten(0, 1)
    ]
    wanted = functional.conv2d(patches, kernel)
    stacked = torch.from_numpy(np.stack(enlarged)).reshape(5, 3, side, side)
    given = functional.conv2d(stacked, resize_patch_kernel(kernel, side))
    torch.testing.assert_close(given, wanted, rtol=1e-3, atol=1e-3)
    assert wanted.std() > 10


@pytest.mark.parametrize("side", [8, 10, 16, 28])
def test_a_resized_kernel_keeps_its_answer_to_flat_and_sloping_images(side: int) -> None:
    """A smooth kernel on a constant and a linear image, whose enlargement is known without any resampling."""
    rows = (torch.arange(14) + 0.5) / 14
    bump = torch.exp(-(((rows - 0.4) / 0.25) ** 2))
    kernel = (bump[:, None] * bump[None, :]).expand(2, 3, 14, 14).contiguous()
    resized = resize_patch_kernel(kernel, side)
    new_rows = (torch.arange(side) + 0.5) / side
    for old_image, new_image in (
        (torch.ones(14, 14), torch.ones(side, side)),
        (rows[:, None] + 2 * rows[None, :], new_rows[:, None] + 2 * new_rows[None, :]),
    ):
        wanted, given = (kernel[0, 0] * old_image).sum(), (resized[0, 0] * new_image).sum()
        assert float(given) == pytest.approx(float(wanted), rel=0.02)


@pytest.mark.parametrize(("rows", "columns"), [(16, 24), (5, 3), (8, 9)])
def test_positions_are_resampled_as_opencv_resizes_an_image_and_the_class_row_is_kept(rows: int, columns: int) -> None:
    table = torch.randn(1, 2 + 8 * 8, 3, generator=torch.Generator().manual_seed(rows))
    resampled = resample_positions(table, (8, 8), (rows, columns), 2)
    assert resampled.shape == (1, 2 + rows * columns, 3) and torch.equal(resampled[:, :2], table[:, :2])
    image = table[0, 2:].reshape(8, 8, 3).numpy()
    wanted = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(resampled[0, 2:].reshape(rows, columns, 3).numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["conv_vit", "internvit_300m", "vit_tiny_patch16_224"])
def test_a_checkpoint_and_a_file_of_the_backbone_alone_give_its_weights_back(kind: str, tmp_path: Path) -> None:
    config = {
        "conv_vit": tiny_backbone(),
        "internvit_300m": tiny_internvit(patch_px=16, image_px=64),
        "vit_tiny_patch16_224": tiny_backbone(
            name="vit_tiny_patch16_224", taps=(1, 2), stem_widths=(8, 8, 8), stem_blocks=(0, 0, 0)
        ),
    }[kind]
    detector = random_detector(tiny_model(backbone=config), 2)
    save_tiny(tmp_path / "checkpoint", detector)
    state = detector.backbone.state_dict()
    save_file(state, tmp_path / "backbone.safetensors")
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}, "epoch": 3}, tmp_path / "b.pt")
    for path in ("checkpoint", "backbone.safetensors", "b.pt"):
        fresh = build_backbone(config)
        report = load_backbone_weights(fresh, tmp_path / path)
        assert len(report.used) == len(state) and not report.missing
        assert all(torch.equal(tensor, fresh.state_dict()[name]) for name, tensor in state.items())
        foreign = {name.split(".")[0] for name in report.ignored}
        assert foreign == ({"aggregate", "pyramid", "heads"} if path == "checkpoint" else set())


def test_a_timm_vit_takes_weights_of_other_patches() -> None:
    fields: dict[str, Any] = {"taps": (1, 2), "stem_widths": (8, 8, 8), "stem_blocks": (0, 0, 0)}
    native = build_backbone(tiny_backbone(name="vit_small_patch14_dinov2", image_px=56, **fields))
    larger = build_backbone(tiny_backbone(name="vit_small_patch14_dinov2", image_px=128, patch_px=16, **fields))
    assert isinstance(native, TimmViT) and isinstance(larger, TimmViT) and larger.stride == 16
    report = set_backbone_weights(larger, native.state_dict(), "file")
    assert report.resized == {
        "vit.pos_embed": ((1, 17, 384), (1, 65, 384)),
        "vit.patch_embed.proj.weight": ((384, 3, 14, 14), (384, 3, 16, 16)),
    }
    assert torch.equal(larger.vit.pos_embed[:, 0], native.vit.pos_embed[:, 0])


def test_a_timm_vit_takes_timm_s_own_weights_and_names_what_its_taps_do_not_need() -> None:
    """The path of ``pretrained``, without the download."""
    torch.manual_seed(1)
    theirs: Any = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True).eval()
    backbone = build_backbone(
        tiny_backbone(name="vit_tiny_patch16_224", taps=(2, 9), stem_widths=(8, 8, 8), stem_blocks=(0, 0, 0))
    ).eval()
    report = set_backbone_weights(backbone, theirs.state_dict(), "timm's")
    assert {re.sub(r"\..*", "", name) for name in report.ignored} == {"blocks", "norm", "head"}
    assert {name.split(".")[1] for name in report.ignored if name.startswith("blocks")} == {"9", "10", "11"}
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        wanted = theirs.forward_intermediates(images, indices=[1, 8], output_fmt="NLC", intermediates_only=True)
        for tap, tokens in zip(backbone(images).taps, wanted, strict=True):
            torch.testing.assert_close(tap[:, 1:], tokens, rtol=0, atol=0)


class Planted:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("planted",)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {**authors_weights(), "x": Planted()}}, tmp_path / "evil.pt")
    with pytest.raises(BabelRSError, match=r"evil.pt is no torch file of plain tensors"):
        load_backbone_weights(InternViTBackbone(tiny_internvit()), tmp_path / "evil.pt")
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("name", ["nowhere", "empty", "broken.safetensors", "broken.pt", "list.pt"])
def test_what_holds_no_weights_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 64)
    (tmp_path / "broken.pt").write_bytes(b"no torch file")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(BabelRSError, match=name):
        load_backbone_weights(InternViTBackbone(tiny_internvit()), tmp_path / name)


def test_a_folder_s_config_of_another_architecture_is_refused(tmp_path: Path) -> None:
    """The number of heads and the kind of norm do not show in any shape."""
    save_file(hugging_face_weights(authors_weights()) | {"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    vision = {"num_attention_heads": 4, "norm_type": "rms_norm", "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": vision}))
    with pytest.raises(BabelRSError, match="num_attention_heads is 4, not 2") as caught:
        load_backbone_weights(InternViTBackbone(tiny_internvit()), tmp_path)
    assert "norm_type is 'rms_norm', not 'layer_norm'" in str(caught.value)
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"num_attention_heads": 2}}))
    assert len(load_backbone_weights(InternViTBackbone(tiny_internvit()), tmp_path).used) == 60


def test_a_run_s_start_reads_the_weights_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_file(authors_weights(), tmp_path / "vit.safetensors")
    config = tiny_internvit(weights=tmp_path / "vit.safetensors")
    backbone = build_backbone(config)  # reads nothing
    with caplog.at_level(logging.INFO):
        initialise_backbone(backbone, config)
    assert "60 weights used" in caplog.text and len(caplog.messages) == 1
    assert torch.equal(backbone.state_dict()["vit.cls_token"], authors_weights()["embeddings.class_embedding"])


def test_building_reads_no_file() -> None:
    build_backbone(tiny_internvit(weights=Path("nowhere")))


def test_a_checkpoint_does_not_ask_for_the_weights_it_began_with(tmp_path: Path) -> None:
    from train.checkpoint import load_checkpoint

    model = tiny_model(backbone=tiny_internvit(patch_px=16, image_px=64, weights=tmp_path / "gone.safetensors"))
    save_tiny(tmp_path / "checkpoint", random_detector(model, 1))
    assert "gone" not in (tmp_path / "checkpoint/checkpoint.json").read_text()
    assert load_checkpoint(tmp_path / "checkpoint")[1].model.backbone.weights is None


def test_an_empty_report_says_none() -> None:
    report = LoadReport("file", (), {}, (), ())
    assert report.summary().count("none") == 3


def test_conv_vit_takes_no_foreign_names() -> None:
    backbone = ConvViT(BackboneConfig.model_validate(tiny_backbone().model_dump()))
    with pytest.raises(BabelRSError, match="missing stem"):
        set_backbone_weights(backbone, authors_weights(), "file")


def test_a_run_starts_from_the_weights_and_its_checkpoint_stands_alone(tmp_path: Path) -> None:
    from train.checkpoint import load_checkpoint
    from train.finetune import main

    write_all_sensors(tmp_path / "data", "train", count=1)
    file = tmp_path / "vit.safetensors"
    save_file(authors_weights(), file)
    model = tiny_model(backbone=tiny_internvit(patch_px=16, image_px=64, weights=file))
    content = {
        "out": str(tmp_path / "run"), "steps": 1, "data": {"root": str(tmp_path / "data"), "workers": 0},
        "model": json.loads(model.model_dump_json()), "batch": {"rgb": 1, "sar": 1, "ir": 1},
        "augment": {"crop_px": 128}, "optimizer": {"lr": 1e-30, "warmup_steps": 0},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(content))
    assert run_command(main, ["--config", str(tmp_path / "run.yaml")]) == 0
    file.unlink()
    detector, record = load_checkpoint(tmp_path / "run/final")
    assert str(tmp_path) not in json.dumps(record.training)
    trained = detector.backbone.state_dict()
    for name, tensor in authors_weights().items():
        if name.startswith("layers.") and name.endswith("qkv.weight"):
            number = name.split(".")[1]
            torch.testing.assert_close(trained[f"vit.blocks.{number}.attn.qkv.weight"], tensor, rtol=0, atol=1e-6)
