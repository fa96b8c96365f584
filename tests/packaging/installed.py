"""Checks of the wheel in an otherwise empty environment; `make test-package` runs this as a script.

Prints the number and size of the installed packages, and what importing and setting up the package costs. Exits 1 if
the declared distributions are not the imported ones, or if grpc is loaded without being used.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import distribution, distributions, requires
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(str(distribution("otel-fastperf").locate_file("otel_fastperf")))

# Distribution without modules -> the distributions that it installs.
UMBRELLAS: Final = {
    "opentelemetry-exporter-otlp": {"opentelemetry-exporter-otlp-proto-grpc", "opentelemetry-exporter-otlp-proto-http"}
}
# Optional imports: pytest loads the plugin, the extra [stack] installs PyYAML.
OPTIONAL: Final = {"pytest", "yaml"}

SET_UP: Final = """
import resource, sys, time
start = time.perf_counter()
from otel_fastperf import Settings, setup_telemetry
print(f"import: {(time.perf_counter() - start) * 1000:.0f} ms")
from fastapi import FastAPI
telemetry = setup_telemetry(FastAPI(), settings=Settings(traces={"base_endpoint": "http://127.0.0.1:9"}))
print(f"memory after set-up: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
assert "grpc" not in sys.modules, "grpc is loaded although spans go by HTTP"
telemetry.shutdown()
"""


def main() -> None:
    """Print the figures and compare."""
    installed = list(distributions())
    files = [Path(str(file.locate())) for each in installed for file in each.files or ()]
    print(f"installed: {len(installed)} packages, {sum(p.stat().st_size for p in files if p.exists()) / 2**20:.0f} MB")
    subprocess.run([sys.executable, "-c", SET_UP], check=True)
    declared, imported = set(declarations()), set(owners())
    covered = set().union(*(UMBRELLAS.get(name, {name}) for name in declared))
    undeclared = imported - covered - {"otel-fastperf"}
    unused = {name for name in declared if not UMBRELLAS.get(name, {name}) & imported}
    if undeclared or unused:
        sys.exit(f"imported but not declared: {sorted(undeclared)}; declared but not imported: {sorted(unused)}")
    print(f"declared = imported: {', '.join(sorted(declared))}")


def declarations() -> Iterator[str]:
    """Yield the distributions that the wheel requires without an extra."""
    for requirement in requires("otel-fastperf") or ():
        if "extra ==" not in requirement:
            yield normal(re.split(r"[ <>=!~;\[]", requirement, maxsplit=1)[0])


def owners() -> Iterator[str]:
    """Yield the distribution of each module that the package imports, also inside functions.

    Raises:
        SystemExit: An imported module is not installed and not optional.
    """
    owner = {str(file): normal(each.metadata["Name"]) for each in distributions() for file in each.files or ()}
    for module in imports():
        path = module.split(".")
        if path[0] in sys.stdlib_module_names | OPTIONAL:
            continue
        names = ("/".join(path[:length]) for length in range(len(path), 0, -1))
        found = (owner.get(f"{name}{end}") for name in names for end in (".py", "/__init__.py"))
        name = next(filter(None, found), None)
        if name is None:
            sys.exit(f"{module} is imported, but no installed distribution has it")
        yield name


def imports() -> Iterator[str]:
    """Yield the modules that the package imports, except the package's own."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def normal(name: str) -> str:
    """Return the normalised name of a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
