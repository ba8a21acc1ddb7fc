"""Small data sets in the formats that the readers read, with images that open; a question and answer per two numbers.

Each writer fills a folder with `n` questions per split and returns it.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from deed.data.readers.stvqa import held_out

SIZE = 200, 100  # pixels, width and height


def write_docvqa(folder: Path, n: int = 4) -> Path:
    """Splits train, val (both with question types) and test (without answers); two questions a page."""
    for split in ("train", "val", "test"):
        rows = []
        for i in range(n):
            document, page = f"{split[:2]}np{i // 2:04}", "7"
            rows.append(
                {
                    "questionId": 1000 + i,
                    "question": f"What is number {i % 2}?",
                    "image": f"documents/{document}_{page}.png",
                    "docId": 50 + i,
                    "ucsf_document_id": document,
                    "ucsf_document_page_no": page,
                    "answers": [f"{i // 2}0{i % 2}", f"no. {i // 2}0{i % 2}"],
                    "data_split": split,
                }
            )
            if split == "test":
                del rows[-1]["answers"]
            else:
                rows[-1]["question_types"] = ["form", "layout"]
            write_image(folder / rows[-1]["image"])
            lines = [_line(10, "Number 0:", f"{i // 2}00"), _line(50, "Number 1:", f"{i // 2}01")]
            result = {"page": 1, "clockwiseOrientation": 0.1, "width": SIZE[0], "height": SIZE[1], "unit": "pixel"}
            ocr = {"status": "Succeeded", "recognitionResults": [{**result, "lines": lines}]}
            write_json(folder / "ocr_results" / f"{document}_{page}.json", ocr)
        content = {"dataset_name": "docvqa", "dataset_split": split, "data": rows}
        write_json(folder / f"{split}_v1.0{'' if split == 'test' else '_withQT'}.json", content)
    return folder


def _line(top: int, *texts: str) -> dict:
    words = []
    for left, text in zip((20, 60, 120), " ".join(texts).split(), strict=True):
        # a little askew: corners clockwise from the upper left
        box = [left, top + 2, left + 30, top, left + 31, top + 20, left + 1, top + 22]
        words.append({"boundingBox": box, "text": text, "confidence": "Low"})
    return {
        "boundingBox": [20, top + 2, 150, top, 151, top + 20, 21, top + 22],
        "text": " ".join(texts),
        "words": words,
    }


def write_imdb(folder: Path, n: int = 4, pages: int = 0) -> Path:
    """DocVQA as an imdb: SP-DocVQA's, or with `pages` MP-DocVQA's, of which the last page holds the answer."""
    for split in ("train", "val", "test"):
        rows: list[dict] = [{"creation_time": 1.5, "version": 0.1, "dataset_type": split}]
        for i in range(n):
            row = {
                "question_id": np.int64(1000 + i) if i % 2 else 1000 + i,
                "question": "What is the number?",
                "image_name": f"{split}{i}_p0",
                "ocr_tokens": ["Number:", f"{i}00"],
                "ocr_normalized_boxes": np.array([[0.1, 0.2, 0.3, 0.4], [0.35, 0.2, 0.5, 0.4]], dtype=np.float32),
            }
            if split != "test":
                row["answers"] = [f"{i}00"]
            if pages:
                row["image_name"] = [f"{split}{i}_p{page}" for page in range(pages)]
                row["ocr_tokens"] = [["nothing"]] * (pages - 1) + [row["ocr_tokens"]]
                row["ocr_normalized_boxes"] = [np.zeros((1, 4))] * (pages - 1) + [row["ocr_normalized_boxes"]]
                row |= {"answer_page_idx": pages - 1, "imdb_doc_pages": pages}
            for name in row["image_name"] if pages else [row["image_name"]]:
                write_image(folder / "images" / (name + (".jpg" if pages else ".png")))
            rows.append(row)
        write_npy(folder / f"{'' if pages else 'new_'}imdb_{split}.npy", rows)
    return folder


def write_textvqa(folder: Path, n: int = 4) -> Path:
    """Splits train, val and test (without answers); an image per question, id `{split}{i}`."""
    for split in ("train", "val", "test"):
        rows, ocr = [], []
        for i in range(n):
            image_id = f"{split}{i}"
            row = {"question": "what number is it?", "image_id": image_id, "question_id": 30000 + i}
            row |= {"image_width": SIZE[0], "image_height": SIZE[1], "image_classes": ["Number"], "set_name": split}
            if split != "test":
                row["answers"] = [f"{i}00"] * 8 + ["number", "unanswerable"]
            rows.append(row)
            box = {"top_left_x": 0.1, "top_left_y": 0.25, "width": 0.3, "height": 0.5, "rotation": 3.5}
            info = [
                {"word": "number", "bounding_box": box},
                {"word": f"{i}00", "bounding_box": {**box, "top_left_x": 0.8}},  # goes past the right edge
            ]
            ocr.append({"image_id": image_id, "ocr_tokens": [x["word"] for x in info], "ocr_info": info})
            write_image(folder / ("test_images" if split == "test" else "train_images") / f"{image_id}.jpg")
        write_json(folder / f"TextVQA_0.5.1_{split}.json", {"dataset_type": split, "data": rows})
        write_json(folder / f"TextVQA_Rosetta_OCR_v0.2_{split}.json", {"data": ocr})
    return folder


def write_stvqa(folder: Path, n: int = 4) -> Path:
    """Files train (`n` questions of its train part, `n` of its validation part) and test (without answers)."""
    numbers = range(100 * n)
    held = [i for i in numbers if held_out(f"coco-text/image_{i}.jpg")][:n]
    kept = [i for i in numbers if not held_out(f"coco-text/image_{i}.jpg")][:n]
    for split, chosen in (("train", sorted(kept + held)), ("test", numbers[:n])):
        rows = []
        for i in chosen:
            row = {"dataset": "coco-text", "file_name": f"image_{i}.jpg", "question": "What number?", "question_id": i}
            row |= {"file_path": f"{split}/coco-text/image_{i}.jpg", "set_name": split}
            if split == "train":
                row["answers"] = [str(i), f"number {i}"]
            rows.append(row)
            write_image(folder / row["file_path"])
        write_json(folder / f"{split}_task_3.json", {"task": "3", "data": rows})
    return folder


def write_ocrvqa(folder: Path, n: int = 4) -> Path:
    """Splits train, validation and test: `n` questions each, two a cover; the second cover of each is a .png."""
    content = {}
    for split in (1, 2, 3):
        for i in range((n + 1) // 2):
            image_id, ending = f"{split}0000{i}", ".png" if i == 1 else ".jpg"
            questions = ["Who wrote this book?", "What is the title of this book?"][: n - 2 * i]
            answers = [f"Author {i}", f"Title {i}"][: n - 2 * i]
            content[image_id] = {"questions": questions, "answers": answers, "split": split, "genre": "Travel"}
            content[image_id] |= {"imageURL": f"http://images.example/I/51{i}{ending}", "title": f"Title {i}"}
            write_image(folder / "images" / f"{image_id}{ending}")
    write_json(folder / "dataset.json", content)
    return folder


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, "white").save(path)


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_npy(path: Path, rows: list) -> None:
    """An array of objects, one per row, as `np.save` pickles it."""
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    np.save(path, array, allow_pickle=True)


def edit_json(path: Path, *keys: str | int, value: object) -> None:
    """Sets, or with `value=...` deletes, what the keys lead to."""
    content = json.loads(path.read_text())
    at = content
    for key in keys[:-1]:
        at = at[key]
    if value is ...:
        del at[keys[-1]]
    else:
        at[keys[-1]] = value
    write_json(path, content)
