"""Settings of the vision-language model that pretraining aligns the sensors with."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

TINY, INTERNVL_1B = "tiny", "internvl_1b"
FROM_SCRATCH = (TINY, INTERNVL_1B)

Merge = Literal["last", "concat", "sum", "per_layer", "lvsa"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VisionSizes(_Section):
    """The shared ViT, where it is made from scratch."""

    image_px: int = Field(128, ge=16, description="side of the square image that the position table covers, pixels")
    patch_px: int = Field(16, ge=4, description="patch side, pixels")
    width: int = Field(128, ge=8, description="token channels")
    depth: int = Field(6, ge=1, description="transformer blocks")
    num_heads: int = Field(4, ge=1, description="attention heads")
    mlp_ratio: float = Field(4.0, gt=0, description="hidden over token channels")
    layer_scale: float = Field(1.0, gt=0, description="initial scale of every residual branch")
    init_std: float = Field(0.06, gt=0, description="spread of the initial weights")

    @model_validator(mode="after")
    def _whole_tokens(self) -> VisionSizes:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        if self.image_px % (2 * self.patch_px):  # pixel shuffle joins 2 x 2 tokens
            raise ValueError(f"image_px {self.image_px} is no even number of {self.patch_px} px patches")
        return self


class TextSizes(_Section):
    """The causal language model, where it is made from scratch (Qwen2's architecture)."""

    width: int = Field(192, ge=8, description="token channels")
    depth: int = Field(4, ge=1, description="transformer blocks")
    num_heads: int = Field(6, ge=1, description="attention heads")
    num_kv_heads: int = Field(2, ge=1, description="key and value heads; each serves as many query heads")
    hidden: int = Field(512, ge=8, description="channels inside the gated MLP")
    max_tokens: int = Field(4096, ge=16, description="longest sequence, tokens")
    rope_base: float = Field(1e4, gt=0, description="base of the rotary positions")
    tied: bool = Field(True, description="the output head shares the embedding's weights")
    init_std: float = Field(0.04, gt=0, description="spread of the initial weights")

    @model_validator(mode="after")
    def _whole_heads(self) -> TextSizes:
        if self.width % self.num_heads or (self.width // self.num_heads) % 2:
            raise ValueError(f"width {self.width} over num_heads {self.num_heads} is no even number of channels")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        return self


_INTERNVL_1B: dict[str, Any] = {
    "taps": (3, 9, 18, 24),
    "vision": {"image_px": 448, "patch_px": 14, "width": 1024, "depth": 24, "num_heads": 16, "mlp_ratio": 4.0,
               "layer_scale": 0.1, "init_std": 0.02},
    "text": {"width": 896, "depth": 24, "num_heads": 14, "num_kv_heads": 2, "hidden": 4864, "max_tokens": 32768,
             "rope_base": 1e6, "tied": False, "init_std": 0.02},
}  # fmt: skip
"""InternVL2.5-1B: InternViT-300M and Qwen2.5-0.5B with a head of its own."""


class VLMConfig(_Section):
    """Shared ViT, merge of its layers, pixel shuffle, projector, causal language model."""

    name: str = Field(
        TINY,
        description=f"{TINY} or {INTERNVL_1B}: random weights in the sizes below; else a local folder or a hub name of"
        " an InternVL in Hugging Face format (a hub name is downloaded)",
    )
    merge: Merge = Field("lvsa", description="how the tapped layers become visual tokens (BabelRS, table 5)")
    taps: tuple[int, ...] = Field(
        (2, 3, 5, 6), min_length=1, description=f"tapped blocks, counted from 1 ({INTERNVL_1B} takes 3, 9, 18, 24)"
    )
    tau: int = Field(6000, ge=0, description="optimiser steps until LVSA weighs all taps alike; 0: from the start")
    drop_path: float = Field(0.0, ge=0, lt=1, description="stochastic depth of the ViT's last block")
    attention: Literal["sdpa", "flex_attention"] = Field(
        "sdpa", description="of the language model; flex_attention skips what packing masks (GPU)"
    )
    loss_chunk: int = Field(1024, ge=1, description="tokens whose logits exist at the same time")
    grad_checkpointing: bool = Field(
        False, description="keep each block's input only and compute it again backwards: less memory, a third slower"
    )
    vision: VisionSizes = VisionSizes()
    text: TextSizes = TextSizes()

    @property
    def from_scratch(self) -> bool:
        """Whether the sizes here count, and not those of published weights."""
        return self.name in FROM_SCRATCH

    @model_validator(mode="before")
    @classmethod
    def _sizes_of_the_name(cls, values: Any) -> Any:
        """The published sizes, where the settings do not give others."""
        name = values.get("name", TINY) if isinstance(values, dict) else TINY
        if name == TINY:
            return values
        if name == INTERNVL_1B:
            sizes = {part: {**_INTERNVL_1B[part], **_mapping(values.get(part))} for part in ("vision", "text")}
            return {**_INTERNVL_1B, **values, **sizes}
        kinds: dict[str, type[BaseModel]] = {"vision": VisionSizes, "text": TextSizes}
        given = [part for part, kind in kinds.items() if kind.model_validate(_mapping(values.get(part))) != kind()]
        if given:
            raise ValueError(f"{' and '.join(given)} cannot be set: {name} brings its own sizes")
        return {"taps": _INTERNVL_1B["taps"], **values}

    @model_validator(mode="after")
    def _taps_fit(self) -> VLMConfig:
        if self.taps[0] < 1 or any(b <= a for a, b in zip(self.taps, self.taps[1:], strict=False)):
            raise ValueError(f"taps {list(self.taps)} are no rising block numbers, counted from 1")
        if self.from_scratch and self.taps[-1] > self.vision.depth:
            raise ValueError(f"taps {list(self.taps)} exceed the {self.vision.depth} blocks of vision.depth")
        return self

    def tau_faults(self, steps: int) -> list[str]:
        """What is wrong with ``tau`` in a run of this many optimiser steps; empty where nothing is."""
        if self.merge == "lvsa" and self.tau > steps:
            return [f"tau {self.tau} is beyond the run's {steps} steps: LVSA would not reach its end state"]
        return []


def _mapping(value: Any) -> dict[str, Any]:
    return value.model_dump() if isinstance(value, BaseModel) else value or {}
