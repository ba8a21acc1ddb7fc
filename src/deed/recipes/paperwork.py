"""`deed train --task paperwork`: a LaTr++ from scratch on real pages, forms, generated pages and easy-vqa.

The question is late, so that a page is encoded once for several questions; attention knows how boxes lie to each other; the
tokenizer is learnt from the pages. A fresh model is wired to look up and copy (`deed.models.latr.wiring`), and first trained
on pages of strings that take that and nothing else. Real pages are PDFs of Debian's packages (`deed.data.debian`), forms are
drawn by WeasyPrint; both are made on first use and kept in `--data`. Pages grow with a loss-gated curriculum. A batch is a
function of seed, index and level, so a resumed run sees what an unbroken one would have seen.
"""

from __future__ import annotations

import functools
import json
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from deed.constants import IGNORE_INDEX
from deed.data.base import UNANSWERABLE
from deed.data.debian.packages import fetch, package_names, split_of
from deed.data.debian.store import PageStore, open_store
from deed.data.synthetic.forms.kept import kept_forms
from deed.models.latr import LatrForConditionalGeneration, LatrProcessor
from deed.models.latr import small as small_latr
from deed.models.latr.pieces import learn_tokenizer
from deed.models.latr.spans import FREE, rules_of
from deed.models.latr.wiring import wire_look_up
from deed.training.curriculum import LossGatedCurriculum

from . import easy_vqa
from .pages import PagesTrainer
from .paperwork_batches import WINDOWS, PaperworkBatches, PaperworkRecipe
from .paperwork_pages import AskedPage, FormPicker, PicturePicker, drawn_page, page_to_copy, pages_by_kind, real_page
from .recipe import check_start, prepared, started
from .run import Parts, only_item, run_recipe, say, whole_batches

CURVE = "learning_curve.jsonl"
VALIDATION = {"real": 40, "form": 30, "drawn": 20, "copy": 20, "picture": 20}  # pages
PIECES_FROM = 3000  # pages that the tokenizer is learnt from


class PaperworkTrainer(PagesTrainer):
    """`PagesTrainer` that also logs the last exit's loss by kind of question."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.by_kind: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.asked = 0

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss.

        Args:
            model, inputs, return_outputs, num_items_in_batch: as in `Trainer.compute_loss`.
        """
        kinds = inputs.pop("kinds")
        labels, answers = inputs["labels"], inputs["answer_ids"]
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        logits = kept(outputs["logits"].detach(), inputs.get("allowed_tokens"))
        for kind, value in answer_losses(logits, labels, answers, kinds):
            self.by_kind[kind][0] += value
            self.by_kind[kind][1] += 1
            self.asked += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The log, with the mean loss of a whole answer of each kind and the number of questions since the last one."""
        if "loss" in logs and self.asked:
            logs["questions"] = self.asked
            for kind, (total, count) in sorted(self.by_kind.items()):
                logs[f"answer_loss_{kind}"] = round(total / count, 3)
            self.by_kind.clear()
            self.asked = 0
        super().log(logs, start_time)


@torch.no_grad()
def answer_losses(
    logits: torch.Tensor, labels: torch.Tensor, answers: torch.Tensor, kinds: list[list[str]]
) -> Iterator[tuple[str, float]]:
    """Kind and summed cross-entropy of every packed answer.

    Args:
        logits: `[batch, length, vocab]`.
        labels, answers: `[batch, length]`, see `packing.pack`.
        kinds: of each page's questions.
    """
    keep = labels != IGNORE_INDEX
    losses = torch.zeros(labels.shape)
    losses[keep] = torch.nn.functional.cross_entropy(logits[keep].float(), labels[keep], reduction="none")
    for row, numbers, of_row in zip(losses, answers, kinds, strict=True):
        sums = torch.zeros(len(of_row) + 1).index_add_(0, numbers, row)[1:]
        yield from zip(of_row, sums.tolist(), strict=True)


class LearningCurve(TrainerCallback):
    """Every so many steps, a row of `learning_curve.jsonl`: which share of held-out answers every exit gets wholly right, by
    kind of question. With the right answer's own tokens before each, being right at every token is what greedy decoding at
    full depth needs to give that answer, and one pass over packed pages tells it of all exits.

    Args:
        path: of the file.
        pages: held-out pages by source.
        batches: encodes them.
        every: steps.
    """

    def __init__(self, path: Path, pages: list[AskedPage], batches: PaperworkBatches, every: int) -> None:
        self.path, self.every = path, every
        rng = random.Random("questions")
        rows = sorted((batches.encode(page, rng) for page in pages), key=lambda row: row["length"])
        seen = [row for row in rows if row["page"].source == "picture"]
        rest = [row for row in rows if row["page"].source != "picture"]
        self.batches = [batches.collate(part, "", seen=True) for part in _parts(seen, 10)]
        self.batches += [batches.collate(part, "") for part in _parts(rest, 5)]
        self.begun = time.time()

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Write a row if it is time.

        Args:
            args, state, control, model, kwargs: as in `TrainerCallback`.
        """
        if state.global_step % self.every == 0 and state.is_world_process_zero:
            row = {"step": state.global_step, "seconds": round(time.time() - self.begun), **self.scores(model)}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    @torch.no_grad()
    def scores(self, model: Any) -> dict[str, Any]:
        """Share of answers right at the last exit by kind, and of all answers at every exit."""
        was = model.training
        model.eval()
        right: dict[str, list[bool]] = defaultdict(list)
        exits: list[list[bool]] = []
        for batch in self.batches:
            inputs = {k: v for k, v in batch.items() if isinstance(v, torch.Tensor)}
            with torch.autocast("cpu", torch.bfloat16):
                found = exit_predictions(model, inputs)
            for of_page, numbers, labels, *predicted in zip(
                batch["kinds"], batch["answer_ids"], batch["labels"], *found, strict=True
            ):
                for number, kind in enumerate(of_page, 1):
                    at = numbers == number
                    hits = [bool((p[at] == labels[at]).all()) for p in predicted]
                    right[kind].append(hits[-1])
                    exits.append(hits)
        model.train(was)
        by_source: dict[str, list[bool]] = defaultdict(list)
        for kind, hits in right.items():
            by_source[kind.partition("/")[0]] += hits
        return {
            "exact": _mean([hits[-1] for hits in exits]),
            "by_source": {source: _mean(hits) for source, hits in sorted(by_source.items())},
            "by_kind": {kind: _mean(hits) for kind, hits in sorted(right.items())},
            "counts": {kind: len(hits) for kind, hits in sorted(right.items())},
            "by_exit": [_mean(list(column)) for column in zip(*exits, strict=True)],
        }


