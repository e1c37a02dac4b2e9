from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from babelrs.errors import BabelRSError, run_command
from tests.train.live_bytes import LiveBytes
from tests.train.models.test_vlm_build import published
from tests.train.models.vlms import conversation, packed, random_images, vlm_config
from train.activations import KnownIntegers
from train.cli import load_config
from train.models.chunked_loss import response_loss
from train.models.csia import CSIA
from train.models.vlm_build import Vocabulary, build_vlm
from train.pretrain import main as pretrain
from train.pretrain_config import PlanConfig, PretrainConfig
from train.pretrain_cost import Conversation, Kept, PretrainFootprint, full_sequence, packed_batch, predict
from train.pretrain_footprint import main
from train.vlm_config import VLMConfig

WORDS = 400
CONTEXT = 3
PLAN = {"visual_share": 0.5, "response_share": 0.25, "conversations": 3}
"""Of 96 tokens: three conversations of 16 visual tokens (4 tiles), 8 of instructions and 8 learnt."""


def settings(**changes: Any) -> PretrainConfig:
    """The small model of ``vlms``, and sequences of 96 tokens."""
    model = vlm_config().model_dump() | {"tau": 0} | changes.pop("model", {})
    fields = {
        "dry_run": True, "steps": 100, "sequences": 12, "model": model, "tokenizer": {"vocabulary": WORDS},
        "data": {"max_length": 96, "tile_px": 32, "patch_px": 8}, "plan": PLAN, "precision": "no",
    }  # fmt: skip
    return PretrainConfig.model_validate({**fields, **changes})


def parameters_by_hand(merge: str, tied: bool) -> dict[str, int]:
    width, hidden, channels, inner, taps = 16, 32, 24, 32, 4
    vision_block = 4 * (width * width + width) + 2 * width * hidden + hidden + width + 2 * 2 * width + 2 * width
    vision = 3 * 8 * 8 * width + width + width + (1 + 16) * width + taps * vision_block
    inputs = 4 * width * (taps if merge == "concat" else 1)
    projector = 2 * inputs + inputs * channels + channels + channels * channels + channels
    keys = 2 * (channels * 12 + 12)
    block = channels * channels + channels + keys + channels * channels + 3 * channels * inner + 2 * channels
    count = taps if merge == "per_layer" else 1
    name = "projectors" if merge == "per_layer" else "projector"
    table = WORDS * channels
    head = {"embedding and head (tied)": table} if tied else {"embedding": table, "head": table}
    blocks = {"language model's blocks": 2 * block + channels}
    return {"vision tower": vision, name: count * projector, **blocks, **head}


@pytest.mark.parametrize(("merge", "tied"), [("lvsa", True), ("concat", False), ("per_layer", True)])
def test_parameters_are_those_summed_by_hand_and_the_real_model_s(merge: str, tied: bool) -> None:
    config = settings(model={"merge": merge, "text": {**vlm_config().text.model_dump(), "tied": tied}})
    predicted = predict(config)
    assert predicted.parameters == parameters_by_hand(merge, tied)
    real = build_vlm(config.model, Vocabulary(WORDS, CONTEXT, 1, 0))
    assert predicted.total == predicted.trainable == sum(p.numel() for p in real.parameters())
    assert predicted.buffer_bytes == sum(buffer.nbytes for buffer in real.buffers())
    language = parameters_by_hand(merge, tied)["language model's blocks"] - 24
    assert predicted.language_blocks == (language // 2,) * 2 and len(predicted.vision_blocks) == 4


def real_step(config: PretrainConfig, sequences: int) -> tuple[CSIA, tuple[Tensor, Tensor, Tensor], Tensor]:
    """A real model, and the packed sequences that ``PLAN`` describes, with other tokens and pictures in each."""
    torch.manual_seed(0)
    csia = CSIA(build_vlm(config.model, Vocabulary(WORDS, CONTEXT, 1, 0)), config.model.loss_chunk)
    rows = [packed([conversation(32, 4, 8, seed=3 * row + part) for part in range(3)]) for row in range(sequences)]
    owners = [row[2] + 3 * number for number, row in enumerate(rows)]
    batch = torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows]), torch.cat(owners)
    return csia, batch, random_images(12 * sequences, seed=1)


