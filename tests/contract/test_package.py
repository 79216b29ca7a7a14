"""What is built and declared: the wheel, the metadata, the dependencies."""

import ast
import email
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import physnet

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def _names(requirements):
    """Names under which requirements are imported."""
    import_name = {
        "jax-triton": "jax_triton",
        "orbax-checkpoint": "orbax",
        "pillow": "PIL",
        "scikit-learn": "sklearn",
        "pytest-xdist": "xdist",
    }
    names = {re.split(r"[\[<>=~!; ]", requirement)[0] for requirement in requirements}
    return {import_name.get(name, name) for name in names}


def _imported(folder):
    """Top-level names that the sources in a folder import, less the standard library's."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.partition(".")[0])
    here = {path.stem for path in (ROOT / folder).rglob("*.py")} | {
        path.name for path in (ROOT / folder).rglob("*") if path.is_dir()
    }
    return found - sys.stdlib_module_names - here


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built by the declared backend without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_both_packages_typed_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"physnet-{physnet.__version__}.dist-info"
    assert {"physnet/py.typed", "physnet_kernels/py.typed"} <= names
    assert {name.partition("/")[0] for name in names} == {"physnet", "physnet_kernels", info}
    sources = {
        str(path.relative_to(ROOT))
        for package in ("physnet", "physnet_kernels")
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources
    assert wheel.stat().st_size < 1_000_000


def test_wheel_carries_version_license_and_readme(wheel):
    archive = zipfile.ZipFile(wheel)
    info = f"physnet-{physnet.__version__}.dist-info"
    license_text = archive.read(f"{info}/licenses/LICENSE").decode()
    assert license_text == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in license_text
    metadata = email.message_from_string(archive.read(f"{info}/METADATA").decode())
    assert metadata["Version"] == physnet.__version__ == PROJECT["version"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata.get_payload().strip() == (ROOT / "README.md").read_text("utf-8").strip()


def test_changelog_and_citation_have_this_version():
    assert f"## [{physnet.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {physnet.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_core_dependencies_are_few_and_cover_what_the_library_imports():
    core = _names(PROJECT["dependencies"])
    assert core == {"jax", "flax", "optax", "jaxtyping", "numpy"}
    assert _imported("physnet") - {"physnet", "physnet_kernels"} <= core


def test_extras_cover_what_the_rest_imports():
    assert set(EXTRAS) == {"cuda", "triton", "examples", "test", "peers", "notebooks", "docs"}
    core = _names(PROJECT["dependencies"]) | {"physnet", "physnet_kernels"}
    examples = core | _names(EXTRAS["examples"])
    assert _imported("examples") <= examples
    scripts = [*(ROOT / "examples").iterdir(), *(ROOT / "benchmarks").iterdir()]
    lent = {path.stem for path in scripts}  # modules that others take from there
    # What a benchmark compares with; no test needs them.
    peers = {"torch", "triton"} | _names(EXTRAS["peers"])
    assert _imported("benchmarks") - lent <= examples | peers
    assert "physnet[examples]" in EXTRAS["test"]
    assert _imported("tests") - lent <= examples | _names(EXTRAS["test"])
