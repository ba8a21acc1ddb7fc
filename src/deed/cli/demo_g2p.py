"""`deed demo --task g2p`: pronunciations (CMUdict) of words that training never saw, and of the user's own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

SEED = 0  # of the sample of words
COUNT = 1000  # words of the test split
TIMED_FOR_CURVE = 100  # words: the curve takes eleven answers to each

Row = tuple[str, list[str]]


def take_words(words: list[str], count: int) -> tuple[list[Row], list[Row]]:
    """The user's words and the fixed sample, each word with its listed pronunciations.

    Raises:
        DataError: a word that is none, or more words asked for than there are.
    """
    from deed.tasks import g2p

    asked = list(dict.fromkeys(g2p.clean_word(word) for word in words))
    rows = g2p.load_split("test")
    if count > len(rows):
        raise ValueError(f"--count must be at most {len(rows)}, the words of the test split, got {count}")
    random.Random(SEED).shuffle(rows)  # before the cut: a smaller sample is the head of a larger one
    listed = g2p.read_cmudict() if asked else {}
    return [(word, listed.get(word, [])) for word in asked], rows[:count]


def measure_words(
    folder: Path, sample: list[Row], asked: list[Row], given: float | None, quiet: bool = False
) -> dict[str, Any]:
    """The results dict, which is `report.json`.

    Args:
        sample: words and listed pronunciations that every number is about.
        asked: the user's words, answered and timed with them, but not counted.
        given: the threshold; None: the model's own.
    """
    from transformers import AutoModelForSeq2SeqLM

    from deed.tasks import g2p
    from deed.tasks.g2p_run import answer, load

    from .demo_measure import common_results, measure
    from .shared import pick_threshold, progress_bars, quiet_libraries

    quiet_libraries()
    model, tokenizer = load(folder)
    base = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    threshold, source, note = pick_threshold(model.deed_config, given, folder)
    rows = [*asked, *sample]
    words, references = [w for w, _ in sample], [answers for _, answers in sample]
    inputs = [dict(tokenizer(word, return_tensors="pt").to(model.device)) for word, _ in rows]

    def score(predictions: Any) -> dict[str, Any]:
        scores = g2p.score(predictions, references)
        return {"score": scores["word_accuracy"], "phoneme_error_rate": scores["phoneme_error_rate"]}

    with progress_bars(quiet) as bars:
        measured = measure(
            base,
            model,
            inputs,
            threshold,
            lambda tokens: tokenizer.decode(tokens, skip_special_tokens=True),
            score,
            lambda value, tick: answer(model, tokenizer, words, value, tick=tick),
            bars,
            uncounted=len(asked),
            timed=TIMED_FOR_CURVE,
        )
    runs = zip(rows, measured.everything.full.runs, measured.everything.deed.runs, strict=True)
    examples = [example(row, full, deed, tokenizer, i < len(asked)) for i, (row, full, deed) in enumerate(runs)]
    settings = {"words": f"{len(sample)} of the test split, seed {SEED}"}
    return {
        "title": "CMUdict, words to pronunciations",
        "task": "g2p",
        "unit": "word",
        "score_name": "word accuracy",
        "end_token": tokenizer.eos_token,
        **common_results(measured, examples, model, folder, source, note, settings),
    }


def example(row: Row, full: Any, deed: Any, tokenizer: Any, asked: bool) -> dict[str, Any]:
    """One word's row of the report. `right` is None for a word that the dictionary does not list."""
    from deed.tasks import g2p

    from .demo_measure import timed_pair

    word, expected = row
    split = g2p.split_of(word) if expected else None
    seen = {None: "not in the dictionary", "train": "seen in training"}.get(split, "never seen in training")
    return {
        "word": word,
        "asked": asked,
        "split": split,
        "seen": seen,
        "expected": expected,
        **timed_pair(full, deed, tokenizer),
        "right": deed.prediction in expected if expected else None,
        "full_depth_right": full.prediction in expected if expected else None,
    }
