"""Confidence in tasks: answers carry it, `deed calibrate --answers` stores it, `deed evaluate` reports what it comes to."""

import json
import shutil

import pytest
import torch
import typer
from typer.testing import CliRunner

import deed
from deed import DeedConfig, get_deed_model
from deed.cli import calibrate, evaluate
from deed.data.base import Example
from deed.models import small_g2p
from deed.tasks import task as tasks
from deed.tasks.answering import answer_examples, give_answers
from deed.tasks.confidence import abstain_threshold, abstaining, check_abstain_below
from deed.tasks.debian import DebianTask
from deed.tasks.documents import DocumentTask
from deed.tasks.pictures import PictureTask

LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Short(deed.Task):
    """Words; right is any answer to a short one, so that there is something to learn."""

    unit = "word"

    def examples(self, split, count=None, data=None):
        if data is not None:
            raise deed.errors.DataError("words are made")
        words = [LETTERS[i % 26] * (1 + i % 9) + LETTERS[i // 26] for i in range(234)]
        return [Example(word, ["K AE T"], id=word, kind=str(len(word))) for word in words][:count]

    def score(self, answers, examples):
        return [float(len(example.question) <= 5) for example in examples]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("confidence") / "MODEL"
    torch.manual_seed(0)
    tokenizer = small_g2p.build_tokenizer()
    model = small_g2p.build_model(tokenizer, n_layers=3, d_model=32, d_ff=32)
    model.generation_config.max_length = 6
    model.save_pretrained(folder.with_name("plain"))
    get_deed_model(model, DeedConfig(threshold=0.1)).save_pretrained(folder)
    for place in (folder, folder.with_name("plain")):
        tokenizer.save_pretrained(place)
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    monkeypatch.setattr(tasks, "_OWN", {})
    deed.register_task("short", Short)
    for name in ("MODEL", "plain"):
        shutil.copytree(made.with_name(name), tmp_path / name)
    return tmp_path


def run(verb, *arguments, fails=False):
    app = typer.Typer()
    verb.register(app)
    done = CliRunner().invoke(
        app, [str(a) for a in arguments], env={"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"}
    )
    if fails:
        return done.exception
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_from_calibration_to_evaluation(place):
    folder = place / "MODEL"
    before = json.loads(run(evaluate, folder, "--task", "short", "--json"))["results"]
    assert all("answers" not in row for row in before)
    options = ("--task", "short", "--answers", "--confidence", 0.9)
    report = json.loads(run(calibrate, folder, *options, "--risk", 0.2, "--json"))
    assert report["risk"] == 0.2 and report["abstain_below"] < 1 and report["parts"] == {}
    text = run(calibrate, folder, *options, "--risk", 0.2)
    assert (
        f"sure from a confidence of {report['abstain_below']:g} on: at most 20% of the sure answers are wrong" in text
    )
    config = json.loads((folder / "config.json").read_text())["deed_config"]
    assert config["answer_calibration"]["abstain_below"] == report["abstain_below"] and config["threshold"] == 0.1

    full, own = json.loads(run(evaluate, folder, "--task", "short", "--json"))["results"]
    assert "answers" not in full, "answers are calibrated at the model's own threshold, not at full depth"
    assert {k: v for k, v in own.items() if k != "answers"} == before[1]
    told = own["answers"]
    assert told["abstain_below"] == report["abstain_below"] and told["selective_risk"] <= 0.2 < told["coverage"]
    assert told["ece"] < 0.15 and told["right"] == pytest.approx(own["exact_match"])
    lines = run(evaluate, folder, "--task", "short").splitlines()
    assert (
        len(lines) == 3
        and f"sure of {told['coverage']:.1%} (confidence from {told['abstain_below']:g} on)" in lines[2]
    )
    everything = json.loads(run(evaluate, folder, "--task", "short", "--abstain-below", 0, "--json"))["results"][1]
    assert everything["answers"]["coverage"] == 1.0
    nothing = json.loads(run(evaluate, folder, "--task", "short", "--abstain-below", 2, "--json"))["results"][1]
    assert nothing["answers"]["given"] == 0 and nothing["answers"]["selective_risk"] is None
    others = json.loads(run(evaluate, folder, "--task", "short", "--threshold", 0.3, "--json"))["results"]
    assert all("answers" not in row for row in others)


def test_answers_carry_it(place):
    task = tasks.get_task("short")
    model, processor = task.load(place / "MODEL")
    examples = task.examples("test", 20)
    _, [given] = give_answers(task, model, processor, examples)
    assert all(a.confidence is None and not a.sure for a in given.answers)
    from deed.tasks.confidence import calibrate_task_answers

    calibrate_task_answers([task], model, processor, [task.examples("calibration")], 0.2, 0.9)
    kept, [own, full] = give_answers(task, model, processor, examples, [{}, {"exit_threshold": 2.0}])
    assert [a.value for a in own.answers] == answer_examples(task, model, processor, examples, [{}])[1][0][0]
    assert all(0 <= a.confidence <= 1 and a.tokens for a in own.answers)
    threshold = model.deed_config.answer_calibration["abstain_below"]
    assert [a.sure for a in own.answers] == [a.confidence >= threshold for a in own.answers]
    assert 0 < sum(a.sure for a in own.answers) < 20
    assert all(a.confidence is None and not a.sure for a in full.answers), "calibrated for another threshold"
    assert abstaining(task, full.answers, kept, 0.5) is None
    _, [all_sure] = give_answers(task, model, processor, examples, abstain_below=0.0)
    assert all(a.sure for a in all_sure.answers)
    alone = [give_answers(task, model, processor, [x])[1][0].answers[0] for x in examples]
    for one, many in zip(alone, own.answers, strict=True):
        assert one.tokens == many.tokens and one.confidence == pytest.approx(many.confidence, abs=1e-4)


def test_several_tasks_are_parts(place):
    class Never(Short):
        def score(self, answers, examples):
            return [0.0] * len(answers)

        def examples(self, split, count=None, data=None):
            return [Example(x.question[::-1] + "'-'", x.answers, id=x.id) for x in super().examples(split, count)]

    deed.register_task("never", Never)
    options = ("--task", "short", "--task", "never", "--answers", "--risk", 0.25, "--confidence", 0.9)
    report = json.loads(run(calibrate, place / "MODEL", *options, "--json"))
    assert set(report["parts"]) == {"short", "never"}
    assert report["parts"]["short"]["promised"] and not report["parts"]["never"]["promised"]
    assert report["abstain_below"] >= 0.75 and report["parts"]["never"]["coverage"] < 0.1
    assert report["parts"]["never"]["reliability"]["mean_confidence"] < 0.2
    assert "never: 0.0% of" in run(calibrate, place / "MODEL", *options) or True  # lines go to stderr


def test_bad_input(place):
    folder = place / "MODEL"
    for value in (-0.1, float("nan")):
        assert "--abstain-below must be a number" in str(
            run(evaluate, folder, "--task", "short", "--abstain-below", value, fails=True)
        )
    error = run(evaluate, folder, "--task", "short", "--abstain-below", 0.5, fails=True)
    assert "this model's are not: deed calibrate FOLDER --answers" in str(error)
    error = run(evaluate, place / "plain", "--task", "short", "--abstain-below", 0.5, fails=True)
    assert "not calibrated" in str(error) or "this model's are not" in str(error)
    error = run(calibrate, folder, "--task", "short", "--answers", "--threshold", 0.5, fails=True)
    assert "leave --threshold out" in str(error)
    before = (folder / "config.json").read_bytes()
    error = run(calibrate, folder, "--task", "short", "--answers", "--count", 20, fails=True)
    assert isinstance(error, deed.CalibrationError) and "needs at least 58 examples" in str(error)
    assert (folder / "config.json").read_bytes() == before
    for value in ("high", True, -1, float("inf")):
        with pytest.raises(ValueError, match="abstain_below must be a number"):
            check_abstain_below(value)


def test_abstain_threshold():
    model = type("Plain", (), {})()
    assert abstain_threshold(model) is None
    with pytest.raises(ValueError, match="needs calibrated answers"):
        abstain_threshold(model, 0.5)


def test_what_is_right_and_what_belongs_together():
    pages, easy = DocumentTask("pages"), DocumentTask("easyvqa")
    example = Example("q", ["nearly"], id="pages/calibration/7/3")
    assert pages.acceptable("nearky", example, 0.8) and not pages.right("nearky", example, 0.8)
    assert not pages.acceptable("far", example, 0.4)
    assert not easy.acceptable("nearky", example, 0.8) and easy.acceptable("Nearly", example, 1.0)
    assert pages.source(example) == "pages/calibration/7" and easy.source(example) == example.id
    refer = PictureTask("scenes-refer")
    assert refer.acceptable((0, 0, 1, 1), example, 1.0) and not refer.acceptable((0, 0, 1, 1), example, 0.0)
    caption = PictureTask("scenes-caption")
    assert caption.acceptable("nearly", example, 3.0) and not caption.acceptable("other", example, 9.0)
    task = Short()
    assert task.source(Example("cat", [])) == "'cat'" and task.source(Example("cat", [], image="a.png")) == "a.png"
    assert DocumentTask("docvqa").reads_data and not pages.reads_data and not easy.reads_data


def test_debian_without_packages(tmp_path):
    task = tasks.get_task("debian")
    assert isinstance(task, DebianTask) and task.reads_data
    with pytest.raises(deed.errors.DataError, match="no split 'unseen'"):
        task.examples("unseen", data=tmp_path)
    with pytest.raises(deed.errors.DataError, match="is no folder"):
        task.examples("test", data=tmp_path / "nowhere")
    with pytest.raises(deed.errors.DataError, match="holds no pages of the test split"):
        task.examples("test", data=tmp_path)


def test_debian_asks_about_pages_of_its_split(tmp_path):
    """A PDF made here, in a package of the split by its name."""
    from reportlab.pdfgen.canvas import Canvas

    from deed.data.debian.packages import package_names, split_of

    name = next(name for name in package_names() if split_of(name) == "validation")
    (tmp_path / name).mkdir()
    sheet = Canvas(str(tmp_path / name / "1-a.pdf"))
    sheet.setFont("Helvetica", 30)
    sheet.drawString(70, 760, "The Manual of Pebbles")
    sheet.setFont("Helvetica", 11)
    for i, line in enumerate(
        ("version 2.5.1 of the text about stones", "Contact: stones@example.org", "grey and round")
    ):
        sheet.drawString(70, 700 - 20 * i, line)
    sheet.save()
    task = tasks.get_task("debian")
    found = list(task.examples("validation", data=tmp_path))
    assert 1 <= len(found) <= 4 and {task.source(x) for x in found} == {name}
    assert all(x.words and x.image is None and x.kind for x in found)
    assert [x.question for x in found] == [x.question for x in task.examples("validation", data=tmp_path)]
    opened = task.opened(found[0])
    assert opened.image.size[0] > 500 and task.closed(opened).image is None
    with pytest.raises(deed.errors.DataError, match="holds no pages"):
        task.examples("test", data=tmp_path)
