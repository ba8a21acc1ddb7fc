"""How soon a LaTr++ from scratch learns to look a word up on a page and to copy it, with and without `wiring.wire_look_up`.

    python benchmarks/copying.py --steps 400 --output copying.json

Trains on pages of strings that nobody can guess (`deed.data.synthetic.copying`), all of one length, with deep supervision, and
asks "which word comes after …?" on held-out ones, shorter and longer: whether the answer's first piece is right (it was
found), and whether all are (it was copied). The last exit, the right pieces before each.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

from deed import DeedConfig, get_deed_model
from deed.constants import IGNORE_INDEX
from deed.data.synthetic.copying import copying_page, unguessable
from deed.models.latr import small
from deed.models.latr.packing import pack
from deed.models.latr.pieces import learn_tokenizer
from deed.models.latr.wiring import wire_look_up
from deed.utils.timing import machine, versions

HELD_OUT = 20  # pages of each length


def main() -> None:
    """Train each model and record its curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["wired", "plain"], choices=("wired", "plain"))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=768, help="of a batch, those of answers counted twice")
    parser.add_argument("--words", type=int, default=8, help="of a training page")
    parser.add_argument("--lengths", type=int, nargs="+", default=[8, 30, 60], help="words of held-out pages")
    parser.add_argument("--every", type=int, default=50, help="steps between two measurements")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    rng = random.Random("pieces")
    marks = ' "?which word words comes come after before what does it say'
    tokenizer = learn_tokenizer((" ".join(unguessable(rng) for _ in range(40)) + marks for _ in range(3000)), 1200)
    processor = small.build_processor(tokenizer, 800, "late")
    held = {n: [page(processor, random.Random(f"{n}/{i}"), n, 8) for i in range(HELD_OUT)] for n in options.lengths}
    result: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "date": time.strftime("%Y-%m-%d")}
    result |= {"versions": versions(), "machine": machine(), "curves": {}}
    for name in options.models:
        result["curves"][name] = curve(name, processor, held, options)
        options.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def curve(name: str, processor: Any, held: dict[int, list[Any]], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Train one model; a row per measurement.

    Args:
        name: `"wired"` or `"plain"`.
        processor: a `LatrProcessor`.
        held: held-out pages by length.
        options: of the command.
    """
    torch.manual_seed(0)
    plain = small.build_model(processor.tokenizer, 2, 4, 160, 640, 1, d_vision=64, question="late", box_bias=True)
    if name == "wired":
        wire_look_up(plain)
    plain.set_attn_implementation("eager")
    model: Any = get_deed_model(plain, DeedConfig(loss="rising")).train()
    fast = [p for n, p in model.named_parameters() if any(part in n for part in ("shared", "_bias", "box_embeddings"))]
    known = {id(p) for p in fast}
    rest = [p for p in model.parameters() if id(p) not in known]
    optimizer = torch.optim.AdamW(
        [{"params": fast, "lr": 5e-3}, {"params": rest, "lr": 1e-3}], betas=(0.9, 0.98), fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 200))
    rng, rows = random.Random("training"), []
    for step in range(1, options.steps + 1):
        pages: list[dict[str, Any]] = []
        while sum(p["length"] for p in pages) < options.tokens:
            pages.append(page(processor, rng, rng.randint(max(4, options.words // 2), options.words), 8))
        model(**pack(pages, 0, 0), use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % options.every == 0:
            row = {"step": step, **{str(n): scores(model, pages) for n, pages in held.items()}}
            rows.append({**row, "cpu_seconds": round(time.process_time())})
            print(name, json.dumps(rows[-1]), flush=True)
    return rows


def page(processor: Any, rng: random.Random, words: int, questions: int) -> dict[str, Any]:
    """A page with at most so many questions, encoded."""
    asked: list[Any] = []
    while not asked:
        text, asked = copying_page(rng, words)
    ids, boxes = processor.encode_page(text, 800)
    asked = asked[:questions]
    answers = [processor.encode_answer(answer) for _, _, answer in asked]
    encoded = [processor.encode_question(question) for _, question, _ in asked]
    length = len(ids) + sum(map(len, encoded)) + 2 * sum(map(len, answers))
    kinds = [kind for kind, *_ in asked]
    return {"words": ids, "boxes": boxes, "questions": encoded, "answers": answers, "kinds": kinds, "length": length}


@torch.no_grad()
def scores(model: Any, pages: list[dict[str, Any]]) -> dict[str, float]:
    """Shares of "which word comes after" whose answer's first piece is right, and whose are all."""
    model.eval()
    firsts, wholes = [], []
    for at in range(0, len(pages), 10):
        batch = pack(pages[at : at + 10], 0, 0)
        labels = batch.pop("labels")
        right = (model(**batch, use_cache=False).logits.argmax(-1) == labels) | (labels == IGNORE_INDEX)
        for row, numbers, of_page in zip(right, batch["answer_ids"], pages[at : at + 10], strict=True):
            for number, kind in enumerate(of_page["kinds"], 1):
                if kind == "next word":
                    firsts.append(bool(row[numbers == number][0]))
                    wholes.append(bool(row[numbers == number].all()))
    model.train()
    count = len(firsts)
    return {"found": round(sum(firsts) / count, 3), "copied": round(sum(wholes) / count, 3), "questions": count}


if __name__ == "__main__":
    main()
