"""Rules of the house that no linter knows: no private name crosses files, every room has its place in the contracts."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "deed"
FILES = sorted(SOURCE.rglob("*.py"))


def private_imports(text):
    """Names with a leading underscore that an import of ours takes from another file (dunders are public)."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").split(".")[0] == "deed"):
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            yield from (part for part in parts if part.startswith("_") and not part.startswith("__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_private_name_is_imported_across_files(path):
    assert list(private_imports(path.read_text(encoding="utf-8"))) == []


def test_the_check_sees_private_names():
    assert list(private_imports("from .cache import _attend, StaircaseCache")) == ["_attend"]
    assert list(private_imports("from deed._x import y")) == ["_x"]
    assert list(private_imports("from deed.constants import __version__\nfrom torch import _int_mm")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_file_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"
