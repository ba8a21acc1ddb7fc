"""Exits with a draft head: tokens and depths against the cache-free reference, and its logits against their definition."""

from weakref import WeakKeyDictionary

import pytest
import torch
from cases import CASES
from test_matrix import agrees

import oracle as ref
from conftest import batch, deed_model
from deed import DeedConfig, FixedSchedule, get_deed_model
from deed.exits import draft_head as module
from deed.exits.learned import Learned
from test_decode import MODES, compare

RANK, TOKENS = {"rank": 6, "refine": 5}, {"tokens": [2, 3, 4, 7, 9, 12, 20, 33, 39]}
KINDS = ("t5_tied", "bart")
ADAPTERS = ("residual_linear", "layer")
IDS = torch.tensor([[0, 5, 6, 7], [0, 9, 8, 30], [0, 3, 3, 3], [0, 12, 13, 14]])


def drafting(kind, spec=RANK, adapter="residual_linear", seed=0, **options):
    """A model whose draft head is no good approximation of its head: what is taken for the other shows."""
    model = deed_model(kind, DeedConfig(adapter=adapter, draft_head=spec), seed=seed, **options)
    return randomized(model, seed)


def randomized(model, seed=0):
    torch.manual_seed(seed + 2)
    with torch.no_grad():
        for name, tensor in model.deed_exits.state_dict().items():
            if name.startswith("draft_head.") and tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) * 0.1)
    return model


def by_definition(model, features):
    """A row at a time, in the terms of the module's docstring."""
    spec, head = model.deed_config.draft_head, model.deed_exits["draft_head"]
    own = model.deed_family.head(model, features)
    level = features @ head.level.weight[0] + head.level.bias
    if "tokens" in spec:
        made = level[:, None] + head.prior
        made[:, spec["tokens"]] = own[:, spec["tokens"]]
        return made
    made = (features @ head.down.weight.T) @ head.up.weight.T + head.up.bias + level[:, None]
    for row, exact in zip(made, own, strict=True):
        best = row.argsort(descending=True)[: spec["refine"]]
        row[best] = exact[best]
    return made


@pytest.fixture(scope="module")
def models():
    return {
        (kind, adapter, "rank" in spec): drafting(kind, spec, adapter)
        for kind in KINDS
        for adapter in ADAPTERS
        for spec in (RANK, TOKENS)
    }


every = pytest.mark.parametrize(
    "case",
    [(k, a, low) for k in KINDS for a in ADAPTERS for low in (True, False)],
    ids=lambda c: "-".join(map(str, c)),
)


@every
@torch.no_grad()
def test_an_exits_logits_are_the_draft_heads_and_the_last_ones_are_not(models, case):
    model = models[case]
    given = {**batch(), "decoder_input_ids": IDS}
    z = model.exit_logits(**given)
    model.deed_config.draft_head, spec = None, model.deed_config.draft_head
    without = model.exit_logits(**given)
    model.deed_config.draft_head = spec
    assert torch.equal(z[-1], without[-1]) and not any(
        torch.equal(a, b) for a, b in zip(z[:-1], without, strict=False)
    )
    base = type(model).deed_base.forward
    states = module_states(model, base, given)
    for depth, state in states.items():
        features = model.deed_family.final_norm(model, state).flatten(0, 1)
        if case[1] != "layer":
            features = model.deed_exits[str(depth)](features)
        torch.testing.assert_close(z[depth - 1].flatten(0, 1), by_definition(model, features), rtol=0, atol=1e-10)


def module_states(model, base, given):
    from deed.modeling.forward import exit_states

    return exit_states(model, base, {**given, "use_cache": False})[1]


@pytest.mark.usefixtures("packing")
@every
@pytest.mark.parametrize("mode", ["greedy", "sampling", "beam", "beam_sampling", "processors"])
def test_equals_the_cache_free_reference(models, case, mode):
    seen = set()
    for threshold in (0.2, 0.45, 0.7, 0.93):
        got = compare(models[case], batch(), threshold, **MODES[mode])
        seen |= {d for step in got.past_key_values.state.depths for d in step}
    assert len(seen - {0}) >= 3, "the case is vacuous: too few depths were taken"


