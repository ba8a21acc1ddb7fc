"""Each data set in the folders that it is handed out in today, and with pictures missing."""

import pickle
import shutil

import pytest

from data.formats import write_docvqa, write_image, write_imdb, write_ocrvqa, write_stvqa, write_textvqa
from data.picture_formats import (
    coco_refs,
    write_coco_captions,
    write_karpathy,
    write_refcoco,
    write_snli_ve,
    write_tsv,
    write_vqav2,
)
from data.tiny_ofa import write_ofa_tsv
from deed.data import registry
from deed.data.readers import (
    coco_captions,
    docvqa,
    docvqa_imdb,
    easyvqa,
    ocrvqa,
    ofa_tsv,
    refcoco,
    snli_ve,
    stvqa,
    textvqa,
    vqav2,
)
from deed.errors import DataError, MissingPictureError, SkippedPictures


def move(folder, *moves):
    """What is at the first of each pair goes to the second; `*` in the first takes all there are."""
    for source, target in moves:
        for path in sorted(folder.glob(source)):
            goal = folder / target / path.name if "*" in source else folder / target
            goal.parent.mkdir(parents=True, exist_ok=True)
            path.rename(goal)
    return folder


def facts(examples):
    return [(e.id, e.question, e.answers, e.words, e.image.name) for e in examples]


