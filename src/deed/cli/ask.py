"""`deed ask`: questions about any image or PDF page, answered with early exit; shows which layer gave each token."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .shared import CHECKPOINTS

EXAMPLE = 'Example: deed ask invoice.pdf --page 2 "what is the total?" "what are all the fields?"'
CHECKPOINT = CHECKPOINTS / "latr"
NO_OCR = "none"


def ask(
    image: Annotated[Path, typer.Argument(help="An image file or a PDF.", show_default=False)],
    questions: Annotated[list[str], typer.Argument(help="One question or more, each in quotes.", show_default=False)],
    page: Annotated[int, typer.Option(help="Page of a PDF, counted from 1.")] = 1,
    model: Annotated[
        Path | None, typer.Option(help="Folder of a saved LaTr++ model.", show_default="the one shipped with deed")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Exit threshold.", show_default="the model's own, calibrated")
    ] = None,
    ocr: Annotated[
        str, typer.Option(help="What reads the page: rapidocr, tesseract, or none for a picture without text.")
    ] = "rapidocr",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON, and nothing else.")] = False,
) -> None:
    from rich.console import Console

    from ..ocr import ENGINES, page_image
    from .shared import check_threshold, find_model, load_documents_model

    # In this order: what is quick to look at first.
    if ocr not in (*ENGINES, NO_OCR):
        raise ValueError(f"--ocr must be one of {', '.join((*ENGINES, NO_OCR))}, got {ocr!r}")
    check_threshold(threshold)
    for i, question in enumerate(questions, 1):
        if not question.strip():
            raise ValueError(f"question {i} is empty; put a question in quotes")
    picture = page_image(image, page)
    folder = find_model(model, CHECKPOINT)
    # A spinner leaves no trace where stderr is no terminal, and none of an error's one line.
    with Console(stderr=True, quiet=as_json).status("loading the model") as status:
        loaded, processor = load_documents_model(folder)
        status.update("reading the page")
        seen = read(picture, ocr)
        status.update("answering")
        results = answers(loaded, processor, folder, seen, questions, threshold)
    results = {"image": str(image), "page": page, **results}
    if as_json:
        typer.echo(json.dumps(results, ensure_ascii=False))
    else:
        show(results)


def read(picture: Any, ocr: str) -> dict[str, Any]:
    """The page as the model gets it: upright, with its words; and what is said of the reading (None without)."""
    from ..ocr import read_page, turn_image

    if ocr == NO_OCR:
        return {"picture": picture, "words": [], "ocr": None}
    result = read_page(picture, engine=ocr)
    said = {
        "engine": result.engine,
        "ms": 1e3 * result.seconds,
        "words": len(result.words),
        "rotation": result.rotation,
    }
    return {"picture": turn_image(picture, result.rotation), "words": result.words, "ocr": said}


def answers(
    model: Any, processor: Any, folder: Path, seen: dict[str, Any], questions: list[str], given: float | None
) -> dict[str, Any]:
    """What `--json` prints, but for the file's name.

    Raises:
        ValueError: a question that does not fit, or nothing to look at.
    """
    from ..bench.compare import timed_encoder
    from ..tasks.base import Example
    from ..tasks.document_run import DECODING, encode, inputs_of
    from .shared import pick_threshold

    if seen["ocr"] is None and not processor.sees:
        raise ValueError("this model looks at words only; leave --ocr none out")
    threshold, source, note = pick_threshold(model.deed_config, given, folder)
    notes = [note] if note else []
    if seen["ocr"] and not seen["words"]:
        notes.append("No text was found on the page; the answer comes from the picture alone.")
    found = []
    with timed_encoder(model) as clock:
        for i, question in enumerate(questions):
            known = in_known_words(processor, question)
            fits = words_that_fit(processor, known, seen["words"])
            row = encode(processor, Example(known, [], seen["words"], seen["picture"]))
            inputs = {k: v.to(model.device) for k, v in inputs_of(processor, [row]).items()}
            if i == 0:  # untimed and one token long: what is set up once
                model.generate(**inputs, **DECODING, exit_threshold=threshold, stopping_criteria=[at_once])
            found.append(
                {"question": question, "words_read": fits, **answer_one(model, processor, inputs, threshold, clock)}
            )
    cut = [a["words_read"] for a in found if a["words_read"] < len(seen["words"])]
    if cut:
        notes.append(
            f"The page is longer than this model reads: the last {len(seen['words']) - min(cut)} of its "
            f"{len(seen['words'])} words were cut (max_length {processor.max_length} tokens)."
        )
    return {
        "model": str(folder),
        "n_layers": len(model.deed_family.layers(model)),
        "end_token": processor.tokenizer.eos_token,
        "threshold": threshold,
        "threshold_source": source,
        "ocr": seen["ocr"],
        "answers": found,
        "notes": notes,
    }


def at_once(input_ids: Any, scores: Any, **kwargs: Any) -> Any:
    """A stopping criterion that holds from the first token on."""
    return input_ids.new_ones(input_ids.shape[0], dtype=bool)


def answer_one(model: Any, processor: Any, inputs: Any, threshold: Any, clock: Any) -> dict[str, Any]:
    """One greedy answer with its tokens, depths and times."""
    from ..bench.compare import now
    from ..report import text_pieces
    from ..report.places import is_json
    from ..tasks.document_run import DECODING

    clock.take()
    start = now(model.device)
    out = model.generate(**inputs, **DECODING, exit_threshold=threshold, return_dict_in_generate=True)
    overall, encoder = 1e3 * (now(model.device) - start), 1e3 * clock.take()
    tokenizer = processor.tokenizer
    tokens, depths = out.sequences[0, 1:].tolist(), out.exit_layers[0].tolist()
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    return {
        "answer": text,
        "fields": whole_object(text) if is_json(text) else None,
        "tokens": tokenizer.convert_ids_to_tokens(tokens),
        "pieces": text_pieces(tokenizer, tokens),
        "depths": depths,
        "mean_depth": sum(depths) / len(depths),
        "encoder_ms": encoder,
        "decoder_ms": overall - encoder,
    }


def whole_object(text: str) -> dict[str, Any] | None:
    """The fields of a JSON object; None where the model did not finish it."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def in_known_words(processor: Any, question: str) -> str:
    """The question, in small letters where that takes fewer tokens: a small vocabulary knows whole words in that form
    only, and its model has seen no other. Vocabularies with "What" as well as "what" get the question as it is."""
    question = " ".join(question.split())
    small = question.lower()
    few, many = spelled(processor, [small, question])
    return small if few < many else question


