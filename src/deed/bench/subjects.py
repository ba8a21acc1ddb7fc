"""What is measured. A function makes a subject, one way of decoding a workload, or says why it cannot.

All answer the same inputs greedily with the same number of tokens, and note when each token comes. The whole answer is what
counts: encoder, first token, later steps, for all subjects alike. A step's time is that of the tokens after the first,
`(T(n) - T(1)) / (n - 1)`: what is put off to a later step, as deed's layers put off their cross-attention states, counts
against the steps.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from deed.constants import NEVER_EXIT
from deed.exits.learned import Learned
from deed.policies.measures import Entropy, MaxProb
from deed.policies.policy import FixedSchedule

from .schedules import geometric_schedule, recorded_answers, replayed
from .shapes import NotAvailable, Workload, copied

BASELINE = "transformers dynamic"
# "fp32, int8 head": `deed.quantize(model, parts=["head"])`, what an exit costs beside what a layer costs.
PRECISIONS = {"fp32": (), "fp32, int8 head": ("head",), "int8": ("encoder", "decoder", "head")}
EXIT_CHECKS = ("plain", "entropy", "screen", "shortlist", "gate")  # "plain": softmax; the second one its entropy
NO_END = 2**31 - 1  # no token: answers end by their length. Forbidding the end token costs Transformers 0.7 ms a step
CHECKED = (2, 6)  # rows and tokens that are compared with the cache-free reference


@dataclass
class Timing:
    """One answer of a batch: ms from the question to each token, the encoder's among them, and the tokens `[rows, new]`."""

    token_ms: list[float]
    tokens: torch.Tensor

    @property
    def first_ms(self) -> float:
        """To the first token."""
        return self.token_ms[0]

    @property
    def step_ms(self) -> float:
        """Per further step."""
        return (self.token_ms[-1] - self.token_ms[0]) / (len(self.token_ms) - 1)

    def answer_ms(self, tokens: int) -> float:
        """Of an answer of so many tokens."""
        return self.token_ms[min(tokens, len(self.token_ms)) - 1]


@dataclass
class Subject:
    """One way of decoding a workload.

    Attributes:
        runtime: what it shares with others that are compared at different depths, e.g. `"deed int8"`.
        check: tokens to `{"against", "equal"}`: whose tokens they should be, and the share that is.
        weight_bytes: of a decoder weight in memory; `head_bytes`: of one in the head.
        depths: forced `[rows][steps]`; None: full depth.
        exit_check: how exits on the way are checked; None: they are not.
        look: decodes once and says what that took, `StaircaseCache.stats()`; None where there is nothing to report.
        work: what it said.
    """

    runtime: str
    run: Callable[[], Timing]
    check: Callable[[torch.Tensor], dict[str, Any]]
    weight_bytes: float = 4
    head_bytes: float = 4
    depths: list[list[int]] | None = None
    exit_check: str | None = None
    look: Callable[[], dict[str, Any]] | None = None
    work: dict[str, Any] | None = None


# -- Transformers -----------------------------------------------------------------------------------------------------


def transformers(workload: Workload, **options: Any) -> Subject:
    """Transformers' own `generate()`."""
    check = partial(check_baseline, workload) if options else partial(check_slowly, workload, workload.model, None)
    return Subject("transformers fp32", partial(timed_generate, workload, workload.base, options), check)


def compiled(workload: Workload, limit: float) -> Subject:
    """The same with a static cache and its decoder forward under `torch.compile`, by Transformers' own switch."""
    from transformers.generation import CompileConfig

    config: Any = CompileConfig(backend="inductor", mode="default", dynamic=False, fullgraph=False)
    config._compile_all_devices = True  # without it, only accelerators are compiled for
    options = {"cache_implementation": "static", "compile_config": config}
    subject = transformers(workload, **options)
    torch.compiler.reset()  # what was compiled for another batch size would make sizes unknowns, which takes minutes
    with time_limit(limit, f"compiling took longer than {limit:g} s"):
        subject.run()
    return subject


