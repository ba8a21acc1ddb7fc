"""`deed demo --task scenes`: with a tiny random model, and with answers put in its mouth, whose report is known."""

import json
import re

import pytest
import torch
import typer
from small_model import save_small_model
from typer.testing import CliRunner

from deed import DeedConfig, get_deed_model
from deed.bench.compare import Comparison, Run, Runs
from deed.cli import demo, demo_measure, demo_results, demo_scenes
from deed.data.synthetic import scenes
from deed.models.ofa import small as small_ofa
from deed.utils.progress import SILENT

TASKS = ["refer", "caption", "vqa"]
PLACES = ["known combinations", "unseen combinations"]


def run(*arguments, **environment):
    app = typer.Typer()
    demo.register(app)
    env = {"COLUMNS": "60", "NO_COLOR": "1", "TERM": "dumb", **environment}
    return CliRunner().invoke(app, ["--task", "scenes", *map(str, arguments)], env=env, catch_exceptions=False)


@pytest.fixture(scope="module")
def processor():
    return small_ofa.build_processor(small_ofa.build_tokenizer(scenes.vocabulary_texts(20), 800))


@pytest.fixture(scope="module")
def model_folder(processor, tmp_path_factory):
    torch.manual_seed(0)
    plain = small_ofa.build_model(processor.tokenizer, 1, 2, 32, 32, (8, 8, 16, 16))
    plain.generation_config.max_length = 9
    folder = tmp_path_factory.mktemp("scenes") / "model"
    model = get_deed_model(plain, DeedConfig(threshold=2.0))
    model.deed_config.calibration = {
        "threshold": 0.5,
        "risk": 0.01,
        "confidence": 0.95,
        "others": [{"threshold": 0.4}],
    }
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def shown(model_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("scenes") / "deep" / "out"
    done = run("--model", model_folder, "--count", 1, "--threshold", 0.001, "--output", output)
    return done, output, json.loads((output / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def sample(processor):
    return demo_scenes.sample(processor, 2, [], SILENT)


def right_ids(processor, asked):
    """What a model that knows would generate."""
    example = asked.example
    if asked.name == "refer":
        return [*processor.encode_box(example.extra["box"], example.extra["size"]), processor.tokenizer.eos_token_id]
    return processor.encode_answers([example.answers[0].replace(",", "")])[0]


@pytest.fixture(scope="module")
def told(processor, sample, model_folder, tmp_path_factory):
    """A run whose answers are right, but: early exit takes another box for the first expression and another color in
    the second caption; full depth counts wrong in the first question."""
    right = [right_ids(processor, a) for a in sample.asked]
    full, deed = [list(ids) for ids in right], [list(ids) for ids in right]
    deed[0] = [*processor.encode_box((64, 0, 128, 32), (128, 128)), processor.tokenizer.eos_token_id]
    caption = sample.asked[4].example.answers[0]
    deed[4] = processor.encode_answers([caption.replace("blue", "red").replace(",", "")])[0]
    assert deed[4] != right[4]
    full[2] = processor.encode_answers(["nine"])[0]

    def fake(base, model, inputs, threshold, decode, score, answer_all, bars, **options):
        assert len(inputs) == len(right)
        runs = [
            [
                Run(
                    decode(ids),
                    ids,
                    [1 + (i + at) % 2 for at in range(len(ids))],
                    10.0 + i,
                    4.0,
                    {"full_depth_cells": 9},
                )
                for i, ids in enumerate(answers)
            ]
            for answers in (full, deed)
        ]
        for one in runs[0]:
            one.depths, one.overall_ms = None, one.overall_ms + 20
        both = Comparison(Runs(None, runs[0]), Runs(threshold, runs[1]))
        curve = {"timed_inputs": 7, "scored_inputs": 14, "full_depth": {}, "points": []}
        machine = {"processor": "any", "usable_cpus": 1}
        return demo_results.Measured(both, both.full, both.deed, score(full), score(deed), curve, machine)

    output = tmp_path_factory.mktemp("scenes") / "told"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_measure, "measure", fake)
        done = run("--model", model_folder, "--count", 2, "--threshold", 0.5, "--output", output)
    return done, output, json.loads((output / "report.json").read_text(encoding="utf-8"))


def test_an_expression_a_caption_a_question_of_both_halves_and_one_of_easy_vqa(shown):
    examples = shown[2]["examples"]
    assert [(e["task"], e["place"]) for e in examples] == [
        *[(task, place) for place in PLACES for task in TASKS],
        ("easyvqa", "easy-vqa"),
    ]
    for e in examples[:6]:
        split, index = e["picture"].split("/")
        wanted = scenes.examples(e["task"], split, 1)[int(index)]
        assert e["question"] == (wanted.text or "what does the image describe?")
        if e["task"] == "refer":
            assert e["expected_box"] == list(wanted.box)
            assert e["expected"] == ["box {} {} {} {} px".format(*wanted.box)]
        else:
            assert e["expected"] == list(wanted.references)
        held_out = {thing.combination for thing in wanted.scene.things} & set(scenes.HELD_OUT)
        assert bool(held_out) == (e["place"] == "unseen combinations"), "training never saw these combinations"


def test_the_same_easy_vqa_questions_each_time():
    five = demo_scenes.easy_vqa_questions(5)
    assert demo_scenes.easy_vqa_questions(3) == five[:3] and len({e.image for e in five}) == 5
    assert all(e.id.startswith("test-") for e in five), "never from the part that is trained on"


def test_inputs_are_those_of_the_task(processor, sample):
    assert len(sample.asked) == 14 and len(sample.kept.small) == 6
    for a in sample.asked:
        split, _, index = a.told["picture"].partition("/")
        if a.name == "easyvqa":
            (example,) = [e for e in demo_scenes.easy_vqa_questions(2) if e.image.stem == index]
        else:
            example = scenes.examples(a.name, split, 2)[int(index)].as_example()
        wanted = a.task.encode(processor, a.task.opened(example))
        assert a.row.keys() == wanted.keys()
        assert all(torch.equal(a.row[key], value) for key, value in wanted.items())
        assert a.example.image is None, "pictures are let go"
    pictures = [a.row["patch_images"] for a in sample.asked]
    assert pictures[0] is pictures[1] is pictures[2] and not torch.equal(pictures[0], pictures[3])


def test_report_adds_up(shown):
    done, output, report = shown
    assert done.exit_code == 0 and sorted(p.name for p in output.iterdir()) == ["report.html", "report.json"]
    full, deed, examples = report["full_depth"], report["deed"], report["examples"]
    assert full["inputs"] == deed["inputs"] == 7 and deed["threshold"] == 0.001 and deed["mean_depth"] < 2
    assert sum(report["depth_histogram"]) == deed["tokens"] == sum(len(e["tokens"]) for e in examples)
    assert deed["decoder_ms"] == pytest.approx(sum(e["decoder_ms"] for e in examples))
    groups = {group["name"]: group for group in report["groups"]}
    assert list(groups) == ["refer", "caption", "vqa", "easy-vqa", *PLACES]
    assert [g["answers"] for g in groups.values()] == [2, 2, 2, 1, 3, 3]
    for subject in ("full_depth", "deed"):
        total = sum(groups[task][subject]["decoder_ms"] for task in (*TASKS, "easy-vqa"))
        assert total == pytest.approx(report[subject]["decoder_ms"])
        halves = sum(groups[place][subject]["overall_ms"] for place in PLACES)
        easy = groups["easy-vqa"][subject]["overall_ms"]
        assert halves + easy == pytest.approx(report[subject]["overall_ms"])
    thresholds = [point["threshold"] for point in report["curve"]["points"]]
    assert (
        thresholds == sorted({*demo_scenes.THRESHOLDS, 0.001}) and report["curve"]["points"][-1]["mean_depth"] == 2.0
    )


def test_the_score_is_the_mean_of_the_tasks(told):
    report = told[2]
    for subject, prefix in (("full_depth", "full_depth_"), ("deed", "")):
        means = {}
        for task in (*TASKS, "easyvqa"):
            values = [e[f"{prefix}value"] for e in report["examples"] if e["task"] == task]
            means[task] = sum(values) / len(values)
        assert report[subject]["tasks"] == pytest.approx(means)
        parts = [means["refer"], means["caption"] / 10, means["vqa"], means["easyvqa"]]
        assert report[subject]["score"] == pytest.approx(sum(parts) / 4) and 0 <= report[subject]["score"] <= 1
    assert "CIDEr-D, which is 0 to 10, is divided by 10" in report["score_note"]
    assert report["settings"]["promise"] == "each task's score at most 0.01 lower, 95% sure"
    caption = next(group for group in report["groups"] if group["name"] == "caption")
    assert caption["best"] == 10 and 1 < caption["full_depth"]["value"] <= 10
    assert caption["full_depth"]["score"] == pytest.approx(caption["full_depth"]["value"] / 10)
    known, unseen = (caption["halves"][place]["deed"] for place in PLACES)
    assert caption["deed"]["value"] == pytest.approx((known + unseen) / 2), "words weighed alike in all parts"
    assert unseen < caption["halves"][PLACES[1]]["full_depth"]


def test_what_is_right(told):
    examples, report = told[2]["examples"], told[2]
    assert [i for i, e in enumerate(examples) if not e["right"]] == [0, 4]
    assert [i for i, e in enumerate(examples) if not e["full_depth_right"]] == [2]
    assert report["changes"] == {"lost": 2, "gained": 1}
    assert report["deed"]["right"] == pytest.approx(12 / 14) and report["full_depth"]["right"] == pytest.approx(
        13 / 14
    )
    assert examples[4]["value"] > 1, "one word apart: not right, yet worth something"
    assert examples[4]["nearest"] == examples[4]["expected"][0]
    assert [group["full_depth"]["score"] for group in report["groups"] if group["name"] == "refer"] == [1.0]


def test_boxes_in_pixels(told, processor):
    examples = told[2]["examples"]
    wrong, right = examples[0], examples[3]
    assert wrong["answer"] == "box 64 0 128 32 px" and wrong["box"] == [64, 0, 128, 32] and wrong["overlap"] == 0
    assert wrong["pieces"] == ["box 64", " 0", " 128", " 32 px", "</s>"] and wrong["expected"] == [
        "box 35 83 57 106 px"
    ]
    assert wrong["full_depth_box"] == pytest.approx(wrong["expected_box"], abs=1), "bins are 2 px apart"
    assert right["overlap"] > 0.75 and right["answer"] == right["full_depth"]
    assert "<bin_" not in told[0].stdout and "<bin_" not in (told[1] / "report.html").read_text(encoding="utf-8")
    # Fewer than four bins are no box; bins are told all the same.
    ids = [processor.first_bin + 7, processor.tokenizer.eos_token_id]
    assert demo_scenes.box_pieces(processor, ids, ["<bin_7>", "</s>"], None) == [" bin 7", "</s>"]
    five = [processor.first_bin + b for b in (1, 2, 3, 4, 5)]
    assert demo_scenes.box_pieces(processor, five, ["?"] * 5, (2, 4, 6, 8)) == ["box 2", " 4", " 6", " 8 px", " bin 5"]
    assert demo_scenes.box_text(None) == "no box" and demo_scenes.box_text((1.2, 2, 3, 4.6)) == "box 1 2 3 5 px"


def test_scores_do_not_depend_on_the_order(processor, sample):
    answers = [right_ids(processor, a) for a in sample.asked]
    judge, back = (demo_results.Judge(processor, asked) for asked in (sample.asked, sample.asked[::-1]))
    judged = [judge.judged(a, ids) for a, ids in zip(sample.asked, answers, strict=True)]
    assert all(right for _, right in judged)
    assert judged == [back.judged(a, ids) for a, ids in zip(sample.asked, answers, strict=True)]
    assert [judge.judged(a, [2]) for a in sample.asked] == [(0.0, False)] * len(answers)
    assert judge.scores(answers)["score"] == pytest.approx(back.scores(answers[::-1])["score"])


def test_scenes_are_in_the_report(told):
    report, path = told[2], told[1] / "report.html"
    html = path.read_text(encoding="utf-8")
    assert [scene["name"] for scene in report["scenes"]] == ["test/0", "unseen/0", "test/1", "unseen/1"]
    assert [a["example"] for scene in report["scenes"] for a in scene["answers"]] == [
        0,
        1,
        2,
        3,
        4,
        5,
        7,
        8,
        9,
        10,
        11,
        12,
    ]
    assert html.count('src="data:image/png;base64,') == 4 and path.stat().st_size < 1_000_000
    assert "http://" not in html and "https://" not in html and "base64" not in json.dumps(report)
    first, second = (scene["answers"][0] for scene in report["scenes"][:2])
    assert first["box"] == [500, 0, 1000, 250] and "expected_box" in first and "expected_box" not in second
    assert "By task, known and unseen combinations" in html and "Scenes with their answers" in html


def test_reads_well_in_sixty_columns_without_color(shown, told):
    for done, output, _ in (shown, told):
        lines = done.stdout.splitlines()
        assert "\x1b[" not in done.stdout
        assert all(len(line) <= 60 for line in lines if not line.startswith("report:"))
        assert f"report: {output / 'report.html'}" in lines, "one line, to be copied"
    text = told[0].stdout
    for row in ("score", "right answers", "decoder latency", "overall latency", "decoder, median"):
        assert re.search(rf"^{row} .*\S$", text, re.MULTILINE)
    assert re.search(r"^refer, Acc@0\.5 +75\.0\s% +−25\.0 +\S+\s% +\S+\s% +\d\.\d\d", text, re.MULTILINE)
    assert re.search(r"^caption, CIDEr-D +\d\.\d\d +−\d\.\d\d +\S+\s% +\S+\s% +\d\.\d\d", text, re.MULTILINE)
    assert re.search(r"^unseen, score +[\d.]+\s% +\S+ +\S+\s% +\S+\s% +\d\.\d\d", text, re.MULTILINE)
    assert "picture test/0: known combinations" in text and "picture easy-vqa/" in text
    assert re.search(r"box 64₁? 0", text) and "expected box 35 83 57 106 px" in text
    words = " ".join(text.split())
    assert "a caption that is word for word one of its references" in words and "divided by 10" in words


def test_a_model_that_never_leaves_early(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(demo_scenes, "THRESHOLDS", (2.0,))
    done = run("--model", model_folder, "--count", 1, "--output", tmp_path, "--json")
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) and done.stderr == ""
    assert report["deed"]["mean_depth"] == 2.0 and "Nothing leaves early" in report["notes"][0]
    assert [e["answer"] for e in report["examples"]] == [e["full_depth"] for e in report["examples"]]
    assert [e["value"] for e in report["examples"]] == [e["full_depth_value"] for e in report["examples"]]


@pytest.fixture(scope="module")
def other_folders(processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("other")
    (folder / "file").write_text("")
    (folder / "empty").mkdir()
    small_ofa.build_model(processor.tokenizer, 1, 1, 32, 32, (8, 8, 16, 16)).save_pretrained(folder / "plain")
    save_small_model(folder / "latr")
    return {name.upper(): str(folder / name) for name in ("file", "empty", "plain", "latr")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cat"], "words of your own \\(cat\\) need --task g2p; about a picture of your own: deed ask IMAGE"),
        (["--threshold", "-1"], "--threshold must be a number"),
        (["--count", "1001"], "--count must be at most 1000, the pictures of easy-vqa's test split, got 1001"),
        (["--model", "/nowhere"], "/nowhere is not a folder with a saved model"),
        (["--model", "EMPTY"], "it has no config.json"),
        (["--model", "LATR"], "holds a LaTr\\+\\+ model"),
        (["--model", "PLAIN"], "holds a plain OFA, without early exit"),
        (["--model", str(demo.CHECKPOINT)], "needs an OFA model; .* holds a t5 model"),
        (["--output", "FILE"], "is not a folder that you may write to"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(other_folders, tmp_path, arguments, message):
    output = [] if "--output" in arguments else ["--output", str(tmp_path / "out")]
    with pytest.raises(ValueError, match=message):
        run(*[other_folders.get(a, a) for a in arguments], *output)
    assert not (tmp_path / "out").exists()


def test_no_scenes_at_all_are_refused(tmp_path):
    done = run("--count", 0, "--output", tmp_path / "out")
    assert done.exit_code == 2 and "--count" in done.stderr and not (tmp_path / "out").exists()


def test_missing_checkpoint_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "OFA_CHECKPOINT", tmp_path / "none")
    with pytest.raises(ValueError, match=r"the shipped checkpoint .*none is missing; pass --model"):
        run("--output", tmp_path / "out")


@pytest.mark.parametrize("package", ["PIL", "fonticon_mdi7", "easy_vqa"])
def test_missing_package_is_named(monkeypatch, tmp_path, package):
    found = demo_scenes.importlib.util.find_spec
    monkeypatch.setattr(demo_scenes.importlib.util, "find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(ValueError, match=rf"needs {package}.*deed-transformers\[scenes,report\]"):
        run("--output", tmp_path / "out")


@pytest.mark.skipif(
    not demo.OFA_CHECKPOINT.is_dir(), reason=f"{demo.OFA_CHECKPOINT} is missing: no OFA is shipped yet"
)
def test_the_shipped_model_knows_and_leaves_early(tmp_path, monkeypatch):
    monkeypatch.setattr(demo_scenes, "THRESHOLDS", (2.0,))
    monkeypatch.setattr(demo_scenes, "TIMED", 2)
    report = json.loads(run("--count", 4, "--output", tmp_path, "--json").stdout)
    assert report["deed"]["threshold_source"] == "calibrated"
    assert report["full_depth"]["score"] > 0.6 and report["deed"]["score"] > report["full_depth"]["score"] - 0.15
    work = report["deed"]["work"]
    assert work["computed_cells"] < work["full_depth_cells"]
    boxes = [e["box"] for e in report["examples"] if e["task"] == "refer"]
    assert all(box is not None for box in boxes)
