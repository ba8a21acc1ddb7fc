"""What recipes of `deed tune` made of Whisper base on recorded prompts: depth over changed tokens, teacher-forced and
free-running, word error rates, and what it cost. Writes benchmarks/results/speech_recipes.json and docs/speech_recipes.svg.

    python benchmarks/speech_recipes.py --base BASE --data SOUNDS --cache CACHE --runs RUN [RUN …]

BASE is the folder of the untouched model, SOUNDS one of Debian's packages (deed.data.speech.packages), each RUN a folder of
`deed tune BASE SOUNDS --task speech-mixed --recipe … --cache CACHE --output RUN`. Thresholds are chosen on the validation
recordings; told is what they do on the test recordings, and on those of a voice that nobody trained on (which have no texts).
Depth counts an exit's own layer wherever it is asked: an exit after layer 1 of 6 costs 2 layers where a token leaves, 7 where
it stays. At each threshold also the mean loss of word accuracy by recording, as `deed calibrate` counts it (what a recording
gains is not set off against what another loses), and the smallest risk that a test of this threshold alone certifies at 95 %.
Rows stay in CACHE (`free_*.json`): remove them where a run was made anew under its old name.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rapidfuzz.distance import Levenshtein
from transformers.modeling_outputs import BaseModelOutput

from deed.calibration.risk import risk_bound
from deed.calibration.threshold_search import evaluate
from deed.exits.heads import exit_features
from deed.modeling.answering import exit_depths
from deed.modeling.loading import from_pretrained, load_exits
from deed.recipes.tune_batch import join
from deed.recipes.tune_eval import costs_of, statistics_of
from deed.recipes.tune_pool import Pool, epoch
from deed.tasks.task import Task, get_task
from deed.training.forced import can_pack, exit_states_from
from deed.utils.files import atomic_write
from deed.utils.timing import machine, versions

BUDGETS = (0.01, 0.02, 0.05)  # shares of tokens that may change
GRID = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
SPLITS = ("validation", "test", "new_voice")
BATCH = 8
CONFIDENCE = 0.95  # of the bounds on the loss


class Set(NamedTuple):
    """Recordings of a split, heard once.

    Attributes:
        examples: closed.
        states: the encoder's, of each `[1500, d_model]` float16.
        prompts: of each.
        answers: the untouched model's tokens, of each.
    """

    examples: list[Any]
    states: list[torch.Tensor]
    prompts: list[torch.Tensor]
    answers: list[list[int]]


class Decoded(NamedTuple):
    """Attributes:
    tokens: of each recording.
    cost: mean over all tokens of the layers computed for one, exits' own counted, over the model's layers.
    left: share of the tokens that left early.
    """

    tokens: list[list[int]]
    cost: float
    left: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--cache", type=Path, required=True, help="of the runs: the validation recordings' pool is in it"
    )
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="none: only hear the recordings")
    parser.add_argument(
        "--forced", type=Path, nargs="*", default=[], help="runs of which only the forced curve is drawn"
    )
    parser.add_argument("--grid", type=float, nargs="+", default=GRID, help="thresholds")
    parser.add_argument("--count", type=int, default=None, help="recordings of each split; default: all")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/speech_recipes.json"))
    parser.add_argument("--figure", type=Path, default=Path("docs/speech_recipes.svg"))
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*plain model.*")
    task = get_task("speech", "whisper")
    base, processor = task.load(options.base)
    sets = {}
    for split in SPLITS:
        kept = options.cache / f"heard_{split}_{options.count or 'all'}.pt"
        if kept.exists():
            states, prompts, answers = torch.load(kept, weights_only=True)
            examples = map(task.closed, task.examples(split, options.count, options.data))
            sets[split] = Set(list(itertools.islice(examples, options.count)), states, prompts, answers)
        else:
            sets[split] = heard(task, base, processor, split, options)
            torch.save(tuple(sets[split][1:]), kept)
    found: dict[str, Any] = json.loads(options.output.read_text()) if options.output.exists() else {"runs": {}}
    found |= {
        "commands": [*found.get("commands", []), " ".join(["python", *sys.argv])],
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "machine": machine(),
        "sets": {split: about(task, processor, one) for split, one in sets.items()},
    }
    for run in options.runs:
        found["runs"][run.name] = judged(task, processor, run, sets, options)
        print(run.name, json.dumps(found["runs"][run.name]["choices"], indent=1), flush=True)
        with atomic_write(options.output) as temporary:
            temporary.write_text(json.dumps(found, indent=1) + "\n")
    for run in options.forced:
        model = from_pretrained(run / "model")
        found["runs"][run.name] = told = told_of(run, model, options.cache)
        if told["recipe"]["method"] != "frozen":  # the last layer learned, too
            tokens = decode(task, model, processor, one := sets["validation"], 2.0).tokens
            told["full_depth"] = {"changed": changed(one.answers, tokens)} | scores(task, processor, one, tokens)
            told["full_depth"] |= losses(task, processor, one, tokens)
            print(run.name, json.dumps(told["full_depth"]), flush=True)
    with atomic_write(options.output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n")
    if found["runs"]:
        draw(found["runs"], options.figure)


@torch.no_grad()
def heard(task: Task, model: Any, processor: Any, split: str, options: argparse.Namespace) -> Set:
    """The encoder's states of a split, and the untouched model's answers."""
    examples, states, prompts = [], [], []
    for example in itertools.islice(task.examples(split, options.count, options.data), options.count):
        row = task.encode(processor, task.opened(example))
        states.append(model.get_encoder()(row["input_features"][None])[0][0].half())
        prompts.append(row["decoder_input_ids"])
        examples.append(task.closed(example))
    one = Set(examples, states, prompts, [])
    return one._replace(answers=decode(task, model, processor, one, 2.0).tokens)


@torch.no_grad()
def decode(task: Task, model: Any, processor: Any, one: Set, threshold: Any) -> Decoded:
    """Answers at a threshold, recordings of like length together."""
    options = task.generation_options(model, processor)
    layers, own = len(model.deed_family.layers(model)), model.deed_config.adapter == "layer"
    exits = model.deed_config.exit_layers[:-1]
    asked = exits if not isinstance(threshold, float) or threshold <= 1 else []
    tokens: list[list[int]] = [[] for _ in one.examples]
    cost = count = left = 0
    order = sorted(range(len(tokens)), key=lambda i: one.examples[i].extra["seconds"])
    for part in batched(order, BATCH):
        states = torch.stack([one.states[i] for i in part]).float()
        prompts = torch.stack([one.prompts[i] for i in part])
        out = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            decoder_input_ids=prompts,
            exit_threshold=threshold,
            return_dict_in_generate=True,
            **options,
        )
        depths = exit_depths(out)
        assert depths is not None
        for row, i in enumerate(part):
            new = depths[row][depths[row] > 0].tolist()
            tokens[i] = out.sequences[row, prompts.shape[1] :][: len(new)].tolist()
            cost += sum(new) + own * sum(sum(e <= depth for e in asked) for depth in new)
            count += len(new)
            left += sum(depth < layers for depth in new)
    return Decoded(tokens, cost / count / layers, left / count)


def batched(values: Sequence[int], size: int) -> list[Sequence[int]]:
    """Runs of so many."""
    return [values[at : at + size] for at in range(0, len(values), size)]


def changed(answers: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    """Tokens substituted, left out and added, over the tokens of `answers`."""
    distance = sum(Levenshtein.distance(a, b) for a, b in zip(answers, others, strict=True))
    return distance / sum(map(len, answers))


def about(task: Task, processor: Any, one: Set) -> dict[str, Any]:
    """Sizes of a set, and the untouched model's word error rate where there are texts."""
    found = {
        "recordings": len(one.examples),
        "minutes": sum(example.extra["seconds"] for example in one.examples) / 60,
        "tokens": sum(map(len, one.answers)),
    }
    return found | scores(task, processor, one, one.answers)