def words_that_fit(processor: Any, question: str, words: list[Any]) -> int:
    """How many of the words, from the first, the processor keeps beside the question.

    Raises:
        ValueError: the question alone is too long.
    """
    if spelled(processor, [question])[0] < processor.max_length:  # or encoding it would cut it
        room = processor.max_length - len(processor.encode(question, [])[0])
        if room > 0:
            return sum(used <= room for used in itertools.accumulate(spelled(processor, [text for text, _ in words])))
    raise ValueError(f"the question is longer than this model reads ({processor.max_length} tokens); shorten it")


def spelled(processor: Any, texts: list[str]) -> list[int]:
    """How many tokens each text takes."""
    if not texts:
        return []
    return [len(ids) for ids in processor.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids]


def show(results: dict[str, Any]) -> None:
    """Answers in the terminal, tokens coloured by depth; readable in 60 columns."""
    from rich.text import Text

    from ..report import threshold_text
    from ..report.html import milliseconds
    from ..report.places import is_json, tokens_within, values_of
    from .painting import Painter

    painter, n_layers = Painter(results["n_layers"], results["end_token"]), results["n_layers"]
    console = painter.console
    for a in results["answers"]:
        console.print()
        console.print(Text(a["question"], style="bold"))
        console.print(painter.running(a["pieces"], a["depths"]))
        if is_json(a["answer"]):
            table = painter.table("", "")
            for value in values_of(a["answer"]):
                at = tokens_within(value, a["pieces"], results["end_token"])
                table.add_row(
                    Text(value.key, style="dim"),
                    painter.running([a["pieces"][i] for i in at], [a["depths"][i] for i in at]),
                )
            if a["fields"] is None:
                table.add_row("", Text("(not finished: no whole JSON object)", style="dim"))
            console.print(table)
        times = f"encoder {milliseconds(a['encoder_ms'])}, decoder {milliseconds(a['decoder_ms'])}, "
        console.print(Text(f"{times}mean depth {a['mean_depth']:.2f} of {n_layers}", style="dim"))
    painter.legend()
    source = {"given": "as given", "calibrated": "calibrated", "model": "the model's"}[results["threshold_source"]]
    line = f"threshold {threshold_text(results['threshold'])} ({source})"
    if results["ocr"]:
        line += (
            f"; OCR ({results['ocr']['engine']}) {milliseconds(results['ocr']['ms'])}, {results['ocr']['words']} words"
        )
    console.print(Text(line, style="dim"))
    if results["ocr"] and results["ocr"]["rotation"]:
        console.print(
            Text(
                f"The page was turned by {results['ocr']['rotation']} degrees clockwise to be upright.", style="yellow"
            )
        )
    for note in results["notes"]:
        console.print(Text(note, style="yellow"))


def register(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLE, help=__doc__)(ask)
