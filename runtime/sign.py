"""``babelrs-sign``: signs a bundle on the ground, and makes the keys."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from babelrs.errors import EXIT_DONE, BabelRSError, run_command, say

if TYPE_CHECKING:
    from babelrs.signing import PrivateKey

_EPILOG = """\
A folder gets manifest.sig beside its manifest; with --out FILE.babelrs it is packed as well. An archive is written
again with its signature, in its own place or as --out. A bundle whose files do not match its manifest is not signed.

Keep PREFIX.pem on the ground, and take PREFIX.pub.pem on board:
  babelrs-sign --new-key flight
  babelrs-sign model.babelrs --key flight.pem
  babelrs-run SOURCE --sensor ir --bundle model.babelrs --require-signature flight.pub.pem

Exit codes: 0 done, 2 the bundle or the key is wrong.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``babelrs-sign`` and return its exit code; ``None`` takes the process's arguments."""
    return run_command(_sign, argv)


def _sign(argv: list[str]) -> int:
    given = _parser().parse_args(argv)
    if (given.bundle is None) == (given.new_key is None):
        raise BabelRSError("Name either a bundle or --new-key.", "See babelrs-sign --help.")
    if given.new_key is not None:
        return _make_keys(given.new_key)
    if given.key is None:
        raise BabelRSError("No --key was named.", "Give the private key, as babelrs-sign --new-key PREFIX makes it.")
    from babelrs.signing import read_private_key
    from runtime.signed_bundles import sign_archive, sign_folder

    key, source = read_private_key(given.key), Path(given.bundle)
    if source.is_dir():
        written = sign_folder(source, key, None if given.out is None else Path(given.out))
    else:
        written = sign_archive(source, key, Path(given.out or source))
    return _report(written, key)


def _report(written: Path, key: PrivateKey) -> int:
    say(f"{written}: signed with the key {key.public.key_id}\n", sys.stdout)
    return EXIT_DONE


def _make_keys(prefix: str) -> int:
    from babelrs.signing import read_public_key, write_key_pair

    private, public = write_key_pair(prefix)
    key_id = read_public_key(public).key_id
    say(f"{private}: the private key, to sign with\n{public}: the public key {key_id}, to check with\n", sys.stdout)
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="babelrs-sign",
        description="Sign a bundle with an Ed25519 key.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", nargs="?", help="bundle folder or .babelrs file")
    add("--key", metavar="PRIVATE", help="the private key, a PEM file without passphrase")
    add("--out", metavar="FILE", help="write the signed bundle as this archive")
    add("--new-key", metavar="PREFIX", help="make PREFIX.pem and PREFIX.pub.pem instead; neither is overwritten")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
