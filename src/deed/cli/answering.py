"""What `deed ask` does alike for documents and pictures: greedy answers with their depths and times, and its last lines."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deed.utils.saved_model import read_saved_model

if TYPE_CHECKING:
    from rich.text import Text

    from .painting import Painter

DOCUMENT = "document"
SMALL = 20_000_000  # weights; below, one thread is as fast as several


def check_texts(task: str, texts: list[str]) -> None:
    """Whether a task gets the texts it takes.

    Raises:
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
    """Whether a model is of the kind that `--task` of `ask` needs; what else may be wrong with it, loading says.

    Raises:
        ValueError: it is for another task, or has no exits.
        DeedLoadError: not a folder with a saved model.
    """
    _, kind, has_exits = read_saved_model(folder)
    if kind not in ("latr", "ofa", ""):
        wanted = "a LaTr++" if task == DOCUMENT else "an OFA"
        raise ValueError(f"--task {task} needs {wanted} model; {folder} holds a {kind} model")
    if kind == "ofa" and task == DOCUMENT:
        raise ValueError(f"{folder} holds an OFA model, which reads no documents; add --task refer, caption or vqa")
    if kind == "latr" and task != DOCUMENT:
        raise ValueError(f"{folder} holds a LaTr++ model, which is for documents; leave --task {task} out")
    if kind == "ofa" and not has_exits:
        raise ValueError(
            f"{folder} holds a plain OFA, without early exit; deed.get_deed_model(model, DeedConfig()) adds exits, and "
            "training fits them"
        )


def answer_each(
    task: Any,
    model: Any,
    processor: Any,
    folder: Path,
    examples: Sequence[Any],
    given: float | None,
    abstain_below: float | None = None,
    exact: bool = False,
) -> tuple[list[list[int]], dict[str, Any]]:
    """Answer one example after the other.

    Args:
        task: encodes.
        model: with early exit.
        processor: as `task.load` gave it.
        folder: of the model, for notes.
        examples: with what is asked.
        given: the threshold; None: the model's own.
        abstain_below: an answer is sure from this confidence on; None: what calibration chose.
        exact: every token is full depth's, see `generate(exact=True)`.

    Returns:
        Per example the generated ids; and what `--json` prints, without what only one task tells.
    """
    from deed.tasks.confidence import abstain_threshold
    from deed.utils.timing import timed_encoder

    from .shared import pick_threshold

    sure_from = abstain_threshold(model, abstain_below)
    threshold, source, note = pick_threshold(model.deed_config, given, folder)
    tokens, answers = [], []
    with few_threads(model), timed_encoder(model) as clock:
        for i, example in enumerate(examples):
            rows = [task.encode(processor, task.opened(example))]
            inputs = {k: v.to(model.device) for k, v in task.collate(processor, rows).items()}
            if i == 0:
                set_up(model, inputs, threshold)
            ids, told = timed_answer(model, processor.tokenizer, inputs, threshold, clock, exact)
            tokens.append(ids)
            confidence = told.get("confidence")
            told["sure"] = None if confidence is None or sure_from is None else confidence >= sure_from
            answers.append(told)
    return tokens, {
        "model": str(folder),
        "n_layers": len(model.deed_family.layers(model)),
        "end_token": processor.tokenizer.eos_token,
        "threshold": threshold,
        "threshold_source": source,
        "answers": answers,
        "notes": [note] if note else [],
    }


