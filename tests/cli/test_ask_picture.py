"""`deed ask --task refer|caption|vqa` on tiny random OFAs: what it answers, draws and says, and how it refuses."""

import json
import re
import shutil

import pytest
import torch
import typer
from PIL import Image
from small_model import save_small_model
from typer.testing import CliRunner

from deed import DeedConfig, get_deed_model
from deed.cli import answering, ask, ask_picture
from deed.cli.painting import Painter
from deed.data.base import Example
from deed.data.synthetic import scenes
from deed.metrics.boxes import iou
from deed.models.ofa import small as small_ofa
from deed.tasks.answering import answer_rows
from deed.tasks.pictures import PictureTask, box_of, text_of
from deed.utils.shipped import CHECKPOINTS

SHIPPED = CHECKPOINTS / "ofa"


def run(*arguments, **environment):
    app = typer.Typer()
    ask.register(app)
    env = {"COLUMNS": "60", "NO_COLOR": "1", "TERM": "dumb", **environment}
    return CliRunner().invoke(app, [str(a) for a in arguments], env=env, catch_exceptions=False)


def save_small_ofa(folder, says, deed=True):
    """Three decoder layers, answers of five tokens: bins, or whole words."""
    torch.manual_seed(0)
    processor = small_ofa.build_processor(small_ofa.build_tokenizer(scenes.vocabulary_texts(30), 800))
    model = small_ofa.build_model(processor.tokenizer, 1, 3, 32, 32, (8, 8, 16, 16))
    if deed:
        get_deed_model(model, DeedConfig(threshold=0.5))
    kind = r"<bin_\d+>" if says == "bins" else r"\u0120[a-z]{3,}"
    vocab = processor.tokenizer.get_vocab()
    model.generation_config.suppress_tokens = sorted(i for t, i in vocab.items() if not re.fullmatch(kind, t))
    model.generation_config.max_length = 6
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files by the names that arguments below have for them."""
    folder = tmp_path_factory.mktemp("pictures")
    first, second = scenes.examples("refer", "validation", 2)
    first.image.save(folder / "scene.png")
    second.image.resize((300, 150)).save(folder / "wide.jpg")
    first.image.save(folder / "two.pdf", save_all=True, append_images=[second.image])
    (folder / "cut.png").write_bytes((folder / "scene.png").read_bytes()[:500])
    save_small_ofa(folder / "boxes", "bins")
    save_small_ofa(folder / "words", "words")
    save_small_ofa(folder / "plain", "words", deed=False)
    save_small_model(folder / "latr")
    for name, file in (
        ("weights", "model.safetensors"),
        ("exits", "deed_exits.safetensors"),
        ("config", "config.json"),
        ("tokens", "tokenizer.json"),
    ):
        shutil.copytree(folder / "boxes", folder / name)
        (folder / name / file).write_bytes((folder / "boxes" / file).read_bytes()[:100])
    shutil.copytree(folder / "boxes", folder / "endless")
    (folder / "endless" / "tokenizer_config.json").unlink()
    return folder


@pytest.fixture
def places(made, tmp_path, monkeypatch):
    """The files, from an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def answered(monkeypatch):
    """Boxes that the model is made to give, one per expression."""

    def give(*boxes):
        pieces = ["<bin_1>", "<bin_20>", "<bin_30>", "<bin_64>", "</s>"]
        told = {"pieces": pieces, "tokens": pieces, "depths": [1, 2, 3, 1, 1], "mean_depth": 1.6}
        left = list(boxes)
        times = {"encoder_ms": 1.0, "decoder_ms": 2.0}
        monkeypatch.setattr(answering, "timed_answer", lambda *_: ([], {**told, "pieces": list(pieces), **times}))
        monkeypatch.setattr(PictureTask, "answer", lambda *_: left.pop(0))

    return give


def test_refer_in_a_narrow_terminal(places, tmp_path):
    done = run(places / "scene.png", "the ghost", "the bell", "--task", "refer", "--model", places / "boxes")
    assert done.exit_code == 0 and done.stderr == ""
    lines, text = done.stdout.splitlines(), " ".join(done.stdout.split())
    assert all(len(line) <= 60 for line in lines) and "\x1b[" not in done.stdout
    assert lines.index("the ghost") < lines.index("the bell")
    assert len(re.findall(r"^bin \d+[₁₂₃]( bin \d+[₁₂₃]){4}$", done.stdout, re.MULTILINE)) == 2
    assert len(re.findall(r"box: x \d+ to \d+, y \d+ to \d+ \(px of 128 x 128\)", text)) == 2
    assert len(re.findall(r"encoder \S+ m?s, decoder \S+ m?s, mean depth \d\.\d\d of 3", text)) == 2
    assert "threshold 0.5 (the model's)" in text and "layers run for a token: 1 2 3" in text
    assert lines[-1] == "boxes drawn: scene.boxes.png"
    assert [p.name for p in tmp_path.iterdir()] == ["scene.boxes.png"]
    with Image.open("scene.boxes.png") as picture:
        assert picture.size == (512, 512)


