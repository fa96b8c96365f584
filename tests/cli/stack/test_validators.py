"""Validation by the programs that read the stack's files: by scripts here, by the real ones in tests/deploy."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from otel_fastperf.cli.setup_checks import Check, Level
from otel_fastperf.cli.stack.validators import check_tools

#: rejects a file that contains the word `wrong`
STRICT: Final = """#!/bin/sh
case "$*" in *--version*) echo "${0##*/}, version ${VERSION:-3.14.0}"; exit 0;; esac
for last; do :; done
if grep -q wrong "$last"; then echo "$last: line 1: wrong"; exit 1; fi
"""
RULES: Final = "deploy/prometheus/rules/a.yml"
CONFIG: Final = "deploy/prometheus/prometheus.yml"


def validated(
    folder: Path,
    shipped: Mapping[str, str],
    theirs: Mapping[str, str],
    program: str = STRICT,
    name: str = "promtool",
    **environ: str,
) -> dict[str, list[Check]]:
    """The checks by tool, with `program` as promtool, or `name`, and nothing else installed."""
    (folder / "bin").mkdir(exist_ok=True)
    script = folder / "bin" / name
    script.write_text(program)
    script.chmod(0o755)
    for path, text in theirs.items():
        (folder / "stack" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "stack" / path).write_text(text)
    (folder / "grep").symlink_to("/bin/grep")
    environ = {"PATH": f"{folder / 'bin'}:{folder}", **environ}
    found: dict[str, list[Check]] = {}
    for check in check_tools(folder / "stack", {k: v.encode() for k, v in shipped.items()}, environ):
        found.setdefault(check.name, []).append(check)
    return found


def test_files_that_a_program_accepts_are_ok(tmp_path: Path) -> None:
    files = {RULES: "fine", CONFIG: "fine"}
    found = validated(tmp_path, files, files)["promtool"]
    assert [(check.level, check.what) for check in found] == [
        (Level.OK, "Accepts prometheus.yml."),
        (Level.OK, "Accepts rules."),
    ]


def test_a_file_that_a_program_rejects_is_bad_with_its_message(tmp_path: Path) -> None:
    found = validated(tmp_path, {RULES: "fine"}, {RULES: "wrong"})["promtool"]
    assert [(check.level, check.what) for check in found] == [
        (Level.BAD, f"rules is rejected:\n{RULES}: line 1: wrong")
    ]


def test_a_program_that_also_rejects_the_shipped_file_proves_nothing(tmp_path: Path) -> None:
    found = validated(tmp_path, {RULES: "wrong"}, {RULES: "wrong too"})["promtool"]
    assert [check.level for check in found] == [Level.WARN]
    assert "also rejects our unmodified" in found[0].what


def test_a_rejected_file_of_the_user_alone_is_bad(tmp_path: Path) -> None:
    found = validated(tmp_path, {}, {RULES: "wrong"})["promtool"]
    assert [check.level for check in found] == [Level.BAD]


def test_a_missing_file_is_not_validated(tmp_path: Path) -> None:
    assert "promtool" not in validated(tmp_path, {RULES: "fine", CONFIG: "fine"}, {"x": ""})


def test_a_program_that_is_too_old_for_a_file_proves_nothing_about_it(tmp_path: Path) -> None:
    """For example promtool 2, which knows the rules, but not all of prometheus.yml."""
    found = validated(tmp_path, {RULES: "", CONFIG: ""}, {RULES: "fine", CONFIG: "wrong"}, VERSION="2.42.0")["promtool"]
    assert [check.level for check in found] == [Level.INFO, Level.OK]
    assert found[0].what.startswith(
        "Version 2.42.0 is too old for deploy/prometheus/prometheus.yml, which needs 3.0 or newer; prometheus.yml could"
    )


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("0.9.1", Level.INFO),
        ("0.25.0", Level.INFO),
        ("0.27.0", Level.INFO),
        ("0.28.0", Level.BAD),
        ("1.0.0-rc.0", Level.BAD),
    ],
)
def test_an_amtool_from_before_a_receiver_s_settings_is_too_old(tmp_path: Path, version: str, level: Level) -> None:
    """Debian's amtool 0.25 rejects the shipped receiver for webhooks, in which nothing is wrong."""
    files = {"deploy/alertmanager/alertmanager.yml": "wrong"}
    shipped = {"deploy/alertmanager/alertmanager.yml": "fine"}
    [check] = validated(tmp_path, shipped, files, name="amtool", VERSION=version)["amtool"]
    assert (check.level, "too old" in check.what) == (level, level is Level.INFO)


def test_an_old_program_that_accepts_the_files_says_so(tmp_path: Path) -> None:
    files = {"deploy/alertmanager/alertmanager.yml": "fine"}
    [check] = validated(tmp_path, files, files, name="amtool", VERSION="0.25.0")["amtool"]
    assert check.level == Level.OK


