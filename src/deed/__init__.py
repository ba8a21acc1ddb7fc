"""deed: dynamic early exit on the decoder of encoder-decoder transformers (DEED, arXiv 2311.08623)."""

import importlib

from deed.calibration.learn_then_test import calibrate
from deed.config import DeedConfig
from deed.engine.cache import StaircaseCache
from deed.engine.cuda_graphs import use_cuda_graphs
from deed.errors import CalibrationError, DeedConfigError, DeedLoadError
from deed.families import DecoderFamily, register_family
from deed.modeling.loading import from_pretrained
from deed.modeling.model import get_deed_model
from deed.modeling.quantization import quantize
from deed.models import register_all
from deed.policies.measures import Entropy, Margin, MaxProb, Patience, StateSimilarity
from deed.policies.ordered_prob import OrderedProb
from deed.policies.policy import ExitPolicy, FixedSchedule, ThresholdPolicy
from deed.policies.query import Ask

__version__ = "0.1.0"

register_all()


# What generating does not need is imported when first asked for (Trainer takes a second).
_LATER = {
    "DeedTrainer": "training.trainer",
    "ExitStatistics": "calibration.exit_statistics",
    "ExitsCostMore": "errors",
    "fit_gate": "calibration.fit_gate",
    "fit_screen": "calibration.fit_screen",
    "measure_costs": "calibration.step_costs",
    "record_curve": "calibration.curve",
    "record_exits": "calibration.exit_statistics",
    "set_target": "calibration.curve",
}


def __getattr__(name: str) -> object:
    if name in _LATER:
        return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Ask",
    "CalibrationError",
    "DecoderFamily",
    "DeedConfig",
    "DeedConfigError",
    "DeedLoadError",
    "DeedTrainer",
    "Entropy",
    "ExitPolicy",
    "ExitStatistics",
    "ExitsCostMore",
    "FixedSchedule",
    "Margin",
    "MaxProb",
    "OrderedProb",
    "Patience",
    "StaircaseCache",
    "StateSimilarity",
    "ThresholdPolicy",
    "calibrate",
    "fit_gate",
    "fit_screen",
    "from_pretrained",
    "get_deed_model",
    "measure_costs",
    "quantize",
    "record_curve",
    "record_exits",
    "register_family",
    "set_target",
    "use_cuda_graphs",
]
