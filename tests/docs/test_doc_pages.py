"""README and docs: their Python runs as shown, their commands parse, their links lead somewhere."""

import functools
import pydoc
import re
import shlex
from pathlib import Path

import pytest
import typer

import deed
import deed.cli
from deed.data.synthetic.scenes import examples
from deed.utils.shipped import CHECKPOINTS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
GENERATED = ("reference/cli.md", "reference/api.md")  # by docs/hooks.py, when the site is built


def blocks(page, language):
    """The fenced blocks of a page, padded with newlines so that errors name the page's own lines."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return ["\n" * text[: match.start(1)].count("\n") + match[1] for match in found]


def run(page, namespace):
    for source in blocks(page, "python"):
        exec(compile(source, str(page), "exec"), namespace)
    return namespace


@pytest.fixture
def newcomer(hub, monkeypatch, tmp_path):
    """A folder with a file of pairs, and a calibration that a random model passes within seconds."""
    monkeypatch.chdir(tmp_path)
    # The whole grid takes half a minute on one core, and a random model never gets a label right, which is refused.
    quick = functools.partial(deed.calibrate, thresholds=[0.9, 0.5], score=lambda tokens, example: 1.0)
    monkeypatch.setattr(deed, "calibrate", quick)
    words = ["cat\tK AE T", "dogs\tD AA G Z", "a\tAH", "thing\tTH IH NG"]
    Path("pairs.tsv").write_text("\n".join(words * 54) + "\n", encoding="utf-8")
    return tmp_path


def test_the_readme_runs_as_shown(newcomer, capsys):
    assert len(blocks(ROOT / "README.md", "python")) >= 4
    names = run(ROOT / "README.md", {})
    assert names["report"]["examples"] == 200 and len(names["train_set"]) == 16
    assert isinstance(names["model"], deed.modeling.model.DeedMixin) and len(names["beams"]) == 2
    assert (newcomer / "my-model" / "deed_exits.safetensors").exists()
    assert "tensor([[" in capsys.readouterr().out


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_the_page_get_started_runs_as_shown(newcomer, capsys):
    assert len(blocks(ROOT / "docs" / "get_started.md", "python")) >= 8
    names = run(ROOT / "docs" / "get_started.md", {})
    assert names["report"]["examples"] == 200
    assert not isinstance(names["plain"], deed.modeling.model.DeedMixin)
    assert names["model"].deed_config.exit_layers == [2, 4, 6]
    assert (newcomer / "my-model" / "deed_exits.safetensors").exists()
    assert "computed_cells" in capsys.readouterr().out


def test_the_page_on_families_runs_as_shown(own_families):
    names = run(ROOT / "docs" / "families.md", {})
    assert type(names["model"].deed_family) is names["MBartFamily"]
    anew = next(block for block in blocks(ROOT / "docs" / "families.md", "python") if "class MBartFamily" in block)
    assert len(anew.strip().splitlines()) < 10


def test_the_page_on_families_lists_what_a_family_answers():
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[a-z].*?) \|", text, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert listed == {name for name in vars(deed.DecoderFamily) if not name.startswith("_")}


def test_the_page_on_ofa_runs_as_shown(tmp_path, capsys):
    examples("refer", "test", 1)[0].image.save(tmp_path / "scene.png")
    names = run(ROOT / "docs" / "ofa.md", {"folder": CHECKPOINTS / "ofa", "picture": tmp_path / "scene.png"})
    assert names["loss"].isfinite() and names["scores"].shape == (1, 5)
    boxes, caption, counted, constrained = capsys.readouterr().out.strip().splitlines()[-4:]
    assert "exit" not in caption and len(caption.split()) > 4
    assert {*eval(counted), *eval(constrained)} <= {"one", "two", "three", "four", "five"}
    assert boxes.startswith("[(")


@pytest.fixture(scope="module")
def cli():
    return typer.main.get_command(deed.cli.app)


def test_commands_exist_and_parse(cli):
    shown = set()
    for page in PAGES:
        for line in "\n".join(blocks(page, "bash")).replace("\\\n", " ").splitlines():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program == "deed":
                verb, *rest = arguments
                assert verb in cli.commands, f"{page.name}: deed {verb}"
                cli.commands[verb].make_context(verb, rest)  # parses, does not run
                shown.add(verb)
        mentioned = set(re.findall(r"`deed\s([a-z]+)", page.read_text(encoding="utf-8")))
        assert mentioned <= set(cli.commands), page.name
    assert shown == set(cli.commands), "every verb has an example"


def slug(heading):
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path = page.parent / target if target else page
        if target in GENERATED and page.parent == ROOT / "docs":
            continue
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target}#{anchor}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_files_and_names_mentioned_exist(page):
    text = page.read_text(encoding="utf-8")
    for path in re.findall(r"`([\w.]+(?:/[\w.]+)*/(?:\w+\.\w+)?)`", text):
        if path.startswith(("src", "tests", "docs", "benchmarks")) or path.endswith(".py"):
            assert any((base / path).exists() for base in (ROOT, ROOT / "src" / "deed")), path
    for name in re.findall(r"`(deed(?:\.\w+)+)[(`]", text):
        assert pydoc.locate(name) is not None, name


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        used = re.findall(r"^make ([a-z]+)", "\n".join(blocks(page, "bash")), re.MULTILINE)
        assert set(used) <= targets, page.name
