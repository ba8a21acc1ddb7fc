"""`deed tune --recipe`: what a run of self-distillation from cached states is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from .recipe import Count, Natural, Rate, Recipe, Share

Hours = Annotated[float, Meta(gt=0)]
Method = Literal["frozen", "lora", "decoder"]
TrainOn = Literal["both", "answers", "labels"]
BUDGETS = (0.01, 0.02, 0.05)  # shares of tokens changed, at which depths are compared
EVALUATIONS = 20


@dataclass(kw_only=True)
class TuneRecipe(Recipe):
    """Exits for a trained model by self-distillation.

    Args:
        start: folder of the model.
        task: whose examples.
        data: the data set's folder or file.
        method: frozen (only the exits learn), lora (and low-rank additions to the decoder), decoder (all of the decoder).
        exits: depths of the exits, the last layer apart.
        adapter_shared: exits share one layer (`adapter="layer"`).
        hours: of training, active time; the schedule's length where `steps` is 0.
        steps: optimizer steps; the schedule's length where it is not 0.
        pool: training examples, drawn once.
        train_on: the model's own answers, the labels, or both.
        own_share: of the pool's examples with a label, how many the model also answers itself, which is most of the work of
            making the pool.
        batch_size: examples per step.
        learning_rate: of the exits, peak; warmed up over `warmup`, then falling by a cosine to a hundredth.
        decoder_rate: the same of the decoder's weights (decoder) or of what is added to them (lora); None: 3e-5 and 3e-4.
        warmup: share of the run; too short a one (3 of 150 steps) halves what an exit with a layer of its own learns.
        weight_decay: of AdamW.
        dropout: in the exits' layers.
        label_share: share of the cross-entropy of the tokens that follow; the rest is the divergence to the teacher.
        average: decay of the exponential moving average of the weights that is evaluated and saved; 0: none.
        clip: largest norm of the gradient.
        last_weight: weight of the last layer's divergence to the untouched model (lora, decoder).
        rank: of LoRA.
        keep_adapter: save LoRA's adapter beside the untouched model instead of merging it.
        held_out: examples held out, half to choose thresholds on, half to report on.
        free_running: of the latter, how many are also answered freely at the end.
        budget: share of tokens that may change at the threshold chosen for the model.
        evaluations: along the run.
        draft_head: fitted to the exits once they are trained, and used from then on (`DeedConfig.draft_head`); None: none.
        cache_gb: largest size of the cache.
        max_new_tokens: longest answer; 0: as the task has it.
    """

    start: str
    task: str
    data: str | None = None
    method: Method = "frozen"
    exits: list[int] = field(default_factory=lambda: [1])
    adapter: str = "layer"
    adapter_shared: bool = False
    hours: Hours | None = None
    steps: Natural = 0  # type: ignore[assignment]
    pool: Count = 2000
    train_on: TrainOn = "both"
    own_share: Share = 1.0
    batch_size: Count = 8
    learning_rate: Rate = 1e-3
    decoder_rate: Rate | None = None
    warmup: Share = 0.1
    weight_decay: Rate = 0.01
    dropout: Share = 0.0
    label_share: Share = 0.0
    average: Share = 0.0
    clip: Rate = 1.0
    last_weight: Rate = 1.0
    rank: Count = 16
    keep_adapter: bool = False
    held_out: Annotated[int, Meta(ge=4)] = 200
    free_running: Natural = 100
    budget: Share = 0.02
    evaluations: Count = EVALUATIONS
    draft_head: dict[str, int] | None = None
    cache_gb: Hours = 8.0
    max_new_tokens: Natural = 0
    bf16: bool = True