NOW = [("*.json", "spdocvqa_qas"), ("documents", "spdocvqa_images"), ("ocr_results", "spdocvqa_ocr")]
LAYOUTS = {
    "docvqa, three archives": (write_docvqa, NOW, docvqa.read),
    "docvqa, questions beside": (write_docvqa, [*NOW, ("spdocvqa_qas/*.json", ".")], docvqa.read),
    "docvqa, other names": (
        write_docvqa,
        [("*.json", "annotations"), ("documents", "images"), ("ocr_results", "ocr")],
        docvqa.read,
    ),
    "imdb archive": (
        write_imdb,
        [("*.npy", "spdocvqa_imdb"), ("images", "spdocvqa_images")],
        docvqa_imdb.read,
    ),
    "textvqa, archive's folder": (
        write_textvqa,
        [("train_images", "train_val_images/train_images"), ("TextVQA_0*.json", "annotations")],
        textvqa.read,
    ),
    "stvqa, pictures in train_imgs": (write_stvqa, [("train", "train_imgs")], stvqa.read),
    "stvqa, folders by kind": (
        write_stvqa,
        [("*.json", "Annotations"), ("train", "Images/train"), ("test", "Images/test")],
        stvqa.read,
    ),
    "stvqa, a folder a split": (
        write_stvqa,
        [("train_task_3.json", "train/train_task_3.json"), ("test_task_3.json", "test/test_task_3.json")],
        stvqa.read,
    ),
    "ocrvqa, pictures beside": (write_ocrvqa, [("images/*", ".")], ocrvqa.read),
    "vqav2, official code's": (
        write_vqav2,
        [
            ("*_questions.json", "Questions"),
            ("*_annotations.json", "Annotations"),
            ("train2014", "Images/mscoco/train2014"),
        ],
        vqav2.read,
    ),
    "vqav2, all in annotations": (
        write_vqav2,
        [("*.json", "annotations"), ("train2014", "coco/images/train2014")],
        vqav2.read,
    ),
    "refcoco": (
        lambda folder: write_refcoco(folder, pickle.dumps(coco_refs())),
        [("../images/mscoco/images/train2014", "../coco/train2014")],
        refcoco.read,
    ),
    "captions": (write_coco_captions, [("train2014", "images/train2014")], coco_captions.read),
    "karpathy": (write_karpathy, [("train2014", "coco/train2014")], coco_captions.read),
    "snli_ve, folder twice": (
        write_snli_ve,
        [("flickr30k_images", "pictures"), ("pictures", "flickr30k_images/flickr30k_images")],
        snli_ve.read,
    ),
    "snli_ve, flickr30k": (write_snli_ve, [("flickr30k_images", "flickr30k/images")], snli_ve.read),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_that_data_sets_come_in(tmp_path, name):
    write, moves, read = LAYOUTS[name]
    folder = write(tmp_path / "a" / "b")
    expected = facts(read(folder, "train"))
    assert expected
    move(folder, *moves)
    assert facts(read(folder, "train")) == expected


@pytest.mark.parametrize("inside", ["spdocvqa_qas", "."])
def test_docvqa_by_the_folder_of_its_questions(tmp_path, inside):
    expected = facts(docvqa.read(write_docvqa(tmp_path / "a"), "val"))
    folder = move(write_docvqa(tmp_path / "b"), *NOW)
    assert facts(docvqa.read(folder / inside, "val")) == expected
    assert docvqa.read(folder, "test") and len(list(docvqa.read(folder / inside, "test"))) == 4
    with pytest.raises(DataError, match=r"no split 'dev'; found test, train, val$"):
        docvqa.read(folder, "dev")


def test_docvqa_with_its_imdb_beside_the_questions(tmp_path):
    folder = move(write_docvqa(tmp_path), *NOW)
    write_imdb(folder / "spdocvqa_imdb")
    assert next(docvqa.read(folder, "train")).kind == "form"  # questions before imdb, which has no types
    shutil.rmtree(folder / "spdocvqa_qas")
    shutil.copytree(folder / "spdocvqa_imdb" / "images", folder / "images")
    assert next(docvqa.read(folder, "train")).kind == ""


# Pictures that are gone


def write_easyvqa(folder):
    return None


SETS = {
    "docvqa": (write_docvqa, "documents/*.png"),
    "imdb": (write_imdb, "images/*.png"),
    "textvqa": (write_textvqa, "train_images/*.jpg"),
    "stvqa": (write_stvqa, "train/coco-text/*.jpg"),
    "ocrvqa": (write_ocrvqa, "images/*"),
    "vqav2": (write_vqav2, "train2014/*.jpg"),
    "refcoco": (
        lambda folder: write_refcoco(folder, pickle.dumps(coco_refs())),
        "../images/mscoco/images/train2014/*",
    ),
    "coco_captions": (write_coco_captions, "train2014/*.jpg"),
    "karpathy": (write_karpathy, "train2014/*.jpg"),
    "snli_ve": (write_snli_ve, "flickr30k_images/*.jpg"),
}
TASKS = {"imdb": "docvqa", "karpathy": "coco_captions"}


@pytest.mark.parametrize("emptied", [False, True], ids=["deleted", "empty"])
@pytest.mark.parametrize("name", SETS)
def test_pictures_that_are_gone(tmp_path, name, emptied):
    write, pictures = SETS[name]
    folder, task = write(tmp_path / "a" / "b"), TASKS.get(name, name)
    whole = list(registry.read(task, folder, "train"))
    gone = min({example.image for example in whole}, key=lambda path: [e.image for e in whole].index(path))
    assert gone in folder.glob(pictures) or gone.name in [path.name for path in folder.glob(pictures)]
    gone.unlink()
    if emptied:
        gone.touch()  # what a download that failed leaves

    with pytest.raises(
        MissingPictureError, match=r"found none; to leave out .* pass skip_missing=True \(--skip-missing\)$"
    ):
        list(registry.read(task, folder, "train"))

    with pytest.warns(
        SkippedPictures, match=r"^\d+ entries whose picture is missing were left out; the first: "
    ) as caught:
        rest = registry.read(task, folder, "train", skip_missing=True)
        assert rest.skipped == 0
        found = list(rest)
    assert facts(found) == facts(example for example in whole if example.image != gone)
    assert 0 < rest.skipped <= len(whole) - len(found)
    assert (
        len(caught) == 1
        and str(caught[0].message).startswith(f"{rest.skipped} ")
        and gone.name in str(caught[0].message)
    )


def test_no_warning_where_none_is_missing(tmp_path, recwarn):
    examples = registry.read("ocrvqa", write_ocrvqa(tmp_path), "train", skip_missing=True)
    assert len(list(examples)) == 4 and examples.skipped == 0
    assert not [warning for warning in recwarn if warning.category is SkippedPictures]


def test_ocrvqas_dead_links_are_counted_by_cover(tmp_path):
    folder = write_ocrvqa(tmp_path)
    (folder / "images" / "100000.jpg").unlink()
    with pytest.warns(SkippedPictures, match="1 entries .*100000"):
        examples = ocrvqa.read(folder, "train", skip_missing=True)
        assert [example.id for example in examples] == ["100001-0", "100001-1"]
    assert examples.skipped == 1


def test_easyvqas_pictures(monkeypatch, tmp_path):
    import easy_vqa

    write_image(tmp_path / "0.png")
    images = {0: str(tmp_path / "0.png"), 1: str(tmp_path / "1.png")}
    monkeypatch.setattr(easy_vqa, "get_test_questions", lambda: (["a?", "b?", "c?"], ["yes", "red", "no"], [0, 1, 0]))
    monkeypatch.setattr(easy_vqa, "get_test_image_paths", lambda: images)
    with pytest.warns(SkippedPictures, match="1 entries .*Easy-VQA test, question 1"):
        assert [example.id for example in easyvqa.read(None, "test", skip_missing=True)] == ["test-0", "test-2"]


def test_tsv_rows_without_a_picture(tmp_path):
    for task, path in write_ofa_tsv(tmp_path).items():
        rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
        column = 2 if task == "snli_ve" else len(rows[0]) - 1
        rows[0][column] = ""
        write_tsv(path, rows)
        with pytest.raises(MissingPictureError, match=r"line 1 .*'image'.*got nothing; .*skip_missing"):
            list(ofa_tsv.read_split(task, path, "val"))
        with pytest.warns(SkippedPictures, match="1 entries"):
            assert [e.id for e in registry.read(f"ofa_tsv_{task}", path, "val", skip_missing=True)] == ["2"]


def test_broken_entries_are_not_skipped(tmp_path):
    folder = write_ocrvqa(tmp_path)
    text = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(text.replace('"split": 1', '"split": "x"', 1))
    with pytest.raises(DataError, match="'split': expected a whole number"):
        list(ocrvqa.read(folder, "train", skip_missing=True))


def test_reading_without_the_extra(monkeypatch, tmp_path):
    import sys

    for name in [name for name in sys.modules if name.startswith("deed.data.readers.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(
        DataError, match=r'data sets cannot be read .*msgspec.*pip install "deed-transformers\[documents\]"'
    ):
        registry.read("ocrvqa", write_ocrvqa(tmp_path), "train")
