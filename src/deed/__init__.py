"""deed: dynamic early exit on the decoder of encoder-decoder transformers (DEED, arXiv 2311.08623)."""

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
from .model import get_deed_model
from .models import register_all
from .saving import DeedLoadError, from_pretrained

__version__ = "0.1.0"

register_all()


def __getattr__(name: str) -> object:
    # Trainer takes a second to import, which generating does not need.
    if name == "DeedTrainer":
        from .train import DeedTrainer

        return DeedTrainer
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
    "FixedSchedule",
    "Margin",
    "MaxProb",
    "Patience",
    "StaircaseCache",
    "StateSimilarity",
    "ThresholdPolicy",
    "calibrate",
    "from_pretrained",
    "get_deed_model",
    "register_family",
]
