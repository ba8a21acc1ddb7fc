"""`deed evaluate` and `deed calibrate` on an OFA, in this process: scenes, easy-vqa, and data sets in their own formats."""

import json
import shutil

import pytest
import typer
from small_model import save_small_model
from typer.testing import CliRunner

import deed
from data.tiny_ofa import save_small_ofa, write_data
from deed.cli import calibrate, evaluate
from deed.tasks.answering import answer_examples, answer_rows, score_answers
from deed.tasks.pictures import PictureTask

PARTS = ["scenes-refer", "scenes-caption", "scenes-vqa", "easyvqa"]
METRICS = {
    "refcoco": "acc_at_0.5",
    "coco_captions": "cider_d",
    "vqav2": "vqa_accuracy",
    "snli_ve": "accuracy",
    "ofa_tsv_vqa": "ofa_vqa_score",
    "ofa_tsv_refer": "acc_at_0.5",
    "ofa_tsv_caption": "cider_d",
    "ofa_tsv_snli_ve": "accuracy",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_small_ofa(tmp_path_factory.mktemp("ofa") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


def run(verb, *arguments):
    app = typer.Typer()
    verb.register(app)
    done = CliRunner().invoke(app, [str(a) for a in arguments], env={"NO_COLOR": "1", "TERM": "dumb"})
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_an_ofa_is_evaluated_on_all_of_scenes(folder):
    report = json.loads(run(evaluate, folder, "--count", 3, "--split", "validation", "--json").stdout)
    assert report["task"] == "scenes" and [part["task"] for part in report["tasks"]] == PARTS
    for part, metric in zip(report["tasks"], ("acc_at_0.5", "cider_d", "accuracy", "accuracy"), strict=True):
        full, early = part["results"]
        assert part["examples"] == full["questions"] == 3 and 0 <= early[metric] <= 10
        assert (full["threshold"], full["mean_depth"], early["threshold"]) == (2.0, 3.0, 0.5)
        assert 1 <= early["mean_depth"] <= 3


def test_held_out_combinations_have_no_easy_vqa(folder):
    done = run(evaluate, folder, "--count", 2, "--split", "unseen", "--task", "scenes", "--threshold", 0.0)
    lines = done.stdout.splitlines()
    assert [line.partition(",")[0] for line in lines] == [part for part in PARTS[:3] for _ in range(2)]
    assert "full depth: acc at 0.5" in lines[0] and "mean depth 3.00 (2 expressions)" in lines[0]
    assert "threshold 0.0: cider d" in lines[3] and "mean depth 1.00 (2 pictures)" in lines[3]


def test_a_plain_ofa_has_full_depth_only(tmp_path):
    plain = save_small_ofa(tmp_path / "plain", plain=True)
    report = json.loads(run(evaluate, plain, "--task", "scenes-vqa", "--count", 2, "--json").stdout)
    (row,) = report["results"]
    assert row["threshold"] == 2.0 and row["mean_depth"] is None and report["unit"] == "questions"


@pytest.mark.parametrize("task", METRICS)
def test_data_sets_on_disk(folder, data, task):
    path, split, count = data[task]
    report = json.loads(run(evaluate, folder, "--task", task, "--data", path, "--split", split, "--json").stdout)
    full, early = report["results"]
    assert report["examples"] == count and early["mean_depth"] <= full["mean_depth"] == 3.0
    # by hand, one example after the other
    kind = PictureTask(task)
    assert kind.metric == METRICS[task]
    model, processor = kind.load(folder)
    examples = [kind.opened(example) for example in kind.examples(split, data=path)]
    for row in (full, early):
        answers = []
        for example in examples:
            encoded = kind.encode(processor, example)
            found = answer_rows(kind, model, processor, [encoded], exit_threshold=row["threshold"])
            answers.append(kind.answer(processor, found.tokens[0], example))
        wanted = score_answers(kind, answers, examples)
        assert {k: v for k, v in row.items() if k not in ("threshold", "mean_depth")} == wanted


def test_entailment_is_answered_with_one_of_three_words(folder, data):
    path, split, _ = data["snli_ve"]
    task = PictureTask("snli_ve")
    model, processor = task.load(folder)
    _, [(answers, _)] = answer_examples(task, model, processor, task.examples(split, data=path))
    assert set(answers) <= {"yes", "no", "maybe"}


@pytest.mark.filterwarnings("ignore:full depth scores")  # an untrained model knows nothing
def test_calibration_is_per_task_and_the_strictest_is_kept(folder, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    bounds = ("--risk", 0.3, "--confidence", 0.9, "--threshold", 0.9, "--threshold", 0.05, "--count", 10)
    done = run(calibrate, model, "--task", "scenes-caption", "--task", "easyvqa", *bounds, "--json")
    report = json.loads(done.stdout)
    reports = {r["task"]: r for r in (report, *report["others"])}
    assert set(reports) == {"scenes-caption", "easyvqa"} and all(r["examples"] == 10 for r in reports.values())
    assert (reports["scenes-caption"]["metric"], reports["scenes-caption"]["divided_by"]) == ("cider_d", 10.0)
    assert (reports["easyvqa"]["metric"], reports["easyvqa"]["divided_by"]) == ("accuracy", 1.0)
    assert report["threshold"] == max(r["threshold"] for r in reports.values())
    saved = deed.from_pretrained(model).deed_config
    assert saved.threshold == report["threshold"] and saved.calibration == report


@pytest.mark.filterwarnings("ignore:full depth scores")
def test_calibration_on_a_data_set_says_what_it_found(folder, data, tmp_path):
    model = shutil.copytree(folder, tmp_path / "model")
    path = data["coco_captions"][0]
    done = run(
        calibrate, model, "--task", "coco_captions", "--data", path, "--risk", 0.9, "--confidence", 0.5,
        "--threshold", 0.9,
    )  # fmt: skip
    assert "score (cider_d / 10)" in done.stdout and f"saved in {model / 'config.json'}" in done.stdout


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("ofa", ["--task", "docvqa"], "--task docvqa needs a LaTr++; .* holds an OFA"),
        ("ofa", ["--task", "pages"], "--task pages needs a LaTr++"),
        ("ofa", ["--task", "g2p"], "--task g2p needs a small T5 for words"),
        ("ofa", ["--task", "refcoco"], "--task refcoco is read from disk; give its folder as --data"),
        ("ofa", ["--task", "refcoco", "--data", "/none"], "/none: no such folder"),
        ("ofa", ["--task", "scenes", "--data", "/none"], "scenes are made, not read"),
        ("ofa", ["--task", "scenes-vqa", "--split", "dev"], "split must be one of"),
        ("ofa", ["--task", "vqa"], "--task must be one of g2p, pages, docvqa, .* scenes, scenes-refer"),
        ("latr", ["--task", "refcoco"], "--task refcoco needs an OFA; .* holds a LaTr++"),
        ("latr", ["--task", "scenes"], "--task scenes needs an OFA"),
        ("latr", ["--task", "vqav2"], "--task vqav2 is read from disk"),
        ("t5", ["--task", "scenes"], "--task scenes needs an OFA; .* holds a t5 model"),
    ],
)
@pytest.mark.parametrize("verb", [evaluate, calibrate], ids=["evaluate", "calibrate"])
def test_a_task_that_a_model_cannot_do(folder, tmp_path, kind, arguments, message, verb):
    if kind == "latr":
        folder = save_small_model(tmp_path / "model")
    elif kind == "t5":
        folder = tmp_path
        (folder / "config.json").write_text('{"model_type": "t5", "deed_config": {}}')
    with pytest.raises(ValueError, match=message.replace("+", r"\+")) as caught:
        run(verb, folder, *arguments)
    assert "\n" not in str(caught.value)


def test_a_latr_still_answers_easy_vqa(tmp_path):
    folder = save_small_model(tmp_path / "model")
    report = json.loads(run(evaluate, folder, "--task", "easyvqa", "--count", 2, "--json").stdout)
    assert report["task"] == "easyvqa" and "exact_match" in report["results"][0]


def test_the_originals_settings_are_beams(folder, data, monkeypatch):
    """`--original-settings` decodes with the options of OFA's authors and says so; greedy is the default, and says so."""
    from deed.models.ofa import OFAForConditionalGeneration

    seen = []
    generate = deed.modeling.generation.EarlyExitGeneration.generate

    def recorded(self, *args, **kwargs):
        seen.append(kwargs)
        return generate(self, *args, **kwargs)

    assert OFAForConditionalGeneration
    monkeypatch.setattr(deed.modeling.generation.EarlyExitGeneration, "generate", recorded)
    place, split, _ = data["refcoco"]
    base = (evaluate, folder, "--task", "refcoco", "--data", place, "--split", split)
    greedy = json.loads(run(*base, "--json").stdout)
    assert greedy["settings"] == "greedy" and {k["num_beams"] for k in seen} == {1}
    seen.clear()
    original = json.loads(run(*base, "--original-settings", "--json").stdout)
    assert original["settings"] == "original"
    assert {(k["num_beams"], k["early_stopping"], k["no_repeat_ngram_size"]) for k in seen} == {(5, True, 3)}
    assert "the original's settings" in run(*base, "--original-settings").stdout


def test_settings_of_nobody_are_refused(folder, data):
    place, split, _ = data["snli_ve"]
    with pytest.raises(ValueError, match="snli_ve has none"):
        run(evaluate, folder, "--task", "snli_ve", "--data", place, "--split", split, "--original-settings")


@pytest.mark.parametrize("verb", [evaluate, calibrate])
def test_missing_pictures_are_skipped_when_asked(verb, folder, tmp_path):
    from deed.errors import SkippedPictures

    place, split, count = write_data(tmp_path / "data")["vqav2"]
    next(iter(PictureTask("vqav2").examples(split, 1, place))).image.unlink()
    copy = shutil.copytree(folder, tmp_path / "model")
    options = ("--risk", 0.9, "--confidence", 0.1) if verb is calibrate else ()
    base = (verb, copy, "--task", "vqav2", "--data", place, "--split", split, *options)
    with pytest.raises(ValueError, match=r"skip.missing"):
        run(*base, "--json")
    with pytest.warns(SkippedPictures, match="picture"):
        report = json.loads(run(*base, "--skip-missing", "--json").stdout)
    assert 0 < report["examples"] < count
