"""One run at a time writes to a folder."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from babelrs.errors import BabelRSError
from runtime.sinks import make_folder, unwritable

_LOGGER = logging.getLogger(__name__)
_HELD = (errno.EWOULDBLOCK, errno.EACCES)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is not there. The system lets go of it when the process ends, however.

    Raises:
        BabelRSError: Another process holds it, or it cannot be made or opened.
    """
    try:
        descriptor = os.open(make_folder(folder), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise unwritable(folder, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            os.close(descriptor)
            what = f"{folder}: another run writes to this folder."
            raise BabelRSError(what, "Wait for its end, or choose another --out.") from None
        _LOGGER.warning("%s: cannot be locked (%s): let no second run write to it", folder, error.strerror)
    try:
        yield
    finally:
        os.close(descriptor)
