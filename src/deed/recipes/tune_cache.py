"""The pools of a run of `deed tune --recipe`: found in the cache, or made now."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from deed.calibration.teacher_forcing import evaluating
from deed.errors import DataError
from deed.tasks.task import Task
from deed.utils.progress import Progress

from .run import say
from .tune_pool import Pool, PoolWriter, fingerprint, of_files
from .tune_recipe import TuneRecipe
from .tune_teacher import fill

KEPT_IN_MEMORY = 10_000  # examples drawn from at once, for their order
FORMAT = 1  # of pools


def pools_of(
    recipe: TuneRecipe, task: Task, model: Any, processor: Any, cache: Path, progress: Progress
) -> tuple[Pool, Pool]:
    """The pools to train on and held out, from the cache or made now.

    Args:
        recipe: says how many examples.
        task: whose.
        model: untouched, with exits.
        processor: as the task loaded it.
        cache: folder of pools.
        progress: bars.
    """
    data = Path(recipe.data) if recipe.data else None
    if data is not None and not data.exists():
        raise DataError(f"--data {data} is not there")
    layers = len(model.deed_family.layers(model))
    depths = sorted({*range(1, layers // 2 + 1), *(d for d in recipe.exits if d < layers)})
    options = options_of(recipe, task, model, processor)
    about = {
        "format": FORMAT,
        "model": of_files(Path(recipe.start), contents=True),
        "task": f"{type(task).__module__}.{type(task).__qualname__} {task.name}",
        "data": None if data is None else [str(data.resolve()), of_files(data, contents=False)],
        "depths": depths,
        "options": repr(sorted(options.items(), key=lambda pair: pair[0])),
        "seed": recipe.seed,
    }
    found, spent = [], 0
    for split, count in ((task.validation_split, recipe.held_out), ("train", recipe.pool)):
        own_share = recipe.own_share if split == "train" else 1.0
        half = recipe.bf16 and split == "train" and model.dtype == torch.float32
        facts = {**about, "split": split, "own_share": own_share, "encoder": "bfloat16" if half else "as it is"}
        folder = cache / fingerprint(facts)
        writer = PoolWriter(folder, facts)
        if writer.examples < count:
            before = time.process_time()
            wanted = recipe.cache_gb * 1e9 - spent
            with evaluating(model), progress.bar(f"teacher's answers, {split}", count) as bar:
                examples = drawn(task.examples(split, None, data), recipe.seed)
                have = fill(
                    writer, task, model, processor, examples, count=count, depths=depths, options=options,
                    seed=recipe.seed, most_bytes=wanted, bar=bar, half=half, own_share=own_share,
                )  # fmt: skip
            writer.close(time.process_time() - before)
            if have < count:
                say(f"{split}: {have} of {count} examples (all there are, or all that --cache-gb has room for)")
        found.append(Pool(folder, count))
        spent += writer.bytes
    return found[1], found[0]


def drawn(examples: Iterable[Any], seed: int) -> Iterator[Any]:
    """The examples in a random order that is always the same, each drawn from the next few thousand."""
    rng, held = random.Random(seed), list[Any]()
    for example in examples:
        held.append(example)
        if len(held) >= KEPT_IN_MEMORY:
            yield held.pop(rng.randrange(len(held)))
    rng.shuffle(held)
    yield from held


def options_of(recipe: TuneRecipe, task: Task, model: Any, processor: Any) -> dict[str, Any]:
    """Options of `generate()` for answers."""
    options = dict(task.generation_options(model, processor))
    return {**options, "max_new_tokens": recipe.max_new_tokens} if recipe.max_new_tokens else options
