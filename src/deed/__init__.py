"""deed: dynamic early exit on the decoder of encoder-decoder transformers (DEED, arXiv 2311.08623).

Names are imported when they are first asked for, so that `import deed` and `deed --help` need no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .constants import __version__

if TYPE_CHECKING:
    from . import families as families
    from .calibration.calibrate_answers import calibrate_answers
    from .calibration.curve import record_curve, set_target
    from .calibration.estimate import Estimate, estimate
    from .calibration.exit_statistics import ExitStatistics, record_exits
    from .calibration.fit_draft_head import fit_draft_head
    from .calibration.fit_gate import fit_gate
    from .calibration.fit_screen import fit_screen
    from .calibration.learn_then_test import calibrate
    from .calibration.step_costs import measure_costs
    from .config import DeedConfig
    from .engine.cache import StaircaseCache
    from .engine.cuda_graphs import use_cuda_graphs
    from .errors import CalibrationError, DeedConfigError, DeedLoadError, ExitsCostMore
    from .families import DecoderFamily, register_family
    from .modeling.loading import from_pretrained, load_exits
    from .modeling.model import get_deed_model, unwrap
    from .modeling.quantization import quantize
    from .pipelines.making import pipeline
    from .policies.measures import Entropy, Margin, MaxProb, Patience, StateSimilarity
    from .policies.ordered_prob import OrderedProb
    from .policies.policy import ExitPolicy, FixedSchedule, ThresholdPolicy
    from .policies.query import Ask, ExitDecision, ExitQuery
    from .serving.data_job import data_job
    from .tasks.protocol import Task
    from .tasks.task import register_task
    from .training.trainer import DeedTrainer

# Where each public name lives.
_HOMES = {
    "Ask": "policies.query",
    "CalibrationError": "errors",
    "DecoderFamily": "families",
    "DeedConfig": "config",
    "DeedConfigError": "errors",
    "DeedLoadError": "errors",
    "DeedTrainer": "training.trainer",
    "Entropy": "policies.measures",
    "Estimate": "calibration.estimate",
    "ExitDecision": "policies.query",
    "ExitPolicy": "policies.policy",
    "ExitQuery": "policies.query",
    "ExitStatistics": "calibration.exit_statistics",
    "ExitsCostMore": "errors",
    "FixedSchedule": "policies.policy",
    "Margin": "policies.measures",
    "MaxProb": "policies.measures",
    "OrderedProb": "policies.ordered_prob",
    "Patience": "policies.measures",
    "StaircaseCache": "engine.cache",
    "StateSimilarity": "policies.measures",
    "Task": "tasks.protocol",
    "ThresholdPolicy": "policies.policy",
    "calibrate": "calibration.learn_then_test",
    "calibrate_answers": "calibration.calibrate_answers",
    "data_job": "serving.data_job",
    "estimate": "calibration.estimate",
    "fit_draft_head": "calibration.fit_draft_head",
    "fit_gate": "calibration.fit_gate",
    "fit_screen": "calibration.fit_screen",
    "from_pretrained": "modeling.loading",
    "get_deed_model": "modeling.model",
    "load_exits": "modeling.loading",
    "measure_costs": "calibration.step_costs",
    "pipeline": "pipelines.making",
    "quantize": "modeling.quantization",
    "record_curve": "calibration.curve",
    "record_exits": "calibration.exit_statistics",
    "register_family": "families",
    "register_task": "tasks.task",
    "set_target": "calibration.curve",
    "unwrap": "modeling.model",
    "use_cuda_graphs": "engine.cuda_graphs",
}
_ROOMS = ("families", "kernels")  # rooms that are public as modules

__all__ = [*sorted(_HOMES), "__version__", "families"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value  # the next look-up finds it without us
        return value
    if name in _ROOMS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


importlib.import_module(f"{__name__}.models.registration").register_lazily()
