"""Small data sets about pictures, in the formats of VQAv2, RefCOCO, COCO captions, SNLI-VE and OFA's own files.

Each writer fills a folder and returns it. Pictures are white and open; their sizes are those of `formats.SIZE`.
"""

import base64
import json
import struct
from io import BytesIO
from pathlib import Path

from PIL import Image

from data.formats import SIZE, write_image, write_json


def write_vqav2(folder: Path, n: int = 4) -> Path:
    """Splits train2014, val2014 (annotated), test2015 and test-dev2015; annotations in the questions' order."""
    for split in ("train2014", "val2014", "test2015", "test-dev2015"):
        pictures = split.replace("-dev", "")
        questions, annotations = [], []
        for i in range(n):
            image_id = 458752 + i // 2
            questions.append({"image_id": image_id, "question": f"How many {i}s?", "question_id": 1000 * image_id + i})
            given = [str(i)] * 7 + ["many", "none", "many"]
            annotations.append(
                {
                    "question_type": "how many",
                    "multiple_choice_answer": str(i),
                    "answers": [
                        {"answer": text, "answer_confidence": "yes", "answer_id": j + 1}
                        for j, text in enumerate(given)
                    ],
                    "image_id": image_id,
                    "answer_type": "number",
                    "question_id": 1000 * image_id + i,
                }
            )
            write_image(folder / pictures / f"COCO_{pictures}_{image_id:012d}.jpg")
        info = {"info": {"version": "2.0"}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": split}
        write_json(
            folder / f"v2_OpenEnded_mscoco_{split}_questions.json", {**info, "license": {}, "questions": questions}
        )
        if not split.startswith("test"):
            write_json(folder / f"v2_mscoco_{split}_annotations.json", {**info, "annotations": annotations})
    return folder


def coco_refs() -> list[dict]:
    """Four things, two expressions each: the first two of train, then val and testA."""
    refs = []
    for i, split in enumerate(("train", "train", "val", "testA")):
        sentences = [
            {"sent_id": 10 * i + j, "sent": text, "raw": text.title(), "tokens": text.split()}
            for j, text in enumerate((f"left box {i}", f"the box {i}"))
        ]
        ref = {"ref_id": 50 + i, "ann_id": 1719310 + i, "image_id": 581857 + i // 2, "category_id": 1, "split": split}
        ref |= {"sent_ids": [10 * i, 10 * i + 1], "file_name": f"COCO_train2014_{581857 + i // 2:012d}_{i}.jpg"}
        refs.append({**ref, "sentences": sentences})
    return refs


def write_refcoco(root: Path, refs: bytes, name: str = "refcoco", by: str = "unc") -> Path:
    """A data set's folder under `root` with the pickle given; pictures as lichengunc/refer has them, beside it."""
    folder = root / name
    images, annotations = [], []
    for i in range(4):
        image_id = 581857 + i // 2
        box = [10.5 + i, 20.0, 30.25, 40.0]
        annotation = {
            "id": 1719310 + i,
            "image_id": image_id,
            "bbox": box,
            "category_id": 1,
            "area": 9.5,
            "iscrowd": 0,
        }
        annotations.append({**annotation, "segmentation": [[1.5, 2, 3, 4, 5, 6.25]]})
        file_name = f"COCO_train2014_{image_id:012d}.jpg"
        write_image(root / "images" / "mscoco" / "images" / "train2014" / file_name)
        if i % 2 == 0:
            images.append({"id": image_id, "file_name": file_name, "width": SIZE[0], "height": SIZE[1], "license": 1})
    content = {"info": {}, "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "box"}]}
    write_json(folder / "instances.json", {**content, "licenses": []})
    (folder / f"refs({by}).p").write_bytes(refs)
    return folder


def python2_pickle(value: object, protocol: int = 0) -> bytes:
    """As Python 2 writes it, less the memo: its `str` as bytes (of Latin-1 here), protocol 0 as text, 2 as cPickle's."""

    def write(value: object) -> bytes:
        if isinstance(value, dict):
            pairs = [write(k) + write(v) for k, v in value.items()]
            return b"}(" + b"".join(pairs) + b"u" if protocol else b"(d" + b"".join(pair + b"s" for pair in pairs)
        if isinstance(value, list):
            items = [write(item) for item in value]
            return b"](" + b"".join(items) + b"e" if protocol else b"(l" + b"".join(item + b"a" for item in items)
        if isinstance(value, str):
            text = value.encode("latin1")
            return b"U" + bytes([len(text)]) + text if protocol else b"S" + repr(text)[1:].encode("ascii") + b"\n"
        assert isinstance(value, int)
        return b"J" + struct.pack("<i", value) if protocol else f"I{value}\n".encode("ascii")

    return (b"\x80\x02" if protocol else b"") + write(value) + b"."


def write_coco_captions(folder: Path) -> Path:
    """COCO's train2014 (three pictures) and val2014 (two); the annotations of a picture do not follow each other."""
    for split, count in (("train2014", 3), ("val2014", 2)):
        images, annotations = [], []
        for i in range(count):
            file_name = f"COCO_{split}_{100 + i:012d}.jpg"
            write_image(folder / split / file_name)
            images.append({"id": 100 + i, "file_name": file_name, "height": SIZE[1], "width": SIZE[0], "license": 3})
        for j in range(5):
            annotations += [
                {"image_id": 100 + i, "id": 10 * i + j, "caption": f"Picture {i}, said {j}.\n"} for i in range(count)
            ]
        content = {"info": {"year": 2014}, "images": images, "licenses": [], "annotations": annotations}
        write_json(folder / "annotations" / f"captions_{split}.json", content)
    return folder


def write_karpathy(folder: Path) -> Path:
    """Two pictures of train, one each of restval, val and test, in mixed order."""
    images = []
    for i, split in enumerate(("test", "train", "restval", "val", "train")):
        filepath = "train2014" if split == "train" else "val2014"
        filename = f"COCO_{filepath}_{200 + i:012d}.jpg"
        write_image(folder / filepath / filename)
        sentences = [
            {"tokens": ["a", "cat", str(j)], "raw": f"A cat, {j}. ", "imgid": i, "sentid": 5 * i + j} for j in range(5)
        ]
        image = {"filepath": filepath, "sentids": [5 * i + j for j in range(5)], "filename": filename, "imgid": i}
        images.append({**image, "split": split, "sentences": sentences, "cocoid": 200 + i})
    write_json(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return folder


def write_snli_ve(folder: Path, n: int = 3) -> Path:
    """Splits train, dev and test, `n` lines each, labels in turn."""
    for split in ("train", "dev", "test"):
        lines = []
        for i in range(n):
            image_id = f"47055529{i}"
            label = ("neutral", "contradiction", "entailment")[i % 3]
            row = {"annotator_labels": [label], "captionID": f"{image_id}.jpg#2", "gold_label": label}
            row |= {
                "pairID": f"{image_id}.jpg#2r1{label[0]}",
                "sentence1": "Two women embrace.",
                "Flickr30K_ID": image_id,
            }
            row |= {"sentence1_binary_parse": "( Two women )", "sentence2": f"The sisters hug {i} é."}
            lines.append(json.dumps(row, ensure_ascii=False))
            write_image(folder / "flickr30k_images" / f"{image_id}.jpg")
        (folder / f"snli_ve_{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def tsv_image(color: str = "red") -> str:
    """A picture as OFA's files hold it: PNG in url-safe base64."""
    file = BytesIO()
    Image.new("RGB", SIZE, color).save(file, "PNG")
    return base64.urlsafe_b64encode(file.getvalue()).decode("ascii")


def write_tsv(path: Path, rows: list[list[str]]) -> Path:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path
