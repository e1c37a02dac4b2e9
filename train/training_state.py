"""All that a run needs to go on as if it had never stopped; safetensors and JSON, whole weights whatever the sharding.

Batches need no state: they are a pure function of seed and step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from babelrs.errors import BabelRSError, collected
from babelrs.sensors import Sensor
from train.data.samples import Sample
from train.optimizer import AveragedWeights
from train.processes import gathered, rank

TENSORS_FILE, RECORD_FILE = "training.safetensors", "training.json"
FREE = frozenset(
    ("out", "resume", "init", "backbone", "log_every", "save_every", "parallel", "compile", "watch.", "data.root",
     "data.workers", "data.cache")
)  # fmt: skip
"""Settings of fine-tuning that a run may change while it goes on."""


class TrainingState:
    """The moving parts of a run.

    Args:
        model: The detector, maybe wrapped or sharded.
        optimizer: Its optimiser.
        average: Its averaged weights, if it has any.
        scaler: The loss scale.
        fingerprint: Of the training data.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: AveragedWeights | None,
        scaler: torch.amp.GradScaler,
        fingerprint: str,
    ) -> None:
        self.model, self.optimizer, self.average, self.scaler = model, optimizer, average, scaler
        self.fingerprint = fingerprint

    def collect(self, step: int, extra: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and record of the state after ``step`` steps; every process must call this, the first has all."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        optimizer: Mapping[str, Any] = get_optimizer_state_dict(self.model, self.optimizer, options=options)
        model: Mapping[str, Any] = get_model_state_dict(self.model, options=options)
        tensors: dict[str, Tensor] = {f"model/{name}": value for name, value in model.items()}
        for name, state in optimizer.get("state", {}).items():
            tensors |= {f"optimizer/{name}/{key}": torch.as_tensor(value) for key, value in state.items()}
        if self.average is not None:
            tensors |= {f"average/{name}": value for name, value in whole(self.average.weights).items()}
        for process, random in enumerate(gathered(_random_state())):
            tensors |= {f"random/{process}/{key}": value for key, value in random.items()}
        record = {
            "step": step,
            "averaged_steps": self.average.step if self.average is not None else 0,
            "scaler": self.scaler.state_dict(),
            "data": self.fingerprint,
            **extra,
        }
        record["tied"] = tied = _tied(tensors)
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items() if name not in tied}, record

    def restore(self, folder: Path) -> dict[str, Any]:
        """Put the run into the state that ``folder`` holds.

        Returns:
            The record that :meth:`collect` gave.

        Raises:
            BabelRSError: The files are missing or damaged, or the training data are others.
        """
        tensors, record = _read(folder)
        tensors |= {name: tensors[first] for name, first in record.get("tied", {}).items()}
        if record["data"] != self.fingerprint:
            raise BabelRSError(
                f"The training data are not those that {folder} was trained on (names or objects differ).",
                "Restore the data, or begin a new run with --init and this checkpoint.",
            )
        options = StateDictOptions(full_state_dict=True)
        parts = _by_part(tensors)
        set_model_state_dict(self.model, dict(parts["model"]), options=options)
        set_optimizer_state_dict(self.model, self.optimizer, self._optimizer_state(parts["optimizer"]), options=options)
        if self.average is not None:
            self.average.load(_like(parts["average"], self.average.weights), record["averaged_steps"])
        if record["scaler"]:
            self.scaler.load_state_dict(record["scaler"])
        _set_random_state({key.split("/", 1)[1]: value for key, value in parts["random"].items() if _own(key)})
        return record

    def _optimizer_state(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """The optimiser's state as PyTorch takes it: values by parameter name, groups as they are now."""
        state: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            parameter, key = name.rsplit("/", 1)
            state.setdefault(parameter, {})[key] = value
        names = {id(parameter): name for name, parameter in _plain(self.model).named_parameters()}
        groups = [
            {**group, "params": [names[id(parameter)] for parameter in group["params"]]}
            for group in self.optimizer.param_groups
        ]
        return {"state": state, "param_groups": groups}


def _tied(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of weights that are another's memory, such as an output head that shares the embedding's, and of whose."""
    seen: dict[int, str] = {}
    found: dict[str, str] = {}
    for name, tensor in tensors.items():
        if name.startswith("model/") and tensor.numel():
            first = seen.setdefault(tensor.data_ptr(), name)
            if first != name:
                found[name] = first
    return found


def write_state(folder: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
    """Write a collected state into ``folder``."""
    save_file(dict(tensors), folder / TENSORS_FILE)
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")


def whole(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in one piece each, on the CPU; every process must call this where they are sharded."""
    return {name: (t.full_tensor() if hasattr(t, "full_tensor") else t).cpu() for name, t in weights.items()}


def data_fingerprint(samples: Mapping[Sensor, Sequence[Sample]]) -> str:
    """SHA-256 of all image names, boxes and class names."""
    digest = hashlib.sha256()
    for sensor in sorted(samples):
        for sample in samples[sensor]:
            digest.update(f"{sample.name}|{'|'.join(sample.names)}|".encode())
            digest.update(sample.boxes.tobytes() + sample.ignore.tobytes())
    return digest.hexdigest()


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any], free: Collection[str] = FREE) -> None:
    """Refuse settings that a run cannot change while it goes on.

    Args:
        before: Settings the run began with.
        now: Settings given.
        free: Settings that change no result; a name that ends in a dot stands for its whole section.

    Raises:
        BabelRSError: Listing each changed setting, before and now.
    """
    old, new = _flat(before), _flat(now)
    sections = tuple(name for name in free if name.endswith("."))
    changed = [
        f"{name}: {old.get(name)!r} before, {new.get(name)!r} now"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in free and not name.startswith(sections)
    ]
    if changed:
        raise collected(
            "The run cannot go on with other settings",
            changed,
            "Take them back, or begin a new run with --init and this run's checkpoint.",
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        return load_file(folder / TENSORS_FILE), json.loads((folder / RECORD_FILE).read_text())
    except Exception as error:
        raise BabelRSError(
            f"The training state in {folder} cannot be read: {error}.", "Restore the folder, or start anew."
        ) from None


def _by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "average": {}, "random": {}}
    for name, value in tensors.items():
        part, rest = name.split("/", 1)
        parts[part][rest] = value
    return parts


def _like(weights: Mapping[str, Tensor], sharded: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole weights cut as ``sharded`` are."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    return {
        name: distribute_tensor(weights[name].to(now.device), now.device_mesh, now.placements)
        if isinstance(now, DTensor)
        else weights[name]
        for name, now in sharded.items()
    }


def _plain(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model


def _random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _own(key: str) -> bool:
    return key.split("/", 1)[0] == str(rank())


def _set_random_state(state: Mapping[str, Tensor]) -> None:
    """Nothing to set where more processes go on than had begun: their draws are new."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
