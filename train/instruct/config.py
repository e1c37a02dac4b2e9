"""Settings of the instruction data, with unit and default."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.instruct.tiles import visual_tokens


class InstructConfig(BaseModel):
    """What is read, how it becomes tokens and tiles, and how much of it may be broken."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    meta: Path | None = Field(None, description="meta JSON of the instruction sets")
    base: Path | None = Field(None, description="folder that relative paths in it start from (none: the file's own)")
    shards: str | None = Field(None, description="instead of meta: shards.json of WebDataset shards, a path or URL")
    system: str = Field("You are a helpful assistant.", description="system message of rows without one")
    max_length: int = Field(3072, ge=32, description="tokens of a sequence; longer conversations are skipped")
    pack: bool = Field(True, description="several conversations in one sequence, none of which sees another")
    pack_buffer: int = Field(16, ge=1, le=256, description="sequences that are being filled at a time, per stream")
    tile_px: int = Field(448, ge=14, description="side of a tile, pixels")
    patch_px: int = Field(14, ge=1, description="side of a patch of the vision model, pixels")
    shuffle: float = Field(0.5, gt=0, le=1, description="pixel shuffle: visual tokens per patch along a side")
    max_tiles: int = Field(6, ge=1, le=64, description="tiles of an image where its set does not say")
    thumbnail: bool = Field(True, description="the whole image as one more tile where there are several")
    streams: int = Field(1, ge=1, description="independent streams of sequences; a multiple of processes x workers")
    workers: int = Field(0, ge=0, description="loader processes of each training process")
    max_broken_share: float = Field(0.01, ge=0, le=1, description="share of broken rows above which the run stops")
    broken_from_rows: int = Field(1000, ge=1, description="rows that this share is taken of at least")
    scan_rows: int = Field(
        200_000, ge=0, description="of up to so many rows in all, every row and image file is looked at first; 0: never"
    )

    @property
    def tokens_per_tile(self) -> int:
        """Visual tokens of one tile."""
        return visual_tokens(self.tile_px, self.patch_px, self.shuffle)

    @model_validator(mode="after")
    def _whole_tokens(self) -> InstructConfig:
        if self.tokens_per_tile + 8 > self.max_length:
            raise ValueError(f"a tile's {self.tokens_per_tile} tokens do not fit max_length {self.max_length}")
        return self

    @model_validator(mode="after")
    def _one_origin(self) -> InstructConfig:
        if self.meta is not None and self.shards is not None:
            raise ValueError("meta and shards exclude each other")
        return self

    @model_validator(mode="after")
    def _even_streams(self) -> InstructConfig:
        if self.workers and self.streams % self.workers:
            raise ValueError(f"streams {self.streams} is not a multiple of workers {self.workers}")
        return self
