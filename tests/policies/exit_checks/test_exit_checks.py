"""Exit checks in `generate()`: what equals the plain check equals it, the rest never leaves where plain would not."""

import gc
import threading
import weakref
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

import deed
import oracle as ref
from conftest import VOCAB, batch, deed_model, plain_model
from deed import DeedConfig, DeedConfigError, FixedSchedule, MaxProb, ThresholdPolicy
from deed.modeling.generate_arguments import exit_policy_of
from deed.policies.exit_checks import TwoStagePolicy, build_exit_check, with_exit_check
from deed.policies.exit_checks import screen as screen_module
from test_decode import compare

ONE_SIDED = [
    {"name": "screen"},
    {"name": "screen", "refine": 0},
    {"name": "screen", "rank": 8, "refine": 4},
    {"name": "screen", "rank": 8, "refine": 6, "reuse": True},
    {"name": "shortlist", "size": 6},
    {"name": "shortlist", "size": 6, "first": "screen", "rank": 8},
]
BOUNDED = [{"name": "screen", "bound": True, "refine": 5}]


def name_of(spec):
    return "-".join(str(v) for v in spec.values())


class Watched(TwoStagePolicy):
    """Records, at every exit of every step, who leaves and whom exact logits let leave."""

    records: ClassVar[list] = []

    def decide(self, query):
        decision = super().decide(query)
        exact = query.head()
        truth = self.policy.leaves(replace(query, head=lambda: exact))
        Watched.records.append((decision.leave, truth))
        exiting = decision.leave.nonzero()[:, 0].tolist()
        found = decision.logits_of(exiting)
        if exiting and found is not None:
            torch.testing.assert_close(found, exact[exiting], rtol=1e-10, atol=1e-10)
        return decision


@pytest.mark.parametrize("spec", ONE_SIDED, ids=name_of)
@pytest.mark.parametrize("confidence", ["max_prob", "margin", "entropy"])
def test_a_row_leaves_only_where_the_plain_check_lets_it(kind, spec, confidence):
    model = deed_model(kind, DeedConfig(confidence=confidence))
    left = stayed = 0
    for value in (0.5, [0.9, 0.4, 1.5, 0.2], torch.tensor([0.2, 0.5, 0.8, 2.0])):
        Watched.records.clear()
        policy = Watched(exit_policy_of(model, value), build_exit_check(spec, model))
        model.generate(**batch(), max_new_tokens=8, min_new_tokens=8, exit_policy=policy)
        for said, truth in Watched.records:
            assert not (said & ~truth).any()
            left, stayed = left + int(said.sum()), stayed + int((~truth).sum())
    assert left > 10 and stayed > 10


@pytest.mark.parametrize("spec", BOUNDED, ids=name_of)
@pytest.mark.parametrize(
    ("confidence", "measure", "mode"),
    [
        ("max_prob", ref.max_prob, {}),
        ("margin", ref.margin, {}),
        ("max_prob", ref.max_prob, {"num_beams": 3}),
        ("max_prob", ref.max_prob, {"do_sample": True}),
    ],
    ids=["greedy", "margin", "beam", "sampling"],
)
def test_a_bounded_screen_equals_the_plain_check(kind, spec, confidence, measure, mode):
    model, seen = deed_model(kind, DeedConfig(confidence=confidence, exit_check=spec)), set()
    for value in (0.4, 0.75, [0.9, 0.5, 0.7, 0.2]):
        seen |= set(compare(model, batch(), value, measure, **mode).exit_layers.flatten().tolist())
    assert len(seen - {0}) >= 4


