"""What the untouched model has to say, for `deed tune --recipe`: its answers to a task's examples, its decoder's states and
its likeliest tokens along them, written to a pool."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from deed.constants import NEVER_EXIT
from deed.errors import DataError
from deed.modeling.answering import batches
from deed.tasks.task import Task
from deed.training.distill import Teacher, top_of
from deed.utils.progress import SILENT_BAR, Bar

from .tune_pool import ForcedAnswer, Item, PoolWriter

DRAWN = 32  # examples drawn at once, sorted by length
POSITIONS = 1024  # of a teacher-forced pass, padding included
PROMPT = 16  # tokens of the longest prompt of a decoder, which a label may lack
INPUT_MASK = "attention_mask of the input"


def fill(
    writer: PoolWriter,
    task: Task,
    model: Any,
    processor: Any,
    examples: Iterable[Any],
    *,
    count: int,
    depths: list[int],
    options: Mapping[str, Any],
    seed: int = 0,
    most_bytes: float = float("inf"),
    batch_size: int = 8,
    bar: Bar = SILENT_BAR,
    half: bool = False,
    own_share: float = 1.0,
) -> int:
    """Add examples to a pool until it has `count`, or is as large as it may be; goes on after those that it has.

    Args:
        writer: of the pool.
        task: encodes, and says which labels there are.
        model: a deed model, in evaluation mode.
        processor: as the task loaded it.
        examples: in an order that is always the same.
        count: so many in all.
        depths: whose states are kept.
        options: of `generate()`, for the model's own answers.
        seed: of labels, where there are several right ones.
        most_bytes: of the pool's shards.
        batch_size: examples answered at once.
        bar: advanced by examples.
        half: run the encoder in bfloat16, at which processors with AMX are several times as fast: what is learned from its
            states, a little off, holds for the exact ones.
        own_share: of the examples that have a label, how many the model also answers itself. Generating is most of the work:
            along labels alone it hears two to three times as many examples in the same time.

    Returns:
        How many examples the pool has.

    Raises:
        DataError: there are no examples.
    """
    done, kind = writer.examples, ""
    bar.advance(done)
    left = itertools.islice(enumerate(examples), done, count)
    while writer.bytes < most_bytes:
        drawn = list(itertools.islice(left, DRAWN))
        if not drawn:
            break
        rows, labels = list[dict[str, Any]](), list[list[int]]()
        by_own: dict[bool, list[int]] = {False: [], True: []}
        for number, example in drawn:
            rng, example = random.Random(f"{seed}/{number}"), task.opened(example)
            label = label_of(task, processor, example, rng)
            too_long = len(label) + PROMPT > longest(model)
            by_own[not label or too_long or rng.random() < own_share].append(len(rows))
            rows.append(dict(task.encode(processor, example)))
            labels.append(label)
        items: dict[int, Item] = {}
        for own, places in by_own.items():
            for chosen in batches([rows[i] for i in places], batch_size):
                part = [places[i] for i in chosen]
                inputs = task.collate(processor, [rows[i] for i in part])
                with encoder_in_half(model) if half else nullcontext():
                    found, kind = answer(model, inputs, [labels[i] for i in part], depths, options, own)
                items |= zip(part, found, strict=True)
                bar.advance(len(part))
        for i in range(len(drawn)):
            writer.add(items[i], kind)
        done += len(drawn)
    writer.flush()
    if not done:
        raise DataError(f"--task {task.name} has no examples to train on")
    return done


def label_of(task: Task, processor: Any, example: Any, rng: random.Random) -> list[int]:
    """One of an example's right answers; empty where it has none."""
    if not getattr(example, "answers", True):
        return []
    return [int(i) for i in task.labels(processor, example, rng) if int(i) >= 0]


