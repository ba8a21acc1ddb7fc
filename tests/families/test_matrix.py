"""The matrix: every supported class by every promise, on tiny random models in float64 with ragged sources.

`table.py` prints what it covers (docs/families_table.md). What is compared with needs no code of a family: the plain model
cut off after a layer, the plain model's `generate()`, and the cache-free reference (`oracle.py`).
"""

import copy
import functools
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from cases import CASES, ROWS
from torch import nn

import deed
from deed import DeedConfig, FixedSchedule, get_deed_model
from oracle import Oracle, expected_exit_layers

MODES = {
    "greedy": {},
    "beam": {"num_beams": 3},
    "sampling": {"do_sample": True, "temperature": 1.3},
    "beam sampling": {"num_beams": 2, "do_sample": True},
}
LENGTH = 6  # new tokens

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def generated(model, case, **options):
    """`generate()` under one seed, as a dict."""
    torch.manual_seed(3)
    inputs = options.pop("inputs", case.inputs)
    return answered(model.generate(**inputs, return_dict_in_generate=True, **asked(model, case, options)))


def asked(model, case, options):
    """Options of `generate()`, and a configuration of its own: Pop2Piano's writes them into the model's."""
    own = {"generation_config": copy.deepcopy(model.generation_config)}
    return {**own, "max_new_tokens": LENGTH, "min_new_tokens": LENGTH - 1, **case.options, **options}


def answered(out):
    """Whisper's `generate()` has a list of depths, of one generation each; here there is one."""
    if isinstance(out.get("exit_layers"), list):
        (out["exit_layers"],) = out["exit_layers"]
    return out


def agrees(model, case, reference, **options):
    """Compares tokens, depths and logits with the reference's, and answers the depths."""
    mode = {k: v for k, v in options.items() if k not in ("exit_threshold", "exit_policy")}
    torch.manual_seed(3)
    expected, trace = reference.generate(case.inputs, **asked(model, case, {**mode, "output_logits": True}))
    got = generated(model, case, output_logits=True, **options)
    assert torch.equal(got.sequences, expected.sequences), "tokens"
    prompt = expected.sequences.shape[1] - len(trace)
    eos = model.generation_config.eos_token_id
    assert torch.equal(got.exit_layers, expected_exit_layers(expected, trace, prompt, eos)), "depths"
    # Tokens are coarse: what is slightly wrong does not change them. No row finishes before the last step.
    torch.testing.assert_close(got.logits, expected.logits, rtol=0, atol=1e-8)
    return set(got.exit_layers.flatten().tolist()) - {0}


@functools.cache
def thresholds_of(name):
    """Two at which rows leave at different depths: one for all exits, and one for each. They lie in the middle of a
    gap near a quantile of what the exits are sure of in the model's own answers, so that rounding decides nothing."""
    case, model = CASES[name], CASES[name].shared
    answers = generated(model, case, exit_threshold=2.0).sequences[:, :-1]
    surest = model.exit_logits(**case.inputs, decoder_input_ids=answers)[:-1].softmax(-1).amax(-1).flatten(1)

    def gap(values, q):
        ordered = values.sort().values
        wide = [i for i in range(len(ordered) - 1) if ordered[i + 1] - ordered[i] > 1e-4]
        i = min(wide, key=lambda i: abs(i - q * len(ordered)))
        return float(ordered[i : i + 2].mean())

    return [gap(surest.flatten(), 0.75), [gap(exit, 0.6) for exit in surest]]


# -- what is held to -------------------------------------------------------------------------------------------------


@contextmanager
def cut_off(model, layers, depth):
    """The plain model with the first `depth` of its decoder layers; they are found as the first list of so many modules."""
    decoder = model.get_decoder()
    parents = {id(child): (m, name) for m in decoder.modules() for name, child in m.named_children()}
    whole = next(m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == layers)
    parent, name = parents[id(whole)]
    setattr(parent, name, nn.ModuleList(list(whole)[:depth]))
    try:
        yield model
    finally:
        setattr(parent, name, whole)


@torch.no_grad()
def exits_are_the_cut_off_model(case):
    model = get_deed_model(case.plain(), DeedConfig(adapter="none"))
    exits = model.exit_logits(**case.inputs, decoder_input_ids=case.targets)
    layers = len(exits)
    assert layers >= 3
    for depth in range(1, layers + 1):
        with cut_off(case.shared_plain, layers, depth) as plain:
            expected = plain(**case.inputs, decoder_input_ids=case.targets, use_cache=False).logits
        torch.testing.assert_close(exits[depth - 1], expected, rtol=0, atol=1e-9)


@torch.no_grad()
def never_exiting_is_the_plain_model(case):
    for mode in MODES.values():
        expected = generated(case.shared_plain, case, **mode)
        got = generated(case.shared, case, exit_threshold=2.0, **mode)
        assert torch.equal(got.sequences, expected.sequences)