@pytest.mark.parametrize("spec", [*ONE_SIDED, *BOUNDED], ids=name_of)
def test_screens_that_refine_everything_equal_the_plain_check(kind, spec):
    """Exact for all tokens after refining, approximate logits are the exact ones: every mode of decoding agrees."""
    full = {"screen": {"refine": VOCAB}, "shortlist": {"size": VOCAB}}[spec["name"]]
    model = deed_model(kind, DeedConfig(exit_check={**spec, **full}))
    compare(model, batch(), torch.tensor([0.0, 0.5, 0.8, 2.0]), min_new_tokens=6)
    if kind == "bart":
        compare(model, batch(), 0.6, num_beams=3)
        compare(model, batch(), 0.6, repetition_penalty=1.7, no_repeat_ngram_size=2)


def test_per_request_thresholds_under_beams(kind):
    model = deed_model(kind, DeedConfig(exit_check={"name": "screen", "bound": True}))
    per_request = torch.tensor([0.0, 0.5, 0.8, 2.0])
    inputs, mode = batch(), {"num_beams": 3, "max_new_tokens": 6}
    plain = model.generate(
        **inputs, **mode, exit_threshold=per_request, exit_check="plain", return_dict_in_generate=True
    )
    got = model.generate(**inputs, **mode, exit_threshold=per_request, return_dict_in_generate=True)
    assert torch.equal(got.sequences, plain.sequences) and torch.equal(got.exit_layers, plain.exit_layers)
    with pytest.raises(ValueError, match="exit_threshold has 3 values, but 4 rows"):
        model.generate(**inputs, exit_threshold=torch.tensor([0.1, 0.2, 0.3]))


def test_a_threshold_that_decays(kind):
    config = {"threshold_decay": {"temperature": 4.0, "length": 9}, "threshold": 0.7}
    plain = deed_model(kind, DeedConfig(**config)).generate(**batch(), max_new_tokens=9)
    model = deed_model(kind, DeedConfig(**config, exit_check={"name": "screen", "bound": True}))
    assert torch.equal(model.generate(**batch(), max_new_tokens=9), plain)


@pytest.mark.parametrize("spec", [*ONE_SIDED, *BOUNDED], ids=name_of)
def test_confidence_over_allowed_tokens(kind, spec):
    model = deed_model(kind)

    def allow(batch_id, prefix):
        return [2, *range(10 + int(prefix[-1]) % 7, 14 + int(prefix[-1]) % 7)]

    outs = [
        model.generate(
            **batch(),
            max_new_tokens=9,
            prefix_allowed_tokens_fn=allow,
            exit_threshold=0.8,
            confidence_over="allowed",
            exit_check=how,
            return_dict_in_generate=True,
        )
        for how in ("plain", spec)
    ]
    depths = [out.exit_layers for out in outs]
    if spec in BOUNDED:
        assert torch.equal(*depths) and torch.equal(outs[0].sequences, outs[1].sequences)
    assert (depths[1][:, 0] >= depths[0][:, 0]).all()  # one step on, the prefixes may differ
    assert (depths[1] > 0).any() and (depths[1] < 5).any()


def test_a_no_costs_no_exact_head(kind):
    """Nobody is sure enough: of five exits only the last computes all logits, and the first where it makes the shortlist."""
    model = deed_model(kind)
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "exit_threshold": 1.0, "return_dict_in_generate": True}
    assert model.generate(**batch(), **options).past_key_values.stats()["asked_rows"] == 5 * 8 * 4
    for spec in (*ONE_SIDED, *BOUNDED):
        cache = model.generate(**batch(), **options, exit_check=spec).past_key_values
        exits = 2 if spec["name"] == "shortlist" and "first" not in spec else 1
        assert cache.stats()["asked_rows"] == exits * 8 * 4
        assert cache.policy.screened_rows == (5 - exits) * 8 * 4 and cache.policy.confirmed_rows == 0


def test_thresholds_above_one_are_not_even_looked_at():
    model = deed_model("t5_tied", DeedConfig(exit_check="screen"))
    out = model.generate(
        **batch(), max_new_tokens=4, exit_threshold=[1.5, 0.0, 0.0, 0.0], return_dict_in_generate=True
    )
    assert out.past_key_values.policy.screened_rows == int((out.exit_layers > 0).sum())
    never = with_exit_check(ThresholdPolicy(MaxProb(), 1.5), "screen", model)
    assert isinstance(never, ThresholdPolicy)


