"""Where a decoding step's time goes, on the shipped models: milliseconds per step and the functions that take most of it,
never exiting and on a forced schedule that asks at every layer. To compare with another version of the code, check it out
elsewhere and put its `src` first:

    python benchmarks/step_profile.py g2p
    PYTHONPATH=/elsewhere/src python benchmarks/step_profile.py g2p
"""

from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import statistics
import time
from pathlib import Path

import torch
import transformers

import deed

STEPS, ROUNDS = 40, 12
SCHEDULE = [1, 1, 2, 1, 1, 8, 1, 3]
CHECKPOINTS = Path(__file__).parents[1] / "src/deed/checkpoints"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=["g2p", "latr"])
    parser.add_argument("--lines", type=int, default=14)
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    model = deed.from_pretrained(CHECKPOINTS / options.model)
    torch.manual_seed(0)
    inputs = {"input_ids": torch.randint(5, 30, (1, 10 if options.model == "g2p" else 200))}
    if options.model == "latr":
        inputs["bbox"] = torch.randint(0, 900, (1, 200, 4)).sort(-1).values
    length = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "max_length": None, "min_length": 0}
    print(
        f"{options.model}, batch 1, source {inputs['input_ids'].shape[1]}, torch {torch.__version__}, {deed.__file__}"
    )
    for name, how in {
        "never exiting": {"exit_threshold": 2.0},
        f"schedule {SCHEDULE}": {"exit_policy": deed.FixedSchedule(SCHEDULE, ask=True)},
    }.items():

        def run(how: dict = how) -> None:
            model.generate(**inputs, **length, **how, do_sample=False, num_beams=1)

        times = []
        for i in range(ROUNDS + 3):
            start = time.perf_counter()
            run()
            if i >= 3:
                times.append((time.perf_counter() - start) * 1e3 / STEPS)
        low, middle, high = statistics.quantiles(times, n=4)
        print(f"\n{name}: {middle:.2f} ms per step, encoder in it (quartiles {low:.2f}, {high:.2f})")
        profile = cProfile.Profile()
        profile.enable()
        for _ in range(5):
            run()
        profile.disable()
        text = io.StringIO()
        pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(options.lines)
        print("\n".join(line[:110] for line in text.getvalue().splitlines() if line.strip()))


if __name__ == "__main__":
    main()
