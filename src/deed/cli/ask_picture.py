"""`deed ask --task refer|caption|vqa`: an OFA asked about a picture, with early exit; boxes are drawn on a copy of it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deed.tasks.questions import check_lengths, in_one_line
from deed.utils.shipped import shipped

from .answering import answer_each, check_kind, closing_lines, confidence_line, times_line
from .box_drawing import FORMATS, draw_boxes, save_picture

if TYPE_CHECKING:
    from rich.text import Text

    from .painting import Painter

TASKS = ("refer", "caption", "vqa")
CHECKPOINT = shipped("pictures")
_BIN = re.compile(r"<bin_(\d+)>")


def output_path(given: Path | None, task: str, image: Path, page: int) -> Path | None:
    """Where the picture with the boxes goes: the file given, or one of the image's name in the current folder.

    Args:
        given: a file's name.
        task: what is asked.
        image: the file asked about.
        page: of a PDF.

    Raises:
        ValueError: the task draws nothing, or no picture can be written there; the image itself is never replaced.
    """
    if task != "refer":
        if given is not None:
            raise ValueError(f"--output is for the boxes of --task refer; --task {task} draws none")
        return None
    path = given or Path(f"{image.stem}{f'.page{page}' if page > 1 else ''}.boxes.png")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--output must end with {', '.join(FORMATS)}, got {path}")
    if path.is_dir():
        raise ValueError(f"--output {path} is a folder; name a file")
    if path.exists() and image.exists() and path.samefile(image):
        raise ValueError(f"--output {path} is the image itself; name another file")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        wanted = path.parent.absolute()
        raise ValueError(f"--output {path} cannot be written: {wanted} is not a folder that you may write to")
    return path


def ask_picture(
    picture: Any,
    task: str,
    texts: list[str],
    folder: Path | None,
    target: Path | None,
    threshold: float | None,
    abstain_below: float | None,
    exact: bool = False,
) -> dict[str, Any]:
    """Answer about a picture, and draw what was found.

    Args:
        picture: what is asked about.
        task: `refer`, `caption` or `vqa`.
        texts: questions, or expressions; none for captions.
        folder: of the model; None: the shipped one.
        threshold: None: the model's own.
        target: where the picture with the boxes goes; None for tasks that have none. Not written where no box was found.
        abstain_below: an answer is sure from this confidence on; None: what calibration chose.
        exact: every token is full depth's.

    Returns:
        What `--json` prints, but for the file's name.

    Raises:
        ValueError: the wrong kind of model, or a text that is too long.
        DeedLoadError: a damaged model.
    """
    from deed.tasks.pictures import PictureTask

    from .shared import find_model, quiet_libraries

    folder = find_model(folder, CHECKPOINT)
    check_kind(folder, task)
    quiet_libraries()
    kind = PictureTask(f"scenes-{task}")
    model, processor = kind.load(folder)
    if task == "refer" and processor.n_bins < 2:
        raise ValueError(f"the tokenizer in {folder} has no location bins, in which a model says where a box is")
    results = answers(kind, model, processor, folder, picture, texts, threshold, abstain_below, exact)
    if target is not None:
        found = [a for a in results["answers"] if a["box"]]
        if found:
            save_picture(draw_boxes(picture, [a["box"] for a in found], [a["question"] for a in found]), target)
        results["picture"] = str(target) if found else None
    return results


def answers(
    task: Any,
    model: Any,
    processor: Any,
    folder: Path,
    picture: Any,
    texts: list[str],
    given: float | None,
    abstain_below: float | None = None,
    exact: bool = False,
) -> dict[str, Any]:
    """What `--json` prints, but for the files' names; of `refer` each answer has a `box`, px of the picture, or None.

    Args:
        task, model, processor, folder, given, abstain_below, exact: as for `answer_each`.
        picture: what is asked about.
        texts: questions, or expressions; none for captions.

    Raises:
        ValueError: a text that is too long.
    """
    from deed.data.base import Example
    from deed.tasks.pictures import text_of

    asked = [in_one_line(text) for text in texts]
    check_lengths(processor, task.asks, asked, model.config.max_position_embeddings)
    examples = [Example(text, [], image=picture) for text in asked or [""]]
    tokens, results = answer_each(task, model, processor, folder, examples, given, abstain_below, exact)
    found = []
    for i, told in enumerate(results["answers"]):
        told["pieces"][0] = told["pieces"][0].lstrip(" ")  # OFA's answers begin with a space
        answer: dict[str, Any] = {"question": texts[i] if texts else None, "answer": text_of(processor, tokens[i])}
        if task.asks == "refer":
            box = task.answer(processor, tokens[i], examples[i])
            answer["box"] = None if box is None else list(box)
            if box and (box[0] > box[2] or box[1] > box[3]):
                results["notes"].append(
                    f"The corners for {texts[i]!r} come in the wrong order; the box is drawn between them."
                )
        found.append({**answer, **told})
    return {"task": task.asks, **results, "size": list(picture.size), "answers": found}


def show_picture(results: dict[str, Any]) -> None:
    """Answers in the terminal, tokens colored by depth; readable in 60 columns."""
    from rich.text import Text

    from .painting import Painter

    painter = Painter(results["n_layers"], results["end_token"])
    console = painter.console
    for a in results["answers"]:
        console.print()
        if a["question"] is not None:
            console.print(Text(a["question"], style="bold"))
        console.print(confidence_line(a) + tokens_line(painter, a["pieces"], a["depths"]))
        if "box" in a:
            console.print(Text(box_line(a["box"], results["size"])))
        console.print(times_line(a, results["n_layers"]))
    closing_lines(painter, results)
    if "picture" in results:
        drawn = results["picture"]
        told = f"boxes drawn: {drawn}" if drawn else "No box was found, so no picture was written."
        console.print(Text(told, style="" if drawn else "yellow"), soft_wrap=bool(drawn))  # a path to be copied


def tokens_line(painter: Painter, pieces: list[str], depths: list[int]) -> Text:
    """An answer colored by depth: running text, or bins one by one.

    Args:
        painter: draws.
        pieces: of `text_pieces`.
        depths: of each token.
    """
    if all(_BIN.fullmatch(piece) or piece == painter.end_token for piece in pieces):
        return painter.words([_BIN.sub(r"bin \1", piece) for piece in pieces], depths)
    return painter.running([_BIN.sub(r" bin \1 ", piece) for piece in pieces], depths)


def box_line(box: list[float] | None, size: list[int]) -> str:
    """Where a box is, in whole pixels."""
    if box is None:
        return "no box in this answer"
    x0, y0, x1, y1 = (f"{value:.0f}" for value in box)
    return f"box: x {x0} to {x1}, y {y0} to {y1} (px of {size[0]} x {size[1]})"
