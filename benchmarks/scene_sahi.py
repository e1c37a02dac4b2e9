"""The same engine and tiles under SAHI (``pip install sahi``; needed here only), with SAHI's default merging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sahi.models.base import DetectionModel
from sahi.predict import get_sliced_prediction
from sahi.prediction import ObjectPrediction

from babelrs.boxes import to_coco
from babelrs.images import Frame
from babelrs.radiometry import to_uint8
from babelrs.tiling import Tile, cut_tile
from runtime.pipeline import Detector


class EngineModel(DetectionModel):
    """An engine as SAHI calls one: image by image, horizontal boxes.

    Args:
        detector: Infers and reads the outputs.
    """

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        names = {str(index): name for index, name in enumerate(detector.entry.classes)}
        super().__init__(
            model=detector, confidence_threshold=detector.score_threshold, category_mapping=names, device="cpu"
        )

    def check_dependencies(self, packages: list[str] | None = None) -> None:
        """Nothing is needed."""

    def set_device(self, device: str | None = None) -> None:
        """The engine has its own."""
        self.device = device or "cpu"

    def set_model(self, model: Any, **kwargs: Any) -> None:
        """Keep it."""
        self.model = model

    def load_model(self) -> None:
        """It is loaded already."""

    def perform_inference(self, image: np.ndarray[Any, Any]) -> None:
        """Run the graph on one slice."""
        entry = self._detector.entry
        pixels = to_uint8(Frame(np.ascontiguousarray(image)), entry.profile)
        whole = Tile(0, 0, pixels.shape[1], pixels.shape[0], (0, 0, 0, 0))
        tile = cut_tile(pixels, whole, entry.input_width, entry.input_height)
        (self._original_predictions,) = self._detector.detect_tiles([tile])

    def _create_object_prediction_list_from_original_predictions(
        self, shift_amount_list: Any = None, full_shape_list: Any = None
    ) -> None:
        found = self._original_predictions
        shift = [0, 0] if not shift_amount_list else shift_amount_list[0]
        shape = None if not full_shape_list else full_shape_list[0]
        rows = zip(to_coco(found.boxes), found.scores, found.labels, strict=True)
        self._object_prediction_list_per_image = [
            [
                ObjectPrediction(
                    bbox=[x, y, x + width, y + height], score=float(score), category_id=int(label),
                    category_name=found.classes[label], shift_amount=shift, full_shape=shape,
                )
                for (x, y, width, height), score, label in rows
            ]
        ]  # fmt: skip


def sliced(scene: Path, detector: Detector) -> int:
    """Detect with SAHI's slicing and merging; returns the number of detections."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # its guard against bombs refuses scenes
    entry = detector.entry
    found = get_sliced_prediction(
        str(scene),
        EngineModel(detector),
        slice_height=entry.input_height,
        slice_width=entry.input_width,
        overlap_height_ratio=entry.tile_overlap,
        overlap_width_ratio=entry.tile_overlap,
        perform_standard_pred=False,
        verbose=0,
    )
    return len(found.object_prediction_list)
