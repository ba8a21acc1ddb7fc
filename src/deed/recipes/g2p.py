"""`deed train` and `deed tune` on CMUdict: the recipe, and the run that follows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    set_seed,
)

from deed.config import DeedConfig
from deed.constants import NEVER_EXIT
from deed.data.readers import cmudict
from deed.modeling.model import get_deed_model
from deed.models import small_g2p
from deed.tasks import g2p
from deed.tasks.loading import load_saved
from deed.training.callbacks import DropoutWindow
from deed.training.run_folder import check_recipe, last_complete_checkpoint, publish
from deed.training.trainer import DeedTrainer

from .arguments import training_arguments
from .starting import forget_measured


@dataclass
class G2pRecipe:
    """What a training run is, saved beside its result.

    Args:
        steps: optimizer steps.
        batch_size: pairs per step and process.
        learning_rate: peak of a linear warm-up and decay.
        dropout: rate in steps `dropout_start` to `dropout_stop`, none outside (see `DropoutWindow`).
        conventional: train the plain model (last layer's loss only), for comparison.
        start: folder of a saved model to go on from, with a fresh optimizer and schedule (a further stage).
        base: folder of a trained model whose backbone is kept frozen; only adaptation modules are trained, by
            self-distillation from its last layer (`deed tune`).
        bf16: bfloat16 autocast.
    """

    steps: int = 9500
    batch_size: int = 128
    learning_rate: float = 1.5e-3
    warmup_steps: int = 300
    weight_decay: float = 0.05
    dropout: float = 0.1
    dropout_start: int = 4500
    dropout_stop: int = 6250
    n_layers: int = 8
    d_model: int = 128
    d_ff: int = 512
    adapter: str = "residual_linear"
    loss: str = "deed"
    conventional: bool = False
    start: str | None = None
    base: str | None = None
    bf16: bool = True
    seed: int = 0
    save_every: int = 250
    log_every: int = 100
    eval_every: int = 1500


def train_g2p(output: Path, recipe: G2pRecipe, data: Path | None = None, limit: int | None = None) -> dict[str, Any]:
    """Train the CMUdict model; continues from the last complete checkpoint in `output` when there is one.

    Args:
        output: run folder; the model is written to `output/model`.
        data: a dictionary file, None for the packaged one.
        limit: use only so many training words (for tests).

    Returns:
        `{"steps", "train_loss", "validation": {…}}`.
    """
    set_seed(recipe.seed)
    model, tokenizer = start_g2p(recipe)
    train_rows, validation = cmudict.load_split("train", data)[:limit], cmudict.load_split("validation", data)[:limit]
    train_set = g2p.encode_pairs(train_rows, tokenizer)
    answers = [a for _, a in validation]
    eval_set = g2p.encode_pairs([(word, listed[:1]) for word, listed in validation], tokenizer)

    def measure(prediction: Any) -> dict[str, float]:
        return g2p.score_ids(prediction.predictions, answers, tokenizer)

    output.mkdir(parents=True, exist_ok=True)
    check_recipe(output, recipe)
    arguments = training_arguments(
        output,
        recipe,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=128,
        adam_beta2=0.98,
        eval_strategy="steps" if eval_set else "no",
        eval_steps=recipe.eval_every,
        predict_with_generate=True,
    )
    trainer = DeedTrainer(
        model=model,
        args=arguments,
        train_dataset=train_set,  # type: ignore[arg-type]
        eval_dataset=eval_set,  # type: ignore[arg-type]
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        compute_metrics=measure if eval_set else None,
        callbacks=[DropoutWindow(recipe.dropout, recipe.dropout_start, recipe.dropout_stop)],
        lengths=[len(x["input_ids"]) * 64 + len(x["labels"]) for x in train_set],
    )
    result = trainer.train(resume_from_checkpoint=last_complete_checkpoint(output))
    metrics = trainer.evaluate() if eval_set else {}
    if trainer.is_world_process_zero():
        publish(trainer, model, tokenizer, output, recipe)
    return {"steps": result.global_step, "train_loss": result.training_loss, "validation": metrics}


def start_g2p(recipe: G2pRecipe) -> tuple[Any, Any]:
    """The model a run starts from, and its tokenizer. Thresholds stay above 1 (full depth) until calibrated."""
    if recipe.base is not None:
        try:
            model = AutoModelForSeq2SeqLM.from_pretrained(recipe.base)
            tokenizer = AutoTokenizer.from_pretrained(recipe.base)
        except (OSError, ValueError) as error:
            raise ValueError(f"the base model in {recipe.base} cannot be loaded: {error}") from None
        model = get_deed_model(model, DeedConfig(adapter=recipe.adapter, loss="distill", threshold=NEVER_EXIT))
        model.freeze_backbone()
        return model, tokenizer
    if recipe.start is not None:
        model, tokenizer = load_saved(Path(recipe.start))
        forget_measured(model)
        return model, tokenizer
    tokenizer = small_g2p.build_tokenizer()
    model = small_g2p.build_model(tokenizer, recipe.n_layers, recipe.d_model, recipe.d_ff, recipe.dropout)
    if not recipe.conventional:
        model = get_deed_model(model, DeedConfig(adapter=recipe.adapter, loss=recipe.loss, threshold=NEVER_EXIT))
    return model, tokenizer
