"""What a public project says about itself agrees with what it is."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import mae

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def test_the_citation_has_the_version_and_licence_of_the_program() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == mae.__version__
    assert citation["license"] == project["license"]
    assert [each["name"] for each in citation["authors"]] == [each["name"] for each in project["authors"]]
    assert {"cff-version", "message", "title"} <= citation.keys()


def test_the_licence_is_the_one_that_is_named() -> None:
    text = " ".join((ROOT / "LICENSE").read_text().split())
    assert text.startswith("Apache License Version 2.0, January 2004")
    assert "END OF TERMS AND CONDITIONS" in text


def test_what_is_committed_is_linted_as_in_ci() -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert hook["entry"] == "make lint"
    assert re.search(r"^make lint$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_an_issue_is_asked_for_the_version_and_the_record(form: Path) -> None:
    fields = [each["attributes"] for each in yaml.safe_load(form.read_text())["body"]]
    assert "`mae-cli --version`" in [each["label"] for each in fields]
    assert any("record.json" in each.get("description", "") for each in fields)
