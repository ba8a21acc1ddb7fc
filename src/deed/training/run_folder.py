"""The folder of a training run: its recipe, its newest whole checkpoint, and the model published from it."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from deed.utils.files import read_json, swapped_folder, write_json


def check_recipe(output: Path, recipe: Any) -> None:
    """Write the recipe, or make sure that a run being continued has the same one.

    Raises:
        ValueError: `output` holds a run of another recipe.
    """
    path = output / "recipe.json"
    if path.exists():
        before = read_json(path, ValueError)
        changed = [k for k, v in asdict(recipe).items() if before.get(k) != v]
        if changed:
            raise ValueError(
                f"{output} holds a run with another {', '.join(changed)}; choose another --output or delete it"
            )
        return
    write_json(path, asdict(recipe))


def last_complete_checkpoint(output: Path) -> str | None:
    """The newest checkpoint that was written to its end; one cut short by a kill is put aside.

    Trainer writes `trainer_state.json` last, so a checkpoint with a readable one is whole.
    """
    found = sorted(output.glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]), reverse=True)
    for folder in found:
        try:
            json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
            return str(folder)
        except (OSError, ValueError):
            shutil.rmtree(folder, ignore_errors=True)
    return None


def publish(trainer: Any, model: Any, tokenizer: Any, output: Path, recipe: Any) -> None:
    """Write `output/model` (fp32, complete or not at all) and the training log beside it."""
    model.config.use_cache = True  # Trainer switches it off and would leave it so in the folder
    with swapped_folder(output / "model") as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / "recipe.json", asdict(recipe))
        log = "".join(json.dumps(row) + "\n" for row in trainer.state.log_history)
        (folder / "training_log.jsonl").write_text(log, encoding="utf-8")