@torch.no_grad()
def answer(
    model: Any,
    inputs: Mapping[str, Any],
    labels: list[list[int]],
    depths: list[int],
    options: Mapping[str, Any],
    own: bool = True,
) -> tuple[list[Item], str]:
    """A batch of examples as items of a pool, and the class of the encoder's output.

    Args:
        model: a deed model.
        inputs: of `generate()`.
        labels: a right answer of each row, or nothing.
        depths: whose states are kept.
        options: of `generate()`.
        own: answer, too; else each row needs a label, and one token is generated for the prompt's and the encoder's sake.

    Raises:
        DataError: the encoder was not run as a module, so its output is not known.
    """
    given = {k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    asked: dict[str, Any] = {"exit_threshold": NEVER_EXIT, "return_dict_in_generate": True}
    if not own:
        asked |= {"max_new_tokens": 1, "min_new_tokens": 0}
    with watched_encoder(model) as outputs:
        out = model.generate(**given, **{**options, **asked})
    if not outputs:
        raise DataError(f"{type(model).__name__}: generate() did not run the encoder as a module; it cannot be cached")
    rows, exit_layers = len(out.sequences), one_generation(out.exit_layers)
    prompt = out.sequences.shape[1] - exit_layers.shape[1]
    answers: list[list[ForcedAnswer]] = []
    for tokens, depth, label in zip(out.sequences.tolist(), exit_layers, labels, strict=True):
        tokens = tokens[: prompt + int((depth > 0).sum())]
        found = [ForcedAnswer("answer", tokens, prompt)] if own else []
        label = tokens[:prompt] + after_prompt(tokens[:prompt], label)
        if len(label) > prompt and not (own and label == tokens) and len(label) <= longest(model):
            found.append(ForcedAnswer("label", label, prompt))
        answers.append(found)
    source, mask = fields_of(outputs[0], rows), given.get("attention_mask")
    told = list(forced(model, type(outputs[0]), source, mask, answers, depths))
    lengths = source_lengths(outputs[0], mask)
    items = []
    for r, found in enumerate(answers):
        kept = {name: trimmed(value[r], lengths[r], outputs[0][0].shape[1]) for name, value in source.items()}
        if mask is not None:
            kept[INPUT_MASK] = trimmed(mask[r].to(torch.uint8), lengths[r], outputs[0][0].shape[1])
        here = [values for row, values in told if row == r]
        states = {depth: torch.cat([values[depth] for values, _ in here]) for depth in depths}
        teacher = Teacher(*(torch.cat(parts) for parts in zip(*(top for _, top in here), strict=True)))
        items.append(Item(kept, found, states, teacher))
    kind = type(outputs[0])
    return items, f"{kind.__module__}:{kind.__qualname__}"


def one_generation(exit_layers: Any) -> torch.Tensor:
    """Exit depths `[rows, new tokens]`, of Whisper too, which tells those of each of its inner generations.

    Raises:
        DataError: there were several, as for recordings longer than the encoder reads at once.
    """
    if isinstance(exit_layers, torch.Tensor):
        return exit_layers
    if len(exit_layers) != 1:
        raise DataError(
            "an example took several generations: give recordings of at most 30 seconds, and one temperature"
        )
    return exit_layers[0]


@contextmanager
def watched_encoder(model: Any) -> Iterator[list[Any]]:
    """The outputs of the model's encoder while the block lasts, copied: some models add to them in place."""
    found: list[Any] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        found.append(type(output)(**{k: v.clone() for k, v in output.items() if isinstance(v, torch.Tensor)}))

    handle = model.get_encoder().register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def encoder_in_half(model: Any) -> Iterator[None]:
    """While the block lasts, the encoder computes in bfloat16; its output is float32."""
    encoder = model.get_encoder()
    whole = encoder.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            out = whole(*args, **kwargs)
        for name, value in list(out.items()):
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                out[name] = value.float()
        return out

    encoder.forward = forward
    try:
        yield
    finally:
        del encoder.forward


def after_prompt(prompt: list[int], label: list[int]) -> list[int]:
    """A label without the decoder's prompt, which it may begin with, its first token included or not."""
    for head in (prompt, prompt[1:]):
        if head and label[: len(head)] == head:
            return label[len(head) :]
    return label


def longest(model: Any) -> int:
    """Positions that the decoder has, without end where it says nothing."""
    config = model.deed_family.decoder(model).config
    named = (getattr(config, name, None) for name in ("max_target_positions", "max_position_embeddings"))
    return next((int(value) for value in named if isinstance(value, int)), 10**9)


def fields_of(output: Any, rows: int) -> dict[str, torch.Tensor]:
    """The tensors of an encoder's output that have a row per example."""
    return {k: v for k, v in output.items() if isinstance(v, torch.Tensor) and v.ndim and len(v) == rows}


def source_lengths(output: Any, mask: torch.Tensor | None) -> list[int]:
    """How much of each row's source is not padding at its end, by the output's own mask or the input's."""
    states = output[0]
    own = output.get("attention_mask")
    for candidate in (own, mask):
        if isinstance(candidate, torch.Tensor) and candidate.shape == states.shape[:2]:
            at = torch.arange(1, states.shape[1] + 1, device=candidate.device)
            return ((candidate != 0) * at).amax(1).clamp(min=1).tolist()
    return [states.shape[1]] * len(states)


def trimmed(value: torch.Tensor, length: int, whole: int) -> torch.Tensor:
    """A row without its padding, where it has the source's length."""
    return value[:length] if value.ndim and len(value) == whole else value


def forced(
    model: Any,
    kind: type,
    source: dict[str, torch.Tensor],
    mask: torch.Tensor | None,
    answers: list[list[ForcedAnswer]],
    depths: list[int],
) -> Iterator[tuple[int, tuple[dict[int, torch.Tensor], Teacher]]]:
    """States and the teacher's words along each answer, in their order: `(row, (states by depth, teacher))`."""
    pad = model.config.pad_token_id or 0
    jobs = [(row, one.tokens[:-1]) for row, found in enumerate(answers) for one in found]
    while jobs:
        width, count = 0, 0
        for _, ids in jobs:  # as many as fit
            width = max(width, len(ids))
            if count and width * (count + 1) > POSITIONS:
                break
            count += 1
        now, jobs = jobs[:count], jobs[count:]
        read = [torch.tensor(tokens) for _, tokens in now]
        padded = torch.nn.utils.rnn.pad_sequence(read, batch_first=True, padding_value=pad)
        at = torch.tensor([row for row, _ in now], device=model.device)
        encoded = kind(**{name: value[at] for name, value in source.items()})
        out = type(model).deed_base.forward(
            model,
            encoder_outputs=encoded,
            attention_mask=None if mask is None else mask[at],
            decoder_input_ids=padded.to(model.device),
            use_cache=False,
            output_hidden_states=True,
            return_dict=True,
        )
        for i, (row, tokens) in enumerate(now):
            states = {depth: out.decoder_hidden_states[depth][i, : len(tokens)] for depth in depths}
            yield row, (states, top_of(out.logits[i, : len(tokens)]))