@torch.no_grad()
def thresholds_equal_the_reference(case):
    for threshold in thresholds_of(case.name):
        depths = set()
        for mode in MODES.values():
            reference = Oracle(case.shared, threshold=threshold)
            depths |= agrees(case.shared, case, reference, exit_threshold=threshold, **mode)
        assert len(depths) >= 2, "the threshold decides nothing: all tokens are of one depth"


@torch.no_grad()
def schedules_equal_the_reference(case, mode="greedy"):
    model = case.shared
    last = len(model.deed_family.layers(model))
    rows = ROWS * MODES[mode].get("num_beams", 1)
    table = [[1 + (r * 2 + t * 3 + r * t) % last for t in range(LENGTH)] for r in range(rows)]
    reference = Oracle(model, depths=lambda step, n: [table[r][step % LENGTH] for r in range(n)])
    assert len(agrees(model, case, reference, exit_policy=FixedSchedule(table), **MODES[mode])) >= 2


@torch.no_grad()
def a_row_alone_is_as_in_its_batch(case):
    model, threshold = case.shared, thresholds_of(case.name)[0]
    together = generated(model, case, exit_threshold=threshold)
    for r in range(ROWS):
        one = {k: v[r : r + 1] for k, v in case.inputs.items()}
        alone = generated(model, case, inputs=one, exit_threshold=threshold)
        new = alone.exit_layers.shape[1]
        assert torch.equal(alone.exit_layers[0], together.exit_layers[r, :new])
        assert torch.equal(alone.sequences[0], together.sequences[r, : alone.sequences.shape[1]])


def labels(case):
    """Ragged, as a data collator makes them."""
    found = case.targets.clone()
    found[1, 3:] = -100
    return found


@torch.no_grad()
def the_last_exits_loss_is_the_plain_models(case):
    found = case.shared(**case.inputs, labels=labels(case))
    expected = case.shared_plain(**case.inputs, labels=labels(case))
    assert len(set(found.exit_losses.tolist())) == len(found.exit_losses)
    torch.testing.assert_close(found.exit_losses[-1].double(), expected.loss.double(), rtol=0, atol=1e-5)
    said = labels(case) != -100  # what follows is padding, which some classes hide
    torch.testing.assert_close(found.logits[said], expected.logits[said], rtol=0, atol=1e-9)


@torch.no_grad()
def saved_and_loaded_it_is_the_same(case, folder):
    model = case.deed()
    model.save_pretrained(folder)
    loaded = deed.from_pretrained(folder, dtype=torch.float64)
    assert type(loaded) is type(model) and type(loaded.deed_family) is type(model.deed_family)
    assert loaded.deed_config == model.deed_config
    given = {**case.inputs, "decoder_input_ids": case.targets}
    torch.testing.assert_close(loaded.exit_logits(**given), model.exit_logits(**given), rtol=0, atol=1e-5)
    plain = deed.unwrap(loaded)
    assert type(plain) is type(case.shared_plain) and not hasattr(plain.config, "deed_config")
    given["use_cache"] = False
    torch.testing.assert_close(plain(**given).logits, case.shared_plain(**given).logits, rtol=0, atol=1e-5)


def training_lowers_every_exits_loss(case):
    """A few steps: a single one may trade an exit's loss for the others'."""
    model = case.deed()  # in evaluation mode: without dropout
    given = {**case.inputs, "labels": labels(case)}
    if (
        case.class_name == "LEDForConditionalGeneration"
    ):  # the plain model's gradients are NaN where a window is all padding
        given["attention_mask"] = torch.ones_like(given["attention_mask"])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(9):
        out = model(**given)
        losses.append(out.exit_losses.detach())
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
    assert (losses[-1] < losses[0]).all(), losses


# -- on every class --------------------------------------------------------------------------------------------------


@every_case
def test_exits_are_the_model_cut_off_there(case):
    exits_are_the_cut_off_model(case)


@every_case
def test_what_never_exits_is_the_plain_models_generate(case):
    never_exiting_is_the_plain_model(case)


@every_case
def test_tokens_and_depths_at_thresholds(case):
    thresholds_equal_the_reference(case)


@every_case
@pytest.mark.parametrize("by", ["packed", "forward"])
def test_tokens_and_depths_on_schedules(case, by, monkeypatch):
    """By a layer's parts, ragged blocks packed, and by its own `forward`; beams by whichever the model takes."""
    family = type(case.shared.deed_family)
    if by == "packed":
        monkeypatch.setattr("deed.engine.state.SPAN", 0.0)
    elif case.shared.deed_family.parts(case.shared) is None:
        pytest.skip("its layers run by their own forward in any case")
    else:
        monkeypatch.setattr(family, "parts", lambda self, model: None)
    schedules_equal_the_reference(case, "greedy" if by == "packed" else "beam")


@every_case
def test_a_row_alone_is_as_in_its_batch(case):
    a_row_alone_is_as_in_its_batch(case)


@every_case
@pytest.mark.filterwarnings(
    "ignore:Version v4.12.0:FutureWarning"
)  # EncoderDecoderModel's, whenever it computes a loss
def test_the_last_exits_loss_is_the_plain_models(case):
    the_last_exits_loss_is_the_plain_models(case)


