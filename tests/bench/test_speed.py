"""`deed bench speed` on tiny shapes: who takes part, what is counted, what is said of who cannot. Never how long it took."""

import importlib
import json
import time
from functools import partial

import pytest
import torch

from deed.bench import costs
from deed.bench.catalogue import Maker, catalogue
from deed.bench.plots import speed_figure, write_result
from deed.bench.shapes import SHAPES, NotAvailable, build, make_workload, twin
from deed.bench.speed import Settings, compare_reports, exit_check_costs, measure_speed, read_report
from deed.bench.subjects import (
    BASELINE,
    Subject,
    Timing,
    assisted,
    check_slowly,
    compiled,
    deed,
    generate,
    slow_tokens,
    time_limit,
    transformers,
)

TINY = {"rounds": 2, "new_tokens": 6}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module", params=["tiny-t5", "tiny-bart", "tiny-latr"])
def workload(request, workplace):
    return make_workload(request.param, 2, 6, workplace / request.param)


@pytest.fixture(scope="module")
def report():
    names = ("deed fp32 full", "deed fp32 depth 1*", "deed fp32 mean 3/12*", "deed fp32 mean 6/12 plain")
    told = []
    settings = Settings(("tiny-t5",), (1, 3), names, **TINY)
    return {**measure_speed(settings, lambda line, share: told.append((line, share))), "told": told}


def test_the_plain_and_the_deed_model_share_their_tensors_and_stay_themselves(workload):
    assert type(workload.base) is not type(workload.model) and isinstance(workload.model, type(workload.base))
    ours = dict(workload.model.named_parameters())
    for name, weight in workload.base.named_parameters():
        assert ours[name].data_ptr() == weight.data_ptr(), name


def test_answers_of_random_weights_vary(workload):
    tokens = generate(workload, workload.base, 6)[:, 1:]
    assert len(set(tokens.flatten().tolist())) > 2, "else a wrong cache would not show"


# -- the reference, bytes, asks ---------------------------------------------------------------------------------------


def test_the_slow_reference_is_what_the_engine_decodes(workload):
    depths = [[1, 4, 2, 3, 1, 4], [2, 1, 1, 4, 3, 2]]
    tokens = generate(workload, workload.model, 6, exit_policy=deed_schedule(depths))[:, 1:]
    assert check_slowly(workload, workload.model, depths, tokens) == {
        "against": "itself without a cache",
        "equal": 1.0,
        "tokens": 12,
    }
    full = slow_tokens(workload, workload.model, None, 2, 6)
    assert torch.equal(full, generate(workload, workload.base, 6)[:, 1:])
    assert not torch.equal(full, tokens), "depths matter"


def deed_schedule(depths):
    from deed import FixedSchedule

    return FixedSchedule(depths, ask=True)


def test_bytes_by_hand():
    workload = make_workload("tiny-t5", 2, 3, None)
    own, cross, feed, norms = 4 * 32 * 32, 2 * 32 * 32, 2 * 32 * 64, 3 * 32
    bias = 32 * 4 / 4  # the first layer's relative bias, shared among four
    layer = own + cross + feed + norms + bias
    assert costs.layer_weights(workload) == layer
    head, adapter = 32 * 100, 32 * 32 + 32
    position = 2 * 32 * 4
    # Steps 1 and 2; row 0 leaves at 2 and 1, row 1 at 1 and 1; 12 tokens read, 2 and 3 positions decoded.
    depths = [[4, 2, 1], [4, 1, 1]]
    assert costs.step_counts(depths) == [{"layers": 2, "exits": 2}, {"layers": 1, "exits": 1}]
    caches = ((2 + 1) * (12 + 2) + (1 + 1) * (12 + 3)) * position
    asked = (3 * layer + 3 * (head + adapter)) * 4 + caches
    assert costs.step_bytes(workload, depths, "plain", 4, 4) == pytest.approx(asked / 2)
    assert costs.step_bytes(workload, depths, "plain", 1, 1) == pytest.approx((asked - caches) / 8 + caches / 2)
    shared = asked - head * 4
    assert costs.step_bytes(workload, depths, None, 4, 4) == pytest.approx(shared / 2), "both exits are also left by"
    deep = [[4, 4, 4], [4, 4, 4]]
    silent, plain = (costs.step_bytes(workload, deep, a, 4, 4) for a in (None, "plain"))
    assert plain - silent == pytest.approx(3 * (head + adapter) * 4)
    assert costs.step_bytes(workload, None, None, 4, 4) == silent
    assert costs.checks_on_the_way(deep) == 3 and costs.checks_on_the_way(depths) == 0