def test_refer_as_json_is_what_the_model_says(places, tmp_path):
    texts = ["the ghost", "The  Bell."]
    options = ["--task", "refer", "--model", places / "boxes", "--json", "--threshold", "0.02"]
    done = run(places / "wide.jpg", *texts, *options, "--output", "found.jpg")
    report = json.loads(done.stdout)
    assert done.stderr == "" and report["image"] == str(places / "wide.jpg") and report["page"] == 1
    assert (report["threshold"], report["threshold_source"]) == (0.02, "given")
    assert (report["task"], report["picture"], report["size"]) == ("refer", "found.jpg", [300, 150])
    assert (report["n_layers"], report["end_token"]) == (3, "</s>")
    task = PictureTask("scenes-refer")
    model, processor = task.load(places / "boxes")
    with Image.open(places / "wide.jpg") as image:
        examples = [Example(text, [], image=image.convert("RGB")) for text in ("the ghost", "the bell")]
    rows = [task.encode(processor, example) for example in examples]
    found = answer_rows(task, model, processor, rows, exit_threshold=0.02)
    ids, depth = found.tokens, found.mean_depth
    for said, text, tokens, example in zip(report["answers"], texts, ids, examples, strict=True):
        assert said["question"] == text and said["answer"] == text_of(processor, tokens)
        assert said["tokens"] == said["pieces"] == processor.tokenizer.convert_ids_to_tokens(tokens)
        assert said["box"] == pytest.approx(box_of(processor, tokens, example))
        assert said["mean_depth"] == pytest.approx(sum(said["depths"]) / len(said["depths"]))
        assert said["encoder_ms"] > 0 and said["decoder_ms"] > 0
    assert sum(sum(a["depths"]) for a in report["answers"]) / 10 == pytest.approx(depth)
    assert [p.name for p in tmp_path.iterdir()] == ["found.jpg"]
    with Image.open("found.jpg") as picture:
        assert picture.size == (512, 256) and picture.format == "JPEG"


@pytest.mark.parametrize(("task", "texts"), [("caption", []), ("vqa", ["How many bells are there", "is it red?"])])
def test_captions_and_questions(places, tmp_path, task, texts):
    done = run(places / "scene.png", *texts, "--task", task, "--model", places / "words", "--json")
    report = json.loads(done.stdout)
    kind = PictureTask(f"scenes-{task}")
    model, processor = kind.load(places / "words")
    image = Image.open(places / "scene.png").convert("RGB")
    rows = [kind.encode(processor, Example(text, [], image=image)) for text in texts or [""]]
    limit = {"max_length": model.generation_config.max_length}  # `ask` keeps to the model's own
    ids = answer_rows(kind, model, processor, rows, exit_threshold=0.5, **limit).tokens
    assert [a["answer"] for a in report["answers"]] == [text_of(processor, i) for i in ids]
    assert [a["question"] for a in report["answers"]] == (texts or [None])
    assert ["".join(a["pieces"]).strip() for a in report["answers"]] == [a["answer"] for a in report["answers"]]
    assert "picture" not in report and "box" not in report["answers"][0] and not list(tmp_path.iterdir())
    shown = run(places / "scene.png", *texts, "--task", task, "--model", places / "words")
    assert shown.exit_code == 0 and "boxes" not in shown.stdout and "box:" not in shown.stdout
    assert all(len(line) <= 60 for line in shown.stdout.splitlines())
    assert shown.stdout.count("mean depth") == len(texts or [""]) and re.search(r"\w[₁₂₃]", shown.stdout)


def test_an_answer_without_a_box_draws_nothing(places, tmp_path):
    options = [places / "scene.png", "the ghost", "--task", "refer", "--model", places / "words"]
    text = " ".join(run(*options).stdout.split())
    assert "no box in this answer" in text and "No box was found, so no picture was written." in text
    report = json.loads(run(*options, "--json").stdout)
    assert report["picture"] is None and report["answers"][0]["box"] is None and not list(tmp_path.iterdir())


