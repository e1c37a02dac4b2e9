"""What sources and their frames are called: in messages without passwords, in files without odd characters."""

from __future__ import annotations

import re
from urllib.parse import unquote

_LONGEST_STEM = 80
# One slash is a slip. Greedy: an unescaped @ or / in a password hides more, never less.
_CREDENTIALS = re.compile(r"(?<=:/)[^\s\"']*@")
_QUERY_VALUE = re.compile(r"([?&;])([^=&;\s\"']+)=([^&;\s\"']*)")
_HARMLESS_KEYS = ("camera", "channel", "format", "fps", "profile", "size", "stream", "subtype")
_SECRET_WORD = r"(?:pass(?:word|wd|phrase)?|pwd?|secret|token|api-?key|auth|key)"
# Cameras that take them in the path (user=a_password=b_channel=1) and GStreamer elements (user-pw=b, passphrase="b").
_SECRET_VALUE = re.compile(rf"(?i)((?:^|[\s/?&;_-]){_SECRET_WORD}\s*=\s*)(\"[^\"]*\"|'[^']*'|[^\s&;/_]+)")


def redacted(text: str) -> str:
    """``text`` without the credentials that its addresses hold: user, password, keys in paths and queries."""
    text = _CREDENTIALS.sub(lambda match: f"{'/' if match.group().startswith('/') else ''}***@", text)
    text = _QUERY_VALUE.sub(_hide_value, text)
    return _SECRET_VALUE.sub(r"\1***", text)


def hidden(text: str, address: str) -> str:
    """``text`` from another program about ``address``, with the credentials of ``address`` hidden wherever they are."""
    for secret in sorted(_secrets(address), key=len, reverse=True):
        text = text.replace(secret, "***")
    return redacted(text)


def safe_stem(address: str) -> str:
    """A file name without suffix that tells of ``address``: letters, digits, dots, dashes; no credentials."""
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", redacted(address)).strip("-.")
    return stem[:_LONGEST_STEM].rstrip("-.") or "source"


class Names:
    """Gives names for files about frames, each once in a run, whatever the sources are called."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._prefixes: set[str] = set()

    def unique(self, base: str) -> str:
        """A name that no other frame of the run has: ``base``, or ``base-2`` and so on."""
        stem, count = base, 1
        while any(stem.startswith(prefix) for prefix in self._prefixes):
            count += 1
            stem = f"{count}-{base}"
        name, count = stem, 1
        while name in self._taken:
            count += 1
            name = f"{stem}-{count}"
        self._taken.add(name)
        return name

    def prefix(self, address: str) -> str:
        """The beginning of the names of a source without end, which numbers its frames after it."""
        stem = safe_stem(address)
        prefix, count = f"{stem}_", 1
        while self._clashes(prefix):
            count += 1
            prefix = f"{stem}-{count}_"
        self._prefixes.add(prefix)
        return prefix

    def _clashes(self, prefix: str) -> bool:
        others = any(other.startswith(prefix) or prefix.startswith(other) for other in self._prefixes)
        return others or any(name.startswith(prefix) for name in self._taken)


def _hide_value(match: re.Match[str]) -> str:
    before, key, value = match.groups()
    return match.group(0) if key.lower() in _HARMLESS_KEYS else f"{before}{key}={'***' if value else ''}"


def _secrets(address: str) -> set[str]:
    """Passwords in ``address``, as written and with their escapes undone."""
    found = [match.group(0)[:-1].lstrip("/").partition(":")[2] for match in _CREDENTIALS.finditer(address)]
    found += [match.group(2).strip("\"'") for match in _SECRET_VALUE.finditer(address)]
    return {secret for text in found for secret in (text, unquote(text)) if len(secret) >= 3}
