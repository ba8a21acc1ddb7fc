"""Who is measured. A subject is a function: from a scene it makes one way of decoding, ready and warm, or says why not.

All decode the same encoder states (other runtimes the same ids) greedily to the same number of tokens. A step's time is
that of the tokens after the first, `(T(n) - T(1)) / (n - 1)`: the encoder, cross-attention keys and values, and whatever
`generate()` prepares fall away for all alike. What is put off to a later step, as deed's layers put off their
cross-attention states, counts against the steps.
"""

from __future__ import annotations

import contextlib
import fnmatch
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from deed.exits.learned import Learned
from deed.policies.policy import FixedSchedule
from deed.utils.timing import now

from .schedules import geometric_schedule, recorded_answers, replayed
from .shapes import SHIPPED, NotAvailable, Scene, copied

BASELINE = "transformers dynamic"
# "fp32, int8 head": `deed.quantize(model, parts=["head"])`, what an exit costs beside what a layer costs.
PRECISIONS = {"fp32": (), "fp32, int8 head": ("head",), "int8": ("decoder", "head")}
ASKINGS: dict[str, Any] = {
    "plain": "plain",
    "screen": {"name": "screen", "rank": 128},
    "shortlist": {"name": "shortlist", "size": 64, "first": "screen", "rank": 128},
    "gate": {"name": "gate"},
}
MEANS = (2, 3, 4, 6)  # of 12 layers; of other decoders the same share, but at least 1
ASK_MEAN = 3  # the cost of asking is taken at this one
RECORDED_ASKINGS = ("plain", "screen", "shortlist")
NO_END = 2**31 - 1  # no token: answers end by their length. Forbidding the end token costs Transformers 0.7 ms a step
CHECKED = (2, 6)  # rows and tokens that the cache-free reference is asked for


@dataclass
class Timing:
    """One answer of a batch: ms until the first token, ms per further step, the tokens `[rows, new]`."""

    first_ms: float
    step_ms: float
    tokens: torch.Tensor


@dataclass
class Subject:
    """One way of decoding a scene.

    Attributes:
        runtime: what it shares with others that are compared at different depths, e.g. `"deed int8"`.
        check: tokens to `{"against", "equal"}`: whose tokens they should be, and the share that is.
        weight_bytes: of a decoder weight in memory; `head_bytes`: of one in the head.
        depths: forced `[rows][steps]`; None: full depth.
        asking: how exits on the way are asked; None: they are not.
        look: decodes once and says what that took, `StaircaseCache.stats()`; None where there is nothing to report.
        work: what it said.
        with_encoder: the first token's time has the encoder's in it.
    """

    runtime: str
    run: Callable[[], Timing]
    check: Callable[[torch.Tensor], dict[str, Any]]
    weight_bytes: int = 4
    head_bytes: int = 4
    depths: list[list[int]] | None = None
    asking: str | None = None
    look: Callable[[], dict[str, Any]] | None = None
    work: dict[str, Any] | None = None
    with_encoder: bool = False


@dataclass(frozen=True)
class Maker:
    """Makes a subject of a scene. `optional`: a failure of any kind is a finding about another library, not a bug here."""

    make: Callable[[Scene], Subject]
    optional: bool = False

    def __call__(self, scene: Scene) -> Subject:
        """Raises:
        NotAvailable: with the reason.
        """
        try:
            subject = self.make(scene)
            if subject.look is not None:
                subject.work = subject.look()
            else:
                subject.run()
        except NotAvailable:
            raise
        except Exception as error:
            if not self.optional:
                raise
            lines = [line for line in str(error).splitlines() if line.strip()] or [""]
            raise NotAvailable(f"{type(error).__name__}: {lines[0].strip()[:300]}") from error
        return subject


