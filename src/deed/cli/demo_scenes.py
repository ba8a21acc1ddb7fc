"""`deed demo --task scenes`: pictures that training never saw, each with a referring expression, a caption and a question;
half of them with combinations of object and colour that training saw, half with held-out ones; and easy-vqa beside."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

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
TIMED_FOR_CURVE = 42  # answers: six scenes of each split, six of easy-vqa
THRESHOLDS = (0.7, 0.9, 0.95, 0.99, 0.999, 2.0)  # fewer than bench.THRESHOLDS: an answer takes long at full depth
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
class Asked:
    """What is asked about one picture, with the model's inputs for it; rows of one picture share its tensor."""

    task: str
    example: Any
    row: dict[str, Any]
    place: str
    picture: str

    @property
    def inputs(self) -> dict[str, Any]:
        """As a batch of one."""
        import torch

        ids = self.row["input_ids"][None]
        pictures = self.row["patch_images"][None]
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "patch_images": pictures}


@dataclass
class Sample:
    """All that is asked in the order of the report, the scenes that are drawn, and small pictures by name."""

    asked: list[Asked] = field(default_factory=list)
    drawn: list[Any] = field(default_factory=list)
    small: dict[str, str] = field(default_factory=dict)


def check_scenes(count: int) -> None:
    """Raises:
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


def take_sample(processor: Any, count: int, bars: Any) -> Sample:
    """Draw the scenes and encode what is asked about them: by turns a known one, an unseen one, one of easy-vqa."""
    from deed.data.synthetic import scenes
    from deed.report.sheets import picture_uri
    from deed.tasks.scenes import encode
    from deed.utils.images import load_image

    bar = bars.add_task("drawing scenes", total=count)
    sample = Sample()
    made = {(task, split): scenes.examples(task, split, count, SEED) for task in scenes.TASKS for split in SPLITS}
    for i, easy in enumerate(easy_vqa_questions(count)):
        for split, place in SPLITS.items():
            name, scene = f"{split}/{i}", made["refer", split][i].scene
            if len(sample.drawn) < DRAWN:
                sample.drawn.append((name, place, scene))
            sample.small[name] = picture_uri(scene.image)
            seen = None
            for task in scenes.TASKS:
                example = replace(made[task, split][i].as_example(), image=scene.image)
                row = encode(processor, task, example)
                seen = row["patch_images"] if seen is None else seen
                sample.asked.append(Asked(task, example, {**row, "patch_images": seen}, place, name))
        name = f"{EASY_VQA}/{easy.image.stem}"
        easy = replace(easy, image=load_image(easy.image))
        sample.small[name] = picture_uri(easy.image)
        sample.asked.append(Asked("easyvqa", easy, encode(processor, "easyvqa", easy), EASY_VQA, name))
        bars.advance(bar)
    return sample


def easy_vqa_questions(count: int) -> list[Any]:
    """One question about each of so many pictures of the test split, always the same; fewer are the head of more."""
    from deed.data.readers import easyvqa

    by_picture: dict[Path, list[Any]] = {}
    for example in easyvqa.read(None, "test"):
        by_picture.setdefault(example.image, []).append(example)  # type: ignore[arg-type]
    pictures = sorted(by_picture)
    random.Random(SEED).shuffle(pictures)
    return [random.Random(f"{SEED}/{picture.stem}").choice(by_picture[picture]) for picture in pictures[:count]]


def measure_scenes(
    folder: Path, count: int, given: float | None, quiet: bool = False
) -> tuple[dict[str, Any], list[str], dict[str, str]]:
    """The results dict, which is `report.json`; the pictures of `results["scenes"]` and small ones of all, by name, as
    data URIs.

    Args:
        count: scenes of each split, and pictures of easy-vqa.
        given: the threshold; None: the model's own.
    """
    from deed.metrics.cider import document_frequencies
    from deed.models.ofa import OFAForConditionalGeneration
    from deed.report.scenes import exact_uri, scene_entry
    from deed.tasks.scenes import answer, load

    from . import demo_scenes_rows as rows_of
    from .answering import check_kind
    from .demo_measure import common_results, measure
    from .shared import pick_threshold, progress_bars, quiet_libraries

    check_kind(folder, "scenes")
    quiet_libraries()
    model, processor = load(folder)
    base = OFAForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = processor.tokenizer
    threshold, source, note = pick_threshold(model.deed_config, given, folder)
    with progress_bars(quiet) as bars:
        sample = take_sample(processor, count, bars)
        asked = sample.asked
        corpus = document_frequencies([a.example.answers for a in asked if a.task == "caption"])
        rows = [a.row for a in asked]

        def score(predictions: Sequence[Sequence[int]]) -> dict[str, Any]:
            return rows_of.overall(asked, *rows_of.judged(processor, asked, predictions, corpus))

        measured = measure(
            base,
            model,
            [{k: v.to(model.device) for k, v in a.inputs.items()} for a in asked],
            threshold,
            lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            score,
            lambda value, tick: answer(model, rows, value, tick=tick),
            bars,
            timed=TIMED_FOR_CURVE,
            thresholds=THRESHOLDS,
            by_tokens=True,
        )
    examples = rows_of.example_rows(processor, asked, measured, corpus)
    marked = []
    for name, place, scene in sample.drawn:
        about = [(i, e) for i, e in enumerate(examples) if e["picture"] == name]
        marked.append(scene_entry(name, place, scene, about))
    settings = {
        "scenes": ", ".join(f"{count} of {split} ({place})" for split, place in SPLITS.items()) + f"; seed {SEED}",
        "asked": f"expression, caption and question per scene; one question about each of {count} pictures of {EASY_VQA}",
    }
    common = common_results(measured, examples, model, folder, source, note, settings)
    results = {
        "title": "scenes of pictograms",
        "task": "scenes",
        "unit": "answer",
        "score_name": "score",
        "score_note": SCORE_NOTE,
        "right_note": RIGHT_NOTE,
        "sample": f"{len(asked)} answers about {2 * count} scenes and {count} pictures of {EASY_VQA} that training never saw",
        "end_token": tokenizer.eos_token,
        **common,
        "groups": rows_of.groups(asked, examples, measured, common["n_layers"]),
        "scenes": marked,
    }
    return results, [exact_uri(scene.image) for _, _, scene in sample.drawn], sample.small
