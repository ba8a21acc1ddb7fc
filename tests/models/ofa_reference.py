"""Where the recordings of the original OFA code are, and what its recorded model is, for the tests that use them."""

import functools
from pathlib import Path

import pytest
import torch

from deed.models.ofa import OFAConfig, OFAForConditionalGeneration

REFERENCE = Path(__file__).parents[3] / "shared" / "ofa_reference"
CASES = ("text_pad", "img64_pad")
needs_reference = pytest.mark.skipif(
    not (REFERENCE / "port").is_dir(), reason=f"recordings of the original OFA code are not there ({REFERENCE})"
)


@functools.cache
def recorded_model():
    """The recorded weights, from the port's folder, by their names."""
    model = OFAForConditionalGeneration(OFAConfig.from_pretrained(REFERENCE / "port"))
    state = torch.load(REFERENCE / "port" / "pytorch_model.bin", weights_only=True)
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval()


def case(name):
    """Inputs and outputs of a recorded case."""
    return [torch.load(REFERENCE / "cases" / name / f"{part}.pt", weights_only=True) for part in ("inputs", "outputs")]