def catalogue(patterns: Sequence[str] = (), compile_limit: float = 120.0) -> dict[str, Maker]:
    """Subjects by name, the baseline first and always among them.

    Args:
        patterns: only these, `*` stands for anything.
        compile_limit: seconds after which `torch.compile` is given up.

    Raises:
        ValueError: a pattern that fits no subject.
    """
    from .runtimes import ctranslate2, onnxruntime

    found = {
        BASELINE: Maker(transformers),
        "transformers static": Maker(partial(transformers, cache_implementation="static"), optional=True),
        "transformers compiled": Maker(partial(compiled, limit=compile_limit), optional=True),
        "ctranslate2 fp32": Maker(partial(ctranslate2, compute_type="float32"), optional=True),
        "ctranslate2 int8": Maker(partial(ctranslate2, compute_type="int8"), optional=True),
        "onnxruntime fp32": Maker(onnxruntime, optional=True),
    }
    for precision in PRECISIONS:
        # Only others' work, quantising and cheap asking, may be missing.
        add = partial(partial, deed, precision=precision)
        quantised = precision != "fp32"
        found[f"deed {precision} full"] = Maker(add(), optional=quantised)
        found[f"deed {precision} depth 1 not asked"] = Maker(add(depth=1), optional=quantised)
        mixed = 0 < len(PRECISIONS[precision]) < 2  # measured for what asking costs, not for all else again
        for mean in (ASK_MEAN,) if mixed else MEANS:
            for asking in (None, *ASKINGS) if mean == ASK_MEAN else ASKINGS:
                found[mean_name(precision, mean, asking)] = Maker(
                    add(mean=mean, asking=asking), optional=quantised or asking not in (None, "plain")
                )
        for source in () if mixed else SHIPPED:
            for asking in RECORDED_ASKINGS:
                make = add(recorded=source, asking=asking)
                found[f"deed {precision} {source} depths {asking}"] = Maker(
                    make, optional=quantised or asking != "plain"
                )
    for pattern in patterns:
        if not fnmatch.filter(found, pattern):
            raise ValueError(
                f"--subject {pattern!r} fits no subject; they are called 'transformers static', 'ctranslate2 int8', "
                f"'deed fp32 full', 'deed int8 mean 3/12 shortlist', 'deed fp32 g2p depths plain' and the like"
            )
    wanted = patterns or ["*"]
    return {n: m for n, m in found.items() if n == BASELINE or any(fnmatch.fnmatch(n, p) for p in wanted)}


def mean_name(precision: str, mean: int, asking: str | None) -> str:
    """Of the subject with random depths of this mean."""
    return f"deed {precision} mean {mean}/12 {asking or 'not asked'}"


# -- Transformers -----------------------------------------------------------------------------------------------------


def transformers(scene: Scene, **options: Any) -> Subject:
    """Transformers' own `generate()`."""
    check = partial(check_baseline, scene) if options else partial(check_slowly, scene, scene.model, None)
    return Subject("transformers fp32", partial(timed_generate, scene, scene.base, options), check)


def compiled(scene: Scene, limit: float) -> Subject:
    """The same with a static cache and its decoder forward under `torch.compile`, by Transformers' own switch."""
    from transformers.generation import CompileConfig

    config: Any = CompileConfig(backend="inductor", mode="default", dynamic=False, fullgraph=False)
    config._compile_all_devices = True  # without it, only accelerators are compiled for
    options = {"cache_implementation": "static", "compile_config": config}
    subject = transformers(scene, **options)
    torch.compiler.reset()  # what was compiled for another batch size would make sizes unknowns, which takes minutes
    with time_limit(limit, f"compiling took longer than {limit:g} s"):
        subject.run()
    return subject


def timed_generate(scene: Scene, model: Any, options: dict[str, Any]) -> Timing:
    """`generate()` to one token and to all of them."""
    start = now(model.device)
    generate(scene, model, 1, **options)
    middle = now(model.device)
    tokens = generate(scene, model, scene.new_tokens, **options)
    first, whole = middle - start, now(model.device) - middle
    return Timing(first * 1e3, (whole - first) * 1e3 / (scene.new_tokens - 1), tokens[:, 1:])