def kept_by_a_real_step(config: PretrainConfig, sequences: int) -> int:
    """Bytes of the storages that a real step keeps, told apart by their address."""
    csia, batch, images = real_step(config, sequences)
    own = {t.untyped_storage().data_ptr() for t in [*csia.parameters(), *csia.buffers()]}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            loss = csia(*batch, images, 3 * sequences)
        total = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)
    assert loss.tokens == 24 * sequences
    return total


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("merge", ["lvsa", "per_layer"])
def test_activations_are_what_a_real_step_keeps(merge: str, checkpointing: bool, precision: str) -> None:
    config = settings(
        model={"merge": merge, "grad_checkpointing": checkpointing, "loss_chunk": 10}, precision=precision
    )
    predicted = predict(config)
    cost = predicted.checkpointed if checkpointing else predicted.plain
    real = kept_by_a_real_step(config, 5)
    assert cost.copies + 5 * cost.sequence == pytest.approx(real, rel=0.03)
    assert real > 2**19
    assert (cost.copies > 0) == (precision == "bf16") or cost.copies < 0.01 * real
    assert predicted.checkpointed.sequence < 0.5 * predicted.plain.sequence


def test_what_the_vit_and_the_projector_keep_is_told_apart() -> None:
    config = settings()
    csia, batch, images = real_step(config, 1)
    own = {t.untyped_storage().data_ptr() for t in csia.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        csia.vlm.model.get_image_features(images)
        vision = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in own)
    joining = sum(part.nbytes for part in batch[:1]) + 96 * 24  # the embedding's ids, and where pictures go
    assert predict(config).plain.vision == pytest.approx(vision + joining, rel=0.01)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_real_step_is_as_predicted(checkpointing: bool, precision: str) -> None:
    model = VLMConfig(tau=0, grad_checkpointing=checkpointing)
    data = {"max_length": 256, "tile_px": 128, "patch_px": 16}
    config = settings(model=model.model_dump(), data=data, precision=precision)
    predicted = predict(config)
    csia = CSIA(build_vlm(model, Vocabulary(WORDS, CONTEXT, 1, 0)), model.loss_chunk)
    batch, tiles = packed_batch(predicted.conversations, 4, CONTEXT), random_images(4 * 8, 0, 128, 128)
    for parameter in csia.parameters():
        parameter.grad = torch.zeros_like(parameter)  # as in every part of a step but the first
    with LiveBytes() as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = csia(*batch, tiles, 12).total
        loss.backward()
    share = (predicted.plain.copies + predicted.activation_bytes(4, checkpointing)) / live.peak
    assert 0.96 < share < (1.25 if checkpointing else 1.04)  # with it, the copies are gone when a block is recomputed


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_peak_of_the_loss_is_that_of_a_chunk(precision: str) -> None:
    words, width, chunk = 3000, 32, 64
    torch.manual_seed(0)
    hidden, weight = (torch.randn(size, requires_grad=True) for size in ((1, 200, width), (words, width)))
    labels, owners = torch.randint(0, words, (1, 200)), torch.zeros(1, 200, dtype=torch.int64)
    with LiveBytes() as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = response_loss(hidden, weight, labels, owners, 1, chunk).total
        before = live.now
        loss.backward()
    found = example(vocabulary=words, width=width, chunk=chunk, conversations=(Conversation(0, 200, 199),))
    assert found.loss_bytes(1) == pytest.approx(live.peak - before, rel=0.04)


def example(**changes: Any) -> PretrainFootprint:
    """A made-up footprint: 100 parameters, of which blocks have 2 x 10 and 4 x 15."""
    config = settings(
        sequences=changes.pop("sequences", 12), accumulation=changes.pop("accumulation", 1),
        model={"loss_chunk": changes.pop("chunk", 5), "grad_checkpointing": changes.pop("checkpointing", False)},
        watch={"peak_tflops": 100.0}, plan={**PLAN, **changes.pop("plan", {})},
    )  # fmt: skip
    fields: dict[str, Any] = {
        "parameters": {"blocks": 80, "rest": 20}, "trainable": 90, "buffer_bytes": 8, "vision_blocks": (10, 10),
        "language_blocks": (15,) * 4, "vocabulary": 7, "width": 2, "vocabulary_source": "made up",
        "conversations": (Conversation(4, 4, 3),), "sequence_flops": 5e12, "plain": Kept(10_000, 6_000, 50),
        "checkpointed": Kept(1_000, 2_000, 20), "config": config,
    }  # fmt: skip
    return PretrainFootprint(**{**fields, **changes})


