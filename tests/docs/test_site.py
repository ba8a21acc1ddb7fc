"""The docs site: it builds strictly, its reference pages come from the code, and the picture of the rooms is up to date."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import deed
import deed.cli

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "deed"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built without the network."""
    pytest.importorskip("material", reason="the extra `docs` is not installed")
    pytest.importorskip("mkdocstrings")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_verb_and_option_is_in_the_reference(site):
    page = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for verb, command in typer.main.get_command(deed.cli.app).commands.items():
        assert f"<code>deed {verb}</code>" in page
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert f"<code>{parameter.opts[0]}" in page, f"deed {verb} {parameter.opts[0]}"


def test_every_public_name_is_in_the_reference(site):
    page = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in {*deed.__all__} - {"__version__", "families"}:
        assert re.search(rf'id="deed\.(\w+\.)*{name}"', page), name


def test_pages_load_nothing_from_the_network(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert re.findall(r'<(?:script|img)[^>]* src="(https?:[^"]+)"', text) == [], page
        assert re.findall(r'<link rel="(?:stylesheet|preconnect)"[^>]* href="(https?:[^"]+)"', text) == [], page


def test_a_broken_link_fails_the_build(site, tmp_path):
    """The build would be no check if it let one through."""
    docs = tmp_path / "docs"
    docs.mkdir()
    for name in ("mkdocs.yml", "src", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in (ROOT / "docs").iterdir():
        if path.is_file():
            (docs / path.name).write_bytes(path.read_bytes())
    (docs / "serving.md").write_text("[nowhere](no_such_page.md)\n", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
        "-f",
        "mkdocs.yml",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "no_such_page.md" in done.stdout + done.stderr


def test_the_picture_of_the_rooms_is_up_to_date(monkeypatch):
    pytest.importorskip("tomllib")  # Python 3.11
    monkeypatch.syspath_prepend(ROOT / "docs")
    import draw_architecture

    assert draw_architecture.PICTURE.read_text(encoding="utf-8") == draw_architecture.draw()


def test_every_room_has_its_place_in_the_contracts_and_on_the_page():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    placed = {room.strip("() ") for c in contracts[:2] for layer in c["layers"] for room in layer.split("|")}
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    rooms -= {"__init__", "__main__"}
    assert rooms <= placed
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page[page.index("## The rooms") : page.index("## Where does my change go?")]
    assert rooms <= set(re.findall(r"`(\w+)`", table))
