"""deed: dynamic early exit on the decoder of encoder-decoder transformers (DEED, arXiv 2311.08623)."""

import importlib

from .cache import StaircaseCache
from .calibrate import CalibrationError, calibrate
from .confidence import (
    Ask,
    Entropy,
    ExitPolicy,
    FixedSchedule,
    Margin,
    MaxProb,
    Patience,
    StateSimilarity,
    ThresholdPolicy,
)
from .config import DeedConfig, DeedConfigError
from .families import DecoderFamily, register_family
from .graphs import use_cuda_graphs
from .model import get_deed_model
from .models import register_all
from .ordered import OrderedProb
from .quantize import quantize
from .saving import DeedLoadError, from_pretrained

__version__ = "0.1.0"

register_all()


# What generating does not need is imported when first asked for (Trainer takes a second).
_LATER = {
    "DeedTrainer": "train",
    "ExitStatistics": "exit_statistics",
    "ExitsCostMore": "targets",
    "fit_gate": "asking",
    "fit_screen": "asking",
    "measure_costs": "step_costs",
    "record_curve": "targets",
    "record_exits": "exit_statistics",
    "set_target": "targets",
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
