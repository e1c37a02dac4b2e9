"""Finished steps of a search, kept on disk: a search that was killed goes on from the last of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger("compress.steps")

Result = TypeVar("Result")
_FILE = "steps.json"


class Steps:
    """Results by name in ``FOLDER/steps.json``, good for one set of inputs.

    Args:
        folder: Where they are kept; made when the first is.
        inputs: Everything that decides the results, as JSON values; results of other inputs are forgotten.
    """

    def __init__(self, folder: Path, inputs: Any) -> None:
        self._folder = folder
        self._digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
        self._results: dict[str, Any] = {}
        file = folder / _FILE
        if not file.is_file():
            return
        try:
            stored = json.loads(file.read_text())
        except ValueError:  # cut while it was written by other means than ours: nothing in it can be trusted
            stored = {}
        if isinstance(stored, dict) and stored.get("inputs") == self._digest:
            self._results = stored["results"]
            log.info("going on after %d finished steps in %s", len(self._results), folder)
        else:
            log.info("the steps in %s are of other settings or data: starting anew", folder)

    def do(self, name: str, compute: Callable[[], Result], *, to: Callable[[Result], Any], back: Any) -> Result:
        """The result of a step: the stored one, or a new one that is stored.

        Args:
            name: Of the step.
            compute: Makes the result.
            to: The result as JSON values.
            back: The result of these.
        """
        if name in self._results:
            return back(self._results[name])
        result = compute()
        self._results[name] = to(result)
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = self._folder / (_FILE + ".part")
        aside.write_text(json.dumps({"inputs": self._digest, "results": self._results}))
        os.replace(aside, self._folder / _FILE)
        return result


def forget(folder: Path) -> None:
    """Remove what is kept in a folder, if there is any: the search is over."""
    shutil.rmtree(folder, ignore_errors=True)
