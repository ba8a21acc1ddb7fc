"""`deed ask --task refer|caption|vqa`: an OFA asked about a picture, with early exit; boxes are drawn on a copy of it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .answering import check_kind, closing_lines, set_up, timed_answer, times_line
from .box_drawing import FORMATS, draw_boxes, save_picture
from .shared import CHECKPOINTS

if TYPE_CHECKING:
    from rich.text import Text

    from .painting import Painter

TASKS = ("refer", "caption", "vqa")
CHECKPOINT = CHECKPOINTS / "ofa"
_BIN = re.compile(r"<bin_(\d+)>")


def output_path(given: Path | None, task: str, image: Path, page: int) -> Path | None:
    """Where the picture with the boxes goes: the file given, or one of the image's name in the current folder.

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
    say: Callable[[str], Any],
) -> dict[str, Any]:
    """Answer about a picture, and draw what was found; `say` is told what is being done.

    Args:
        target: where the picture with the boxes goes; None for tasks that have none. Not written where no box was found.

    Returns:
        What `--json` prints, but for the file's name.

    Raises:
        ValueError: the wrong kind of model, or a text that is too long.
        DeedLoadError: a damaged model.
    """
    from .shared import find_model

    folder = find_model(folder, CHECKPOINT)
    model, processor = load(folder, task)
    say("answering")
    results = answers(model, processor, folder, task, picture, texts, threshold)
    if target is not None:
        found = [a for a in results["answers"] if a["box"]]
        if found:
            save_picture(draw_boxes(picture, [a["box"] for a in found], [a["question"] for a in found]), target)
        results["picture"] = str(target) if found else None
    return results


def load(folder: Path, task: str) -> tuple[Any, Any]:
    """`(model, processor)` of a saved OFA.

    Raises:
        ValueError: another kind of model, or one that cannot do the task.
        DeedLoadError: a damaged one.
    """
    from deed.errors import DeedLoadError
    from deed.tasks import scenes as scenes_run

    from .shared import quiet_libraries

    check_kind(folder, task)
    quiet_libraries()
    model, processor = scenes_run.load(folder)
    if processor.tokenizer.eos_token_id is None or processor.tokenizer.pad_token_id is None:
        raise DeedLoadError(
            f"the tokenizer in {folder} has no end or padding token; tokenizer_config.json is missing or damaged"
        )
    if task == "refer" and processor.n_bins < 2:
        raise ValueError(f"the tokenizer in {folder} has no location bins, in which a model says where a box is")
    return model, processor


def answers(
    model: Any, processor: Any, folder: Path, task: str, picture: Any, texts: list[str], given: float | None
) -> dict[str, Any]:
    """What `--json` prints, but for the files' names.

    Raises:
        ValueError: a text that is too long.
    """
    from deed.data.base import Example
    from deed.tasks.scenes import encode, inputs_of
    from deed.utils.timing import timed_encoder

    from .shared import pick_threshold

    threshold, source, note = pick_threshold(model.deed_config, given, folder)
    notes = [note] if note else []
    asked = [in_one_line(text) for text in texts]
    check_lengths(processor, task, asked, model.config.max_position_embeddings)
    examples = [Example(text, [], image=picture) for text in asked or [""]]
    found = []
    with timed_encoder(model) as clock:
        for i, example in enumerate(examples):
            rows = [encode(processor, task, example)]
            inputs = {k: v.to(model.device) for k, v in inputs_of(rows, processor.tokenizer.pad_token_id).items()}
            if i == 0:
                set_up(model, inputs, threshold)
            answer = answer_one(model, processor, task, example, inputs, threshold, clock)
            found.append({"question": texts[i] if texts else None, **answer})
    for a in found:
        box = a.get("box")
        if box and (box[0] > box[2] or box[1] > box[3]):
            notes.append(f"The corners for {a['question']!r} come in the wrong order; the box is drawn between them.")
    return {
        "task": task,
        "model": str(folder),
        "n_layers": len(model.deed_family.layers(model)),
        "end_token": processor.tokenizer.eos_token,
        "threshold": threshold,
        "threshold_source": source,
        "size": list(picture.size),
        "answers": found,
        "notes": notes,
    }


def in_one_line(text: str) -> str:
    """As people of data sets write: without line breaks, spaces around or a full stop; prompts make letters small."""
    return " ".join(text.split()).rstrip(". ")


def check_lengths(processor: Any, task: str, texts: list[str], most: int) -> None:
    """Whether all texts are read to their ends.

    Args:
        most: tokens of a prompt.

    Raises:
        ValueError: too many words, which would be cut, or too many tokens.
    """
    from deed.models.ofa import prompts

    what, worded = ("expression", prompts.refer) if task == "refer" else ("question", prompts.vqa)
    for i, text in enumerate(texts, 1):
        words = len(prompts.clean_caption(text, None).split(" "))
        if words > prompts.MAX_WORDS:
            raise ValueError(f"{what} {i} has {words} words, more than the {prompts.MAX_WORDS} OFA reads; shorten it")
        tokens = len(processor.tokenizer(worded(text), verbose=False).input_ids)
        if tokens > most:
            raise ValueError(
                f"{what} {i} takes {tokens} tokens, more than the {most} that this model reads; shorten it"
            )


def answer_one(
    model: Any, processor: Any, task: str, example: Any, inputs: Any, threshold: Any, clock: Any
) -> dict[str, Any]:
    """One greedy answer with its tokens, depths and times; for `refer` also `box`, px of the picture, or None."""
    from deed.tasks.scenes import box_of, text_of

    ids, told = timed_answer(model, processor.tokenizer, inputs, threshold, clock)
    told["pieces"][0] = told["pieces"][0].lstrip(" ")  # OFA's answers begin with a space
    answer: dict[str, Any] = {"answer": text_of(processor, ids)}
    if task == "refer":
        box = box_of(processor, ids, example)
        answer["box"] = None if box is None else list(box)
    return {**answer, **told}


def show_picture(results: dict[str, Any]) -> None:
    """Answers in the terminal, tokens coloured by depth; readable in 60 columns."""
    from rich.text import Text

    from .painting import Painter

    painter = Painter(results["n_layers"], results["end_token"])
    console = painter.console
    for a in results["answers"]:
        console.print()
        if a["question"] is not None:
            console.print(Text(a["question"], style="bold"))
        console.print(tokens_line(painter, a["pieces"], a["depths"]))
        if "box" in a:
            console.print(Text(box_line(a["box"], results["size"])))
        console.print(times_line(a, results["n_layers"]))
    closing_lines(painter, results)
    if "picture" in results:
        drawn = results["picture"]
        told = f"boxes drawn: {drawn}" if drawn else "No box was found, so no picture was written."
        console.print(Text(told, style="" if drawn else "yellow"), soft_wrap=bool(drawn))  # a path to be copied


def tokens_line(painter: Painter, pieces: list[str], depths: list[int]) -> Text:
    """An answer coloured by depth: running text, or bins one by one."""
    if all(_BIN.fullmatch(piece) or piece == painter.end_token for piece in pieces):
        return painter.words([_BIN.sub(r"bin \1", piece) for piece in pieces], depths)
    return painter.running([_BIN.sub(r" bin \1 ", piece) for piece in pieces], depths)


def box_line(box: list[float] | None, size: list[int]) -> str:
    """Where a box is, in whole pixels."""
    if box is None:
        return "no box in this answer"
    x0, y0, x1, y1 = (f"{value:.0f}" for value in box)
    return f"box: x {x0} to {x1}, y {y0} to {y1} (px of {size[0]} x {size[1]})"
