"""Whether sdist and wheel hold what they should and nothing else: package_contents.py FOLDER."""

import email
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("physnet", "physnet_kernels")
# .gitignore comes with every sdist of hatchling, which reads it when it builds from one.
BESIDE = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", ".gitignore"}


def main() -> None:
    folder = Path(sys.argv[1])
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    stem = f"{project['name']}-{project['version']}"
    same({sdist.name, wheel.name}, {f"{stem}.tar.gz", f"{stem}-py3-none-any.whl"})
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix == ".py" or path.name == "py.typed"
    }
    beside = {name: (ROOT / name).read_bytes() for name in BESIDE}

    with tarfile.open(sdist) as archive:
        members = {
            member.name.removeprefix(f"{stem}/"): archive.extractfile(member).read()
            for member in archive.getmembers()
            if member.isfile()
        }
    same(set(members), set(sources) | BESIDE | {"PKG-INFO"})
    equal(members, sources | beside)

    with zipfile.ZipFile(wheel) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    info = f"{stem}.dist-info/"
    own = {info + name for name in ("METADATA", "RECORD", "WHEEL", "licenses/LICENSE")}
    same(set(members), set(sources) | own)
    equal(members, sources | {f"{info}licenses/LICENSE": beside["LICENSE"]})
    same(
        {name for name in members if name.endswith("py.typed")}, {f"{p}/py.typed" for p in PACKAGES}
    )
    metadata = email.message_from_bytes(members[f"{info}METADATA"])
    same({metadata["Version"]}, {project["version"]})
    same(set(metadata.get_all("Provides-Extra")), set(project["optional-dependencies"]))
    print(f"{sdist.name}: {sdist.stat().st_size:,} bytes; {wheel.name}: {len(sources)} sources, "
          f"{wheel.stat().st_size:,} bytes")  # fmt: skip


def same(found: set[str], expected: set[str]) -> None:
    if found != expected:
        raise SystemExit(f"missing: {sorted(expected - found)}, stray: {sorted(found - expected)}")


def equal(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    if differing := sorted(name for name in expected if found[name] != expected[name]):
        raise SystemExit(f"not as in the checkout: {differing}")


if __name__ == "__main__":
    main()
