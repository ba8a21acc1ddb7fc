"""Changes of a recording that it is trained on with: another speed, a room, noise, a telephone's band, another loudness."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from deed.utils.audio import RATE, load_audio
from deed.utils.optional import need

INSTALL = 'pip install "deed-transformers[asr]"'


def augmented(samples: np.ndarray, seed: int) -> np.ndarray:
    """A recording changed, by one to all of those ways; always the same for a seed.

    Args:
        samples: `[samples]` float32 on -1..1 at 16,000 a second.
        seed: says which ways, and how much.

    Returns:
        Likewise; up to a tenth longer or shorter where the speed is another.

    Raises:
        DataError: audiomentations is not installed.
    """
    changes = need("audiomentations", INSTALL)
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        speed = rng.uniform(0.91, 1.1)
        samples = load_audio({"array": samples, "sampling_rate": round(RATE * speed)})
    if rng.random() < 0.3:
        samples = in_a_room(samples, rng)
    chain = changes.Compose(
        [
            changes.OneOf(
                [
                    changes.AddGaussianSNR(min_snr_db=8.0, max_snr_db=35.0),
                    changes.AddColorNoise(min_snr_db=6.0, max_snr_db=30.0, min_f_decay=-6.0, max_f_decay=0.0),
                ],
                p=0.5,
            ),
            changes.BandPassFilter(min_center_freq=900.0, max_center_freq=1600.0, p=0.25),
            changes.ClippingDistortion(max_percentile_threshold=4, p=0.1),
            changes.Gain(min_gain_db=-12.0, max_gain_db=3.0, p=0.5),
        ]
    )
    with seeded(int(rng.integers(2**31))):
        changed = chain(samples=np.ascontiguousarray(samples, np.float32), sample_rate=RATE)
    return np.clip(changed, -1.0, 1.0).astype(np.float32)


def in_a_room(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With reverberation: noise that dies away, after Polack's model of the late part, below the direct sound.

    Args:
        samples: `[samples]`.
        rng: draws the room's reverberation time (0.15 to 0.6 seconds to -60 dB) and how loud it is.

    Returns:
        Of the same length.
    """
    time = rng.uniform(0.15, 0.6)
    length = round(time * RATE)
    decay = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
    decay *= rng.uniform(0.2, 0.7) / np.sqrt(np.square(decay).sum())
    decay[0] = 1.0
    size = 1 << (len(samples) + length - 1).bit_length()
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(decay, size), size)[: len(samples)]
    return (wet / max(1.0, float(np.abs(wet).max()))).astype(np.float32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Python's and NumPy's own random numbers, which audiomentations draws from, begin at `seed` inside, and go on as if
    nothing had been drawn afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


__all__ = ["augmented", "in_a_room"]
