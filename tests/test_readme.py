"""README and docs: their Python runs as shown, their commands parse, their links lead somewhere."""

import functools
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import typer
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, T5Config, T5ForConditionalGeneration

import deed
import deed.cli
import deed.families.base as families
from deed.cli.shared import CHECKPOINTS
from deed.data.synthetic.scenes import examples
from deed.models import small_g2p

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "benchmarks" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def blocks(page, language):
    """The fenced blocks of a page, padded with newlines so that errors name the page's own lines."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return ["\n" * text[: match.start(1)].count("\n") + match[1] for match in found]


def run(page, namespace):
    for source in blocks(page, "python"):
        exec(compile(source, str(page), "exec"), namespace)
    return namespace


def tiny_t5():
    tokenizer = small_g2p.build_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=6,  # as many as t5-small has
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture
def hub(monkeypatch):
    """A tiny random T5 and the g2p tokenizer in place of whatever is asked of the Hub; folders load as they are."""
    torch.manual_seed(0)
    for auto, stand_in in ((AutoModelForSeq2SeqLM, tiny_t5), (AutoTokenizer, small_g2p.build_tokenizer)):
        load = auto.from_pretrained

        def from_pretrained(name, *args, load=load, stand_in=stand_in, **kwargs):
            return load(name, *args, **kwargs) if Path(name).is_dir() else stand_in()

        monkeypatch.setattr(auto, "from_pretrained", from_pretrained)


@pytest.fixture
def own_families(monkeypatch):
    monkeypatch.setattr(families, "_FAMILIES", dict(families._FAMILIES))


def test_the_readme_runs_as_shown(hub, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    # The whole grid takes half a minute on one core, and a random model never gets a label right, which is refused.
    quick = functools.partial(deed.calibrate, thresholds=[0.9, 0.5], score=lambda tokens, example: 1.0)
    monkeypatch.setattr(deed, "calibrate", quick)
    words = ["cat\tK AE T", "dogs\tD AA G Z", "a\tAH", "thing\tTH IH NG"]
    Path("pairs.tsv").write_text("\n".join(words * 54) + "\n", encoding="utf-8")
    assert len(blocks(ROOT / "README.md", "python")) >= 8
    names = run(ROOT / "README.md", {})
    assert names["report"]["examples"] == 200 and len(names["train_set"]) == 16
    assert not isinstance(names["plain"], deed.modeling.model.DeedMixin)
    assert names["model"].deed_config.exit_layers == [2, 4, 6]
    assert (tmp_path / "my-model" / "deed_exits.safetensors").exists()
    assert "computed_cells" in capsys.readouterr().out


def test_the_page_on_families_runs_as_shown(own_families):
    names = run(ROOT / "docs" / "families.md", {})
    assert type(names["model"].deed_family) is names["MBartFamily"]


def test_the_page_on_ofa_runs_as_shown(tmp_path, capsys):
    examples("refer", "test", 1)[0].image.save(tmp_path / "scene.png")
    names = run(ROOT / "docs" / "ofa.md", {"folder": CHECKPOINTS / "ofa", "picture": tmp_path / "scene.png"})
    assert names["loss"].isfinite() and names["scores"].shape == (1, 5)
    boxes, caption, counted, constrained = capsys.readouterr().out.strip().splitlines()[-4:]
    assert "exit" not in caption and len(caption.split()) > 4
    assert {*eval(counted), *eval(constrained)} <= {"one", "two", "three", "four", "five"}
    assert boxes.startswith("[(")


@pytest.fixture
def cli(monkeypatch):
    """The command as `main` builds it."""
    monkeypatch.setattr(deed.cli, "app", typer.Typer())
    monkeypatch.setattr(sys, "argv", ["deed", "--help"])
    with pytest.raises(SystemExit):
        deed.cli.main()
    return typer.main.get_command(deed.cli.app)


def test_commands_exist_and_parse(cli):
    shown = set()
    for page in PAGES:
        for line in "\n".join(blocks(page, "bash")).splitlines():
            program, *arguments = shlex.split(line, comments=True) or [""]
            if program == "deed":
                verb, *rest = arguments
                assert verb in cli.commands, f"{page.name}: deed {verb}"
                cli.commands[verb].make_context(verb, rest)  # parses, does not run
                shown.add(verb)
        mentioned = set(re.findall(r"`deed ([a-z]+)", page.read_text(encoding="utf-8")))
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
        assert path.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name}: {target}#{anchor}"


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        used = re.findall(r"^make ([a-z]+)", "\n".join(blocks(page, "bash")), re.MULTILINE)
        assert set(used) <= targets, page.name