@torch.no_grad()
def generate(scene: Scene, model: Any, new_tokens: int, **options: Any) -> Any:
    """Greedy, exactly so many tokens, from the scene's encoder states."""
    return model.generate(
        **scene.decoder_inputs(),
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
    scene: Scene,
    precision: str,
    mean: float | None = None,
    depth: int | None = None,
    recorded: str | None = None,
    asking: str | None = None,
) -> Subject:
    """deed at full depth, or at forced depths.

    Args:
        precision: of `PRECISIONS`.
        mean: independent truncated-geometric depths of this mean, for a decoder of 12 layers; see `MEANS`.
        depth: always this one.
        recorded: the depths of real answers by this shipped model.
        asking: of `ASKINGS`, every exit passed is asked that way; None: none is asked.
    """
    model = scene.model if precision == "fp32" else quantized(scene, PRECISIONS[precision])
    rows, steps, n_layers = scene.rows, scene.new_tokens, scene.n_layers
    schedule = None
    if mean is not None:
        schedule = geometric_schedule(max(1.0, mean * n_layers / 12), n_layers, rows, steps)
    elif depth is not None:
        schedule = [[depth] * steps] * rows
    elif recorded is not None:
        schedule = replayed(*recorded_answers(recorded), n_layers, rows, steps)
    if schedule is None:
        options: dict[str, Any] = {"exit_threshold": 2.0}
    else:
        options = {"exit_policy": FixedSchedule(schedule, ask=asking is not None)}
    if asking is not None:
        options["asking"] = ASKINGS[asking]
        if asking == "gate" and "gate" not in model.deed_exits:
            exits = len(model.deed_config.exit_layers) - 1  # what gates say is not heard where depths are forced
            gates = Learned(weight=torch.zeros(exits, scene.width), bias=torch.zeros(exits))
            model.deed_exits["gate"] = gates.to(model.device)

    def look() -> dict[str, Any]:
        out = generate(scene, model, steps, **options, return_dict_in_generate=True)
        return {"mean_depth": float(out.exit_layers.float().mean()), **out.past_key_values.stats()}

    plain = precision == "fp32" and schedule is None
    check = partial(check_baseline, scene) if plain else partial(check_slowly, scene, model, schedule)
    layer, head = (1 if part in PRECISIONS[precision] else 4 for part in ("decoder", "head"))
    run = partial(timed_generate, scene, model, options)
    return Subject(f"deed {precision}", run, check, layer, head, schedule, asking, look)


def quantized(scene: Scene, parts: Sequence[str]) -> Any:
    """The scene's deed model with these parts in int8, made once; the scene's own stays as it is.

    Raises:
        NotAvailable: nothing of it is large enough to be worth it.
    """
    made = scene.made
    key = f"int8 {' '.join(parts)}"
    if key not in made:
        from deed.modeling.quantization import quantize

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nothing was quantised is said below
            made[key] = quantize(copied(scene.model), parts=parts)
    if not made[key].deed_quantized["replaced"]:
        raise NotAvailable("at this size int8 is slower, so deed.quantize leaves all as it is")
    return made[key]


# -- parity -----------------------------------------------------------------------------------------------------------


def check_baseline(scene: Scene, tokens: torch.Tensor) -> dict[str, Any]:
    """Against the tokens of Transformers' `generate()`."""
    same = tokens == generate(scene, scene.base, scene.new_tokens)[:, 1:]
    return {"against": BASELINE, "equal": float(same.float().mean()), "tokens": same.numel()}


def check_slowly(scene: Scene, model: Any, depths: list[list[int]] | None, tokens: torch.Tensor) -> dict[str, Any]:
    """Against the first rows and tokens of the reference without a cache."""
    rows, steps = min(CHECKED[0], scene.rows), min(CHECKED[1], scene.new_tokens)
    key = (id(model), str(depths))  # what is asked on the way changes no token
    if key not in scene.references:
        scene.references[key] = slow_tokens(scene, model, depths, rows, steps)
    same = tokens[:rows, :steps] == scene.references[key]
    return {"against": "itself without a cache", "equal": float(same.float().mean()), "tokens": same.numel()}


@torch.no_grad()
def slow_tokens(scene: Scene, model: Any, depths: list[list[int]] | None, rows: int, steps: int) -> torch.Tensor:
    """Tokens `[rows, steps]` by brute force: `exit_logits` on the growing prefix, no cache, no end token.

    Args:
        depths: `[rows][steps]`; a depth that is no exit counts as the next exit. None: the last.
    """
    exits = model.deed_config.exit_layers
    ids = torch.full((rows, 1), model.generation_config.decoder_start_token_id)
    for step in range(steps):
        logits = model.exit_logits(**scene.decoder_inputs(rows), decoder_input_ids=ids)[:, :, -1]
        wanted = [exits[-1] if depths is None else depths[r][step] for r in range(rows)]
        at = [next(i for i, d in enumerate(exits) if d >= depth) for depth in wanted]
        chosen = logits[at, range(rows)]
        ids = torch.cat([ids, chosen.argmax(-1, keepdim=True)], dim=1)
    return ids[:, 1:]
