"""Ask a pretrained model about images: ``python -m train.describe --checkpoint C --sensor ir IMAGE... --ask "..."``.

C is a checkpoint of python -m train.pretrain, or its run's folder. Boxes in an answer are drawn, and printed in pixels.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from babelrs.errors import EXIT_DONE, EXIT_USER_INPUT, BabelRSError, run_command
from babelrs.images import Frame, ImageError, quiet_opencv, read_frame
from babelrs.sensors import Sensor
from train.answering import answers
from train.command_line import CommandParser
from train.devices import pick_device
from train.drawing import outline
from train.instruct.config import InstructConfig
from train.instruct.examples import ExampleMaker
from train.instruct.faults import RowFault
from train.instruct.grounding import Grounded, parse_grounded
from train.instruct.rows import MARKER, RESERVED, Row
from train.instruct.tiles import displayed
from train.models.csia import CSIA
from train.pretrain_files import read_model
from train.run_folder import FINAL, LAST
from train.sample_sheet import ANSWER_COLOUR, rectangles


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandParser(prog="python -m train.describe", description=__doc__, allow_abbrev=False)
    made.add_argument("images", type=Path, nargs="+", metavar="IMAGE", help="PNG, JPEG or TIFF file")
    made.add_argument("--checkpoint", type=Path, required=True, help="checkpoint or run folder of train.pretrain")
    made.add_argument("--sensor", help="rgb, sar or ir; decides the radiometry (default: by the kind of file)")
    made.add_argument("--ask", default="Describe this image.", help="the question (default: Describe this image.)")
    made.add_argument("--out", type=Path, default=Path("described"), help="folder for pictures with boxes")
    made.add_argument("--max-tokens", type=int, default=256, help="longest answer, tokens (default 256)")
    made.add_argument("--max-tiles", type=int, help="largest number of tiles of an image (default: as in training)")
    made.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, ... (default auto)")
    return made


@dataclass(frozen=True)
class Describer:
    """A model that answers questions about single images.

    Attributes:
        csia: The model.
        tokenizer: Its tokenizer.
        make: Turns images and questions into prompts as in training.
    """

    csia: CSIA
    tokenizer: PreTrainedTokenizerBase
    make: ExampleMaker

    @staticmethod
    def load(checkpoint: Path, device: torch.device) -> Describer:
        """The model of a checkpoint of ``train.pretrain`` or of its run's folder.

        Raises:
            BabelRSError: There is none, or it cannot be read.
        """
        vlm, tokenizer, record = read_model(checkpoint_of(checkpoint))
        csia: CSIA = CSIA(vlm, chunk=1024).to(device)
        data: dict[str, Any] = {k: v for k, v in record["settings"]["data"].items() if k in InstructConfig.model_fields}
        return Describer(csia.eval(), tokenizer, ExampleMaker(InstructConfig(**data), tokenizer))

    def ask(
        self,
        frame: Frame,
        question: str,
        sensor: Sensor | None = None,
        max_tokens: int = 256,
        max_tiles: int | None = None,
    ) -> str:
        """The answer to a question about an image.

        Args:
            frame: The image as the sensor counted it.
            question: Without image marker.
            sensor: Decides the radiometry; ``None`` takes what fits the kind of file.
            max_tokens: Longest answer.
            max_tiles: Largest number of tiles; ``None`` takes that of training.

        Raises:
            RowFault: The image does not fit the sensor, or question and image are longer than a sequence.
        """
        row = Row(frame.source, (frame.source,), ((f"{MARKER}\n{question}", ""),), None, sensor)
        prompt = self.make.prompt(row, lambda _: frame, max_tiles)
        return answers(self.csia, self.tokenizer, [prompt], max_tokens)[0]


def checkpoint_of(folder: Path) -> Path:
    """The folder itself, or the final or else the last checkpoint of the run that it holds."""
    return next((folder / link for link in (FINAL, LAST) if (folder / link).is_dir()), folder)


def draw(frame: Frame, sensor: Sensor | None, found: list[Grounded], path: Path) -> None:
    """Write the image with boxes as PNG."""
    canvas = displayed(frame, sensor).copy()
    for grounded in found:
        outline(canvas, rectangles(grounded.boxes), ANSWER_COLOUR, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    quiet_opencv().imwrite(str(path), canvas[..., ::-1])


def main(argv: list[str]) -> int:
    """Run the command; returns the exit code: 2 where an image could not be used, after all others were."""
    arguments = parser().parse_args(argv)
    sensor = None if arguments.sensor is None else Sensor.parse(arguments.sensor)
    faults = [f"--ask holds {token}" for token in (MARKER, *RESERVED) if token in arguments.ask]
    for name in ("max_tokens", "max_tiles"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            faults.append(f"--{name.replace('_', '-')} {value} is below 1")
    if faults:
        raise BabelRSError("; ".join(faults) + ".", "See python -m train.describe --help.")
    describer = Describer.load(arguments.checkpoint, pick_device(arguments.device))
    broken = 0
    for number, path in enumerate(arguments.images):
        try:
            frame = read_frame(path)
            text = describer.ask(frame, arguments.ask, sensor, arguments.max_tokens, arguments.max_tiles)
        except (ImageError, RowFault) as error:
            sys.stderr.write(f"{path}: {error}\n")
            broken += 1
            continue
        _report(path, text, frame, sensor, arguments.out / f"{number:03d}.{path.stem}.png")
    return EXIT_USER_INPUT if broken else EXIT_DONE


def _report(path: Path, text: str, frame: Frame, sensor: Sensor | None, picture: Path) -> None:
    sys.stdout.write(f"{path}: {text}\n")
    found = parse_grounded(text, frame.width, frame.height)
    for grounded in found:
        for box in grounded.boxes:
            sys.stdout.write(f"  {grounded.name or 'box'}: {' '.join(f'{value:.1f}' for value in box)}\n")
    if found:
        draw(frame, sensor, found, picture)
        sys.stdout.write(f"  {picture}\n")


if __name__ == "__main__":
    sys.exit(run_command(main))
