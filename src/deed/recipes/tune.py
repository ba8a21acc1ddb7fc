"""`deed tune --recipe`: exits for any trained model by self-distillation from cached states, on the clock."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from deed.calibration.exit_features import Found as Positions
from deed.calibration.fit_draft_head import fit_draft_head_to
from deed.calibration.teacher_forcing import evaluating
from deed.constants import NEVER_EXIT
from deed.errors import DataError
from deed.tasks.task import Task, task_for, tokenizer_of
from deed.training.forced import can_pack
from deed.training.run_folder import check_recipe, locked, publish, write_recipe
from deed.utils.files import user_cache
from deed.utils.progress import Progress, shown

from . import tune_state as states
from .recipe import checked
from .run import same_processor, say
from .tune_batch import Batch, join
from .tune_cache import options_of, pools_of
from .tune_eval import Found, choose, costs_of, summary
from .tune_free import free_running
from .tune_lora import add_lora, lora_tensors, take_out_lora, write_lora
from .tune_pool import Pool, epoch
from .tune_recipe import BUDGETS, TuneRecipe
from .tune_report import by_kind, kinds_of, write
from .tune_student import Student, start

SAVE_EVERY = 300.0  # active seconds between checkpoints
SAY_EVERY = 30.0
DRAFT_POSITIONS = 8000  # tokens that a draft head is fitted to
KINDS = {"both": None, "answers": ("answer",), "labels": ("label",)}


def tune_with(
    output: Path,
    recipe: TuneRecipe,
    cache: Path | None = None,
    progress: Progress | None = None,
    task: Task | None = None,
) -> dict[str, Any]:
    """Train exits; goes on from the last checkpoint in `output` when there is one.

    Args:
        output: run folder; the model is written to `output/model`.
        recipe: see `TuneRecipe`.
        cache: folder of pools; default: in the user's cache.
        progress: None: bars on a terminal.
        task: an object instead of the recipe's name of one.

    Returns:
        What `report.json` holds.

    Raises:
        DataError: missing or broken data.
        DeedLoadError: no saved model in `recipe.start`.
        ValueError: a bad field of the recipe, another recipe in `output`, another process at work there.
    """
    recipe = checked(TuneRecipe, asdict(recipe))
    if recipe.hours is None and not recipe.steps:
        raise ValueError("how long to train: give --hours, or --steps")
    task = task or task_for(Path(recipe.start), recipe.task)
    with locked(output), shown(progress) as bars:
        check_recipe(output, recipe)
        set_seed(recipe.seed)
        model, processor = start(recipe, task)
        pools = pools_of(recipe, task, model, processor, cache or user_cache() / "tune", bars)
        write_recipe(output, recipe)
        processor = same_processor(output, processor)
        run = Run(output, recipe, model, *pools)
        run.train(bars)
        return run.finish(task, processor, bars)


class Run:
    """A run: what it has, and what it does.

    Args:
        output: run folder.
        recipe: checked.
        model: of `start`.
        pool, held_out: to train on, and to evaluate on.
    """

    def __init__(self, output: Path, recipe: TuneRecipe, model: Any, pool: Pool, held_out: Pool) -> None:
        self.output, self.recipe, self.model, self.pool, self.clock = output, recipe, model, pool, states.Clock()
        self.student = Student(model, recipe)
        self.weights = self.student.parameters
        self.optimizer = torch.optim.AdamW(self.student.groups())
        self.state, self.average = states.load(output, self.weights, self.optimizer)
        states.log_of(output, self.state.step)
        self.dtype = next(model.parameters()).dtype
        self.held_out = held_out
        # Thresholds are chosen on the examples at even places, and counted on those at odd ones.
        self.halves = tuple(list(range(first, len(held_out), 2)) for first in (0, 1))
        self.order: tuple[int, list[list[int]]] = (-1, [])

    def batch(self, pool: Pool, part: list[int], held_out: bool = False) -> Batch:
        """Some examples of a pool as a batch; of those held out, the model's own answers."""
        kinds = ("answer",) if held_out else KINDS[self.recipe.train_on]
        frozen = self.student.frozen
        items = [pool.item(i, kinds, self.student.depths if frozen else ()) for i in part]
        return join(items, pool.kind, self.model.config.pad_token_id or 0, self.dtype, frozen and can_pack(self.model))

    def judge(self, which: list[int]) -> Found:
        """What exits say of some held-out examples."""
        size, pool = self.recipe.batch_size, self.held_out
        order = sorted(which, key=lambda i: (pool.entries[i].source_length, pool.entries[i].positions))
        parts = [order[at : at + size] for at in range(0, len(order), size)]
        return self.student.statistics([self.batch(pool, part, True) for part in parts])

    def next_batch(self) -> Batch:
        """The batch that comes next."""
        if self.order[0] != self.state.epoch:
            order = epoch(self.pool.entries, self.recipe.batch_size, self.recipe.seed, self.state.epoch)
            self.order = (self.state.epoch, order)
        part = self.order[1][self.state.at]
        self.state.at += 1
        if self.state.at == len(self.order[1]):
            self.state.epoch, self.state.at = self.state.epoch + 1, 0
        return self.batch(self.pool, part)

    @property
    def share(self) -> float:
        """Of the run that is done, 0..1."""
        parts = [self.state.seconds / (3600 * self.recipe.hours)] if self.recipe.hours else []
        parts += [self.state.step / self.recipe.steps] if self.recipe.steps else []
        return min(1.0, max(parts))

    def rate(self, share: float) -> float:
        """The learning rate in shares of its peak: a linear rise, then a cosine."""
        warm = self.recipe.warmup
        if share < warm:
            return max(share / warm, 1e-3)
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (share - warm) / max(1e-9, 1 - warm)))

    def train(self, progress: Progress) -> None:
        """Until time or steps are up, with evaluations on the way."""
        self.state.cpu_seconds += self.clock.cpu_tick()
        self.clock.skip()
        if not self.state.evaluated:
            self.evaluate()
        self.model.train()
        saved, told, seen, losses = self.state.seconds, time.monotonic(), self.state.tokens, list[dict[int, float]]()
        with progress.bar("training exits", 1.0) as bar:
            while self.share < 1:
                losses.append(self.step())
                self.state.seconds += self.clock.tick()
                bar.update(completed=self.share)
                due = 1 + int(self.share * self.recipe.evaluations)
                if due > self.state.evaluated or self.share >= 1:
                    self.evaluate(losses)
                    losses = []
                    self.save()
                    saved = self.state.seconds
                elif self.state.seconds - saved > SAVE_EVERY:
                    self.save()
                    saved = self.state.seconds
                if time.monotonic() - told > SAY_EVERY:
                    spent = time.monotonic() - told
                    self.tell((self.state.tokens - seen) / spent)
                    told, seen = time.monotonic(), self.state.tokens

    def tell(self, speed: float) -> None:
        """A line on how far the run is."""
        left = self.state.seconds * (1 / max(self.share, 1e-6) - 1)
        say(
            f"step {self.state.step}, {100 * self.share:.1f} %, {speed:.0f} tokens/s, "
            f"{self.state.seconds / 60:.1f} min of training, about {left / 60:.0f} min left"
        )

    def step(self) -> dict[int, float]:
        """One optimizer step, in training mode; the losses by depth."""
        batch = self.next_batch()
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.rate(self.share)
        losses = self.student.losses(batch)
        loss = self.student.together(losses)
        if not torch.isfinite(loss):
            raise DataError(
                f"step {self.state.step}: the loss is not a number; take a smaller --learning-rate, or --no-bf16"
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.recipe.clip:
            torch.nn.utils.clip_grad_norm_(self.weights.values(), self.recipe.clip)
        self.optimizer.step()
        self.state.step += 1
        self.state.tokens += len(batch.labels)
        self.follow()
        return {depth: float(value.detach()) for depth, value in losses.items()}

    @torch.no_grad()
    def follow(self) -> None:
        """The moving average, which at first forgets faster."""
        if not self.recipe.average:
            return
        decay = min(self.recipe.average, (1 + self.state.step) / (10 + self.state.step))
        for name, p in self.weights.items():
            if name in self.average:
                self.average[name].lerp_(p, 1 - decay)
            else:
                self.average[name] = p.detach().clone()

    def judged(self) -> dict[str, torch.Tensor]:
        """The weights that are evaluated: the average, where there is one."""
        return self.average if self.average else {k: p.detach() for k, p in self.weights.items()}

    def evaluate(self, losses: list[dict[int, float]] | None = None) -> None:
        """Write a row of the log; keep the weights where they are the best so far."""
        now = {k: p.detach().clone() for k, p in self.weights.items()}
        states.put(self.weights, self.judged())
        with evaluating(self.model):
            found = summary(self.judge(self.halves[0] + self.halves[1]), costs_of(self.model))
        self.state.evaluated = 1 + int(self.share * self.recipe.evaluations)
        row: dict[str, Any] = {"step": self.state.step, "minutes": round(self.state.seconds / 60, 3)}
        if losses:
            row["loss"] = {str(d): sum(one[d] for one in losses) / len(losses) for d in losses[0]}
        row |= {"tokens": self.state.tokens, "rate": self.recipe.learning_rate * self.rate(self.share), **found}
        if not self.state.best or found["score"] < self.state.best["score"]:
            self.state.best = row
            states.save_best(self.output, self.weights)
        states.put(self.weights, now)
        states.log_row(self.output, row)
        depth = ", ".join(f"{100 * d:.1f} % at {100 * float(b):g} %" for b, d in found["depth"].items())
        agree = ", ".join(f"{d}: {100 * a:.1f} %" for d, a in found["agreement"].items())
        loss = "".join(f", loss {d}: {v:.4f}" for d, v in row.get("loss", {}).items())
        say(f"step {self.state.step}{loss}; agreement {agree}; depth {depth} changed")
        self.clock.skip()

    def save(self) -> None:
        """Write a checkpoint."""
        self.state.cpu_seconds += self.clock.cpu_tick()
        states.save(self.output, self.state, self.weights, self.average, self.optimizer)

    def finish(self, task: Task, processor: Any, progress: Progress) -> dict[str, Any]:
        """Publish the best weights, with thresholds chosen on one half of the held-out examples, and report."""
        states.put(self.weights, states.load_best(self.output))
        self.model.eval()
        draft = self.fit_draft_head(progress) if self.recipe.draft_head else None
        chosen_on, counted_on = (self.judge(half) for half in self.halves)
        budgets = sorted({*BUDGETS, self.recipe.budget})
        choices = choose(self.model, chosen_on, counted_on, budgets)
        threshold = next(row for row in choices if row["budget"] == self.recipe.budget)["thresholds"]
        self.model.deed_config.threshold = threshold
        self.state.cpu_seconds += self.clock.cpu_tick()
        self.publish(processor)
        found = chosen_on.and_of(counted_on)
        first = (found.statistics.position == 0).tolist()
        kinds = kinds_of(tokenizer_of(processor), found.tokens.tolist(), first)
        report = {
            "recipe": asdict(self.recipe),
            "layers": found.statistics.exit_layers[-1],
            "steps": self.state.step,
            "seconds": self.state.seconds,
            "cpu_hours": self.state.cpu_seconds / 3600,
            "pool_cpu_hours": (self.pool.cpu_seconds + self.held_out.cpu_seconds) / 3600,
            "pool_examples": len(self.pool),
            "pool_tokens": self.pool.tokens,
            "trained_tokens": self.state.tokens,
            "held_out_tokens": found.statistics.tokens,
            "best": self.state.best,
            "agreement": found.agreement(),
            "choices": choices,
            "threshold": threshold,
            "draft_head": draft,
            "by_kind": by_kind(found.statistics, kinds, threshold),
        }
        write(self.output, report)
        self.save()
        say(f"model saved in {self.output / 'model'}; generating freely on held-out examples")
        report["free_running"] = self.free(task, processor, choices, progress)
        report["cpu_hours"] = (self.state.cpu_seconds + self.clock.cpu_tick()) / 3600
        write(self.output, report)
        return report

    @torch.no_grad()
    def fit_draft_head(self, progress: Progress) -> dict[str, Any]:
        """Fit the recipe's draft head to the exits as they are, on examples of the pool."""
        depths, count = self.student.depths, 0
        parts: dict[int, list[torch.Tensor]] = {depth: [] for depth in depths}
        examples: list[torch.Tensor] = []
        usage = torch.zeros(self.model.deed_family.vocab_size(self.model))
        for part in epoch(self.pool.entries, self.recipe.batch_size, self.recipe.seed, 0):
            batch = self.batch(self.pool, part)
            for depth, given in self.student.states(batch).items():
                if depth in parts:
                    parts[depth].append(given.float())
            usage.index_add_(0, batch.teacher.ids.flatten(), batch.teacher.logs.exp().flatten())
            examples.append(batch.sequence + 1000 * len(examples))
            count += len(batch.labels)
            if count >= DRAFT_POSITIONS:
                break
        numbers = torch.unique(torch.cat(examples), return_inverse=True)[1]
        found = Positions({}, {d: torch.cat(x) for d, x in parts.items()}, {}, numbers, usage)
        with torch.enable_grad():
            return fit_draft_head_to(self.model, found, self.recipe.draft_head, progress=progress.note)

    def publish(self, processor: Any) -> None:
        """Write the model, LoRA merged or beside it."""
        rows, lora = states.log_of(self.output), self.student.lora
        if lora is None or not self.recipe.keep_adapter:
            if lora is not None:
                take_out_lora(self.model, merge=True)
            publish(self.model, processor, self.output, self.recipe, rows)
            return
        tensors = lora_tensors(self.model)
        take_out_lora(self.model, merge=False)

        def beside(folder: Path) -> None:
            write_lora(tensors, lora, self.recipe.start, folder / "adapter")

        publish(self.model, processor, self.output, self.recipe, rows, beside)
        add_lora(self.model, self.recipe.rank)
        states.put(self.student.parameters, states.load_best(self.output))

    def free(
        self, task: Task, processor: Any, choices: list[dict[str, Any]], progress: Progress
    ) -> list[dict[str, Any]]:
        """What generating gives at full depth and at each choice, on the half of the examples that nothing was chosen on."""
        which = self.halves[1][: self.recipe.free_running]
        ways = [[NEVER_EXIT] * len(self.student.depths), *(row["thresholds"] for row in choices)]
        if not which:
            return []
        options = options_of(self.recipe, task, self.model, processor)
        with progress.bar("generating freely", len(which) * len(ways)) as bar:
            found = free_running(self.model, self.held_out, which, ways, options, self.recipe.batch_size, bar)
        budgets = [None, *(row["budget"] for row in choices)]
        return [{"budget": budget, **row} for budget, row in zip(budgets, found, strict=True)]
