"""The shipped stack's files: filled in for an app, and never written over changes of the user."""

import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from otel_fastperf.cli.stack.files import (
    ENVIRONMENT,
    JAEGER_UI,
    KUBE_PROMETHEUS,
    MANIFEST,
    SECRET,
    SLO_TARGETS,
    TARGETS,
    Action,
    Answers,
    Manifest,
    Step,
    ensure_secret,
    filled,
    hash_of,
    plan,
    present,
    project_of,
    read_manifest,
    shipped,
    source,
    variables,
    write,
    write_file,
)
from otel_fastperf.errors import StackError

FILES: Final = {
    "docker-compose.yml": b"# a comment\nname: otel-fastperf\nservices:\n  grafana: {}\n",
    ".env.example": b"# ports\nGRAFANA_PORT=3000\n#GRAFANA_URL=http://localhost:3000\n",
    SLO_TARGETS: b"groups: []\n",
    JAEGER_UI: b'{"a": "http://localhost:3000/d/x", "b": "http://localhost:9090", "c": "http://localhost:30001"}\n',
    TARGETS: b"# a comment\n- targets:\n    - host.docker.internal:8000\n  labels:\n    job: my-service\n",
}


# filling in


def test_the_target_file_has_the_service_name_of_traces_as_job() -> None:
    made = filled(FILES, Answers(service='my "shop" ⛵', targets=("a:1", "[::1]:2")))
    assert yaml.safe_load(made[TARGETS]) == [{"targets": ["a:1", "[::1]:2"], "labels": {"job": 'my "shop" ⛵'}}]


def test_the_compose_file_gets_the_name_of_the_stack_and_nothing_else_changes() -> None:
    ours = {"docker-compose.yml": FILES["docker-compose.yml"] + b"# joins otel-fastperf_default\n"}
    assert filled(ours, Answers(service="shop"))["docker-compose.yml"] == ours["docker-compose.yml"]
    made = filled(ours, Answers(project="mine"))["docker-compose.yml"]
    assert made == b"# a comment\nname: mine\nservices:\n  grafana: {}\n# joins mine_default\n"


def test_a_compose_file_without_a_name_to_replace_is_an_error() -> None:
    with pytest.raises(StackError, match=r"docker-compose.yml does not contain name: otel-fastperf .* Remedy: "):
        filled({"docker-compose.yml": b"services: {}\n"}, Answers())


@pytest.mark.parametrize(
    ("folder", "readable"),
    [
        ("telemetry", "telemetry"),
        ("My Shop.v2", "my-shop-v2"),
        ("_-x-_", "x"),
        ("Ünü", "n"),
        ("…", "stack"),
        ("a" * 99, "a" * 40),
    ],
)
def test_a_folder_has_a_project_name_of_its_own_that_compose_accepts(
    tmp_path: Path, folder: str, readable: str
) -> None:
    name = project_of(tmp_path / "a" / folder)
    assert re.fullmatch(rf"{readable}-[0-9a-f]{{6}}", name)
    assert project_of(tmp_path / "a" / "x" / ".." / folder) == name
    assert project_of(tmp_path / "b" / folder) != name


def test_a_manifest_from_before_projects_keeps_the_name_that_its_volumes_have(tmp_path: Path) -> None:
    fields = json.loads(Manifest(version="1", answers=Answers(project="x"), files={}).to_json())
    del fields["answers"]["project"]
    (tmp_path / MANIFEST).write_text(json.dumps(fields))
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert manifest.answers.project == "otel-fastperf"


def _objectives(text: bytes) -> dict[str, str]:
    """Rule name -> the number that it records."""
    (group,) = yaml.safe_load(text)["groups"]
    return {rule["record"]: rule["expr"].rpartition(" * ")[2] for rule in group["rules"]}


def test_slo_targets_get_the_answers_and_nothing_else_changes() -> None:
    before = _objectives(filled(FILES, Answers())[SLO_TARGETS])
    answers = Answers(availability="99.95", latency="95", latency_threshold="1.0")
    after = _objectives(filled(FILES, answers)[SLO_TARGETS])
    assert {name: value for name, value in after.items() if before[name] != value} == {
        "job:slo_availability:objective": "0.9995",
        "job:slo_latency:objective": "0.95",
        "job:slo_latency_threshold:seconds": "1.0",
    }