def test_memory_is_measured():
    speed = costs.Memory(2**20).measure()
    assert speed["best"] == max(speed["read"], speed["copy"]) > 0


def test_an_answer_is_timed_as_its_tokens_come(workload):
    timing = deed(workload, "fp32").run()
    assert timing.tokens.shape == (2, 6) and len(timing.token_ms) == 6 and timing.token_ms == sorted(timing.token_ms)
    assert (
        timing.first_ms == timing.answer_ms(1) and timing.answer_ms(6) == timing.answer_ms(99) == timing.token_ms[-1]
    )
    assert timing.step_ms == pytest.approx((timing.answer_ms(6) - timing.first_ms) / 5)


def test_the_encoder_is_part_of_the_answer_unless_the_workload_says_otherwise(workplace):
    workload = make_workload("tiny-t5", 1, 4, workplace)
    runs = []
    hooks = [m.get_encoder().register_forward_hook(lambda *_: runs.append(1)) for m in (workload.base, workload.model)]
    for subject in (transformers(workload), deed(workload, "fp32")):
        subject.run()
        assert runs.pop() == 1
        workload.encodes = False
        subject.run()
        workload.encodes = True
        assert not runs
    for hook in hooks:
        hook.remove()


def test_assisted_decoding_is_timed_by_the_token(workplace):
    workload = make_workload("tiny-t5", 1, 7, workplace)
    timing = assisted(workload).run()
    assert timing.tokens.shape == (1, 7) and len(timing.token_ms) == 7


def test_the_cost_of_an_ask_by_hand():
    workload = make_workload("tiny-t5", 1, 3, None)

    def timing(ms):
        return [Timing([1.0, 1.0 + m, 1.0 + 2 * m], torch.zeros(1, 3)) for m in (ms, 2 * ms)]

    depths = [[1, 3, 2]]
    names = {"full": 5.0, "depth 1 not asked": 2.0, "mean 3/12 not asked": 3.0, "mean 3/12 plain": 6.0}
    timings = {f"deed fp32 {name}": timing(ms) for name, ms in names.items()}
    made = {name: Subject("deed fp32", None, None, depths=depths) for name in timings}
    (row,) = exit_check_costs(workload, made, timings)
    # A layer is (5 - 2) / 3 = 1 ms. Two asks at step 1 and one at step 2 make 1.5 per step: (6 - 3) / 1.5 = 2 ms each.
    assert (row["precision"], row["exit_check"], row["checks_per_step"]) == ("fp32", "plain", 1.5)
    assert row["layer_ms"]["p25"] == pytest.approx(1.25) and row["check_ms"]["median"] == pytest.approx(3.0)
    assert row["of_a_layer"] == {k: pytest.approx(2.0) for k in ("median", "p25", "p75")}, "round by round"
    assert exit_check_costs(workload, {}, {}) == []


# -- subjects ---------------------------------------------------------------------------------------------------------


def test_the_catalogue():
    found = catalogue()
    assert next(iter(found)) == BASELINE
    for name in (
        "transformers static",
        "transformers compiled",
        "ctranslate2 fp32",
        "ctranslate2 int8",
        "onnxruntime fp32",
        "deed fp32 full",
        "deed int8 full",
        "deed fp32 g2p depths plain",
        "deed int8 latr depths plain",
        *(f"deed {p} mean {m}/12 {a}" for p in ("fp32", "int8") for m in (2, 3, 4, 6) for a in ("plain", "screen")),
        "deed fp32 mean 3/12 shortlist",
        "deed fp32 mean 3/12 gate",
    ):
        assert name in found, name
    assert not found["deed fp32 full"].optional and not found["deed fp32 mean 3/12 plain"].optional
    assert list(catalogue(["deed int8 full"])) == [BASELINE, "deed int8 full"]
    with pytest.raises(ValueError, match="--subject 'vllm' fits no subject"):
        catalogue(["vllm"])


