"""The shipped models in float32 through the scheduler, everyone at once: which answers differ from `generate()` alone, and
whether each that does is a tie: two tokens, or a confidence and its threshold, within rounding of each other.

    python benchmarks/serving_equality.py > benchmarks/results/serving_equality.json
"""

import json
import sys
from typing import Any

import torch
from transformers import AutoTokenizer

import deed
from deed.bench.shapes import real_pages
from deed.data.readers import cmudict
from deed.serving.request import GenerationRequest
from deed.serving.scheduler import Scheduler
from deed.tasks import pictures
from deed.tasks.pictures import PictureTask
from deed.utils.shipped import CHECKPOINTS
from deed.utils.timing import machine, versions

NEAR = 1e-4  # of probabilities and of logits
WORDS, PAGES, SCENES = 400, 60, 150


def words(model: Any) -> list[dict[str, torch.Tensor]]:
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "g2p")
    found = [word for word, _ in cmudict.load_split("test")][:WORDS]
    return [dict(tokenizer([word], return_tensors="pt")) for word in found]


def pages(model: Any) -> list[dict[str, torch.Tensor]]:
    whole = real_pages(model, PAGES, torch.Generator())
    return [{k: v[i : i + 1] for k, v in whole.items()} for i in range(PAGES)]


def scenes(model: Any) -> list[dict[str, torch.Tensor]]:
    task = PictureTask("scenes-caption")
    _, processor = task.load(CHECKPOINTS / "ofa")
    examples = [task.opened(example) for example in task.examples("test", SCENES)]
    return [pictures.inputs_of([task.encode(processor, e)]) for e in examples]


def is_tie(
    model: Any, inputs: Any, options: dict[str, Any], tokens: list[int], other: list[int], threshold: Any
) -> bool:
    """Whether, where two answers part, the tokens or a confidence and its threshold are within rounding."""
    at = next((i for i, (a, b) in enumerate(zip(tokens, other, strict=False)) if a != b), min(len(tokens), len(other)))
    start = model.generation_config.decoder_start_token_id or model.config.decoder_start_token_id
    for t in range(at + 1):  # depths may have parted before the tokens did
        prefix = torch.tensor([[start, *tokens[:t]]])
        with torch.no_grad():
            logits = model.exit_logits(**inputs, decoder_input_ids=prefix)[:, 0, -1]
        top = logits.topk(2, -1).values
        if bool((top[:, 0] - top[:, 1] < NEAR * top[:, 0].abs().clamp(min=1)).any()):
            return True
        limits = torch.tensor(threshold if isinstance(threshold, list) else [threshold] * (len(logits) - 1))
        if bool(((logits[:-1].softmax(-1).amax(-1) - limits[: len(logits) - 1]).abs() < NEAR).any()):
            return True
    return False


def compare(name: str, make: Any, options: dict[str, Any]) -> dict[str, Any]:
    model = deed.from_pretrained(CHECKPOINTS / name).eval()
    threshold = model.deed_config.threshold
    sources = make(model)
    with Scheduler(model, queue_limit=len(sources)) as scheduler:
        tickets = [scheduler.submit(GenerationRequest(inputs, options)) for inputs in sources]
        ends = [ticket.result() for ticket in tickets]
        stats = scheduler.stats()
    differ = depths = ties = tokens = 0
    for inputs, end in zip(sources, ends, strict=True):
        out = model.generate(**inputs, **options, return_dict_in_generate=True)
        new = out.sequences[0].tolist()[-out.exit_layers.shape[1] :]
        tokens += len(new)
        same_depths = end.depths == out.exit_layers[0].tolist()
        depths += not same_depths
        if end.tokens != new or not same_depths:
            differ += end.tokens != new
            ties += is_tie(model, inputs, options, new, end.tokens, threshold)
    return {
        "requests": len(sources),
        "tokens": tokens,
        "mean_batch": round(stats.batch_rows / stats.step_s.count, 1),
        "answers_that_differ": differ,
        "depths_that_differ": depths,
        "of_these_ties": ties,
    }


def main() -> None:
    found: dict[str, Any] = {"command": "python benchmarks/serving_equality.py", "near": NEAR, "machine": machine()}
    found["versions"] = versions()
    wanted = sys.argv[1:] or ["g2p", "latr", "ofa"]
    cases = {
        "g2p": (words, {"max_new_tokens": 24}),
        "latr": (pages, {"max_new_tokens": 48}),
        "ofa": (scenes, {"max_new_tokens": 24}),
    }
    for name in wanted:
        found[name] = compare(name, *cases[name])
        print(name, found[name], file=sys.stderr)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