@pytest.mark.parametrize("path", [SLO_TARGETS, TARGETS])
def test_the_files_in_the_checkout_match_the_default_answers(path: str) -> None:
    """To update one, run `otel-fastperf stack init DIR` and copy it from there."""
    files = shipped(source())
    assert files[path] == filled(files, Answers())[path]


def test_addresses_are_filled_into_the_environment_and_jaeger_s_links() -> None:
    urls = {"GRAFANA_URL": "https://g.example.com", "RUNBOOKS_URL": "https://wiki.example.com/r"}
    made = filled(FILES, Answers(urls=urls))
    assert json.loads(made[JAEGER_UI]) == {
        "a": "https://g.example.com/d/x",
        "b": "http://localhost:9090",
        "c": "http://localhost:30001",
    }
    assert made[ENVIRONMENT].decode() == (
        "# ports\nGRAFANA_PORT=3000\nGRAFANA_URL=https://g.example.com\nRUNBOOKS_URL=https://wiki.example.com/r\n"
    )
    assert made[".env.example"] == FILES[".env.example"]


def test_two_addresses_can_be_swapped() -> None:
    urls = {"GRAFANA_URL": "http://localhost:9090", "PROMETHEUS_URL": "http://localhost:3000"}
    made = json.loads(filled(FILES, Answers(urls=urls))[JAEGER_UI])
    assert (made["a"], made["b"]) == ("http://localhost:9090/d/x", "http://localhost:3000")


def test_jaeger_s_links_without_the_address_to_replace_are_an_error() -> None:
    with pytest.raises(StackError, match=f"{JAEGER_UI} does not contain .* Remedy: "):
        filled({**FILES, JAEGER_UI: b"{}\n"}, Answers())


def test_only_files_of_the_stack_are_shipped(tmp_path: Path) -> None:
    ours = (
        "docker-compose.yml",
        "compose.x.yml",
        ".env.example",
        "deploy/a/b.yml",
        "deploy/x/secrets/.gitignore",
        "grafana/c.json",
    )
    others = (
        "pyproject.toml", ".env", "secrets/grafana_admin_password", "deploy/__pycache__/x.pyc", "x/deploy/y.yml",
        "deploy/alertmanager/secrets/slack", "compose.demo.yml", "deploy/demo/Dockerfile",
        "deploy/prometheus/targets/demo.yml",
    )  # fmt: skip
    for name in (*ours, *others):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert shipped(tmp_path) == {name: name.encode() for name in sorted(ours)}


# for Kubernetes

KUBERNETES: Final = {
    **FILES,
    "deploy/kubernetes/base/kustomization.yaml": b"resources: [../../jaeger]\n",
    KUBE_PROMETHEUS: b"a: http://localhost:3000\nb: https://github.com/otel-fastperf/otel-fastperf/blob/main/deploy/runbooks\n",
    "deploy/jaeger/kustomization.yml": b"resources: []\n",
    "deploy/jaeger/config.yaml": b"receivers: {}\n",
    "deploy/collector/config.yaml": b"receivers: {}\n",
    "deploy/prometheus/rules/alerts.yml": b"# why\ngroups:\n  - name: a\n    rules: []\n",
    "grafana/kustomization.yml": b"resources: []\n",
    "grafana/dashboards/overview.json": b"{}\n",
    "grafana/provisioning/dashboards/fastperf.yaml": b"providers: []\n",
}


def test_a_stack_for_compose_has_no_file_for_kubernetes() -> None:
    made = filled(KUBERNETES, Answers())
    assert "deploy/jaeger/config.yaml" in made
    assert not [name for name in made if "kubernetes" in name or "kustomization" in name]


def test_a_stack_for_kubernetes_has_the_manifests_and_what_they_are_made_of() -> None:
    assert set(filled(KUBERNETES, Answers(kubernetes=True))) == {
        "deploy/kubernetes/base/kustomization.yaml",
        "deploy/kubernetes/monitoring/rules/alerts.yaml",
        "deploy/kubernetes/monitoring/rules/slo-targets.yaml",
        KUBE_PROMETHEUS,
        "deploy/collector/config.yaml",
        "deploy/jaeger/config.yaml",
        "deploy/jaeger/kustomization.yml",
        JAEGER_UI,
        "grafana/dashboards/overview.json",
        "grafana/kustomization.yml",
    }