@pytest.mark.usefixtures("packing")
@every
@pytest.mark.parametrize("mode", ["greedy", "beam"])
def test_schedules_of_rows(models, case, mode):
    """Nobody asks for logits before a row leaves: those of early rows and of the last layer's are made apart."""
    rows = 12 if mode == "beam" else 4
    table = [[1 + (r * 3 + t * 2) % 5 for t in range(7)] for r in range(rows)]
    for ask in (False, True):
        got = compare(
            models[case],
            batch(),
            depths=lambda t, n: [table[r][t % 7] for r in range(n)],
            policy=FixedSchedule(table, ask=ask),
            min_new_tokens=7,
            **MODES[mode],
        )
        assert len(set(got.exit_layers.flatten().tolist())) > 3


@pytest.mark.parametrize("confidence", ["margin", "entropy", "state_similarity", "patience"])
def test_other_measures(confidence):
    spec = {"name": "patience", "patience": 1} if confidence == "patience" else confidence
    measure = {"patience": ref.patience(1)}.get(confidence) or getattr(ref, confidence)
    model = randomized(deed_model("bart", DeedConfig(confidence=spec, draft_head=RANK)))
    for threshold in (0.4, 0.7):
        compare(model, batch(), threshold, measure)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("spec", [RANK, TOKENS], ids=["rank", "tokens"])
@pytest.mark.parametrize("mode", ["greedy", "sampling", "beam"])
@torch.no_grad()
def test_whisper(adapter, spec, mode):
    case, depths = CASES["WhisperForConditionalGeneration"], set()
    model = randomized(get_deed_model(case.plain(), DeedConfig(adapter=adapter, draft_head={**spec, "max_layers": 2})))
    for threshold in (0.1, 0.3, 0.5):
        options = {k: v for k, v in MODES[mode].items() if k != "top_k"}
        depths |= agrees(model, case, ref.Oracle(model, threshold), exit_threshold=threshold, **options)
    assert len(depths) >= 2


@every
@pytest.mark.parametrize("mode", ["greedy", "sampling", "processors"])
def test_exact_is_full_depth(models, case, mode, monkeypatch):
    monkeypatch.setattr("deed.engine.exact_tuning.Tuner.warm", False)
    monkeypatch.setattr("deed.engine.exact_tuning._learned", WeakKeyDictionary())
    drafted = accepted = 0
    for threshold in (0.0, 0.4):
        options = {"max_new_tokens": 12, "return_dict_in_generate": True, **MODES[mode]}
        torch.manual_seed(0)
        expected = models[case].generate(**batch(), exit_threshold=2.0, **options)
        torch.manual_seed(0)
        got = models[case].generate(**batch(), exit_threshold=threshold, exact=True, **options)
        assert torch.equal(got.sequences, expected.sequences)
        drafted += got.past_key_values.stats()["drafted_tokens"]
        accepted += got.past_key_values.stats()["accepted_tokens"]
    assert drafted > 10 and accepted < drafted


@pytest.mark.parametrize("vocab", [40, 64 * 20 + 7, 64 * 40])
@pytest.mark.parametrize("k", [1, 5, 8])
def test_top_tokens_are_those_of_topk(vocab, k):
    generator = torch.Generator().manual_seed(vocab + k)
    for scale in (1.0, 1e-3):
        logits = torch.randn(6, vocab, generator=generator) * scale
        logits[3, -k:] += 9  # in what is left of the last block
        logits[4, :k] += 9  # all in one block
        found = module.top_tokens(logits, k)
        assert torch.equal(found.sort(-1).values, logits.topk(k).indices.sort(-1).values)


def counted(model, monkeypatch):
    """`[rows]` for which the draft head was run, call by call."""
    calls, head = [], type(model.deed_exits["draft_head"])
    function = head.function

    def counting(self, *args, **kwargs):
        logits = function(self, *args, **kwargs)
        return lambda features: calls.append(len(features)) or logits(features)

    monkeypatch.setattr(head, "function", counting)
    return calls


