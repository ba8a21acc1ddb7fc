"""What `deed ask` does alike for documents and pictures: one greedy answer with its depths and times, and its last lines."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

    from .painting import Painter

DOCUMENT = "document"


def check_texts(task: str, texts: list[str]) -> None:
    """Raises:
    ValueError: nothing asked, an empty text, or a text where a task takes none.
    """
    what = "expression" if task == "refer" else "question"
    if task == "caption":
        if texts:
            raise ValueError(f"--task caption takes no text, got {texts[0]!r}; questions need --task vqa")
    elif not texts:
        raise ValueError(f"--task {task} needs one {what} or more, each in quotes")
    for i, text in enumerate(texts, 1):
        if not text.strip(string.whitespace + ("" if task == DOCUMENT else string.punctuation)):
            raise ValueError(f"{what} {i} is empty; put words in quotes")


def check_kind(folder: Path, task: str) -> None:
    """Whether a model is of the kind that a task needs; what else may be wrong with it, loading says.

    Raises:
        ValueError: it is for another task, or has no exits.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind == "ofa" and task == DOCUMENT:
        raise ValueError(f"{folder} holds an OFA model, which reads no documents; add --task refer, caption or vqa")
    if kind == "latr" and task != DOCUMENT:
        raise ValueError(f"{folder} holds a LaTr++ model, which is for documents; leave --task {task} out")
    if kind == "ofa" and "deed_config" not in config:
        raise ValueError(
            f"{folder} holds a plain OFA, without early exit; deed.get_deed_model(model, DeedConfig()) adds exits, and "
            "training fits them"
        )


def set_up(model: Any, inputs: Any, threshold: Any) -> None:
    """Untimed and one token long: what is made once, when a model answers for the first time."""
    from deed.constants import GREEDY

    model.generate(**inputs, **GREEDY, exit_threshold=threshold, stopping_criteria=[at_once])


def at_once(input_ids: Any, scores: Any, **kwargs: Any) -> Any:
    """A stopping criterion that holds from the first token on."""
    return input_ids.new_ones(input_ids.shape[0], dtype=bool)


def timed_answer(
    model: Any, tokenizer: Any, inputs: Any, threshold: Any, clock: Any
) -> tuple[list[int], dict[str, Any]]:
    """One greedy answer: its ids, end token included, and what `--json` tells of them.

    Args:
        inputs: of one row, on the model's device.
        clock: of `timed_encoder(model)`.
    """
    from deed.constants import GREEDY
    from deed.report import text_pieces
    from deed.utils.timing import now

    clock.take()
    start = now(model.device)
    out = model.generate(**inputs, **GREEDY, exit_threshold=threshold, return_dict_in_generate=True)
    overall, encoder = 1e3 * (now(model.device) - start), 1e3 * clock.take()
    tokens, depths = out.sequences[0, 1:].tolist(), out.exit_layers[0].tolist()
    return tokens, {
        "tokens": tokenizer.convert_ids_to_tokens(tokens),
        "pieces": text_pieces(tokenizer, tokens),
        "depths": depths,
        "mean_depth": sum(depths) / len(depths),
        "encoder_ms": encoder,
        "decoder_ms": overall - encoder,
    }


def spelled(tokenizer: Any, texts: list[str]) -> list[int]:
    """How many tokens each text takes."""
    if not texts:
        return []
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False).input_ids]


def times_line(answer: dict[str, Any], n_layers: int) -> Text:
    """Times and mean depth of one answer."""
    from rich.text import Text

    from deed.report.html import milliseconds

    times = f"encoder {milliseconds(answer['encoder_ms'])}, decoder {milliseconds(answer['decoder_ms'])}, "
    return Text(f"{times}mean depth {answer['mean_depth']:.2f} of {n_layers}", style="dim")


def closing_lines(painter: Painter, results: dict[str, Any], more: str = "") -> None:
    """Prints what comes after the answers: legend, threshold with `more` behind it, notes."""
    from rich.text import Text

    from deed.report import threshold_text

    painter.legend()
    source = {"given": "as given", "calibrated": "calibrated", "model": "the model's"}[results["threshold_source"]]
    line = f"threshold {threshold_text(results['threshold'])} ({source}){more}"
    painter.console.print(Text(line, style="dim"))
    for note in results["notes"]:
        painter.console.print(Text(note, style="yellow"))