@pytest.mark.parametrize("ask", [False, True])
def test_schedules_leave_as_scheduled(kind, ask):
    model, options = deed_model(kind), {"max_new_tokens": 8, "return_dict_in_generate": True}
    for depths in ([3, 1, 5, 2], [[1 + (r * 3 + t * 2) % 5 for t in range(7)] for r in range(4)]):
        policy = FixedSchedule(depths, ask=ask)
        plain = model.generate(**batch(), **options, exit_policy=policy)
        for spec in (*ONE_SIDED, *BOUNDED):
            got = model.generate(**batch(), **options, exit_policy=policy, exit_check=spec)
            assert torch.equal(got.sequences, plain.sequences) and torch.equal(got.exit_layers, plain.exit_layers)
            assert (got.past_key_values.policy.screened_rows > 0) == ask


def test_measures_that_need_no_head_are_not_screened(kind):
    model = deed_model(kind, DeedConfig(confidence="state_similarity", exit_check="screen"))
    out = compare(model, batch(), 0.75, ref.state_similarity)
    assert isinstance(out.past_key_values.policy, ThresholdPolicy)


def test_a_policy_of_ones_own_is_asked_plainly_unless_wrapped():
    model = deed_model("bart", DeedConfig(exit_check="screen"))

    class Own:
        needs_history, exits_early, calls = False, True, 0

        def leaves(self, query):
            Own.calls += 1
            return query.masked_logits.softmax(-1).amax(-1) >= 0.6

    own = Own()
    assert with_exit_check(own, "screen", model) is own
    plain = model.generate(**batch(), max_new_tokens=8, exit_policy=own, return_dict_in_generate=True)
    wrapped = TwoStagePolicy(own, build_exit_check({"name": "screen", "refine": VOCAB}, model))
    got = model.generate(**batch(), max_new_tokens=8, exit_policy=wrapped, return_dict_in_generate=True)
    assert torch.equal(got.sequences, plain.sequences) and torch.equal(got.exit_layers, plain.exit_layers)


def test_two_threads_with_one_model_and_two_shortlists():
    model = deed_model("t5_untied_gated", DeedConfig(threshold=0.6))
    jobs = [(seed, {"name": "shortlist", "size": size}) for seed in range(3) for size in (3, 30)]

    def run(seed, spec):
        return model.generate(**batch(seed=seed), max_new_tokens=9, min_new_tokens=9, exit_check=spec)

    expected = [run(*job) for job in jobs]
    got = [None] * len(jobs)

    def work(i):
        for _ in range(2):
            got[i] = run(*jobs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_an_asked_policy_can_be_used_again():
    model = deed_model("bart")
    policy = TwoStagePolicy(ThresholdPolicy(MaxProb(), 0.6), build_exit_check({"name": "shortlist", "size": 5}, model))
    first = model.generate(**batch(), max_new_tokens=8, exit_policy=policy)
    other = batch(rows=2, seed=4)
    model.generate(**other, max_new_tokens=8, exit_policy=policy)
    assert torch.equal(model.generate(**batch(), max_new_tokens=8, exit_policy=policy), first)
    assert policy.screened_rows == 0  # each generation counts for itself


def test_the_copy_is_built_once_and_anew_after_the_weights_change(monkeypatch):
    model, made = deed_model("t5_tied"), []
    build = screen_module.CheapMatrix
    monkeypatch.setattr(screen_module, "CheapMatrix", lambda *a, **k: made.append(1) or build(*a, **k))
    names = set(model.state_dict())
    for _ in range(3):
        model.generate(**batch(), max_new_tokens=2, exit_threshold=0.5, exit_check="screen")
    assert len(made) == 1 and set(model.state_dict()) == names
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)  # training on
    compare(model, batch(), 0.5)
    for number, change in enumerate(
        (
            lambda: None,
            lambda: model.load_state_dict({k: v * 0.5 for k, v in model.state_dict().items()}),
            lambda: setattr(model.lm_head, "weight", torch.nn.Parameter(model.lm_head.weight.detach() * 2)),
        ),
        2,
    ):
        change()
        screen = build_exit_check("screen", model)
        assert len(made) == number
        x = torch.randn(3, 32)
        exact = model.deed_family.head(model, x.double()).float()
        assert (screen.cheap(x) - exact).abs().max() < 0.05 * exact.abs().max()