#: docker that has only the pinned image of Prometheus, and runs its programs from the folder `image`
DOCKER: Final = """#!/bin/sh
echo "$*" >> "$LOG"
case "$1 $2" in
"image inspect") [ "$3" = quay.io/prometheus/prometheus:v3.14.0 ]; exit $?;;
"run --rm") ;;
*) exit 1;;
esac
for word; do
    shift
    case "$word" in
    --entrypoint=*) program="${word#--entrypoint=}";;
    quay.io/*) exec "$IMAGE/$program" "$@";;
    esac
done
"""
COMPOSE: Final = """\
x-hardened: &hardened {}
services:
  other:
    image: docker.io/library/other:1
  prometheus:
    <<: *hardened

    # a comment
    image: quay.io/prometheus/prometheus:v3.14.0
"""


def test_the_image_of_the_stack_takes_precedence_over_an_installed_program(tmp_path: Path) -> None:
    for name, text in {"bin/docker": DOCKER, "image/promtool": STRICT}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    files = {"docker-compose.yml": COMPOSE, RULES: "wrong"}
    log = tmp_path / "log"
    environ = {"LOG": str(log), "IMAGE": str(tmp_path / "image")}
    found = validated(tmp_path, {RULES: "fine"}, files, "#!/bin/sh\n", **environ)["promtool"]
    assert [(check.level, check.what) for check in found] == [
        (Level.BAD, f"rules is rejected:\n{RULES}: line 1: wrong")
    ]
    ran = [line for line in log.read_text().splitlines() if line.startswith("run")]
    assert ran
    for line in ran:
        assert "--pull=never --network=none --read-only" in line


def test_programs_that_are_not_installed_are_info(tmp_path: Path) -> None:
    found = validated(tmp_path, {}, {RULES: "fine"})
    for name in ("docker compose", "amtool", "otelcol", "jaeger"):
        assert [check.level for check in found[name]] == [Level.INFO]
        assert "Not installed" in found[name][0].what


def test_files_that_refer_to_each_other_are_validated_together(tmp_path: Path) -> None:
    """They refer to each other by paths inside their containers."""
    program = '#!/bin/sh\ncase "$*" in *version*) exit 0;; esac\nfor last; do :; done\n. "$last"\n'
    files = {CONFIG: 'grep -q fine "/etc/prometheus/rules/a.yml" || exit 1', RULES: "fine"}
    found = validated(tmp_path, {}, files, program)["promtool"]
    assert found[0].what == "Accepts prometheus.yml."


def test_secrets_are_not_copied(tmp_path: Path) -> None:
    program = '#!/bin/sh\nif [ -e "$PWD/secrets" ]; then echo secrets; exit 1; fi\n'
    files = {RULES: "fine", "secrets/grafana_admin_password": "hidden"}
    assert {check.level for check in validated(tmp_path, {}, files, program)["promtool"]} == {Level.OK}


@pytest.mark.parametrize("noise", ["\\033[31m", "\\a"])
def test_control_characters_from_a_program_do_not_reach_the_terminal(tmp_path: Path, noise: str) -> None:
    program = f"#!/bin/sh\nprintf 'no {noise} good'; exit 1\n"
    found = validated(tmp_path, {}, {RULES: "fine"}, program)["promtool"]
    assert "good" in found[-1].what
    assert found[-1].what.replace("\n", "").isprintable()


#: fails for a folder whose kustomization contains the word `wrong`
KUBECTL: Final = """#!/bin/sh
if grep -q wrong "$2/kustomization.yaml"; then echo "$2: wrong"; exit 1; fi
"""


def test_kubectl_renders_each_kustomization_of_a_stack_for_kubernetes(tmp_path: Path) -> None:
    for name, program in (("kubectl", KUBECTL), ("grep", None)):
        path = tmp_path / name
        if program is None:
            path.symlink_to("/bin/grep")
        else:
            path.write_text(program)
            path.chmod(0o755)
    files = {f"deploy/kubernetes/{name}/kustomization.yaml": "fine" for name in ("base", "overlays/kind")}
    for name, text in {**files, "deploy/kubernetes/overlays/mine/kustomization.yaml": "wrong"}.items():
        (tmp_path / "stack" / name).parent.mkdir(parents=True)
        (tmp_path / "stack" / name).write_text(text)
    shipped = {name: text.encode() for name, text in files.items()}
    found = check_tools(tmp_path / "stack", shipped, {"PATH": str(tmp_path)}, kubernetes=True)
    assert [(check.level, check.what) for check in found if check.name == "kubectl"] == [
        (Level.BAD, "deploy/kubernetes/overlays/mine is rejected:\ndeploy/kubernetes/overlays/mine: wrong"),
        (Level.OK, "Accepts deploy/kubernetes/base, deploy/kubernetes/overlays/kind."),
    ]
