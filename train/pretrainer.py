"""The loop of pretraining: next-token loss on the responses, LVSA's weights moving with the optimiser's steps."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from babelrs import __version__
from babelrs.errors import BabelRSError
from train.instruct.chat import IGNORED
from train.instruct.faults import FaultFile, Tally
from train.instruct.faults import summed as summed_tallies
from train.instruct.packing import Pack
from train.instruct.sources import Source
from train.instruct.stream import LoaderState, PackLoader
from train.interruption import Interruption, interruptible
from train.models.csia import CSIA
from train.models.vlm import LayerwiseInternVL
from train.models.vlm_flops import training_flops
from train.observer import Observer
from train.optimizer import learning_rate, make_optimizer, set_learning_rate
from train.packed_loss import packed_losses
from train.parallel import clip_gradients, distribute, gradients_kept_local, let_go
from train.pretrain_config import MACHINE_PATHS, PretrainConfig
from train.pretrain_files import write_model
from train.processes import gathered, num_processes, rank, summed, wait_for_all
from train.progress import RunProgress
from train.run_folder import FINAL, LAST, RunFolder
from train.stability import LossGuard, non_finite_gradient
from train.training_state import TrainingState, write_state

log = logging.getLogger("train.pretrain")


@dataclass(frozen=True)
class PretrainStep:
    """What one optimiser step was, over all processes.

    Attributes:
        loss: Mean loss of a response token, nats.
        tokens: Tokens read, padding left out.
        response_tokens: Those that carry loss.
        flops: Model FLOPs of the step.
        gradient_norm: Before clipping.
        stop: Whether a process was asked to stop.
    """

    loss: float
    tokens: int
    response_tokens: int
    flops: float
    gradient_norm: float
    stop: bool


class Pretrainer:
    """One pretraining run.

    Args:
        config: All settings.
        vlm: The model.
        tokenizer: Its tokenizer.
        source: Where examples come from.
        fingerprint: Of the instruction data.
        accelerator: Device and processes.
        observer: Looks at rows while training, if there are any to look at.
    """

    def __init__(
        self,
        config: PretrainConfig,
        vlm: LayerwiseInternVL,
        tokenizer: PreTrainedTokenizerBase,
        source: Source,
        fingerprint: str,
        accelerator: Accelerator,
        observer: Observer | None = None,
    ) -> None:
        self.config, self.vlm, self.tokenizer, self.source = config, vlm, tokenizer, source
        self.observer = observer
        self.accelerator, self.device = accelerator, accelerator.device
        self.folder = RunFolder(config.out)
        self.optimizer_config = config.optimizer.over(config.steps)
        self.csia = CSIA(vlm.to(self.device), config.model.loss_chunk)
        self.model = distribute(self.csia, blocks_of(vlm), config.parallel, accelerator, ("generate",))
        self.autocast = torch.bfloat16 if config.precision == "bf16" else torch.float32
        torch.manual_seed(config.seed + rank())  # stochastic depth differs between processes
        self.optimizer = make_optimizer(self.csia, 0, self.optimizer_config)
        scaler = torch.amp.GradScaler(self.device.type, enabled=False)
        self.state = TrainingState(self.model, self.optimizer, None, scaler, fingerprint)
        self.guard: LossGuard[str] = LossGuard(config.watch.explode_factor)
        self.loader_state = LoaderState()
        self._tokens, self._seconds, self._flops = 0, 0.0, 0.0
        self.part = sequences_of_a_part(config)

    def run(self) -> bool:
        """Train to the end, from the run folder's last checkpoint where ``resume`` is set.

        Returns:
            Whether the end was reached; False where the run was asked to stop.

        Raises:
            BabelRSError: Too many rows are broken, or the loss is not finite or explodes.
        """
        config = self.config
        done, listed_bytes = self._resume() if config.resume else (0, 0)
        self.faults = FaultFile(config.out / "broken" / f"rows.{rank()}.jsonl", listed_bytes)
        pad, share = int(self.tokenizer.pad_token_id), (rank(), num_processes())
        packs = iter(PackLoader(self.source, config.data, pad, self.loader_state, share, self.faults.add))
        if self.observer is not None and done == 0:
            self._observe(0)
        with interruptible() as interruption, RunProgress(log, config.steps, done, rank() == 0) as progress:
            for step in range(done, config.steps):
                started = time.perf_counter()
                report = self.train_step(step, packs, interruption)
                progress.advance(step + 1)
                self._log(step + 1, report, time.perf_counter() - started, progress)
                if self.observer is not None and self.observer.due(step + 1, config.steps):
                    self._observe(step + 1)
                if report.stop or (step + 1) % config.save_every == 0:
                    self.save(step + 1, (LAST,))
                if report.stop and step + 1 < config.steps:
                    return False
        self.save(config.steps, (LAST, FINAL))
        return True

    def train_step(self, step: int, packs: Iterator[Pack], interruption: Interruption | None = None) -> PretrainStep:
        """One optimiser step (from 0) on this process' next sequences."""
        config = self.config
        self.model.train()
        self.vlm.lvsa_step = step
        set_learning_rate(self.optimizer, learning_rate(step, config.steps, self.optimizer_config))
        parts = [list(itertools.islice(packs, self.part)) for _ in range(config.accumulation)]
        asked = float(interruption is not None and interruption.asked)
        counts = summed(torch.tensor([*self._counts(parts), asked], dtype=torch.float64, device=self.device)).tolist()
        tokens, responses, flops, asked = counts
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for index, part in enumerate(parts):
            with gradients_kept_local(self.model, index + 1 < len(parts)):
                loss = packed_losses(self.model, part, self.device, self.autocast).total / max(1.0, responses)
                (loss * num_processes()).backward()  # gradients are averaged over processes, whose losses add up
            total += loss.detach()
        mean = float(summed(total))
        norm = clip_gradients(self.model, config.optimizer.clip_norm).item()
        self._check(step, mean, norm, parts)
        self.optimizer.step()
        return PretrainStep(mean, int(tokens), int(responses), flops, norm, asked > 0)

    def _observe(self, step: int) -> None:
        """Look at held-out rows after so many steps; every process looks, the first one writes."""
        assert self.observer is not None
        self.vlm.lvsa_step = step
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            seen = self.observer.look(self.csia, self.tokenizer, step, self.autocast, rank() == 0)
        let_go(self.model)
        if rank() == 0:
            self.folder.append_metrics({"step": step, **seen})
            self.accelerator.log({"held_out/loss": seen["held_out"]["loss"]}, step=step)
            log.info("step %d: %s rows, loss %.3f", step, seen["rows_of"], seen["held_out"]["loss"])

    def _counts(self, parts: Sequence[Sequence[Pack]]) -> tuple[int, int, float]:
        """Tokens, response tokens and model FLOPs of this process' sequences."""
        tokens = responses = 0
        flops = 0.0
        context = self.vlm.config.image_token_id
        for pack in itertools.chain.from_iterable(parts):
            scored = pack.labels != IGNORED
            tokens, responses = tokens + pack.num_tokens, responses + int(scored.sum())
            for sample in range(int(pack.sample_ids.max()) + 1):
                own = pack.sample_ids == sample
                visual = int((own & (pack.input_ids == context)).sum())
                text = int(own.sum()) - visual
                flops += training_flops(self.vlm.config, visual, text, int((own & scored).sum()))
        return tokens, responses, flops

    def _check(self, step: int, loss: float, norm: float, parts: Sequence[Sequence[Pack]]) -> None:
        wrong = self.guard.exploded({"loss": loss})
        if not wrong and math.isfinite(norm):
            return
        names = [n for part in gathered([n for p in parts for pack in p for n in pack.names]) for n in part]
        where = non_finite_gradient(self.csia) or "the loss"
        raise BabelRSError(
            f"The loss {loss:.3g} or its gradient {norm:.3g} is not finite or exploded at step {step + 1}, in {where}. "
            f"Conversations: {', '.join(names[:20])}. The last checkpoint is in {self.config.out / LAST}.",
            "Lower optimizer.lr, or look at these conversations.",
        )

    def save(self, step: int, links: tuple[str, ...]) -> None:
        """Write model, tokenizer and training state as a checkpoint."""
        loaders = gathered({"loader": self.loader_state.to_dict(), "broken_bytes": self.faults.size})
        self.vlm.lvsa_step = step
        tensors, record = self.state.collect(step, {"loaders": loaders, "guard": self.guard.state()})
        if rank() == 0:
            tally = summed_tallies(Tally.from_dict(each["loader"]["tally"]) for each in loaders)
            training = {
                "command": "python -m train.pretrain",
                "version": __version__,
                "step": step,
                "settings": self.config.model_dump(mode="json", exclude=MACHINE_PATHS),
                "rows": tally.to_dict(),
            }
            self.folder.add_checkpoint(step, partial(self._write, step, training, tensors, record), links)
            log.info("step %d: checkpoint in %s", step, self.config.out / links[-1])
        wait_for_all()

    def _write(
        self, step: int, training: dict[str, Any], tensors: dict[str, Tensor], record: dict[str, Any], folder: Path
    ) -> None:
        prefix = "model/vlm."
        held = tensors | {name: tensors[first] for name, first in record["tied"].items()}
        weights = {name[len(prefix) :]: value for name, value in held.items() if name.startswith(prefix)}
        write_model(folder, self.vlm, self.tokenizer, weights, training)
        write_state(folder, tensors, record)

    def _resume(self) -> tuple[int, int]:
        """Steps that are done, and how much of this process' list of broken rows belongs to them, bytes."""
        record = self.state.restore(self.folder.last())
        step = int(record["step"])
        own = record["loaders"]
        if len(own) != num_processes():
            raise BabelRSError(
                f"The run was left by {len(own)} processes; {num_processes()} cannot take up their streams.",
                f"Start {len(own)} processes.",
            )
        self.loader_state = LoaderState.from_dict(own[rank()]["loader"])
        self.guard.restore(record["guard"])
        if rank() == 0:
            self.folder.forget_metrics_after(step)
            log.info("going on from step %d of %d", step, self.config.steps)
        wait_for_all()
        return step, int(own[rank()]["broken_bytes"])

    def _log(self, step: int, report: PretrainStep, seconds: float, progress: RunProgress) -> None:
        self._tokens, self._seconds, self._flops = (
            self._tokens + report.tokens, self._seconds + seconds, self._flops + report.flops
        )  # fmt: skip
        if rank() or not (step % self.config.log_every == 0 or step in (1, self.config.steps)):
            return
        line: dict[str, Any] = {
            "step": step,
            "loss": report.loss,
            "lr": learning_rate(step - 1, self.config.steps, self.optimizer_config),
            "gradient_norm": report.gradient_norm,
            "response_tokens": report.response_tokens,
            "tokens_per_s": round(self._tokens / self._seconds, 1),
            "layer_weights": list(self.vlm.merge_weights()),
        }
        if peak := self.config.watch.peak_tflops:
            line["mfu"] = self._flops / self._seconds / (peak * 1e12 * num_processes())
        self._tokens, self._seconds, self._flops = 0, 0.0, 0.0
        self.folder.append_metrics(line)
        scalars = {name: value for name, value in line.items() if isinstance(value, (int, float)) and name != "step"}
        layers = {f"layer_weights/{index}": weight for index, weight in enumerate(line["layer_weights"])}
        self.accelerator.log({**scalars, **layers}, step=step)
        progress.report(step, {"loss": report.loss})


def sequences_of_a_part(config: PretrainConfig) -> int:
    """Sequences that a process computes at a time.

    Raises:
        BabelRSError: A step's sequences cannot be shared out evenly.
    """
    share = num_processes() * config.accumulation
    if config.sequences % share:
        raise BabelRSError(
            f"{config.sequences} sequences are no multiple of {num_processes()} processes times "
            f"{config.accumulation} parts.",
            "Change sequences or accumulation.",
        )
    return config.sequences // share


def blocks_of(vlm: LayerwiseInternVL) -> list[torch.nn.Module]:
    """The transformer blocks of the ViT and of the language model."""
    return [*vlm.model.vision_tower.encoder.layer, *vlm.model.language_model.layers]