def assisted(workload: Workload, depth: int = 1) -> Subject:
    """Transformers' assisted decoding, its assistant the model's own encoder and first decoder layers.

    Args:
        workload: of one row: there is none for more.
        depth: layers of the assistant's decoder.

    Raises:
        NotAvailable: more than one row.
    """
    if workload.rows > 1:
        raise NotAvailable("Transformers' assisted decoding takes one row")
    assistant = copied(workload.base)
    del workload.model.deed_family.layers(assistant)[depth:]
    for name in ("num_decoder_layers", "decoder_layers"):  # what its cache is made for
        if name in vars(assistant.config):
            setattr(assistant.config, name, depth)

    run = partial(timed_generate, workload, workload.base, {"assistant_model": assistant})
    return Subject("transformers assisted", run, partial(check_baseline, workload))


class Stamps:
    """A streamer that notes when tokens come; the first thing a streamer gets is the prompt."""

    def __init__(self, rows: int) -> None:
        self.rows, self.start, self.token_ms, self.prompted = rows, time.perf_counter(), list[float](), False

    def put(self, tokens: torch.Tensor) -> None:
        """One token of each row; in assisted decoding several of the one row."""
        at = (time.perf_counter() - self.start) * 1e3
        self.token_ms += [at] * (tokens.numel() // self.rows if self.prompted else 0)
        self.prompted = True

    def end(self) -> None:
        """Nothing is left."""


def timed_generate(workload: Workload, model: Any, options: dict[str, Any]) -> Timing:
    """`generate()`, its tokens timed as they come.

    Args:
        workload: what is decoded.
        model: its plain or its deed model, or another of the same weights.
        options: of `generate()`.
    """
    stamps = Stamps(workload.rows)
    tokens = generate(workload, model, workload.new_tokens, **options, streamer=stamps)
    return Timing(stamps.token_ms[: workload.new_tokens], tokens[:, 1:])


@torch.no_grad()
def generate(workload: Workload, model: Any, new_tokens: int, **options: Any) -> Any:
    """Greedy, exactly so many tokens, from the workload's inputs (or encoder states, see `Workload.encodes`).

    Args:
        workload: what is decoded.
        model: as for `timed_generate`.
        new_tokens: how many.
        options: of `generate()`.
    """
    return model.generate(
        **(workload.inputs if workload.encodes else workload.decoder_inputs()),
        **{"do_sample": False, "num_beams": 1, **options},
        max_new_tokens=new_tokens,
        eos_token_id=NO_END,
    )


class _TooLong(BaseException):
    """Not an Exception: compilers catch those and go on."""


@contextlib.contextmanager
def time_limit(seconds: float, message: str) -> Iterator[None]:
    """Gives up after so long, where the system has alarms and this is the main thread; else does not watch."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)  # again every second, should somebody catch everything
    try:
        yield
    except _TooLong:
        raise NotAvailable(message) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- deed -------------------------------------------------------------------------------------------------------------


def deed(
    workload: Workload,
    precision: str,
    mean: float | None = None,
    depth: int | None = None,
    recorded: str | None = None,
    exit_check: str | None = None,
    exact: bool = False,
) -> Subject:
    """deed at full depth, at forced depths, or exactly.

    Args:
        precision: of `PRECISIONS`.
        mean: independent truncated-geometric depths of this mean, for a decoder of 12 layers; see `MEANS`.
        depth: always this one.
        recorded: the depths of real answers by this shipped model.
        exit_check: of `EXIT_CHECKS`, done at every exit passed; None: none is done.
        exact: drafts by the model's own threshold, verified by the last layer.
    """
    model = workload.model if precision == "fp32" else quantized(workload, PRECISIONS[precision])
    rows, steps, n_layers = workload.rows, workload.new_tokens, workload.n_layers
    schedule = None
    if mean is not None:
        schedule = geometric_schedule(max(1.0, mean * n_layers / 12), n_layers, rows, steps)
    elif depth is not None:
        schedule = [[depth] * steps] * rows
    elif recorded is not None:
        schedule = replayed(*recorded_answers(recorded), n_layers, rows, steps)
    if exact:
        options: dict[str, Any] = {"exact": True}
    elif schedule is None:
        options = {"exit_threshold": NEVER_EXIT}
    else:
        measure = Entropy() if exit_check == "entropy" else MaxProb()
        options = {"exit_policy": FixedSchedule(schedule, ask=exit_check is not None, measure=measure)}
    if exit_check is not None:
        options["exit_check"] = check_options(workload, exit_check)
        if exit_check == "gate" and "gate" not in model.deed_exits:
            exits = len(model.deed_config.exit_layers) - 1  # gate outputs are ignored when depths are forced
            gates = Learned(weight=torch.zeros(exits, workload.width), bias=torch.zeros(exits))
            model.deed_exits["gate"] = gates.to(model.device)

    def look() -> dict[str, Any]:
        out = generate(workload, model, steps, **options, return_dict_in_generate=True)
        return {"mean_depth": float(out.exit_layers.float().mean()), **out.past_key_values.stats()}

    plain = precision == "fp32" and schedule is None
    check = partial(check_baseline, workload) if plain else partial(check_slowly, workload, model, schedule)
    layer, head = (1 if part in PRECISIONS[precision] else 4 for part in ("decoder", "head"))
    run = partial(timed_generate, workload, model, options)
    return Subject(f"deed {precision}", run, check, layer, head, schedule, exit_check, look)


def check_options(workload: Workload, exit_check: str) -> dict[str, Any]:
    """The exit check with its options; its sizes are those that pay at d_model 512 and more, smaller for small models."""
    rank, size = min(128, max(1, workload.width // 4)), min(64, max(2, workload.vocab // 4))
    options: dict[str, dict[str, Any]] = {
        "screen": {"rank": rank},
        "shortlist": {"size": size, "first": "screen", "rank": rank},
    }
    return {"name": "plain" if exit_check == "entropy" else exit_check, **options.get(exit_check, {})}


def quantized(workload: Workload, parts: Sequence[str]) -> Any:
    """The workload's deed model with these parts in int8, made once; the workload's own stays as it is.

    Raises:
        NotAvailable: nothing of it is large enough to be worth it.
    """
    made = workload.made
    key = f"int8 {' '.join(parts)}"
    if key not in made:
        from deed.modeling.quantization import quantize

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing was quantised is said below
            made[key] = quantize(copied(workload.model), parts=parts)
    if not made[key].deed_quantized["replaced"]:
        raise NotAvailable("at this size int8 is slower, so deed.quantize leaves all as it is")
    return made[key]


# -- parity -----------------------------------------------------------------------------------------------------------


def check_baseline(workload: Workload, tokens: torch.Tensor) -> dict[str, Any]:
    """Against the tokens of Transformers' `generate()`."""
    if BASELINE not in workload.references:
        workload.references[BASELINE] = generate(workload, workload.base, workload.new_tokens)[:, 1:]
    same = tokens == workload.references[BASELINE]
    return {"against": BASELINE, "equal": float(same.float().mean()), "tokens": same.numel()}


def check_slowly(
    workload: Workload, model: Any, depths: list[list[int]] | None, tokens: torch.Tensor
) -> dict[str, Any]:
    """Against the first rows and tokens of the reference without a cache.

    Args:
        workload: what was decoded.
        model: the deed model.
        depths: forced `[rows][steps]`, or None.
        tokens: `[rows, steps]` of the subject.
    """
    rows, steps = min(CHECKED[0], workload.rows), min(CHECKED[1], workload.new_tokens)
    key = (id(model), str(depths))  # exit checks on the way change no token
    if key not in workload.references:
        workload.references[key] = slow_tokens(workload, model, depths, rows, steps)
    same = tokens[:rows, :steps] == workload.references[key]
    return {"against": "itself without a cache", "equal": float(same.float().mean()), "tokens": same.numel()}


@torch.no_grad()
def slow_tokens(workload: Workload, model: Any, depths: list[list[int]] | None, rows: int, steps: int) -> torch.Tensor:
    """Tokens `[rows, steps]` by brute force: `exit_logits` on the growing prefix, no cache, no end token.

    Args:
        depths: `[rows][steps]`; a depth that is no exit counts as the next exit. None: the last.
    """
    exits = model.deed_config.exit_layers
    given = workload.decoder_inputs(rows, model if workload.encodes else None)
    ids = torch.full((rows, 1), model.generation_config.decoder_start_token_id)
    for step in range(steps):
        logits = model.exit_logits(**given, decoder_input_ids=ids)[:, :, -1]
        wanted = [exits[-1] if depths is None else depths[r][step] for r in range(rows)]
        at = [next(i for i, d in enumerate(exits) if d >= depth) for depth in wanted]
        chosen = logits[at, range(rows)]
        ids = torch.cat([ids, chosen.argmax(-1, keepdim=True)], dim=1)
    return ids[:, 1:]
