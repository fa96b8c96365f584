"""`make truth`: run the apps and print what was told of them. The exit status is 1 if something is wrong."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Final

from tests.truth.catalogue import Variant, apps, quick, variants
from tests.truth.judge import Judgement
from tests.truth.runner import run

_COLUMNS: Final = "{:<30} {:<26} {:<34} {:<44} {:<5} {:<6} {}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments choose."""
    parser = argparse.ArgumentParser(prog="python -m tests.truth", description="Is what the doctor says true?")
    parser.add_argument(
        "apps", nargs="*", default=["*"], help="names or patterns of apps, such as 'n_plus_one*'; default: all"
    )
    parser.add_argument("--quick", action="store_true", help="one event loop and one database for each app")
    parser.add_argument("--busy", action="store_true", help="let two other processes take the CPU meanwhile")
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), help="only this event loop")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), help="only this database, and apps without one")
    parser.add_argument("--variant", choices=("faulty", "healthy"), help="only this variant")
    parser.add_argument("--at-once", type=int, default=3, metavar="N", help="apps to run at a time; default: 3")
    parser.add_argument("--list", action="store_true", help="list what would be run")
    options = parser.parse_args(arguments)
    chosen = _chosen(options)
    if options.list or not chosen:
        print(*(f"{variant.app.name} {variant}" for variant in chosen), sep="\n")
        return 0 if chosen else 2
    print(_COLUMNS.format("app", "variant", "expected", "found", "line", "remedy", "largest segment"))
    judgements = asyncio.run(run(chosen, at_once=options.at_once, busy=options.busy, tell=_tell))
    wrong = [judgement for judgement in judgements if judgement.wrong]
    known = [judgement for judgement in wrong if judgement.variant.app.truth.open]
    print(f"\n{len(judgements) - len(wrong)} of {len(judgements)} are true; {len(known)} are wrong as is known (OPEN).")
    return 1 if len(wrong) > len(known) else 0


def _chosen(options: argparse.Namespace) -> list[Variant]:
    named = [app for app in apps() if any(fnmatch(app.name, pattern) for pattern in options.apps)]
    found = (
        variant
        for position, app in enumerate(named)
        for variant in (quick(app, position) if options.quick else variants(app))
    )
    return [
        variant
        for variant in found
        if options.loop in {None, variant.loop}
        and (options.database in {None, variant.database} or not variant.database)
        and options.variant in {None, variant.kind}
    ]


def _tell(judgement: Judgement) -> None:
    variant, truth = judgement.variant, judgement.variant.app.truth
    expected = "" if variant.healthy else ", ".join(one.kind for one in truth.expected)
    print(
        _COLUMNS.format(
            variant.app.name,
            str(variant),
            expected or "nothing",
            ", ".join(judgement.found) or "nothing",
            _word(judgement.line),
            _word(judgement.remedy),
            judgement.largest,
        ).rstrip()
    )
    for wrong in judgement.wrong:
        print(f"    {f'OPEN ({truth.open})' if truth.open else 'WRONG'} {wrong}")
    sys.stdout.flush()


def _word(right: bool | None) -> str:
    return "-" if right is None else "yes" if right else "NO"


if __name__ == "__main__":
    sys.exit(main())
