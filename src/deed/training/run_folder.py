"""The folder of a training run: its recipe, its newest whole checkpoint, and the model published from it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any


def check_recipe(output: Path, recipe: Any) -> None:
    """Write the recipe, or make sure that a run being continued has the same one.

    Raises:
        ValueError: `output` holds a run of another recipe.
    """
    path = output / "recipe.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        changed = [k for k, v in asdict(recipe).items() if before.get(k) != v]
        if changed:
            raise ValueError(
                f"{output} holds a run with another {', '.join(changed)}; choose another --output or delete it"
            )
        return
    temporary = path.with_name(f"recipe.json.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


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
    target, temporary = output / "model", output / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    model.config.use_cache = True  # Trainer switches it off and would leave it so in the folder
    model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n", encoding="utf-8")
    with (temporary / "training_log.jsonl").open("w", encoding="utf-8") as log:
        for row in trainer.state.log_history:
            log.write(json.dumps(row) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    temporary.replace(target)