def test_rules_become_objects_with_their_comments_and_the_answers() -> None:
    made = filled(KUBERNETES, Answers(kubernetes=True, availability="99.5"))
    alerts = made["deploy/kubernetes/monitoring/rules/alerts.yaml"].decode()
    assert yaml.safe_load(alerts) == {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "fastperf-alerts"},
        "spec": {"groups": [{"name": "a", "rules": []}]},
    }
    assert "\n  # why\n" in alerts
    targets = yaml.safe_load(made["deploy/kubernetes/monitoring/rules/slo-targets.yaml"])
    assert targets["spec"]["groups"][0]["rules"][0]["expr"].endswith(" * 0.995")


def test_addresses_are_filled_into_the_values_for_prometheus() -> None:
    urls = {"GRAFANA_URL": "https://g.example.com", "RUNBOOKS_URL": "https://wiki.example.com/r"}
    made = filled(KUBERNETES, Answers(kubernetes=True, urls=urls))
    assert made[KUBE_PROMETHEUS] == b"a: https://g.example.com\nb: https://wiki.example.com/r\n"
    assert b"https://g.example.com/d/x" in made[JAEGER_UI]


# the plan


def put(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize(
    ("theirs", "before", "ours", "action", "forced"),
    [
        (None, None, b"1", Action.CREATE, Action.CREATE),
        (b"1", b"1", b"1", Action.SAME, Action.SAME),
        (b"1", b"1", b"2", Action.UPDATE, Action.UPDATE),
        (b"2", b"1", b"2", Action.SAME, Action.SAME),  # an interrupted upgrade
        (b"2", None, b"2", Action.SAME, Action.SAME),
        (b"x", b"1", b"1", Action.KEEP, Action.REPLACE),
        (b"x", b"1", b"2", Action.OFFER, Action.REPLACE),
        (b"x", None, b"2", Action.OFFER, Action.REPLACE),  # a file of another project
        (None, b"1", b"1", Action.KEEP, Action.CREATE),
        (None, b"1", b"2", Action.OFFER, Action.CREATE),
        (b"1", b"1", None, Action.REMOVE, Action.REMOVE),
        (b"x", b"1", None, Action.LEAVE, Action.LEAVE),
    ],
)
def test_the_action_depends_on_the_user_s_and_our_changes(
    theirs: bytes | None, before: bytes | None, ours: bytes | None, action: Action, forced: Action
) -> None:
    for force, expected in ((False, action), (True, forced)):
        steps = plan(
            {} if ours is None else {"a": ours},
            {} if theirs is None else {"a": theirs},
            {} if before is None else {"a": hash_of(before)},
            force=force,
        )
        assert steps == (Step("a", expected, ours or b""),)


def test_a_file_removed_by_both_sides_needs_no_step() -> None:
    assert plan({}, {}, {"a": hash_of(b"1")}) == ()


contents = st.dictionaries(st.sampled_from(["a", "b/c", "b/d/e"]), st.sampled_from([b"1", b"2", b"3"]))


@given(stacks=st.lists(st.tuples(contents, contents), min_size=1, max_size=4))
def test_no_change_of_the_user_is_lost_over_several_versions(
    tmp_path_factory: pytest.TempPathFactory, stacks: list[tuple[dict[str, bytes], dict[str, bytes]]]
) -> None:
    """The user edits files after each version, and the edits survive the next one."""
    folder, written = tmp_path_factory.mktemp("stack"), dict[str, str]()
    theirs: dict[str, bytes] = {}
    for ours, edits in stacks:
        steps = plan(ours, present(folder, {*ours, *written}), written)
        write(folder, steps)
        written = {name: hash_of(text) for name, text in ours.items()}
        there = content(folder)
        for name, text in theirs.items():
            assert there[name] == text
        for name, text in ours.items():
            assert text in (there.get(name), there.get(f"{name}.new")) or steps_of(steps, name) is Action.KEEP
        put(folder, edits)
        # a file equal to ours is not the user's, and may be updated
        theirs = {name: text for name, text in {**theirs, **edits}.items() if hash_of(text) != written.get(name)}


def steps_of(steps: tuple[Step, ...], path: str) -> Action:
    return next(step.action for step in steps if step.path == path)


def test_our_version_is_written_beside_or_with_force_the_user_s_is_moved_aside(tmp_path: Path) -> None:
    put(tmp_path, {"a": b"theirs", "b": b"theirs"})
    write(tmp_path, [Step("a", Action.OFFER, b"ours"), Step("b", Action.REPLACE, b"ours")])
    assert content(tmp_path) == {"a": b"theirs", "a.new": b"ours", "b": b"ours", "b.old": b"theirs"}


def test_a_symlink_is_replaced_and_not_written_through(tmp_path: Path) -> None:
    put(tmp_path, {"elsewhere": b"theirs"})
    (tmp_path / "a").symlink_to("elsewhere")
    write(tmp_path, [Step("a", Action.REPLACE, b"ours")])
    assert content(tmp_path) == {"elsewhere": b"theirs", "a": b"ours", "a.old": b"theirs"}


def test_a_folder_in_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, {"a/b": b"", "c": b""})
    with pytest.raises(StackError, match=r"a must be a file, .* Remedy: "):
        present(tmp_path, ["a"])
    with pytest.raises(StackError, match=r"c/d must be a file, .* Remedy: "):
        present(tmp_path, ["c/d"])


