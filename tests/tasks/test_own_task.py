"""A task of one's own, as docs/tasks.md shows it, in every verb."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

import deed
from deed import DeedConfig, get_deed_model
from deed.cli import bench_curve, calibrate, demo, evaluate, tune
from deed.models import small_g2p
from deed.tasks import task as tasks

PAGE = Path(__file__).parents[2] / "docs" / "tasks.md"
WORDS = [("cat", "K AE T", "a"), ("dog", "D AO G", "b"), ("tomato", "T AH M EY T OW", "a"), ("deed", "D IY D", "b")]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The current folder: the page's module, its data, and a tiny model."""
    module, use = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    (tmp_path / "my_tasks.py").write_text(module, encoding="utf-8")
    (tmp_path / "use.py").write_text(use, encoding="utf-8")
    (tmp_path / "titles").mkdir()
    for split in ("train", "validation", "calibration", "test"):
        lines = [json.dumps({"text": w, "title": p, "source": s}) for w, p, s in WORDS * 6]
        (tmp_path / "titles" / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    torch.manual_seed(0)
    tokenizer = small_g2p.build_tokenizer()
    model = small_g2p.build_model(tokenizer, n_layers=3, d_model=32, d_ff=32)
    model.generation_config.max_length = 6
    model.save_pretrained(tmp_path / "plain")
    get_deed_model(model, DeedConfig(threshold=0.1)).save_pretrained(tmp_path / "MODEL")
    for folder in ("plain", "MODEL"):
        tokenizer.save_pretrained(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(tasks, "_OWN", {})
    yield tmp_path
    sys.modules.pop("my_tasks", None)


def run(verb, *arguments):
    app = typer.Typer()
    verb.register(app)
    if verb is bench_curve:
        app.command("speed")(lambda: None)
        arguments = ("curve", *arguments)
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"NO_COLOR": "1", "TERM": "dumb"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_page_is_short():
    module = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[1]
    assert len(module.splitlines()) <= 60


@pytest.mark.filterwarnings("ignore:full depth scores")
@pytest.mark.filterwarnings("ignore:this model's exits cost more")
def test_every_verb_takes_it(place):
    options = ("--task", "my_tasks:Titles", "--data", "titles")
    report = json.loads(run(evaluate, "MODEL", *options, "--json"))
    assert (report["task"], report["unit"], report["examples"]) == ("my_tasks:Titles", "texts", 24)
    full, early = report["results"]
    assert full["mean_depth"] == 3 >= early["mean_depth"] and set(full["by_kind"]) == {"a", "b"}
    # by hand
    module = sys.modules["my_tasks"]
    model, tokenizer = deed.from_pretrained("MODEL"), small_g2p.build_tokenizer()
    inputs = tokenizer([w for w, _, _ in WORDS], return_tensors="pt", padding=True)
    ids = model.generate(**{k: inputs[k] for k in ("input_ids", "attention_mask")}, exit_threshold=2.0)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    right = [text.split()[:1] == p.split()[:1] for text, (_, p, _) in zip(texts, WORDS, strict=True)]
    assert full["first_word"] == sum(right) / 4
    (plain,) = json.loads(run(evaluate, "plain", *options, "--json"))["results"]
    assert plain == {**full, "mean_depth": None}

    bounds = ("--risk", 0.3, "--confidence", 0.9, "--threshold", 0.9, "--threshold", 0.05)
    report = json.loads(run(calibrate, "MODEL", *options, *bounds, "--json"))
    assert (report["task"], report["metric"], report["examples"]) == ("my_tasks:Titles", "first_word", 24)
    assert deed.from_pretrained("MODEL").deed_config.threshold == report["threshold"]

    # registered by its decorator when the module was imported
    assert tasks.get_task("titles").__class__ is module.Titles
    few = ("--count", 8, "--timed", 2, "--threshold", 0.9, "--threshold", 0.05)
    curve = json.loads(run(bench_curve, "MODEL", "--task", "titles", "--data", "titles", *few, "--json"))
    assert curve["examples"] == 4 and curve["points"][0]["mean_depth"] == 3


def test_tune_takes_it(place):
    before = (place / "plain" / "model.safetensors").read_bytes()
    options = ("--task", "my_tasks:Titles", "--data", "titles", "--steps", 2, "--batch-size", 4, "--output", "tuned")
    result = json.loads(run(tune, "plain", *options, "--json"))
    assert result["steps"] == 2 and (place / "plain" / "model.safetensors").read_bytes() == before
    report = json.loads(run(evaluate, "tuned/model", *options[:4], "--threshold", 0.05, "--json"))
    plain = json.loads(run(evaluate, "plain", *options[:4], "--json"))
    full, early = report["results"]
    assert full["first_word"] == plain["results"][0]["first_word"], "the backbone stays as it was"
    assert full["mean_depth"] == 3 > early["mean_depth"]


def test_the_demo_takes_a_task_that_needs_no_data(place):
    @deed.register_task("words")
    class Words(deed.Task):
        unit = "word"

        def examples(self, split, count=None, data=None):
            return [deed.data.base.Example(w, [p]) for w, p, _ in WORDS][:count]

    shown = run(demo, "--task", "words", "--model", "MODEL", "--count", 3, "--threshold", 0.05, "--output", "out")
    report = json.loads((place / "out" / "report.json").read_text(encoding="utf-8"))
    assert [e["question"] for e in report["examples"]] == ["cat", "dog", "tomato"] and report["task"] == "words"
    assert report["score_name"] == "exact match" and report["deed"]["inputs"] == 3
    assert "tomato" in shown and "exact match" in shown
    html = (place / "out" / "report.html").read_text(encoding="utf-8")
    assert "words that training never saw" in html and "tomato" in html


@pytest.mark.filterwarnings("ignore:full depth scores")
def test_from_python(place):
    names = {}
    for name in ("my_tasks.py", "use.py"):
        exec((place / name).read_text(encoding="utf-8"), names)
    assert names["used"] == 24 and names["rows"][0]["mean_depth"] == 3 and len(names["rows"]) == 2


def test_missing_data_is_one_clear_error(place):
    with pytest.raises(deed.errors.DataError, match=r"give a folder with test\.jsonl as --data, got nowhere"):
        run(evaluate, "MODEL", "--task", "my_tasks:Titles", "--data", "nowhere")
    shutil.rmtree(place / "MODEL")
    with pytest.raises(deed.errors.DeedLoadError, match="MODEL is not a folder with a saved model"):
        run(evaluate, "MODEL", "--task", "my_tasks:Titles", "--data", "titles")