@pytest.mark.filterwarnings("ignore:Version v4.12.0:FutureWarning")
def test_a_start_that_is_the_padding_token_is_hidden_in_training_as_in_the_plain_model():
    case = replace(CASES["EncoderDecoderModel (BERT)"])
    for model in (case.shared, case.shared_plain):
        model.config.decoder_start_token_id = model.config.pad_token_id
    the_last_exits_loss_is_the_plain_models(case)


CANNOT_LOAD = {  # in Transformers itself
    "VisionEncoderDecoderModel (TrOCR-sinusoidal)": "its table of positions is no buffer and stays without data",
}


@every_case
def test_saved_and_loaded_it_is_the_same(case, tmp_path):
    if case.name not in CANNOT_LOAD:
        return saved_and_loaded_it_is_the_same(case, tmp_path)
    case.shared_plain.save_pretrained(tmp_path)
    plain = type(case.shared_plain).from_pretrained(tmp_path, dtype=torch.float64)
    with pytest.raises(NotImplementedError, match="meta tensor"):  # else take it off the list
        plain(**case.inputs, decoder_input_ids=case.targets)


@every_case
def test_training_lowers_every_exits_loss(case):
    training_lowers_every_exits_loss(case)


# -- does it bite? ---------------------------------------------------------------------------------------------------


def norms_elsewhere(patch, family):
    parts = family.parts
    patch.setattr(family, "parts", lambda s, m: [replace(p, post_norm=not p.post_norm) for p in parts(s, m)])


def no_final_norm(patch, family):
    patch.setattr(family, "final_norm", lambda self, model, hidden: hidden)


def no_position(patch, family):
    embed = family.embed
    patch.setattr(family, "embed", lambda self, model, ids, at: embed(self, model, ids, torch.zeros_like(at)))


def source_unmasked(patch, family):
    source = family.source
    patch.setattr(family, "source", lambda self, model, encoded, mask: (source(self, model, encoded, mask)[0], None))


def source_turned_round(patch, family):
    both = family.cross_kv
    patch.setattr(family, "cross_kv", lambda self, layer, hidden: both(self, layer, hidden)[::-1])


def no_bias_of_the_head(patch, family):
    def mutant(self, model):
        norm, head = both(self, model)
        return norm, lambda x: head(x) - head(torch.zeros_like(x))

    both = family.norm_and_head
    patch.setattr(family, "norm_and_head", mutant)


def no_window(patch, family):
    patch.setattr(family, "window", lambda self, model, layer: None)


def one_layers_bias_for_all(patch, family):
    patch.setattr(family, "bias_per_layer", False)


def later_scores_unscaled(patch, family):
    def mutant(self, model):
        return [replace(p, self_attn=replace(p.self_attn, scale=found[0].self_attn.scale)) for p in found]

    found = family.parts(family(), CASES["EncoderDecoderModel (GPT-2)"].shared)
    patch.setattr(family, "parts", mutant)


WRONG = [
    (norms_elsewhere, "T5ForConditionalGeneration", schedules_equal_the_reference),
    (norms_elsewhere, "EncoderDecoderModel (BERT)", schedules_equal_the_reference),
    (norms_elsewhere, "MBartForConditionalGeneration", never_exiting_is_the_plain_model),
    (no_final_norm, "EncoderDecoderModel (RoBERTa)", exits_are_the_cut_off_model),
    (no_final_norm, "Pix2StructForConditionalGeneration", exits_are_the_cut_off_model),
    (no_position, "VisionEncoderDecoderModel (GPT-2)", schedules_equal_the_reference),
    (no_position, "EncoderDecoderModel (RoBERTa)", thresholds_equal_the_reference),
    (source_unmasked, "SpeechEncoderDecoderModel (BERT)", schedules_equal_the_reference),
    (source_unmasked, "UdopForConditionalGeneration", thresholds_equal_the_reference),
    (source_turned_round, "EncoderDecoderModel (GPT-2)", schedules_equal_the_reference),
    (source_turned_round, "MoonshineForConditionalGeneration", schedules_equal_the_reference),
    (no_bias_of_the_head, "EncoderDecoderModel (BERT)", thresholds_equal_the_reference),
    (no_bias_of_the_head, "BartForConditionalGeneration", thresholds_equal_the_reference),
    (no_window, "T5GemmaForConditionalGeneration", schedules_equal_the_reference),
    (one_layers_bias_for_all, "UMT5ForConditionalGeneration", schedules_equal_the_reference),
    (later_scores_unscaled, "EncoderDecoderModel (GPT-2)", schedules_equal_the_reference),
]


@pytest.mark.parametrize(("wrong", "name", "check"), WRONG, ids=[f"{w.__name__}-{n}" for w, n, _ in WRONG])
def test_a_wrong_family_is_noticed(wrong, name, check, monkeypatch):
    case = CASES[name]
    check(case)
    wrong(monkeypatch, type(case.shared.deed_family))
    with pytest.raises(AssertionError):
        check(case)