def with_gates(adapter, spec):
    config = DeedConfig(adapter=adapter, exit_layers=[1, 3], draft_head=spec, exit_check="gate")
    model = randomized(deed_model("bart", config))
    weight = torch.randn(2, 32, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 0.4
    model.deed_exits["gate"] = Learned(weight=weight, bias=torch.zeros(2, dtype=torch.float64))
    return model


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("spec", [RANK, TOKENS], ids=["rank", "tokens"])
def test_a_gate_asks_no_draft_head_for_rows_that_stay(adapter, spec, monkeypatch):
    """Neither it nor the exit's own layer, in early exit and in exact decoding; what leaves has the draft head's token."""
    model = with_gates(adapter, spec)
    calls = counted(model, monkeypatch)
    got = model.generate(
        **batch(), exit_threshold=0.5, max_new_tokens=9, min_new_tokens=9, return_dict_in_generate=True
    )
    left = int(((got.exit_layers > 0) & (got.exit_layers < 5)).sum())
    assert 0 < left < got.exit_layers.numel() and sum(calls) == left
    del calls[:]
    full = model.generate(**batch(), exit_threshold=2.0, max_new_tokens=12)
    assert not calls
    z = model.exit_logits(**batch(), decoder_input_ids=got.sequences[:, :-1])
    exits = {d: i for i, d in enumerate(model.deed_config.exit_layers)}
    for r, depths in enumerate(got.exit_layers.tolist()):
        for t, depth in enumerate(depths):
            logits = z[exits[depth], r, t].clone()
            logits[2] = -torch.inf  # no end before nine tokens
            assert t == 8 or int(logits.argmax()) == got.sequences[r, t + 1]
    for warm in (False, True):
        monkeypatch.setattr("deed.engine.exact_tuning.Tuner.warm", warm)
        del calls[:]
        exact = model.generate(
            **batch(), exit_threshold=0.5, exact=True, max_new_tokens=12, return_dict_in_generate=True
        )
        stats = exact.past_key_values.stats()
        assert torch.equal(exact.sequences, full)
        assert warm or 0 < stats["drafted_tokens"] == sum(calls)


def test_what_was_learned_behind_gates_is_kept(monkeypatch):
    kept = WeakKeyDictionary()
    monkeypatch.setattr("deed.engine.exact_tuning._learned", kept)
    model = with_gates("residual_linear", RANK)
    for _ in range(3):
        model.generate(**batch(), exit_threshold=0.5, exact=True, max_new_tokens=6)
    assert len(kept[model]) == 1


def test_drafts_are_paced_by_what_they_cost():
    from deed.engine.drafting import Pace

    for adapter, own in (("residual_linear", 0), ("layer", 1)):
        plain = Pace(deed_model("bart", DeedConfig(adapter=adapter)))
        assert plain.ask == plain.head + own
        drafted = Pace(deed_model("bart", DeedConfig(adapter=adapter, draft_head={"tokens": [3, 4]})))
        assert drafted.head == plain.head and own < drafted.ask < own + plain.head / 4


def heads_are_mixed_up(patch):
    """Rows that left early get the model's own head, with those that reached the last layer."""
    from deed.engine.step import Answers

    waiting = Answers._waiting

    def mutant(self, plan):
        self._deferred = [(rows, False, features) for rows, _, features in self._deferred]
        return waiting(self, plan)

    patch.setattr(Answers, "_waiting", mutant)


def refined_by_another_row(patch):
    rows = module.gathered_logits
    patch.setattr(module, "gathered_logits", lambda w, b, s, features, t: rows(w, b, s, features.roll(1, 0), t))


def screened_by_the_whole_head(patch):
    patch.setattr("deed.exits.heads.draft_logits", lambda model, bare=False: None)


@pytest.mark.parametrize("mutation", [heads_are_mixed_up, refined_by_another_row, screened_by_the_whole_head])
def test_mutations_are_noticed(mutation, monkeypatch):
    table = [[1 + (r * 3 + t * 2) % 5 for t in range(7)] for r in range(4)]
    options = {"max_new_tokens": 9, "min_new_tokens": 9}
    differ = 0
    for seed in range(3):
        model = drafting("bart", seed=seed)
        reference = ref.Oracle(model, depths=lambda t, n: [table[r][t % 7] for r in range(n)])
        expected = reference.generate(batch(seed=seed), **options)[0].sequences
        decoded = {**batch(seed=seed), **options, "exit_policy": FixedSchedule(table)}
        assert torch.equal(model.generate(**decoded), expected)
        with monkeypatch.context() as patch:
            mutation(patch)
            differ += not torch.equal(model.generate(**decoded), expected)
    assert differ