def exit_predictions(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """The likeliest token of every exit at each place, `[batch, length]` each; of a plain model, of its last layer.

    Args:
        model: deed or plain.
        inputs: a packed batch.
    """
    allowed = inputs.get("allowed_tokens")
    inputs = {name: value for name, value in inputs.items() if name not in ("labels", "allowed_tokens")}
    out = model(**inputs, use_cache=False, output_hidden_states=True)
    if not hasattr(model, "exit_head"):
        return [kept(out.logits, allowed).argmax(-1)]
    depths = model.deed_config.exit_layers[:-1]
    early = [kept(model.exit_head(depth, out.decoder_hidden_states[depth]), allowed).argmax(-1) for depth in depths]
    return [*early, kept(out.logits, allowed).argmax(-1)]


def kept(logits: torch.Tensor, allowed: torch.Tensor | None) -> torch.Tensor:
    """Logits of what may stand in each place; the others have the least there is.

    Args:
        logits: `[batch, length, vocab]`.
        allowed: bool of that shape; None: everything may.
    """
    return logits if allowed is None else logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)


def _parts(rows: list[Any], size: int) -> list[list[Any]]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _mean(hits: list[bool]) -> float:
    return round(sum(hits) / max(1, len(hits)), 4)


class Sources:
    """All that a run draws its pages from, made on first use and kept.

    Args:
        recipe: names the folder, and how many forms.
        limit: use only so many forms and pictures (for tests).
        names: packages of the real pages; None: all.
    """

    def __init__(self, recipe: PaperworkRecipe, limit: int | None = None, names: list[str] | None = None) -> None:
        self.folder, self.names = Path(recipe.data), names or package_names()
        self.store = self.pages_of("train")
        self.forms = FormPicker(list(kept_forms(self.folder, "train", min(recipe.forms, limit or recipe.forms))))
        self.pictures = PicturePicker(easy_vqa.load_pictures(limit))

    def pages_of(self, split: str) -> PageStore:
        """Real pages of a split."""
        names = [name for name in self.names if split_of(name) == split]
        path, packages = self.folder / f"pages-{split}.npz", self.folder / "debian"
        if not path.exists() and (missing := [name for name in names if not (packages / name).is_dir()]):
            say(f"fetching {len(missing)} packages of the {split} split with apt-get")
            failed = fetch(missing, packages)
            say(f"{len(failed)} of them cannot be had: {', '.join(failed)}" if failed else "all are there")
        return open_store(path, packages, names)

    def held_out(self) -> list[AskedPage]:
        """Pages of the validation split, always the same."""
        rng = random.Random("validation")
        store = self.pages_of("validation")
        forms = FormPicker(list(kept_forms(self.folder, "validation", 100)))
        return [
            *(real_page(store, rng, rng.choice((60, 120, 250, 300)), 0.3) for _ in range(VALIDATION["real"])),
            *(forms.page(rng, 400) for _ in range(VALIDATION["form"])),
            *(drawn_page(rng, None) for _ in range(VALIDATION["drawn"])),
            *(page_to_copy(store, rng, rng.choice(WINDOWS[1:6])) for _ in range(VALIDATION["copy"])),
            *(self.pictures.page(rng) for _ in range(VALIDATION["picture"])),
        ]

    def texts(self) -> Iterator[str]:
        """What the tokenizer is learnt from: pages, questions and answers of the training mix."""
        rng = random.Random("pieces")
        for i in range(PIECES_FROM):
            makers = (
                lambda: real_page(self.store, rng, 300, 0.0),
                lambda: self.forms.page(rng, 400, 0.0),
                lambda: drawn_page(rng, None),
            )
            page = makers[(0, 0, 1, 0, 0, 1, 0, 2)[i % 8]]()
            yield " ".join(word.text for word in page.words)
            yield from (text for _, question, answer in page.asked for text in (question, answer))
        yield from (text for questions in self.pictures.of_image for _, *both in questions for text in both)


