"""`deed demo --task scenes`: pictures that training never saw, each with a referring expression, a caption and a question;
half of them with combinations of object and color that training saw, half with held-out ones; and easy-vqa beside."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deed.utils.progress import Progress, track

from .demo_measure import Page, Sample
from .demo_results import FEW_THRESHOLDS, Question, part_results

SEED = 0  # of the scenes, and of what is taken of easy-vqa
COUNT = 50  # scenes of each split, pictures of easy-vqa
SPLITS = {"test": "known combinations", "unseen": "unseen combinations"}
EASY_VQA = "easy-vqa"
# Of each task its name and its metric's, as shown; CIDEr-D is 0..10, the others 0..1.
TASKS = {
    "refer": ("refer", "Acc@0.5"),
    "caption": ("caption", "CIDEr-D"),
    "vqa": ("vqa", "accuracy"),
    "easyvqa": (EASY_VQA, "accuracy"),
}
TIMED = 42  # answers on which the curve is timed: six scenes of each split, six of easy-vqa
THRESHOLDS = FEW_THRESHOLDS
DRAWN = 8  # scenes that the report shows, the first of both splits
SCORE_NOTE = (
    "The score is the mean over the tasks of each one's own metric; CIDEr-D, which is 0 to 10, is divided by 10 for it. "
    "CIDEr-D weighs words by the references of the captions scored, alike for full depth and early exit."
)
RIGHT_NOTE = (
    "Right is a box that overlaps the expected one by half at least (intersection over union), a caption that is word for "
    "word one of its references, punctuation aside, and an answer that is the expected one. Boxes are told as left, top, "
    "right and bottom, px of the picture."
)


@dataclass
class Drawn:
    """The scenes that are drawn, by name and place, and small pictures of all by name."""

    scenes: list[tuple[str, str, Any]] = field(default_factory=list)
    small: dict[str, str] = field(default_factory=dict)


def loaded_by() -> Any:
    """The task that loads the model."""
    from deed.tasks.pictures import PictureTask

    return PictureTask("scenes-refer")


def check(count: int, words: Sequence[str]) -> None:
    """Before anything is loaded.

    Raises:
        ValueError: more pictures asked for than there are, or a package that they need is missing.
    """
    for package in ("PIL", "fonticon_mdi7", "easy_vqa", "tokenizers"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(
                f"the scenes demo needs {package}, which is not installed: "
                'pip install "deed-transformers[scenes,report]"'
            )
    import easy_vqa

    most = len(easy_vqa.get_test_image_paths())
    if count > most:
        raise ValueError(f"--count must be at most {most}, the pictures of easy-vqa's test split, got {count}")


def sample(processor: Any, count: int, words: Sequence[str], bars: Progress) -> Sample:
    """Draw the scenes and encode what is asked about them: by turns a known one, an unseen one, one of easy-vqa.

    Args:
        processor: encodes.
        count: scenes of each split, and pictures of easy-vqa.
        words: none.
        bars: told how far this has come.
    """
    from deed.data.synthetic import scenes
    from deed.report.sheets import picture_uri
    from deed.tasks.pictures import PictureTask

    tasks = {name: PictureTask(name if name == "easyvqa" else f"scenes-{name}") for name in TASKS}
    asked: list[Question] = []
    drawn = Drawn()

    def ask(name: str, example: Any, place: str, picture: str, seen: Any = None) -> Any:
        task = tasks[name]
        example = task.opened(example)
        row = task.encode(processor, example)
        row["patch_images"] = row["patch_images"] if seen is None else seen  # rows of one picture share its tensor
        question = example.question or "what does the image describe?"
        told = {"task": name, "question": question, "picture": picture, "place": place, "kind": example.kind}
        asked.append(Question(task, task.closed(example), row, told))
        return row["patch_images"]

    made = {(name, split): scenes.examples(name, split, count, SEED) for name in scenes.TASKS for split in SPLITS}
    with bars.bar("drawing scenes", total=count) as bar:
        for i, easy in enumerate(track(easy_vqa_questions(count), bar)):
            for split, place in SPLITS.items():
                picture, scene = f"{split}/{i}", made["refer", split][i].scene
                if len(drawn.scenes) < DRAWN:
                    drawn.scenes.append((picture, place, scene))
                drawn.small[picture] = picture_uri(scene.image)
                seen = None
                for name in scenes.TASKS:
                    example = replace(made[name, split][i].as_example(), image=scene.image)
                    seen = ask(name, example, place, picture, seen)
            picture = f"{EASY_VQA}/{easy.image.stem}"
            easy = tasks["easyvqa"].opened(easy)
            drawn.small[picture] = picture_uri(easy.image)
            ask("easyvqa", easy, EASY_VQA, picture)
    about = {
        "title": "scenes of pictograms",
        "task": "scenes",
        "unit": "answer",
        "score_name": "score",
        "score_note": SCORE_NOTE,
        "right_note": RIGHT_NOTE,
        "sample": f"{len(asked)} answers about {2 * count} scenes and {count} pictures of {EASY_VQA} that training never saw",
    }
    settings = {
        "scenes": ", ".join(f"{count} of {split} ({place})" for split, place in SPLITS.items()) + f"; seed {SEED}",
        "asked": f"expression, caption and question per scene; one question about each of {count} pictures of {EASY_VQA}",
    }
    return Sample(asked, about, settings, drawn)


def easy_vqa_questions(count: int) -> list[Any]:
    """One question about each of so many pictures of the test split, always the same; fewer are the head of more."""
    from deed.data.readers import easyvqa

    by_picture: dict[Path, list[Any]] = {}
    for example in easyvqa.read(None, "test"):
        by_picture.setdefault(example.image, []).append(example)  # type: ignore[arg-type]
    pictures = sorted(by_picture)
    random.Random(SEED).shuffle(pictures)
    return [random.Random(f"{SEED}/{picture.stem}").choice(by_picture[picture]) for picture in pictures[:count]]


def complete(page: Page, sample: Sample, measured: Any, judge: Any, processor: Any) -> None:
    """Tells boxes in pixels, and adds the scenes drawn and the headline numbers of each task and half.

    Args:
        page: gets `groups`, `scenes` and pictures.
        sample: of `sample`.
        measured, judge: of the run.
        processor: decodes boxes.
    """
    from deed.metrics.boxes import iou
    from deed.report.scenes import exact_uri, scene_entry

    examples, drawn = page.results["examples"], sample.kept
    for row, a, full, deed in zip(examples, sample.asked, measured.full.runs, measured.deed.runs, strict=True):
        if a.name == "refer":
            wanted = a.example.extra["box"]
            box, full_box = (a.task.answer(processor, run.tokens, a.example) for run in (deed, full))
            row |= {"box": box, "full_depth_box": full_box, "expected_box": wanted, "expected": [box_text(wanted)]}
            row |= {
                "overlap": iou(box, wanted) if box else 0.0,
                "answer": box_text(box),
                "full_depth": box_text(full_box),
            }
            row["pieces"] = box_pieces(processor, deed.tokens, row["pieces"], box)
        elif a.name == "caption":
            row["nearest"] = nearest(row["answer"], a.example.answers)
        row["pieces"][0] = row["pieces"][0].lstrip(" ")  # answers begin with a space
    page.results["groups"] = groups(sample, measured, judge, page.results["n_layers"])
    page.results["scenes"] = [
        scene_entry(name, place, scene, [(i, e) for i, e in enumerate(examples) if e["picture"] == name])
        for name, place, scene in drawn.scenes
    ]
    page.pictures = [exact_uri(scene.image) for _, _, scene in drawn.scenes]
    page.thumbs = drawn.small


def groups(sample: Sample, measured: Any, judge: Any, n_layers: int) -> list[dict[str, Any]]:
    """The headline numbers again for each task, known and unseen scenes of it apart, and for known and unseen scenes.

    Each with `score` in [0, 1] and `value` by the metric named, 0..`best`.

    Args:
        sample: of `sample`.
        measured, judge: of the run.
        n_layers: of the decoder.
    """
    asked = sample.asked

    def where(**wanted: str) -> list[int]:
        return [i for i, a in enumerate(asked) if all(a.told[key] == value for key, value in wanted.items())]

    found = []
    parts = [(name, metric, judge.tasks[task].best, where(task=task), task) for task, (name, metric) in TASKS.items()]
    parts += [(place, "score", 1.0, where(place=place), "") for place in SPLITS.values()]
    for name, metric, best, at, task in parts:
        group = {"name": name, "metric": metric, "best": best, "answers": len(at)}
        group |= part_results(measured, judge, at, n_layers)
        for key in ("full_depth", "deed"):
            group[key]["value"] = group[key]["tasks"][task] if task else group[key]["score"]
        group["halves"] = {}
        for place in SPLITS.values():
            half = where(task=task, place=place)
            if half:
                group["halves"][place] = {
                    key: judge.scores([run.tokens for run in subject.runs], half)["tasks"][task]
                    for key, subject in (("full_depth", measured.full), ("deed", measured.deed))
                }
        found.append(group)
    return found


def box_text(box: Sequence[float] | None) -> str:
    """`box 12 40 57 88 px`: left, top, right, bottom."""
    return "no box" if box is None else "box " + " ".join(f"{value:.0f}" for value in box) + " px"


def box_pieces(processor: Any, tokens: Sequence[int], pieces: Sequence[str], box: Any) -> list[str]:
    """`pieces` with the bins that make the box as what `box_text` says, each token its number; other bins as `bin 12`.

    Args:
        processor: knows which tokens are bins.
        tokens: generated ids.
        pieces: what each token adds to the text.
        box: of these tokens, or None.
    """
    told, left = list(pieces), [] if box is None else box_text(box).split(" ")[1:-1]
    for i, token in enumerate(tokens):
        number = token - processor.first_bin
        if not 0 <= number < processor.n_bins:
            continue
        if not left:
            told[i] = f" bin {number}"
            continue
        told[i] = f"{'box' if len(left) == 4 else ''} {left.pop(0)}{'' if left else ' px'}"
    return told


def nearest(answer: str, references: Sequence[str]) -> str:
    """The reference with the most in common with a caption, word by word; the first of equals."""
    from difflib import SequenceMatcher

    from deed.metrics.caption_words import words

    said = words(answer)
    return max(references, key=lambda reference: SequenceMatcher(None, said, words(reference)).ratio())
