"""``babelrs-verify``: are a bundle's files unaltered, who signed it, and does this device compute what it must?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from babelrs.errors import EXIT_DONE, EXIT_LIMIT_MISSED, run_command
from runtime.arguments import ENGINE_CHOICES, add_require_signature

if TYPE_CHECKING:
    from babelrs.bundle import Bundle

_EPILOG = """\
Prints a line for every check. Exit codes: 0 all is well, 1 a self-test missed its tolerance, 2 the bundle is missing,
its files are not as they were made or the required signature is not there, 3 the engine failed.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``babelrs-verify`` and return its exit code; ``None`` takes the process's arguments."""
    return run_command(_verify, argv)


def _verify(argv: list[str]) -> int:
    given = _parser().parse_args(argv)
    from babelrs.bundle import open_trusted, read_selftest
    from runtime.engines import open_engine
    from runtime.selftest import run_selftest

    bundle = open_trusted(given.bundle, given.require_signature)
    _say(f"bundle   {bundle.manifest.name} for {bundle.manifest.target}, {bundle.digest[:16]}")
    _say(f"files    ok: {len(bundle.manifest.files)} match their SHA-256")
    _say(f"signature {_signature(bundle)}")
    passed = True
    for sensor in bundle.manifest.sensors:
        engine = open_engine(bundle, sensor, given.engine, given.threads)
        _say(f"engine   {sensor}: {engine.name}, {engine.reason}")
        selftest = read_selftest(bundle, sensor)
        result = run_selftest(engine, selftest)
        passed &= result.passed
        _say(
            f"selftest {'ok' if result.passed else 'FAILED'}: {sensor} ({engine.name}, {engine.precision}): "
            f"{result.num_expected - result.num_missed} of {result.num_expected} candidates found, scores differ by "
            f"{result.score_difference:.2g} (limit {selftest.score_tolerance:.2g}), boxes by "
            f"{result.box_difference_px:.2g} px (limit {selftest.box_tolerance_px:.2g})"
        )
    if not passed:
        sys.stderr.write("error: A self-test missed its tolerance. Do not fly this bundle with this engine.\n")
    return EXIT_DONE if passed else EXIT_LIMIT_MISSED


def _signature(bundle: Bundle) -> str:
    if bundle.key_id:
        return f"ok {bundle.key_id}"
    return "present (not checked: name a key with --require-signature)" if bundle.is_signed else "none"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="babelrs-verify",
        description="Check a bundle's files and run its self-tests on this device.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="bundle folder or .babelrs file")
    add_require_signature(parser)
    parser.add_argument("--engine", choices=ENGINE_CHOICES, default="auto", help="what runs the model (default: auto)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads (default: 0, one a core)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