def test_what_fails_elsewhere_is_a_finding_and_here_an_error(workload):
    def broken(_):
        raise ImportError("no such thing\nat all")

    with pytest.raises(NotAvailable, match=r"^ImportError: no such thing$"):
        Maker(broken, optional=True)(workload)
    with pytest.raises(ImportError):
        Maker(broken)(workload)


def test_compiling_may_take_too_long(tmp_path, monkeypatch):
    workload = make_workload("tiny-t5", 1, 4, tmp_path)
    monkeypatch.setattr(torch, "compile", lambda f, **options: lambda *a, **k: time.sleep(30))
    with pytest.raises(NotAvailable, match=r"compiling took longer than 0\.2 s"):
        compiled(workload, 0.2)


def test_a_time_limit_gets_through_handlers():
    with pytest.raises(NotAvailable, match="enough"), time_limit(0.05, "enough"):
        for _ in range(100):
            try:
                time.sleep(0.1)
            except Exception:
                pytest.fail("caught on the way")
    with time_limit(5.0, "not reached"):
        pass


def test_int8_is_a_copy_and_checked_against_itself(tmp_path, monkeypatch):
    workload = make_workload("tiny-t5", 1, 5, tmp_path)
    with pytest.raises(NotAvailable, match="int8 is slower"):  # so small that nothing is quantised: that is not int8
        deed(workload, "int8")
    workload.made.clear()
    module = importlib.import_module("deed.modeling.quantization")
    monkeypatch.setattr(module, "quantize", partial(module.quantize, min_weights=0))
    subject = deed(workload, "int8", mean=6, exit_check="plain")
    parity = subject.check(subject.run().tokens)
    assert subject.weight_bytes == 1 and parity["against"] == "itself without a cache" and parity["equal"] > 0.7
    assert workload.made["int8 encoder decoder head"].deed_quantized["replaced"] and not hasattr(
        workload.model, "deed_quantized"
    )
    assert torch.equal(generate(workload, workload.model, 5, exit_threshold=2.0), generate(workload, workload.base, 5))


def test_real_pages_need_no_ocr_engine(tmp_path):
    pytest.importorskip("PIL")
    workload = make_workload("latr", 1, 3, tmp_path)
    assert "pixel_values" in workload.inputs and workload.mask.shape[1] > workload.inputs["input_ids"].shape[1], (
        "patches too"
    )
    tokens = generate(workload, workload.model, 3, exit_threshold=2.0)
    assert torch.equal(tokens, generate(workload, workload.base, 3))


# -- the whole run ----------------------------------------------------------------------------------------------------


def test_every_subject_has_a_row(report):
    assert report["kind"] == "speed" and report["settings"]["new_tokens"] == 6
    assert {"deed", "torch", "transformers", "ctranslate2", "onnxruntime", "openvino"} <= set(report["versions"])
    assert [(s["shape"], s["batch"], s["layers"], s["source"]) for s in report["workloads"]] == [
        ("tiny-t5", 1, 4, [12]),
        ("tiny-t5", 3, 4, [12] * 3),
    ]
    wanted = list(catalogue(report["settings"]["subjects"]))
    for batch in (1, 3):
        rows = [r for r in report["rows"] if r["batch"] == batch]
        assert [r["subject"] for r in rows] == wanted
        for row in rows:
            if not row["available"]:
                assert row["subject"].endswith(("screen", "shortlist", "gate")) and row["reason"]
                continue
            assert row["floor_ms"] > 0 and set(row["step_ms"]) == {"median", "p25", "p75"}
            assert BASELINE in row["times_faster_than"]
            assert set(row["answer_ms"]) == {"5", "6"} == set(row["answer_times_faster_than"][BASELINE])
            assert row["first_token_ms"]["median"] < row["answer_ms"]["5"]["median"] < row["answer_ms"]["6"]["median"]
            if not row["subject"].endswith(("screen", "shortlist", "gate")):
                assert row["parity"]["equal"] == 1.0, row
        by_name = {r["subject"]: r for r in rows}
        assert by_name[BASELINE]["times_faster_than"][BASELINE] == {"median": 1.0, "p25": 1.0, "p75": 1.0}
        assert by_name["deed fp32 full"]["times_faster_than"]["full depth of its runtime"]["median"] == 1.0
        assert by_name["deed fp32 full"]["work"]["mean_depth"] == 4.0
        early = by_name["deed fp32 mean 6/12 plain"]
        assert 1 < early["work"]["mean_depth"] < 4 and early["layers_per_step"] <= 4
        assert early["work"]["computed_cells"] <= early["work"]["full_depth_cells"]
        shallow = by_name["deed fp32 depth 1 not asked"]
        assert shallow["work"]["mean_depth"] == shallow["layers_per_step"] == 1.0
        assert shallow["mb_per_step"] < by_name["deed fp32 full"]["mb_per_step"]
    json.dumps(report, allow_nan=False)