def test_some_answers_without_a_box(places, answered):
    answered([10.0, 20.0, 60.0, 90.0], None, [64.0, 64.0, 100.0, 100.0])
    arguments = ["the ghost", "the bell", "the key", "--task", "refer", "--model", places / "boxes"]
    done = run(places / "scene.png", *arguments)
    lines = done.stdout.splitlines()
    assert lines.count("bin 1₁ bin 20₂ bin 30₃ bin 64₁ end₁") == 3
    assert lines.count("no box in this answer") == 1 and "box: x 10 to 60, y 20 to 90 (px of 128 x 128)" in lines
    drawn = Image.open("scene.boxes.png")
    from deed.cli.box_drawing import draw_boxes

    image = Image.open(places / "scene.png")
    wanted = draw_boxes(image, [(10, 20, 60, 90), (64, 64, 100, 100)], ["the ghost", "the key"])
    assert drawn.tobytes() == wanted.tobytes()


def test_corners_in_the_wrong_order_are_told_and_drawn(places, answered):
    answered([60.0, 20.0, 10.0, 90.0])
    done = run(places / "scene.png", "the ghost", "--task", "refer", "--model", places / "boxes", "--json")
    report = json.loads(done.stdout)
    assert report["answers"][0]["box"] == [60.0, 20.0, 10.0, 90.0] and report["picture"] == "scene.boxes.png"
    assert any("'the ghost' come in the wrong order" in note for note in report["notes"])


def test_pages_of_a_pdf_get_pictures_of_their_own(places, tmp_path):
    arguments = [places / "two.pdf", "the ghost", "--task", "refer", "--model", places / "boxes", "--json"]
    reports = [json.loads(run(*arguments, *page).stdout) for page in ([], ["--page", "2"])]
    assert [r["picture"] for r in reports] == ["two.boxes.png", "two.page2.boxes.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["two.boxes.png", "two.page2.boxes.png"]
    for report in reports:
        size = report["size"]
        x0, y0, x1, y1 = report["answers"][0]["box"]
        assert max(x0, x1) <= size[0] and max(y0, y1) <= size[1] and min(size) > 128
        with Image.open(report["picture"]) as picture:
            assert max(picture.size) == max(512, *size)


def test_bins_among_words_can_be_read():
    painter = Painter(3, "</s>")
    line = ask_picture.tokens_line(painter, ["a cat", "<bin_7>", "<bin_12>", "</s>"], [1, 2, 2, 3])
    assert line.plain == "a cat₁ bin 7  bin 12 ₂ end₃"
    assert ask_picture.tokens_line(painter, ["<bin_7>", "<bin_12>", "</s>"], [2, 2, 3]).plain == "bin 7₂ bin 12₂ end₃"


def test_an_older_picture_is_replaced_and_the_image_never(places, tmp_path, answered):
    shutil.copy(places / "scene.png", tmp_path / "own.png")
    before = (tmp_path / "own.png").read_bytes()
    (tmp_path / "own.boxes.png").write_bytes(b"older")
    answered([10.0, 20.0, 60.0, 90.0])
    run("own.png", "the ghost", "--task", "refer", "--model", places / "boxes")
    assert Image.open("own.boxes.png").size == (512, 512)
    (tmp_path / "link.png").symlink_to("own.png")
    for output in ("own.png", "link.png", "./own.png"):
        with pytest.raises(ValueError, match="is the image itself; name another file"):
            run("own.png", "the ghost", "--task", "refer", "--model", places / "boxes", "--output", output)
    assert (tmp_path / "own.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png", "q", "--task", "refer"], "nowhere.png: no such file"),
        (["cut.png", "q", "--task", "refer"], "damaged or cut off"),
        (["scene.png", "q", "--task", "vqa", "--page", "2"], "page 1 only"),
        (["two.pdf", "--task", "caption", "--page", "3"], "pages 1 to 2, got page 3"),
        (["scene.png", "q", "--task", "find"], "--task must be one of document, refer, caption, vqa, got 'find'"),
        (["scene.png", "q", "--task", "caption"], "--task caption takes no text, got 'q'"),
        (["scene.png", "", "--task", "caption"], "--task caption takes no text, got ''"),
        (["scene.png", "--task", "refer"], "--task refer needs one expression or more, each in quotes"),
        (["scene.png", "--task", "vqa"], "--task vqa needs one question or more, each in quotes"),
        (["scene.png"], "--task document needs one question or more, each in quotes"),
        (["scene.png", "a", " ", "--task", "refer"], "expression 2 is empty"),
        (["scene.png", " ?!", "--task", "vqa"], "question 1 is empty"),
        (["scene.png", "a", "cat " * 81, "--task", "refer"], "expression 2 has 81 words, more than the 80"),
        (["scene.png", "cat-" * 81, "--task", "vqa"], "question 1 has 81 words, more than the 80"),
        (["scene.png", "qxzwy" * 60, "--task", "vqa"], r"question 1 takes \d+ tokens, more than the 128"),
        (["scene.png", "q", "--task", "vqa", "--ocr", "none"], "--ocr is for documents, and --task vqa reads no text"),
        (["scene.png", "q", "--task", "refer", "--ocr", "rapidocr"], "--ocr is for documents"),
        (["scene.png", "q", "--task", "vqa", "--threshold", "-1"], "--threshold must be a number"),
        (["scene.png", "q", "--task", "vqa", "--output", "x.png"], "--output is for the boxes of --task refer"),
        (["scene.png", "q", "--output", "x.png"], "--output is for the boxes of --task refer; --task document"),
        (["scene.png", "q", "--task", "refer", "--output", "x.bmp"], r"--output must end with \.png, \.jpg, \.jpeg"),
        (["scene.png", "q", "--task", "refer", "--output", "x"], "--output must end with"),
        (["scene.png", "q", "--task", "refer", "--output", "no/x.png"], r"no/x.png cannot be written: .*/no is not a"),
        (["scene.png", "q", "--task", "refer", "--model", "nowhere"], "nowhere is not a folder with a saved model"),
        (["scene.png", "q", "--task", "refer", "--model", "latr"], "holds a LaTr.* leave --task refer out"),
        (["scene.png", "q", "--model", "boxes"], "holds an OFA model.* add --task refer, caption or vqa"),
        (["scene.png", "q", "--model", "plain"], "holds an OFA model.* add --task refer, caption or vqa"),
        (["scene.png", "q", "--task", "refer", "--model", "plain"], "holds a plain OFA, without early exit"),
        (["scene.png", "--task", "caption", "--model", CHECKPOINTS / "g2p"], "needs an OFA model"),
        (["scene.png", "q", "--task", "refer", "--model", "weights"], "the base model in .* cannot be loaded"),
        (["scene.png", "q", "--task", "refer", "--model", "exits"], "deed_exits.safetensors is damaged"),
        (["scene.png", "q", "--task", "refer", "--model", "config"], "config.json cannot be read as JSON"),
        (["scene.png", "q", "--task", "refer", "--model", "tokens"], "the processor in .*tokens cannot be loaded"),
        (["scene.png", "q", "--task", "refer", "--model", "endless"], "no end or padding token"),
    ],
)
def test_bad_input_leaves_no_file(places, tmp_path, arguments, message):
    model = [] if "--model" in arguments else ["--model", "boxes"]
    known = {path.name for path in places.iterdir()}
    named = [places / a if a in known else a for a in [*arguments, *model]]
    with pytest.raises(ValueError, match=message):
        run(*named)
    assert not list(tmp_path.iterdir())