STATE = 408 + 360 + 720
LOSS = 12 * 5 * 7 + 4 * 7 * 2  # a chunk of 5, and the head's gradient


@pytest.mark.parametrize(
    ("gpus", "sharded", "accumulation", "wanted"),
    [
        (1, False, 1, STATE + 50 + 12 * 16_000 + LOSS),
        (1, True, 1, STATE + 50 + 12 * 16_000 + LOSS),
        (4, False, 1, STATE + 360 + 50 + 3 * 16_000 + LOSS),
        (4, True, 1, STATE // 4 + 4 * (20 + 2 * 15 + 20 + 15) + 50 + 3 * 16_000 + LOSS),
        (4, True, 3, STATE // 4 + 4 * (20 + 2 * 15 + 90) + 50 + 16_000 + 12 * 3 * 7 + 56),
        (4, False, 2, STATE + 360 + 50 + 3 * 16_000 + LOSS),  # 3 sequences have no halves: one part
        (12, False, 5, STATE + 360 + 50 + 16_000 + 12 * 3 * 7 + 56),  # one sequence of 3 responses
    ],
)
def test_a_gpu_s_memory_follows_the_stated_formula(gpus: int, sharded: bool, accumulation: int, wanted: int) -> None:
    assert example(accumulation=accumulation).gpu_bytes(gpus, sharded) == wanted


def test_with_checkpointing_the_peak_is_the_loss_or_one_block() -> None:
    found = example(checkpointing=True)
    language, vision = (6_000 - 2_000) // 4, (10_000 - 1_000) // 2
    assert found.activation_bytes(2, True) == max(2 * (3_000 + language), 2 * (1_000 + vision)) == 11_000
    deep = example(vision_blocks=(1,) * 90)
    assert deep.activation_bytes(2, True) == 2 * (3_000 + language)
    words = example(vocabulary=1_000, vision_blocks=(1,) * 90)
    assert words.activation_bytes(2, True) == 6_000 + 12 * 5 * 1_000 + 8_000


def test_steps_a_day_follow_peak_utilisation_and_gpus() -> None:
    found = example()
    assert found.step_flops == 6e13
    assert found.steps_a_day(4, 0.3) == pytest.approx(86_400 * 4 * 0.3 * 1e14 / 6e13) == pytest.approx(172_800)
    assert example(plan={"peak_tflops": 50.0}).steps_a_day(4, 0.3) == pytest.approx(86_400)


def test_sequences_that_cannot_be_shared_out_are_refused() -> None:
    assert not example().can_share(5)
    with pytest.raises(ValueError, match="12 sequences are no multiple of 5"):
        example().gpu_bytes(5, False)


@pytest.mark.parametrize("seed", range(20))
def test_a_full_sequence_is_full_and_holds_what_the_plan_says(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    visual, responses, number = torch.rand(3, generator=generator).tolist()
    plan = PlanConfig(
        visual_share=0.7 * visual, response_share=0.01 + 0.28 * responses, conversations=1 + int(9 * number)
    )
    length = int(torch.randint(100, 4000, (), generator=generator))
    parts = full_sequence(plan, length, 64)
    assert sum(part.visual + part.text for part in parts) == length and len(parts) == plan.conversations
    tiles = sum(part.visual for part in parts) // 64
    assert tiles == max(1, int(plan.visual_share * length / 64)) and all(part.visual % 64 == 0 for part in parts)
    assert all(1 <= part.responses < part.text for part in parts), f"seed {seed}"
    assert sum(part.responses for part in parts) == max(len(parts), round(plan.response_share * length))
    ids, labels, owners = packed_batch(parts, 2, 9)
    assert ids.shape == labels.shape == owners.shape == (2, length)
    assert owners[0].bincount().tolist() == [part.visual + part.text for part in parts]
    assert int((ids == 9).sum()) == 2 * 64 * tiles and set(owners[1].tolist()).isdisjoint(owners[0].tolist())


def test_integers_keep_their_values_and_floats_have_none() -> None:
    ids = torch.tensor([3, 1, 3, 2])
    with FakeTensorMode(allow_non_fake_inputs=True):
        values = torch.randn(4, 5)
        with KnownIntegers():
            chosen = ids == 3
            assert not isinstance(chosen, FakeTensor) and int(chosen.sum()) == 2
            assert values[chosen].shape == (2, 5) and isinstance(values[chosen], FakeTensor)
            assert torch.arange(3).tolist() == [0, 1, 2]
            assert isinstance(chosen.float(), FakeTensor) and isinstance(torch.ones(2), FakeTensor)


def test_of_published_weights_only_the_configuration_is_read(tmp_path: Path) -> None:
    theirs = published(tmp_path / "whole", tied=False)
    (tmp_path / "sizes").mkdir()
    shutil.copy(tmp_path / "whole/config.json", tmp_path / "sizes")
    model = {"name": str(tmp_path / "sizes"), "taps": (1, 2, 4), "tau": 10, "merge": "lvsa"}
    config = PretrainConfig.model_validate({**settings().model_dump(exclude={"model"}), "model": model})
    predicted = predict(config)
    assert predicted.total == sum(p.numel() for p in theirs.parameters()) and predicted.vocabulary == 61
    other = config.model_copy(update={"data": config.data.model_copy(update={"tile_px": 64})})
    with pytest.raises(BabelRSError, match=r"has 16 visual tokens, an image of .*sizes 4"):
        predict(other)


def test_the_1b_configuration_is_the_published_one(repository: Path) -> None:
    file = str(repository / "train/configs/pretrain-1b.yaml")
    predicted = predict(load_config(PretrainConfig, ["--config", file, "--dry-run"]))
    parts = {name: count / 1e6 for name, count in predicted.parameters.items()}
    assert parts["vision tower"] == pytest.approx(304, rel=0.01)  # InternViT-300M
    assert parts["language model's blocks"] + parts["embedding"] == pytest.approx(494, rel=0.01)  # Qwen2.5-0.5B
    assert predicted.total == 938_193_024  # InternVL2.5-1B: 0.94 B
    assert sum(part.visual + part.text for part in predicted.conversations) == 3072
    assert predicted.checkpointed.sequence < predicted.plain.sequence / 5
    assert 8 * 2**30 < predicted.gpu_bytes(8, True) < predicted.gpu_bytes(8, False) < 48e9  # the reference's GPUs


def test_a_dry_run_needs_no_data_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "small.yaml"
    config = settings(watch={"peak_tflops": 2.0, "trackers": []}, plan={**PLAN, "gpus": [1, 5], "mfu": [0.25]})
    file.write_text(json.dumps(config.model_dump(mode="json", exclude={"dry_run"})))
    before = sorted(tmp_path.rglob("*"))
    given = ["--config", str(file), "--out", str(tmp_path / "out"), "--data.meta", str(tmp_path / "none.json")]
    assert run_command(pretrain, [*given, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    total = sum(parameters_by_hand("lvsa", True).values())
    assert f"| total | {total / 1e6:.3f} |" in printed and printed.lower().count("predicted") == 6
    assert "3 conversations: 12 tiles of 4 visual tokens, 24 tokens of instructions and 24 that are learnt" in printed
    assert "| tokens, all sequences full | 1,152 |" in printed
    assert "5: not a divisor of 12 sequences" in printed and "steps/day (days) at 25 % MFU" in printed
    predicted = predict(config)
    rate, memory = predicted.steps_a_day(1, 0.25), f"{predicted.gpu_bytes(1, False) / 2**20:.1f} MiB"
    assert f"| 1 | 1 | 12 | {memory} | {memory} |" in printed
    assert f"| 1 | {rate:,.0f} ({100 / rate:,.2f}) |" in printed
    assert main([str(file)]) == 0
    page = capsys.readouterr().out
    assert printed in page and f"python -m train.pretrain_footprint {file}" in page


def test_without_a_peak_the_table_of_days_says_what_to_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(settings().model_dump_json())
    assert main([str(file)]) == 0
    assert "set plan.peak_tflops" in capsys.readouterr().out


def test_a_wrong_configuration_lists_all_its_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--dry-run", "--model.tau", "-1", "--plan.mfu", "1.5", "--plan.visual-share", "0.97", "--sequences", "0"]
    assert run_command(pretrain, [*wrong, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert all(name in message for name in ("model.tau", "plan.mfu", "sequences")) and not (tmp_path / "out").exists()
    assert run_command(pretrain, ["--dry-run", "--plan.visual-share", "0.97"]) == 2
    assert "visual_share 0.97 and response_share 0.05 leave no instructions" in capsys.readouterr().err
    assert run_command(pretrain, ["--out", str(tmp_path / "out")]) == 2
    assert "give data.meta or data.shards (--dry-run needs neither)" in capsys.readouterr().err