def scores(task: Task, processor: Any, one: Set, tokens: Sequence[Sequence[int]]) -> dict[str, float]:
    """The word error rate; nothing where there are no texts."""
    if not all(example.answers for example in one.examples):
        return {}
    answers = [task.answer(processor, ids, example) for ids, example in zip(tokens, one.examples, strict=True)]
    return task.other_scores(answers, one.examples)


def losses(task: Task, processor: Any, one: Set, tokens: Sequence[Sequence[int]]) -> dict[str, float]:
    """What is lost of the word accuracy, by recording, and its upper bound; nothing where there are no texts."""
    if not all(example.answers for example in one.examples):
        return {}
    told = []
    for each in (one.answers, tokens):
        answers = [task.answer(processor, ids, example) for ids, example in zip(each, one.examples, strict=True)]
        told.append(task.score(answers, one.examples))
    lost = [max(0.0, full - early) for full, early in zip(*told, strict=True)]
    return {
        "loss": sum(lost) / len(lost),
        "losing": sum(x > 0 for x in lost),
        "risk_bound": risk_bound(lost, CONFIDENCE),
    }


def judged(task: Task, processor: Any, run: Path, sets: dict[str, Set], options: argparse.Namespace) -> dict[str, Any]:
    """A run: what it was told, its cost, both curves, and thresholds for the budgets."""
    if (method := json.loads((run / "report.json").read_text())["recipe"]["method"]) != "frozen":
        raise SystemExit(f"{run} is a run of {method}, whose last layer is another: give it by --forced")
    exits = run / "exits"  # saved alone, as they ship: `model.save_exits(run / "exits", dtype="float16")`
    model = load_exits(options.base, exits) if exits.is_dir() else from_pretrained(run / "model")
    rows: dict[str, dict[float, dict[str, Any]]] = {split: {} for split in sets}

    def at(split: str, threshold: float) -> None:
        """Add a row; one that was made before an interruption is read."""
        kept, one = options.cache / f"free_{run.name}_{split}_{threshold:g}.json", sets[split]
        if threshold > 1:  # full depth is the untouched model: only frozen runs come here
            got = Decoded(one.answers, 1.0, 0.0)
        elif kept.exists():
            rows[split][threshold] = json.loads(kept.read_text())
            return
        else:
            got = decode(task, model, processor, one, threshold)
        row = {
            "threshold": threshold,
            "changed": changed(one.answers, got.tokens),
            "depth": got.cost,
            "left": got.left,
        }
        row |= scores(task, processor, one, got.tokens) | losses(task, processor, one, got.tokens)
        rows[split][threshold] = row
        with atomic_write(kept) as temporary:
            temporary.write_text(json.dumps(row) + "\n")
        print(run.name, split, json.dumps(row), flush=True)

    for split in sets:
        at(split, 2.0)
    for threshold in sorted(options.grid, reverse=True):
        at("validation", threshold)
    chosen = {}
    for budget in BUDGETS:
        allowed = [row for row in rows["validation"].values() if row["changed"] <= budget]
        chosen[budget] = min(allowed, key=lambda row: row["depth"])["threshold"]
    for split, threshold in itertools.product(("test", "new_voice"), sorted({*chosen.values()} - {2.0})):
        at(split, threshold)
    curves = {split: [row for _, row in sorted(found.items())] for split, found in rows.items()}
    choices = []
    for budget, threshold in chosen.items():
        told = {split: found[threshold] for split, found in rows.items()}
        choices.append({"budget": budget, "threshold": threshold, **told})
    return {**told_of(run, model, options.cache), "free_running": curves, "choices": choices}


