"""All subjects of `deed bench speed` by name, with what may fail among them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from .exported import ONNX_KINDS, OPENVINO_KINDS, onnxruntime, openvino
from .runtimes import ctranslate2
from .shapes import SHIPPED, NotAvailable, Workload
from .subjects import BASELINE, EXIT_CHECKS, PRECISIONS, Subject, assisted, compiled, deed, transformers

MEANS = (2, 3, 4, 6)  # of 12 layers; of other decoders the same share, but at least 1
CHECK_MEAN = 3  # the cost of an exit check is taken at this one
RECORDED_CHECKS = ("plain", "screen", "shortlist")


@dataclass(frozen=True)
class Maker:
    """Makes a subject of a workload. `optional`: a failure of any kind is a finding about another library, not a bug here."""

    make: Callable[[Workload], Subject]
    optional: bool = False

    def __call__(self, workload: Workload) -> Subject:
        """Raises:
        NotAvailable: with the reason.
        """
        try:
            subject = self.make(workload)
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
    found = {
        BASELINE: Maker(transformers),
        "transformers static": Maker(partial(transformers, cache_implementation="static"), optional=True),
        "transformers compiled": Maker(partial(compiled, limit=compile_limit), optional=True),
        "transformers assisted": Maker(assisted, optional=True),
        "ctranslate2 fp32": Maker(partial(ctranslate2, compute_type="float32"), optional=True),
        "ctranslate2 int8": Maker(partial(ctranslate2, compute_type="int8"), optional=True),
    }
    for kind in ONNX_KINDS:
        found[f"onnxruntime {kind}"] = Maker(partial(onnxruntime, kind=kind), optional=True)
    for kind in OPENVINO_KINDS:
        found[f"openvino {kind}"] = Maker(partial(openvino, kind=kind), optional=True)
    for precision in PRECISIONS:
        # Only others' work, quantizing and approximate exit checks, may be missing.
        add = partial(partial, deed, precision=precision)
        quantized = precision != "fp32"
        found[f"deed {precision} full"] = Maker(add(), optional=quantized)
        found[f"deed {precision} exact"] = Maker(add(exact=True), optional=quantized)
        found[f"deed {precision} depth 1 not asked"] = Maker(add(depth=1), optional=quantized)
        mixed = 0 < len(PRECISIONS[precision]) < 2  # measured for what exit checks cost, not for all else again
        for mean in (CHECK_MEAN,) if mixed else MEANS:
            for exit_check in (None, *EXIT_CHECKS) if mean == CHECK_MEAN else EXIT_CHECKS:
                found[mean_name(precision, mean, exit_check)] = Maker(
                    add(mean=mean, exit_check=exit_check),
                    optional=quantized or exit_check not in (None, "plain", "entropy"),
                )
        for source in () if mixed else SHIPPED:
            for exit_check in RECORDED_CHECKS:
                make = add(recorded=source, exit_check=exit_check)
                found[f"deed {precision} {source} depths {exit_check}"] = Maker(
                    make, optional=quantized or exit_check != "plain"
                )
    for pattern in patterns:
        if not fnmatch.filter(found, pattern):
            raise ValueError(
                f"--subject {pattern!r} fits no subject; they are called 'transformers static', 'ctranslate2 int8', "
                f"'deed fp32 full', 'deed int8 mean 3/12 shortlist', 'deed fp32 g2p depths plain' and the like"
            )
    wanted = patterns or ["*"]
    return {n: m for n, m in found.items() if n == BASELINE or any(fnmatch.fnmatch(n, p) for p in wanted)}


def mean_name(precision: str, mean: int, exit_check: str | None) -> str:
    """Name of the subject with random depths of this mean.

    Args:
        precision: of `PRECISIONS`.
        mean: of `MEANS`.
        exit_check: of `EXIT_CHECKS`, or None.
    """
    return f"deed {precision} mean {mean}/12 {exit_check or 'not asked'}"


def shown_name(name: str, n_layers: int) -> str:
    """A subject's name for a table: "mean 3/12" in layers of the decoder at hand, "mean 2/8"."""
    return re.sub(r"mean (\d+)/12", lambda m: f"mean {max(1.0, int(m[1]) * n_layers / 12):g}/{n_layers}", name)
