"""`deed bench scaling` on tiny models: points, work and memory. Never how long anything took."""

import json

import pytest
import torch

from deed import FixedSchedule
from deed.bench import scaling
from deed.bench.plots import scaling_figure, write_result
from deed.bench.scaling import EARLY, FULL, Point, cache_memory, measure_scaling, stored, tensors_of, workload_of
from deed.bench.subjects import BASELINE, generate

SMALL = Point(source=8, answer=6, batch=1, layers=4, vocab=60, width=32)


@pytest.fixture(scope="module")
def report():
    told = []
    sweeps = {"source": (8, 16), "batch": (1, 3), "layers": (2, 4)}
    found = measure_scaling(sweeps, SMALL, rounds=2, progress=lambda line, share: told.append((line, share)))
    return found, told


def test_one_field_is_swept_at_a_time(report):
    found, told = report
    assert found["kind"] == "scaling" and found["settings"]["base"]["vocab"] == 60
    assert [(r["sweep"], r["value"]) for r in found["rows"]] == [
        ("source", 8),
        ("source", 16),
        ("batch", 1),
        ("batch", 3),
        ("layers", 2),
        ("layers", 4),
    ]
    base = {k: v for k, v in found["rows"][0].items() if k not in ("sweep", "value")}
    for at in (2, 5):  # measured once, in every sweep
        assert {k: v for k, v in found["rows"][at].items() if k not in ("sweep", "value")} == base
    assert [line for line, _ in told][:2] == ["source 8", "source 16"]
    json.dumps(found, allow_nan=False)


def test_work_is_never_more_than_full_depths(report):
    found, _ = report
    for row in found["rows"]:
        layers = row["value"] if row["sweep"] == "layers" else 4
        batch = row["value"] if row["sweep"] == "batch" else 1
        full, early = row["work"][FULL], row["work"][EARLY]
        assert full["computed_cells"] == full["full_depth_cells"] == early["full_depth_cells"] == 6 * batch * layers
        assert full["padding_cells"] == 0 and full["mean_depth"] == layers
        assert 0 < early["computed_cells"] <= early["full_depth_cells"]
        assert set(row["times"]) == {BASELINE, FULL, EARLY}
        assert row["times"][BASELINE]["times_faster_than_transformers"]["median"] == 1.0


def test_more_work_than_full_depth_is_an_error(monkeypatch, tmp_path):
    workload = workload_of(SMALL, tmp_path, None)
    real = scaling.deed

    def inflated(*arguments, **options):
        subject = real(*arguments, **options)
        counts = subject.look()
        subject.look = lambda: {**counts, "computed_cells": counts["full_depth_cells"] + 1}
        return subject

    monkeypatch.setattr(scaling, "deed", inflated)
    with pytest.raises(RuntimeError, match="computed more than full depth has"):
        scaling.measure_point(workload, 1)


def test_models_are_used_again_where_they_are_the_same(tmp_path):
    first = workload_of(SMALL, tmp_path, None)
    longer = workload_of(Point(**{**vars(SMALL), "source": 16}), tmp_path, first)
    deeper = workload_of(Point(**{**vars(SMALL), "layers": 2}), tmp_path, longer)
    assert longer.base is first.base and longer.mask.shape == (1, 16)
    assert deeper.base is not first.base and deeper.n_layers == 2


@pytest.mark.parametrize("batch", [1, 3])
def test_bytes_of_caches(batch, tmp_path):
    workload = workload_of(Point(**{**vars(SMALL), "batch": batch}), tmp_path, None)
    memory = cache_memory(workload)
    # A key and a value of 32 fp32 numbers per layer, row and position: 6 decoded (the newest token is in no cache), 8 read.
    cells = 2 * 4 * batch * 32 * 4
    assert memory["transformers_bytes"] == cells * (6 + 8)
    parts = memory["deed_parts"]
    assert parts["cross_attention"] == cells * 8
    assert (
        parts["self_attention"] >= cells * 6 and parts["hidden"] >= memory["hidden_buffer_bytes"] == batch * 6 * 32 * 4
    )
    assert memory["deed_bytes"] == sum(parts.values()) and parts["other"] >= 0
    assert memory["over"] == pytest.approx(
        (memory["deed_bytes"] - memory["hidden_buffer_bytes"]) / memory["transformers_bytes"] - 1
    )


def test_every_tensor_of_a_cache_is_counted_once(tmp_path):
    workload = workload_of(SMALL, tmp_path, None)
    options = {"exit_policy": FixedSchedule([2]), "return_dict_in_generate": True}
    cache = generate(workload, workload.model, 6, **options).past_key_values
    found = {t.untyped_storage().data_ptr() for t in tensors_of(cache, set())}
    assert all(k.untyped_storage().data_ptr() in found for k in cache.stairs.keys[:2])
    assert cache.stairs.keys[2] is None, "a layer nobody reached takes nothing"
    buffer = torch.zeros(4, 8)
    assert stored(buffer, buffer[1:], None) == 4 * 8 * 4


def test_written_with_its_plots(report, tmp_path):
    pytest.importorskip("matplotlib")
    paths = write_result(report[0], tmp_path, "scaling", scaling_figure)
    assert [p.name for p in paths] == ["scaling.json", "scaling.png", "scaling.svg"]
    assert json.loads(paths[0].read_text())["rows"] == json.loads(json.dumps(report[0]["rows"]))


@pytest.mark.parametrize(
    ("sweeps", "rounds", "message"),
    [
        ({"heads": (1, 2)}, 1, "--sweep must be one of source, answer"),
        ({"answer": (1,)}, 1, "--sweep answer needs values of at least 2"),
        ({"batch": ()}, 1, "--sweep batch needs values"),
        ({"batch": (1,)}, 0, "--rounds and --threads must be at least 1"),
    ],
)
def test_bad_sweeps(sweeps, rounds, message):
    with pytest.raises(ValueError, match=message):
        measure_scaling(sweeps, SMALL, rounds)
