"""Run the code of a page, before and after the remedy, and print the findings: `python -m docs.findings n_plus_one`.

The examples are small, and machines differ in speed. So the threshold for an example that burns CPU is an order of
magnitude below the time that it takes on a common machine.
"""

import argparse
import asyncio
import gc
import importlib.util
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx
from fastapi import FastAPI

from otel_fastperf import Finding, Kind, Settings, Telemetry, setup_telemetry

FOLDER: Final = Path(__file__).parent

#: seconds within which a finding has to appear, and seconds to wait for one that must not
APPEARS_WITHIN: Final = 20.0
STAYS_AWAY_FOR: Final = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """The requests that show the fault of a page's code, and settings for which a small example is enough.

    Attributes:
        path: Path of the requests; `{}` stands for a running number.
        rounds: Minimum number of consecutive rounds.
        at_once: Number of concurrent requests in each round.
        seconds: Minimum duration of the load. If it is not 0, the load goes on until an expected finding appears: it
            may have to recur, and a busy machine may hide it in one request.
        settings: Settings that differ from the defaults.
        then: Called after each round.
    """

    path: str
    rounds: int = 1
    at_once: int = 1
    seconds: float = 0.0
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    then: Callable[[], object] = lambda: None


LOADS: Final = {
    Kind.N_PLUS_ONE: Load("/orders"),
    Kind.SYNC_DB_ON_LOOP: Load("/orders/count", rounds=20, settings={"database": {"sync_on_loop": 0.0}}),
    Kind.SLOW_QUERY: Load("/visits", settings={"database": {"slow_query": 0.05}}),
    Kind.LARGE_RESULT: Load("/visits", settings={"database": {"large_result_seconds": 0.02}}),
    Kind.LOCK_WAIT: Load("/pay", rounds=4, at_once=4, seconds=0.1),
    # on a disk in memory, COMMITs are a small part of the first request, which pays for what happens once
    Kind.SLOW_COMMIT: Load("/import", rounds=4, seconds=0.1),
    Kind.POOL_WAIT: Load("/check-out", at_once=6, settings={"database": {"pool_wait": 0.15}}),
    Kind.THREADPOOL_WAIT: Load("/label", at_once=80),
    Kind.BLOCKING_CALL: Load("/price", rounds=2, at_once=3),
    Kind.SLOW_MIDDLEWARE: Load("/terms", rounds=5, settings={"middleware": {"slow_seconds": 0.001}}),
    Kind.MEMORY_GROWTH: Load(
        "/offers/7?visitor={}",
        seconds=5.0,
        settings={"memory": {"growth_window": 2.0, "growth_bytes": 4 * 1024 * 1024, "gc_pause": 5.0}},
        then=gc.collect,
    ),
    Kind.GC_PAUSE: Load("/related/5", rounds=3, settings={"memory": {"gc_pause": 0.005}}),
    Kind.SLOW_DEPENDENCY: Load("/delivery", rounds=4, seconds=0.1),
    Kind.SERIAL_CALLS: Load("/offer", rounds=4, seconds=0.1),
    # making a client may take longer than the event loop may be blocked
    Kind.CLIENT_PER_REQUEST: Load("/rate", rounds=4, seconds=0.1, settings={"loop": {"blocked": 5.0}}),
    Kind.CACHE_INEFFICIENT: Load("/shipping", rounds=50, settings={"cache": {"lookups": 100, "interval": 0.1}}),
}

#: settings of every example: export nothing, log no findings
_QUIET: Final = {"traces": {"exporter": "none"}, "findings": {"warnings_per_minute": 0}}


def blocks(page: str) -> tuple[str, str]:
    """Return the code before and the code after."""
    found = re.findall(r"^### (Before|After)\n+```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    if [title for title, _ in found] != ["Before", "After"]:
        message = "The page is malformed. Remedy: put one Python block under ### Before and one under ### After."
        raise ValueError(message)
    return found[0][1], found[1][1]


def run(kind: Kind, code: str, folder: Path, name: str) -> tuple[Finding, ...]:
    """Return the findings when the app of this code runs under the page's load."""
    # collections must walk the app's objects only, not those of this program
    gc.collect()
    gc.freeze()
    file = folder / f"{name}.py"
    file.write_text(code)
    app: FastAPI = _imported(file).app
    load = LOADS[kind]
    settings = Settings(**{**_QUIET, **load.settings})
    with setup_telemetry(app, settings=settings) as telemetry:
        asyncio.run(_under_load(app, telemetry, load, kind if name == "before" else None))
        return telemetry.findings()


async def _under_load(app: FastAPI, telemetry: Telemetry, load: Load, expected: Kind | None) -> None:
    transport = httpx.ASGITransport(app=app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://shop") as shop:
        numbers = iter(range(10**9))
        until = time.monotonic() + (APPEARS_WITHIN if load.seconds and expected else load.seconds)
        rounds = 0
        while rounds < load.rounds or (time.monotonic() < until and not (expected and _has(telemetry, expected))):
            paths = [load.path.format(next(numbers)) for _ in range(load.at_once)]
            for answer in await asyncio.gather(*(shop.get(path) for path in paths)):
                answer.raise_for_status()
            rounds += 1
            load.then()
            await asyncio.sleep(0.05 if load.seconds else 0)
        deadline = time.monotonic() + (STAYS_AWAY_FOR if expected is None else APPEARS_WITHIN)
        while time.monotonic() < deadline and (  # noqa: ASYNC110 - monitors do not announce their checks
            expected is None or not _has(telemetry, expected)
        ):
            await asyncio.sleep(0.05)


def _has(telemetry: Telemetry, kind: Kind) -> bool:
    return any(finding.kind == kind for finding in telemetry.findings())


def _imported(file: Path) -> Any:
    specification = importlib.util.spec_from_file_location(file.stem, file)
    assert specification is not None  # noqa: S101 - it is a Python file
    assert specification.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(specification)
    sys.modules[file.stem] = module
    specification.loader.exec_module(module)
    return module


def results(kind: Kind) -> Iterator[tuple[str, tuple[Finding, ...]]]:
    """Yield `before` and `after`, each with its findings."""
    page = (FOLDER / f"{kind}.md").read_text()
    sys.path.insert(0, str(FOLDER))
    with tempfile.TemporaryDirectory() as folder, _shop() if "from shop import" in page else nullcontext():
        for name, code in zip(("before", "after"), blocks(page), strict=True):
            yield name, run(kind, code, Path(folder), name)


def _shop() -> Any:
    shop: Any = importlib.import_module("shop")
    return shop.opened()


def main() -> None:
    """Print the findings as text or JSON."""
    parser = argparse.ArgumentParser(prog="python -m docs.findings", description=__doc__)
    parser.add_argument("kind", choices=list(Kind))
    parser.add_argument("--json", action="store_true", help="print kind and line of each finding as JSON")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    found = dict(results(Kind(arguments.kind)))
    if arguments.json:
        lines = {
            name: [(str(each.kind), each.call_site.line if each.call_site else None) for each in findings]
            for name, findings in found.items()
        }
        print(json.dumps(lines))
        return
    for name, findings in found.items():
        print(f"{name}: {len(findings) or 'no'} finding{'' if len(findings) == 1 else 's'}")
        for each in findings:
            where = f"\n    At {each.call_site}" if each.call_site is not None else ""
            print(f"  {each.kind} in {each.route or 'no route'}\n    {each.message}{where}\n    Remedy: {each.remedy}")


if __name__ == "__main__":
    main()