def test_a_run_says_which_instruction_sets_ran_and_how_the_goals_stand(report):
    assert report["isa"]["asked"] == "native" and report["isa"]["torch_uses"] and not report["isa"]["not_restricted"]
    # Transformers alone is no field of peers.
    assert [(row["batch"], row["goal"]) for row in report["goals"]] == [
        (1, "full depth, fp32 step / reading its bytes once")
    ]


def test_progress_only_rises_and_names_what_is_done(report):
    shares = [share for _, share in report["told"]]
    assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] <= 1.0
    assert any("tiny-t5, batch 3: preparing deed fp32 full" in line for line, _ in report["told"])


def test_a_later_run_is_compared_by_its_ratios(report, tmp_path):
    then = json.loads(json.dumps(report))
    then["rows"] = [r for r in then["rows"] if r["subject"] != "deed fp32 full"]
    then["rows"][0]["times_faster_than"][BASELINE]["median"] = 0.5
    gone = {**report["rows"][0], "subject": "onnxruntime fp32"}
    then["rows"].append(gone)
    path = tmp_path / "then.json"
    path.write_text(json.dumps(then))
    rows = {(r["batch"], r["subject"]): r for r in compare_reports(read_report(path), report)}
    assert rows[1, BASELINE]["then"]["median"] == 0.5 and rows[1, BASELINE]["now"]["median"] == 1.0
    assert rows[1, "deed fp32 full"]["then"] is None and rows[1, "deed fp32 full"]["now"] is not None
    assert rows[1, "onnxruntime fp32"]["now"] is None


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "scaling", "rows": []}'])
def test_what_is_no_recorded_run_is_refused(tmp_path, text):
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"--compare .*old\.json"):
        read_report(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_report(tmp_path / "none.json")


def test_written_whole_with_its_plots(report, tmp_path):
    pytest.importorskip("matplotlib")
    values = {k: v for k, v in report.items() if k != "told"}
    paths = write_result(values, tmp_path / "new", "speed", speed_figure)
    assert [p.name for p in paths] == ["speed.json", "speed.png", "speed.svg"]
    assert json.loads(paths[0].read_text()) == json.loads(json.dumps(values))
    assert paths[1].read_bytes()[:4] == b"\x89PNG" and "<svg" in paths[2].read_text()
    assert sorted(p.name for p in paths[0].parent.iterdir()) == sorted(p.name for p in paths), "nothing half-written"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"shapes": ("gpt2",)}, "--shape must be one of t5-small, t5-base"),
        ({"batches": (0,)}, "--batch"),
        ({"new_tokens": 1}, "--new-tokens must be at least 2"),
        ({"rounds": 0}, "--rounds must be at least 1"),
        ({"subjects": ("nobody",)}, "fits no subject"),
        ({"isa": "sse"}, "--isa must be one of native, avx2"),
    ],
)
def test_bad_settings(values, message):
    with pytest.raises(ValueError, match=message):
        Settings(**values)


def test_shapes_are_what_they_are_called():
    assert {"t5-small", "t5-base", "bart-base", "latr-base", "g2p", "latr"} <= set(SHAPES)
    base, model = build(SHAPES["tiny-t5"])
    again, _ = build(SHAPES["tiny-t5"])
    assert torch.equal(base.shared.weight, again.shared.weight), "from a seed"
    assert twin(base).shared.weight is base.shared.weight is model.shared.weight
