from __future__ import annotations

from pathlib import Path

import pytest

from babelrs.errors import BabelRSError
from tests.train.instruct.builders import random_rows, row, write_images, write_meta, write_set
from train.instruct.corpus import read_meta
from train.instruct.scan import refuse_broken, scan


def test_missing_images_and_broken_rows_of_all_sets_are_listed_at_once(tmp_path: Path) -> None:
    images = write_images(tmp_path)
    lost = row(70, "<image><image>", "x", ["gone.png", "away.png"])
    entries = {
        "a": write_set(tmp_path, "a", [*random_rows(8, 1, images), lost]),
        "b": write_set(tmp_path, "b", [row(1, "q", " "), *random_rows(4, 2)]),
    }
    sets = read_meta(write_meta(tmp_path, entries))
    tally, faults = scan(sets)
    assert tally.rows == 14 and dict(tally.causes) == {"image: missing": 1, "empty answer": 1}
    assert [(fault.dataset, fault.row, fault.id) for fault in faults] == [("a", 8, "70"), ("a", 8, "70"), ("b", 0, "1")]
    with pytest.raises(BabelRSError) as caught:
        refuse_broken(sets, 0.1)
    assert all(part in str(caught.value) for part in ("2 of 14", "gone.png", "away.png", "b, row 0: empty answer"))
    assert refuse_broken(sets, 0.15) == tally
    assert refuse_broken(sets, 0.1, from_rows=20) == tally
