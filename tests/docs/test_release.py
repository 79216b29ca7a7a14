"""The release: changelog, citation and site have the version, licence and parts of the package."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import physnet

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
CITATION = (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def _parts():
    """The modules of README's table."""
    table = README.partition("## What is in it")[2].partition("###")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`(?:physnet\.)?([\w.]+)`", cell)]


def test_readme_lists_every_part_of_the_library():
    public = {name for name in dir(physnet) if name[0] != "_" and name != "jaxtyping"}
    assert public == {part.partition(".")[0] for part in _parts()}


@pytest.mark.parametrize("part", _parts())
def test_changelog_has_every_part_that_readme_lists(part):
    entry = CHANGELOG.partition(f"## [{PROJECT['version']}]")[2].partition("\n## ")[0]
    assert re.search(rf"`(?:physnet\.)?{re.escape(part)}\b", entry) or re.search(
        rf"`{re.escape(part.rpartition('.')[2])}`", entry
    )


def test_changelog_ends_with_the_first_version_and_dates_those_before_the_newest():
    versions = re.findall(r"^## \[([^\]]+)\] - (.+)$", CHANGELOG, re.MULTILINE)
    assert versions[0][0] == PROJECT["version"]
    assert re.fullmatch(r"unreleased|\d{4}-\d\d-\d\d", versions[0][1])
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for _, date in versions[1:])


def test_citation_is_of_this_package():
    """What version 1.2.0 of the format requires, and fields that pyproject.toml has too."""
    plain = dict(re.findall(r"^([\w-]+): (.+)$", CITATION, re.MULTILINE))
    assert plain["cff-version"] == "1.2.0"
    assert plain["type"] == "software"
    assert plain["message"]
    assert plain["title"].strip('"').startswith("physnet")
    assert (plain["version"], plain["license"]) == (PROJECT["version"], PROJECT["license"])
    authors = CITATION.partition("\nauthors:\n")[2].partition("\nversion:")[0]
    assert re.findall(r"- name: (.+)", authors) == [author["name"] for author in PROJECT["authors"]]
    assert "url" not in plain  # there is none, and none is made up


def test_site_takes_its_version_from_the_metadata():
    tree = ast.parse((ROOT / "docs" / "conf.py").read_text(encoding="utf-8"))
    (value,) = (
        ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and "version" in [ast.unparse(t) for t in node.targets]
    )
    assert value == "version_of('physnet')"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page):
    """To files that there are; headings as GitHub names them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        target = ROOT / path if path else ROOT / page
        assert target.exists(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}
            assert heading in anchors, link
    assert links or page == "CONTRIBUTING.md"
