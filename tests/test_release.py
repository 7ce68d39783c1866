"""`make release`: a wheel that lacks something, or that its source archive doesn't build, isn't released."""

import zipfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def release() -> ModuleType:
    spec = spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def files(release: ModuleType) -> dict[str, str]:
    """What a whole wheel holds."""
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "llmkit").rglob("*.py")]
    return dict.fromkeys([*modules, *release.CARRIED, "llmkit-0.1.0.dist-info/METADATA"], "")


def wheel(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name, text in files.items():
            packed.writestr(name, text)
    return path


def test_a_whole_wheel_is_released(release: ModuleType, files: dict[str, str], tmp_path: Path) -> None:
    release.check(wheel(tmp_path / "a.whl", files), wheel(tmp_path / "b.whl", files))


@pytest.mark.parametrize(("lost", "said"), [
    ("llmkit/py.typed", "the wheel lacks llmkit/py.typed"),
    ("llmkit/training/fit.py", "the wheel lacks llmkit/training/fit.py"),
])
def test_a_wheel_that_lacks_a_file_is_not(
    lost: str, said: str, release: ModuleType, files: dict[str, str], tmp_path: Path,
) -> None:
    del files[lost]
    with pytest.raises(SystemExit, match=said):
        release.check(wheel(tmp_path / "a.whl", files), wheel(tmp_path / "b.whl", files))


def test_a_wheel_that_holds_what_is_not_the_package_is_not(
    release: ModuleType, files: dict[str, str], tmp_path: Path,
) -> None:
    files["tests/conftest.py"] = ""
    with pytest.raises(SystemExit, match=r"the wheel holds tests/conftest\.py"):
        release.check(wheel(tmp_path / "a.whl", files), wheel(tmp_path / "b.whl", files))


def test_a_source_archive_that_builds_another_wheel_is_not(
    release: ModuleType, files: dict[str, str], tmp_path: Path,
) -> None:
    other = {**files, "llmkit/__init__.py": "x = 1"}
    with pytest.raises(SystemExit, match=r"builds another wheel: llmkit/__init__\.py"):
        release.check(wheel(tmp_path / "a.whl", files), wheel(tmp_path / "b.whl", other))
