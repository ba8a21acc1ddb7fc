"""What every recipe has: the fields, how they are checked, and the model a run starts from."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from deed.config import DeedConfig
from deed.constants import NEVER_EXIT
from deed.modeling.loading import from_pretrained
from deed.modeling.model import DeedMixin, get_deed_model
from deed.tasks.protocol import Task
from deed.utils.quiet import quiet
from deed.utils.saved_model import read_saved_model

Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Rate = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Width = Annotated[int, Meta(ge=32, multiple_of=32)]
Loss = Literal["deed", "mean", "rising", "last"]


@dataclass(kw_only=True)
class Recipe:
    """What a training run is, saved beside its result.

    Args:
        steps: optimizer steps; the length of the schedule, fixed when a run starts.
        batch_size: examples per step and process.
        learning_rate: peak of a linear warm-up and decay.
        warmup_steps: steps of rising learning rate.
        weight_decay: of AdamW.
        adapter: adaptation module: residual_linear, linear, bottleneck, layer or none.
        loss: deed (L_avg + L_N), mean (L_avg), rising (exits weighted by their number, + L_N) or last (L_N).
        conventional: train the plain model (last layer's loss only), for comparison.
        bf16: bfloat16 autocast.
        fp16: float16 autocast with loss scaling instead, on a GPU.
        accumulation: batches whose gradients are summed up for a step.
        seed: seed of weights, order and dropout.
        save_every: steps between checkpoints.
        log_every: steps between rows of the log.
    """

    steps: Count = 10_000
    batch_size: Count = 8
    learning_rate: Rate = 1e-4
    warmup_steps: Natural = 1000
    weight_decay: Rate = 0.01
    adapter: str = "residual_linear"
    loss: Loss = "deed"
    conventional: bool = False
    bf16: bool = True
    fp16: bool = False
    accumulation: Count = 1
    seed: Natural = 0
    save_every: Count = 500
    log_every: Count = 50

    renamed_fields: ClassVar[dict[str, str]] = {}  # older names in recorded recipes
    start_needs: ClassVar[
        dict[str, str]
    ] = {}  # fields without which a run cannot start, and what to tell who leaves them out

    @classmethod
    def renamed(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A recorded recipe's values under the present names."""
        return {cls.renamed_fields.get(name, name): value for name, value in values.items()}


R = TypeVar("R", bound=Recipe)


def checked(kind: type[R], values: dict[str, Any], source: str = "the recipe") -> R:
    """The recipe with these values.

    Args:
        kind: the recipe's class.
        values: by field; fields left out have their default.
        source: what messages call the values.

    Raises:
        ValueError: an unknown field, one left out that has no default, a value of the wrong type or out of range; names
            the field.
    """
    known = {field.name for field in fields(kind)}
    values = {name: value for name, value in kind.renamed(values).items() if name != "note"}
    if strange := sorted(name for name in values if name not in known and values[name] is not None):
        raise ValueError(f"{source}: {kind.__name__} has no field {', '.join(strange)}")
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$.")
        name = place.rstrip("`")
        raise ValueError(f"{source}: {name + ': ' if name else ''}{problem}: {values.get(name)!r}") from None


def new_exits(model: Any, recipe: Recipe) -> Any:
    """A plain model with untrained exits (at full depth until calibrated), or for a conventional training as it is."""
    if recipe.conventional:
        return model
    return get_deed_model(model, DeedConfig(adapter=recipe.adapter, loss=recipe.loss, threshold=NEVER_EXIT))


def prepared(model: Any, recipe: Recipe) -> Any:
    """A fresh small model as the recipe wants it, with eager attention: a third faster at these sizes on a CPU."""
    with quiet():
        model.set_attn_implementation("eager")
    return new_exits(model, recipe)


def check_start(recipe: Any, kind: Any, name: str) -> None:
    """Check the folder that a run goes on from, if there is one.

    Args:
        recipe: with `start` and `conventional`.
        kind: the plain model's class.
        name: what messages call it.

    Raises:
        DeedLoadError: `recipe.start` is not the folder of a saved model.
        ValueError: it holds another kind of model, or one trained in the other way.
    """
    if not recipe.start:
        return
    folder, model_type, has_exits = read_saved_model(recipe.start)
    if model_type != kind.config_class.model_type:
        raise ValueError(f"--from {folder} is not {name}")
    if has_exits == recipe.conventional:
        raise ValueError(f"--from {folder} is {'a deed' if recipe.conventional else 'a conventional'} model")


def started(recipe: Any, kind: Any) -> Any:
    """The saved model to go on from, checked before."""
    load = kind.from_pretrained if recipe.conventional else from_pretrained
    model: Any = load(Path(recipe.start), attn_implementation="eager")
    if not recipe.conventional:
        forget_measured(model)
    return model


def go_on_from(folder: Path, task: Task, recipe: Recipe) -> tuple[Any, Any]:
    """A saved model to be trained on, in training mode, and its processor; a plain one gets exits, unless the training is
    conventional.

    Args:
        folder: written by `save_pretrained`.
        task: loads it.
        recipe: `adapter`, `loss`, `conventional`.

    Raises:
        DeedLoadError: not the folder of a saved model, or a damaged one.
        ValueError: one with early exit, for a conventional training.
    """
    model, processor = task.load(folder, plain=True)
    if not isinstance(model, DeedMixin):
        return new_exits(model, recipe).train(), processor
    if recipe.conventional:
        raise ValueError(f"--from {folder} has early exit; --conventional goes on from a plain model")
    model.deed_config.loss = recipe.loss
    forget_measured(model)
    return model.train(), processor


def forget_measured(model: Any) -> None:
    """Of a deed model that is trained on, neither calibration nor curve holds any longer: it runs at full depth until it is
    calibrated anew."""
    config = model.deed_config
    config.threshold, config.calibration, config.curve, config.answer_calibration = NEVER_EXIT, None, None, None