def test_copies_do_not_pile_up_and_go_with_the_model():
    model = deed_model("bart")
    for rank in range(1, 12):
        build_exit_check({"name": "screen", "rank": rank}, model)
    assert len(model.deed_head_copies._kept) == 4
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_full_depth_stays_the_plain_models(kind):
    model = deed_model(
        kind, DeedConfig(exit_check="screen"), enc=5
    )  # plain T5's own cache needs as many layers on both sides
    expected = plain_model(kind, enc=5).generate(**batch(), max_new_tokens=8)
    assert torch.equal(model.generate(**batch(), max_new_tokens=8, exit_threshold=1.5), expected)


def test_saved_and_loaded_with_the_model(tmp_path):
    spec = {"name": "screen", "rank": 6, "refine": 5}
    model = deed_model("t5_untied_gated", DeedConfig(threshold=0.6, exit_check=spec))
    expected = model.generate(**batch(), max_new_tokens=8)
    model.save_pretrained(tmp_path)
    again = deed.from_pretrained(tmp_path)
    assert again.deed_config.exit_check == spec
    assert torch.equal(again.generate(**batch(), max_new_tokens=8), expected)


def test_half_precision():
    model = deed_model("t5_untied_gated", DeedConfig(threshold=0.5), dtype=torch.bfloat16)
    inputs = batch()
    for spec in ("screen", {"name": "screen", "rank": 8}, "shortlist"):
        out = model.generate(**inputs, max_new_tokens=6, exit_check=spec, return_dict_in_generate=True)
        assert (out.exit_layers < 5).any()
    with pytest.raises(DeedConfigError, match="bound=True needs a float32 model"):
        model.generate(**inputs, exit_check={"name": "screen", "bound": True})


@pytest.mark.parametrize("kind", ["t5_tied", "bart"])
def test_a_quantized_head_is_screened_by_a_narrow_copy(kind):
    model = deed_model(kind, DeedConfig(threshold=0.85 if kind == "bart" else 0.6), dtype=torch.float32)
    deed.quantize(model, parts=["head"], min_weights=0)
    plain = model.generate(**batch(), max_new_tokens=8, return_dict_in_generate=True)
    for spec in ({"name": "screen", "rank": 8, "refine": VOCAB}, {"name": "shortlist", "size": VOCAB}):
        got = model.generate(**batch(), max_new_tokens=8, exit_check=spec, return_dict_in_generate=True)
        assert got.past_key_values.policy.screened_rows > 0
        # Written out, the head's weights are exact, but its activations are not rounded: near-ties may be missed.
        assert (got.exit_layers[:, 0] >= plain.exit_layers[:, 0]).all()
        assert (got.exit_layers == plain.exit_layers).float().mean() > 0.8
    with pytest.raises(DeedConfigError, match="the head is in int8 already"):
        model.generate(**batch(), exit_check="screen")