def test_a_folder_as_output(places, tmp_path):
    (tmp_path / "out.png").mkdir()
    with pytest.raises(ValueError, match="is a folder; name a file"):
        run(places / "scene.png", "q", "--task", "refer", "--model", places / "boxes", "--output", "out.png")


def test_missing_checkpoint_is_named(places, monkeypatch, tmp_path):
    monkeypatch.setattr(ask_picture, "CHECKPOINT", tmp_path / "none")
    with pytest.raises(ValueError, match=r"the shipped checkpoint .*none is missing; pass --model"):
        run(places / "scene.png", "--task", "caption")


def test_without_location_bins_there_is_nothing_to_refer_with(places, monkeypatch):
    load = PictureTask.load

    def without(self, folder):
        model, processor = load(self, folder)
        processor.n_bins = 0
        return model, processor

    monkeypatch.setattr(PictureTask, "load", without)
    with pytest.raises(ValueError, match="has no location bins"):
        run(places / "scene.png", "q", "--task", "refer", "--model", places / "boxes")
    assert run(places / "scene.png", "q", "--task", "vqa", "--model", places / "words").exit_code == 0


@pytest.mark.skipif(not SHIPPED.is_dir(), reason=f"the shipped checkpoint {SHIPPED} is not there")
def test_the_shipped_model_on_scenes_it_never_saw(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    right = asked = 0
    for example in scenes.examples("refer", "test", 4):
        things = [
            t for t in example.scene.things if sum(o.combination == t.combination for o in example.scene.things) == 1
        ]
        example.image.save("scene.png")
        done = run("scene.png", *(f"the {t.color} {t.name}" for t in things), "--task", "refer", "--json")
        report = json.loads(done.stdout)
        right += sum(
            a["box"] is not None and iou(a["box"], t.box) >= 0.5
            for a, t in zip(report["answers"], things, strict=True)
        )
        asked += len(things)
        assert report["threshold_source"] == "calibrated" and report["picture"] == "scene.boxes.png"
    assert asked >= 8 and right >= 0.7 * asked
    caption = json.loads(run("scene.png", "--task", "caption", "--json").stdout)["answers"][0]
    assert len(caption["answer"].split()) >= 5 and caption["mean_depth"] < report["n_layers"]
