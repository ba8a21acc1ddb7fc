"""Goals by hand, and which instruction sets a run is started under."""

import os

import pytest
import torch

from deed.bench import isa
from deed.bench.goals import goal_rows, is_peer
from deed.bench.subjects import Timing


def timings(first, *steps):
    """A round per step time; 20 tokens."""
    return [Timing([first + i * step for i in range(20)], torch.zeros(1, 20)) for step in steps]


RUN = {
    "transformers dynamic": timings(100.0, 40.0, 40.0, 40.0),
    "onnxruntime int4 weights": timings(1.0, 1.0, 1.0, 1.0),  # of neither precision
    "openvino fp32": timings(50.0, 20.0, 20.0, 40.0),
    "ctranslate2 int8": timings(80.0, 30.0, 30.0, 30.0),
    "openvino int8": timings(80.0, 10.0, 10.0, 10.0),
    "deed fp32 full": timings(90.0, 20.0, 25.0, 20.0),
    "deed int8 full": timings(90.0, 15.0, 15.0, 15.0),
    "deed fp32 mean 3/12 gate": timings(90.0, 10.0, 10.0, 10.0),
    "deed int8 mean 3/12 gate": timings(60.0, 4.0, 4.0, 4.0),
}
FLOORS = {"deed fp32 full": 16.0, "deed int8 full": 5.0}


def test_goals_of_one_row_by_hand():
    found = goal_rows("t5-base", 1, RUN, FLOORS, ("openvino fp32",))
    told = {row["goal"]: row for row in found}
    assert len(told) == len(found) == 8
    row = told["full depth, fp32 step / best fp32 peer"]
    assert row["reached"]["median"] == pytest.approx(2.0) and row["met"] and row["against"] == "transformers dynamic"
    assert row["unrestricted"]["against"] == "openvino fp32", "it ran with everything the processor has"
    assert row["unrestricted"]["reached"]["median"] == pytest.approx(1.0)
    assert told["full depth, int8 step / CTranslate2 int8"]["reached"]["median"] == pytest.approx(2.0)
    row = told["full depth, int8 step / best int8 peer"]
    assert row["reached"]["median"] == pytest.approx(10 / 15) and not row["met"] and row["unrestricted"] is None
    assert told["mean depth 3 of 12, fp32 step / best fp32 peer"]["reached"]["median"] == pytest.approx(4.0)
    assert told["mean depth 3 of 12, int8 step / best int8 peer"]["met"]
    row = told["answer of 16 tokens, int8, mean depth 3 / best peer"]
    assert row["against"] == "onnxruntime int4 weights", "of any precision, by the whole answer"
    assert row["reached"]["median"] == pytest.approx(16 / (60 + 15 * 4))
    row = told["full depth, fp32 step / reading its bytes once"]
    assert row["reached"]["median"] == pytest.approx(20 / 16) and row["met"] and row["against"] is None
    assert told["full depth, int8 step / reading its bytes once"]["reached"]["median"] == pytest.approx(3.0)


def test_goals_of_batches_are_tokens_per_second():
    found = goal_rows("t5-base", 8, {n: t for n, t in RUN.items() if "int4" not in n}, FLOORS)
    assert [row["wanted"] for row in found] == [">= 1.5", ">= 1.5"]
    assert found[0]["reached"]["median"] == pytest.approx(10 / 4)
    assert found[1]["reached"]["median"] == pytest.approx((80 + 19 * 10) / (60 + 19 * 4))
    assert goal_rows("t5-base", 4, RUN, FLOORS) == []


def test_a_model_too_small_for_int8_is_judged_as_it_is():
    small = {n: t for n, t in RUN.items() if "deed int8" not in n}
    told = {row["goal"]: row for row in goal_rows("g2p", 1, small, FLOORS)}
    assert told["full depth, int8 step / best int8 peer"]["subject"] == "deed fp32 full"
    assert "full depth, int8 step / reading its bytes once" not in told


def test_peers():
    assert is_peer("transformers compiled", "fp32") and is_peer("openvino int8 weights", "int8")
    assert not is_peer("deed int8 full", None) and not is_peer("onnxruntime int8", "fp32")


def test_a_restricted_run_starts_over_once(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda path, arguments, env: started.append((arguments, env)))
    monkeypatch.setattr("sys.argv", ["deed", "bench", "speed", "--isa", "avx2"])
    isa.restart_restricted("native")
    assert not started
    isa.restart_restricted("avx2")
    arguments, env = started.pop()
    assert arguments[1:] == ["-m", "deed", "bench", "speed", "--isa", "avx2"]
    assert env["ATEN_CPU_CAPABILITY"] == "avx2" and env["ONEDNN_MAX_CPU_ISA"] == env["CT2_FORCE_CPU_ISA"] == "AVX2"
    for name, value in isa.RESTRICTED["avx2"].items():
        monkeypatch.setenv(name, value)
    isa.restart_restricted("avx2")
    assert not started, "it runs under them already"
    with pytest.raises(ValueError, match="--isa must be one of native, avx2"):
        isa.restart_restricted("neon")


def test_what_a_run_says_of_instruction_sets():
    said = isa.ran("avx2")
    assert said["asked"] == "avx2" and "onnxruntime" in said["not_restricted"] and said["torch_uses"]
    assert isa.ran("native")["not_restricted"] == []
