"""Which class is taken for which: detections matched to objects whatever their classes."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from babelrs.matching import assign
from babelrs.pool import Found, Pool

CONFUSION_IOU = 0.5


@dataclass(frozen=True)
class Confusion:
    """A sensor's detections above a score, matched at IoU 0.5 regardless of class.

    Attributes:
        classes: ``C`` class names.
        table: ``(C + 1, C + 1)`` counts: rows are the true class, last "nothing there" (false alarms); columns the
            detected class, last "missed". Objects that do not count, and what fell to them, are left out.
        score: The least score.
        false_alarms: Detections that found nothing at all, by falling score.
        missed: ``(M,)`` rows of the pool's objects that nothing found.
    """

    classes: tuple[str, ...]
    table: npt.NDArray[np.int64]
    score: float
    false_alarms: Found
    missed: npt.NDArray[np.int64]


def confusion(pool: Pool, least_score: float) -> Confusion:
    """Match the detections of at least ``least_score`` across classes; NaN takes none."""
    found = pool.found.select(np.flatnonzero(pool.found.scores >= least_score))
    found = found.select(np.lexsort((-found.scores, found.images)))  # an image's best first, whatever the class
    candidates = replace(pool, found=found).candidates(CONFUSION_IOU, across_classes=True)
    chosen = assign(candidates, pool.objects.ignore, len(found), (CONFUSION_IOU,))[0]
    nothing = len(pool.classes)
    true = np.append(pool.objects.labels, nothing)[chosen]  # -1 reads the appended row
    counts = ~np.append(pool.objects.ignore, False)[chosen]
    table = np.zeros((nothing + 1, nothing + 1), np.int64)
    np.add.at(table, (true[counts], found.labels[counts]), 1)
    taken = np.zeros(len(pool.objects) + 1, bool)
    taken[chosen] = True
    missed = np.flatnonzero(~taken[:-1] & ~pool.objects.ignore)
    np.add.at(table[:, nothing], pool.objects.labels[missed], 1)
    alarms = found.select(np.flatnonzero(chosen < 0))
    alarms = alarms.select(np.argsort(-alarms.scores, kind="stable"))
    return Confusion(pool.classes, table, least_score, alarms, missed)
