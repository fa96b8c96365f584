"""Images for the engine in tests contain what the services need, wherever the checkout lies."""

import tarfile
from pathlib import Path

import pytest

from tests.deploy import engine as engines
from tests.deploy.engine import Image
from tests.deploy.test_compose import model


def names(image: Image) -> set[Path]:
    """The paths of an image's files."""
    with image.tar() as output, tarfile.open(fileobj=output) as archive:
        return {Path("/", name) for name in archive.getnames()}


@pytest.mark.parametrize("above", ["", "test"])
def test_the_demo_s_packages_are_not_hidden_if_the_checkout_is_below_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: str
) -> None:
    """The service mounts an empty /tmp, where the packages of such a checkout are."""
    here = tmp_path / above / "checkout/.venv/lib/site-packages"
    (here / "shop").mkdir(parents=True)
    (here / "shop/__init__.py").touch()
    standard = tmp_path / "lib"
    (standard / "lib-dynload").mkdir(parents=True)
    folders = {"purelib": str(here), "stdlib": str(standard)}
    monkeypatch.setattr("tests.deploy.engine.sysconfig.get_path", folders.__getitem__)
    service = model(("demo",))["services"]["demo"]
    mounts = [Path(mount.partition(":")[0]) for mount in service["tmpfs"]]
    image = next(iter(engines.demo_images({"demo": service["image"], "postgres": "postgres:18"})))
    [package] = (path for path in names(image) if path.match("shop/__init__.py"))
    assert Path("/tmp") in mounts
    assert not [mount for mount in mounts if package.is_relative_to(mount)]
    assert str(package.parent.parent) in image.environment["PYTHONPATH"].split(":")


def test_tests_and_other_programs_are_left_out_of_a_tree(tmp_path: Path) -> None:
    for name in ("shop/a.py", "shop/test/b.py", "mypy/c.py"):
        (tmp_path / "test" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / name).touch()
    image = Image(name="x:1", trees={"test/packages": tmp_path / "test", "test/mypy": tmp_path / "test/mypy"})
    files = {path.name for path in names(image)} & {"a.py", "b.py", "c.py"}
    assert files == {"a.py"}