def start_paperwork(recipe: PaperworkRecipe, sources: Sources) -> tuple[Any, Any]:
    """Fresh model and processor, or those of `recipe.start`."""
    if recipe.start:
        check_start(recipe, LatrForConditionalGeneration, "a LaTr++")
        model: Any = started(recipe, LatrForConditionalGeneration)
        return _set(model, recipe), LatrProcessor.from_pretrained(Path(recipe.start))
    tokenizer = learn_tokenizer(sources.texts(), recipe.pieces)
    plain = small_latr.build_model(
        tokenizer,
        recipe.encoder_layers,
        recipe.decoder_layers,
        recipe.d_model,
        recipe.d_ff,
        recipe.vision_layers,
        d_vision=recipe.d_vision,
        question="late",
        box_bias=recipe.box_bias,
        cell_bias=recipe.box_bias and recipe.cell_bias,
    )
    wire_look_up(plain)
    processor = small_latr.build_processor(tokenizer, recipe.max_length, "late")
    plain.config.update(rules_of(processor, (*FREE, UNANSWERABLE)))
    return _set(prepared(plain, recipe), recipe), processor


def _set(model: Any, recipe: PaperworkRecipe) -> Any:
    model.encoder.bias_share = recipe.bias_share
    if recipe.cell_bias and model.config.box_bias and not model.config.cell_bias:
        model.add_cells()
    if recipe.copy_loss and not recipe.conventional:
        # What may not be said is not learnt, and has probabilities that mean nothing.
        model.deed_config.confidence_over = "allowed"
    return model


def train_paperwork(
    output: Path,
    recipe: PaperworkRecipe,
    limit: int | None = None,
    minutes: float | None = None,
    names: list[str] | None = None,
) -> dict[str, Any]:
    """Train the LaTr++ on paperwork; see `run_recipe`.

    Args:
        output: run folder; the model is written to `output/model`, the learning curve to `output/learning_curve.jsonl`.
        recipe: see `PaperworkRecipe`.
        limit: use only so many forms and pictures (for tests).
        minutes: stop after so many, with a checkpoint.
        names: packages of the real pages; None: all.

    Returns:
        What `run_recipe` does, and `"level"` and `"risen"` of the curriculum.
    """
    sources = Sources(recipe, limit, names)
    say(f"{len(sources.store)} real pages, {len(sources.forms.forms)} forms, {len(sources.pictures.images)} pictures")
    curriculum = LossGatedCurriculum(recipe.curriculum_loss, len(WINDOWS), longest=recipe.curriculum_steps)

    def plan(model: Any, processor: Any, checkpoint: str | None) -> Parts:
        curriculum.resume(checkpoint or recipe.start)
        by_kind = pages_by_kind(sources.store) if recipe.kind_share else None  # looks at every page
        drawn_from = (sources.store, sources.forms, sources.pictures, by_kind)
        data = PaperworkBatches(recipe, processor, curriculum.level, *drawn_from)
        curve = LearningCurve(output / CURVE, sources.held_out(), data, recipe.validate_every)
        trainer = functools.partial(PaperworkTrainer, curriculum=curriculum, muon=recipe.optimizer == "muon")
        return Parts(data, only_item, trainer=trainer, callbacks=[curriculum, curve], write_more=curriculum.save)

    schedule = {"num_decay_steps": min(recipe.decay_steps, max(0, recipe.steps - recipe.warmup_steps))}
    result = run_recipe(
        output,
        recipe,
        functools.partial(start_paperwork, sources=sources),
        plan,
        minutes,
        **{**whole_batches(recipe.workers), "adam_beta2": 0.98},
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs=schedule,
        ddp_find_unused_parameters=True,
    )
    return {**result, "level": int(curriculum.level), "risen": curriculum.risen}