def told_of(run: Path, model: Any, cache: Path) -> dict[str, Any]:
    """What a run was told, its cost, and its teacher-forced curve."""
    report = json.loads((run / "report.json").read_text())
    frozen = report["recipe"]["method"] == "frozen"  # else the decoder's states are not those of the pool
    kept = ("recipe", "steps", "cpu_hours", "pool_examples", "pool_tokens", "trained_tokens", "agreement", "best")
    told = {key: report[key] for key in kept if key in report}
    return told | {"teacher_forced": report["choices"], "forced_curve": forced(model, cache) if frozen else []}


def forced(model: Any, cache: Path) -> list[dict[str, Any]]:
    """The curve of the validation recordings, teacher-forced along the untouched model's answers."""
    for about in cache.glob("*/pool.json"):
        if json.loads(about.read_text())["split"] == "validation":
            pool = Pool(about.parent)
            break
    depths, pad = model.deed_config.exit_layers[:-1], model.config.pad_token_id
    batches = [
        join([pool.item(i, ("answer",), depths) for i in part], pool.kind, pad, model.dtype, can_pack(model))
        for part in epoch(pool.entries, BATCH, 0, 0)
    ]

    def features(batch: Any) -> dict[int, torch.Tensor]:
        states = exit_states_from(model, batch.source(model), batch.packed, batch.states)
        return {depth: exit_features(model, depth, values[batch.chosen]) for depth, values in states.items()}

    statistics, costs = statistics_of(model, batches, features).statistics, costs_of(model)
    rows = []
    for threshold in (i / 100 for i in range(40, 100, 2)):
        got = evaluate(statistics, [threshold] * len(depths), costs)
        depth = got["cost"] / len(model.deed_family.layers(model))
        rows.append({"threshold": threshold, "changed": 1 - got["agreement"], "depth": depth})
    return rows


def draw(runs: dict[str, Any], path: Path) -> None:
    """Depth over changed tokens of the validation recordings, free-running as lines, teacher-forced as dashes or crosses."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    colors = plt.get_cmap("tab20")
    for number, (name, run) in enumerate(runs.items()):
        for key, style in (("free_running", "o-"), ("forced_curve", "--")):
            rows = run.get(key) or []
            rows = rows["validation"] if isinstance(rows, dict) else rows
            points = sorted((100 * row["changed"], 100 * row["depth"]) for row in rows)
            if points:
                told = name.replace("_", " ") + (", free-running" if key == "free_running" else "")
                axes.plot(*zip(*points, strict=True), style, ms=3, lw=1, color=colors(number), label=told)
        if not run.get(
            "forced_curve"
        ):  # another last layer: no curve was made, only the thresholds that the run chose
            points = [(100 * row["changed"], 100 * row["depth"]) for row in run["teacher_forced"]]
            axes.plot(*zip(*points, strict=True), "x", ms=5, color=colors(number), label=name.replace("_", " "))
    axes.plot(2, 70, "k*", ms=10)
    axes.set(xlabel="changed tokens, %", ylabel="mean depth, % of six layers, exits' own layers counted", xlim=(0, 10))
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    main()