def test_containers_can_read_written_files_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_file(tmp_path / "new" / "folder" / "file", b"text")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "new/folder", "new/folder/file")]
    assert modes == [0o755, 0o755, 0o644]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "inside").touch()
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path / "a", b"text")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# the manifest


def test_reading_returns_the_manifest_that_was_written(tmp_path: Path) -> None:
    manifest = Manifest(
        version="1.2.3",
        answers=Answers(
            service="ship ⛵", targets=("a:1",), availability="99", latency="95", latency_threshold="1.0",
            urls={"GRAFANA_URL": "http://g"},
        ),
        files={"a/b": hash_of(b"1")},
    )  # fmt: skip
    (tmp_path / MANIFEST).write_text(manifest.to_json())
    assert read_manifest(tmp_path) == manifest
    assert read_manifest(tmp_path / "nowhere") is None


GOOD: Final = json.loads(Manifest(version="1", answers=Answers(), files={"a": "sha256:0"}).to_json())


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{}", "\xff", "[" * 100_000, json.dumps({**GOOD, "files": []}),
        json.dumps({**GOOD, "answers": None}),
        *(json.dumps({**GOOD, "files": {path: "sha256:0"}})
          for path in ("../x", "/etc/passwd", "a/../../x", "", ".", MANIFEST, SECRET)),
    ],
)  # fmt: skip
def test_a_manifest_that_is_invalid_or_leaves_the_folder_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(StackError, match=f"{MANIFEST} .* Remedy: "):
        read_manifest(tmp_path)


def test_a_manifest_of_a_later_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({**GOOD, "schema": 2, "version": "9.9"}))
    with pytest.raises(StackError, match=r"schema=2 was written by otel-fastperf 9\.9; .* Remedy: upgrade"):
        read_manifest(tmp_path)


# the secret


def test_the_password_is_long_and_random_and_is_created_once(tmp_path: Path) -> None:
    assert ensure_secret(tmp_path)
    assert ensure_secret(tmp_path / "other")
    password = (tmp_path / SECRET).read_text().strip()
    assert len(password) >= 32
    assert password != (tmp_path / "other" / SECRET).read_text().strip()
    assert not ensure_secret(tmp_path)
    assert (tmp_path / SECRET).read_text().strip() == password


def test_an_empty_password_is_replaced(tmp_path: Path) -> None:
    put(tmp_path, {SECRET: b"\n"})
    assert ensure_secret(tmp_path)
    assert (tmp_path / SECRET).read_text().strip()


def test_only_the_owner_and_the_container_s_user_can_read_the_password(tmp_path: Path) -> None:
    ensure_secret(tmp_path)
    folder, file = ((tmp_path / name).stat().st_mode for name in ("secrets", SECRET))
    assert stat.S_IMODE(folder) == 0o700
    assert file & stat.S_IROTH
    assert not file & (stat.S_IWGRP | stat.S_IWOTH)


# .env


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=1", "1"), ("A=", ""), ("export A=1", "1"), (" A = 1 ", "1"), ("A='1 # 2' # 3", "1 # 2"), ('A="1"', "1"),
        ("A=1 # 2", "1"), ("A=# 2", ""), ("A=1#2", "1#2"), ("A=1\nA=2", "2"), ("#A=2\nA=1", "1"),
    ],
)  # fmt: skip
def test_variables_are_parsed_like_compose_does(text: str, value: str) -> None:
    assert variables(text)["A"] == value


def test_comments_set_no_variables() -> None:
    assert variables("# A=1\n#B=2\n\nnonsense\n") == {}