def test_errors():
    model = deed_model("bart", DeedConfig(confidence="patience"))
    with pytest.raises(DeedConfigError, match="does not work with confidence"):
        model.generate(**batch(), exit_threshold=1.0, exit_check="shortlist")
    with pytest.raises(ValueError, match="checked plainly"):
        TwoStagePolicy(exit_policy_of(model, 1.0), build_exit_check({"name": "shortlist", "size": 4}, model))
    model = deed_model("bart")
    with pytest.raises(DeedConfigError, match="exit_check must be one of"):
        model.generate(**batch(), exit_check="guess")
    with pytest.raises(DeedConfigError, match="exit_check must be one of"):
        model.generate(**batch(), exit_check="guess", exit_threshold=2.0)
    with pytest.raises(DeedConfigError, match="rank must be below d_model, which is 32, got 32"):
        model.generate(**batch(), exit_threshold=0.5, exit_check={"name": "screen", "rank": 32})
    with pytest.raises(DeedConfigError, match="needs trained gates"):
        model.generate(**batch(), exit_threshold=0.5, exit_check="gate")
    own = type("Own", (), {"needs_history": False, "exits_early": True, "leaves": None})()
    with pytest.raises(DeedConfigError, match="under a threshold"):
        TwoStagePolicy(own, build_exit_check({"name": "screen", "bound": True}, model))


def test_the_former_name_is_still_read():
    model = deed_model("t5_tied")
    spec = {"name": "screen", "rank": 8}
    options = {"max_new_tokens": 6, "exit_threshold": 0.5}
    expected = model.generate(**batch(), **options, exit_check=spec)
    assert torch.equal(model.generate(**batch(), **options, asking=spec), expected)
    with pytest.raises(ValueError, match="former name"):
        model.generate(**batch(), asking="plain", exit_check="plain")


def test_a_copied_model_builds_its_own():
    import copy

    model = deed_model("bart")
    build_exit_check("screen", model)
    twin = copy.deepcopy(model)
    assert len(model.deed_head_copies._kept) == 1 and not twin.deed_head_copies._kept


def test_a_shortlist_is_the_screen_that_reuses_its_tokens(kind):
    """One class, two names: the same tokens and depths."""
    model = deed_model(kind)
    options = {"max_new_tokens": 8, "exit_threshold": 0.6, "return_dict_in_generate": True}
    pairs = (
        ({"name": "shortlist", "size": 6}, {"name": "screen", "refine": 6, "reuse": True, "first": "exact"}),
        (
            {"name": "shortlist", "size": 6, "first": "screen", "rank": 8},
            {"name": "screen", "refine": 6, "reuse": True, "rank": 8},
        ),
    )
    for short, screen in pairs:
        a, b = (model.generate(**batch(), **options, exit_check=spec) for spec in (short, screen))
        assert torch.equal(a.sequences, b.sequences) and torch.equal(a.exit_layers, b.exit_layers)


@pytest.mark.parametrize("confidence", ["max_prob", "margin", "entropy"])
def test_plain_on_a_large_head_goes_by_bounds_and_decides_the_same(kind, confidence, monkeypatch):
    from deed.policies.exit_checks import build

    model = deed_model(kind, DeedConfig(confidence=confidence), dtype=torch.float32)
    options, saved = {"max_new_tokens": 8, "min_new_tokens": 8, "return_dict_in_generate": True}, 0
    for how in (
        {"exit_threshold": 0.6},
        {"exit_threshold": torch.tensor([0.3, 0.5, 0.8, 2.0])},
        {"exit_threshold": [0.9, 0.5, 0.7, 0.2]},
        {"exit_policy": FixedSchedule([1, 3, 5], ask=True)},
    ):
        outs = []
        for large in (0, 2**40):
            monkeypatch.setattr(build, "LARGE", large)
            monkeypatch.setattr(build, "IntMM", None)
            outs.append(model.generate(**batch(), **options, **how))
        assert torch.equal(outs[0].sequences, outs[1].sequences)
        assert torch.equal(outs[0].exit_layers, outs[1].exit_layers)
        asked = [out.past_key_values.stats()["asked_rows"] for out in outs]
        bounded = isinstance(outs[0].past_key_values.policy, TwoStagePolicy)
        assert bounded == (confidence != "entropy" or "exit_policy" in how)
        assert not isinstance(outs[1].past_key_values.policy, TwoStagePolicy)
        assert asked[0] <= asked[1] if bounded else asked[0] == asked[1]
        saved += asked[1] - asked[0]
    assert saved > 0