@contextmanager
def few_threads(model: Any) -> Iterator[None]:
    """One of PyTorch's threads for a small model inside the block: its products are too short to be shared, and where other
    programs want the processors, two threads wait for each other most of the time.

    Args:
        model: looked at for its size.
    """
    import torch

    before = torch.get_num_threads()
    if sum(weight.numel() for weight in model.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def set_up(model: Any, inputs: Any, threshold: Any) -> None:
    """Untimed and one token long: what is made once, when a model answers for the first time.

    Args:
        model: with early exit.
        inputs: of one row, on the model's device.
        threshold: exit threshold.
    """
    from deed.constants import GREEDY

    model.generate(**inputs, **GREEDY, exit_threshold=threshold, stopping_criteria=[at_once])


def at_once(input_ids: Any, scores: Any, **kwargs: Any) -> Any:
    """A stopping criterion that holds from the first token on."""
    return input_ids.new_ones(input_ids.shape[0], dtype=bool)


def timed_answer(
    model: Any, tokenizer: Any, inputs: Any, threshold: Any, clock: Any, exact: bool = False
) -> tuple[list[int], dict[str, Any]]:
    """One greedy answer: its ids, end token included, and what `--json` tells of them.

    Args:
        model: with early exit.
        tokenizer: tells tokens and pieces.
        threshold: exit threshold.
        inputs: of one row, on the model's device.
        clock: of `timed_encoder(model)`.
        exact: see `answer_each`.
    """
    from deed.constants import GREEDY
    from deed.report import text_pieces
    from deed.tasks.confidence import asks_for_confidence
    from deed.utils.timing import now

    options = asks_for_confidence(model, {**GREEDY, "exit_threshold": threshold, "exact": exact})

    clock.take()
    start = now(model.device)
    out = model.generate(**inputs, **options, return_dict_in_generate=True)
    overall, encoder = 1e3 * (now(model.device) - start), 1e3 * clock.take()
    tokens, depths = out.sequences[0, 1:].tolist(), out.exit_layers[0].tolist()
    return tokens, {
        "tokens": tokenizer.convert_ids_to_tokens(tokens),
        "pieces": text_pieces(tokenizer, tokens),
        "depths": depths,
        "mean_depth": sum(depths) / len(depths),
        "encoder_ms": encoder,
        "decoder_ms": overall - encoder,
        "confidence": None if out.confidence is None else float(out.confidence[0]),
    }


def confidence_line(answer: dict[str, Any]) -> Text:
    """What stands before an answer: how sure it is; nothing where that is not known."""
    from rich.text import Text

    confidence = answer.get("confidence")
    if confidence is None:
        return Text("")
    percent = f"({100 * confidence:.0f} %): "
    return Text(f"sure {percent}", style="dim") if answer["sure"] else Text(f"not sure {percent}", style="yellow")


def times_line(answer: dict[str, Any], n_layers: int, more: str = "") -> Text:
    """Times and mean depth of one answer.

    Args:
        answer: of `timed_answer`.
        n_layers: of the decoder.
        more: comes first.
    """
    from rich.text import Text

    from deed.report.html import milliseconds

    times = f"encoder {milliseconds(answer['encoder_ms'])}, decoder {milliseconds(answer['decoder_ms'])}, "
    lead = f"{more}, " if more else ""
    return Text(f"{lead}{times}mean depth {answer['mean_depth']:.2f} of {n_layers}", style="dim")


def closing_lines(painter: Painter, results: dict[str, Any], more: str = "") -> None:
    """Prints what comes after the answers: legend, threshold, notes.

    Args:
        painter: draws.
        results: with `threshold`, `threshold_source` and `notes`.
        more: comes behind the threshold.
    """
    from rich.text import Text

    from deed.report import threshold_text

    painter.legend()
    source = {"given": "as given", "calibrated": "calibrated", "model": "the model's"}[results["threshold_source"]]
    line = f"threshold {threshold_text(results['threshold'])} ({source}){more}"
    painter.console.print(Text(line, style="dim"))
    for note in results["notes"]:
        painter.console.print(Text(note, style="yellow"))
    if all(answer.get("confidence") is None for answer in results["answers"]):
        line = "How far to trust these answers is not known: they are not calibrated for these settings."
        painter.console.print(Text(line, style="yellow"))
    if results.get("reads"):
        painter.console.print(Text(results["reads"], style="dim"))
