"""Lean encoders: the states are those of the model's own encoder, for every class of the matrix, and anything that makes a
layer more than its class says leaves it to run by itself."""

import threading

import pytest
import torch
from cases import CASES
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Block

import deed
from deed.families.encoders import lean
from deed.families.encoders.lean import LeanLayer

# Layers with attention in windows or with gates, rotary positions, or more than attention and feed-forward.
BY_THEMSELVES = (
    "BigBirdPegasus",
    "Canary",
    "CohereAsr",
    "LED",
    "LongT5",
    "Moonshine",
    "PegasusX",
    "SeamlessM4TForSpeech",
    "SeamlessM4Tv2ForSpeech",
    "T5Gemma",
)
FOUND = [name for name in CASES if not name.startswith(BY_THEMSELVES)]


def lean_layers(encoder):
    return [m for m in lean(encoder).modules() if isinstance(m, LeanLayer)]


def encoder_inputs(model, inputs):
    """What `generate()` hands to the encoder."""
    name = type(model).__name__
    if name.startswith("Florence2"):
        return {
            "inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]),
            "attention_mask": inputs["attention_mask"],
        }
    return {"inputs_embeds": inputs["input_features"]} if name.startswith("Pop2Piano") else inputs


def seen_by_the_decoder(model, outputs, inputs):
    """`[rows, source]` bool."""
    given = getattr(outputs, "attention_mask", None)
    given = inputs.get("attention_mask") if given is None else given
    _, mask = deed.families.family_of(model).source(model, outputs, given)
    return torch.ones(outputs[0].shape[:2], dtype=torch.bool) if mask is None else mask.bool()


@torch.no_grad()
def compare(model, inputs, tolerance=1e-10, **options):
    encoder = model.get_encoder()
    expected, found = encoder(**inputs), lean(encoder, packs="attention_mask" in inputs)(**inputs)
    assert type(found) is type(expected) and found.keys() == expected.keys()
    seen = seen_by_the_decoder(model, expected, inputs)
    torch.testing.assert_close(found[0][seen], expected[0][seen], **{"rtol": 0, "atol": tolerance, **options})
    assert found[0].isfinite().all()


@pytest.mark.parametrize("name", FOUND)
def test_states_are_the_models_own(name):
    model = CASES[name].shared_plain
    inputs = encoder_inputs(model, CASES[name].inputs)
    assert len(lean_layers(model.get_encoder())) >= 2
    compare(model, inputs)
    alone = {k: v[1:2] for k, v in inputs.items()}
    compare(model, alone)  # one row, with padding
    if "attention_mask" in inputs:
        mask = inputs["attention_mask"]
        compare(model, {**inputs, "attention_mask": torch.ones_like(mask)})
        compare(model, {k: v for k, v in inputs.items() if k != "attention_mask"})
        compare(model, {**inputs, "attention_mask": mask.flip(1)})  # padding on the left
        holes = mask.clone()
        holes[:, ::3] = 0
        compare(model, {**inputs, "attention_mask": holes})


@pytest.mark.parametrize(
    "name", ["T5ForConditionalGeneration", "BartForConditionalGeneration", "UMT5ForConditionalGeneration"]
)
@torch.no_grad()
def test_float32_eager_attention_and_embeddings_as_input(name):
    model = CASES[name].plain().float()
    inputs = CASES[name].inputs
    compare(model, inputs, rtol=1e-4, tolerance=5e-5)
    embedded = {"inputs_embeds": model.get_input_embeddings()(inputs["input_ids"]), **inputs}
    del embedded["input_ids"]
    compare(model, embedded, rtol=1e-4, tolerance=5e-5)
    model.set_attn_implementation("eager")
    compare(model, inputs, rtol=1e-4, tolerance=5e-5)


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith(BY_THEMSELVES)])
def test_others_run_by_themselves(name):
    if not name.startswith("T5Gemma2"):  # whose encoder has a SigLIP of its own beside it
        assert not lean_layers(CASES[name].shared_plain.get_encoder())


# -- what makes a layer run by itself ------------------------------------------------------------------------------------


def small(**options):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 4, "num_heads": 4}
    model = T5ForConditionalGeneration(T5Config(vocab_size=40, decoder_start_token_id=0, **sizes, **options))
    return deed.get_deed_model(model.eval())


class MyBlock(T5Block):
    def forward(self, hidden, *args, **kwargs):
        return super().forward(hidden * 2, *args, **kwargs)


def in_training(model):
    model.encoder.train()


def with_a_hook(model):
    for block in model.encoder.block:
        block.register_forward_hook(lambda module, args, output: None)


def with_a_hook_inside(model):
    for block in model.encoder.block:
        block.layer[0].SelfAttention.register_forward_pre_hook(lambda module, args: None)


def of_another_class(model):
    for block in model.encoder.block:
        block.__class__ = MyBlock


def with_another_forward(model):
    for block in model.encoder.block:
        block.layer[1].forward = block.layer[1].forward


def in_half_precision(model):
    model.half()


@pytest.mark.parametrize(
    "change",
    [in_training, with_a_hook, with_a_hook_inside, of_another_class, with_another_forward, in_half_precision],
)
def test_a_changed_layer_runs_by_itself(change):
    model = small()
    assert len(lean_layers(model.encoder)) == 2
    change(model)
    assert lean(model.encoder) is model.encoder


def test_one_changed_layer_among_others():
    model = small()
    model.encoder.block[1].__class__ = MyBlock
    assert len(lean_layers(model.encoder)) == 1
    ids = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 3, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    compare(model, inputs, tolerance=1e-5)


def test_a_replaced_linear_is_called():
    """As PEFT leaves it."""

    class Doubled(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return 2 * self.inner(x)

    model = small()
    model.encoder.block[0].layer[0].SelfAttention.v = Doubled(model.encoder.block[0].layer[0].SelfAttention.v)
    assert len(lean_layers(model.encoder)) == 2
    compare(model, {"input_ids": torch.tensor([[3, 4, 5, 6]])}, tolerance=1e-5)


# -- in generate() -------------------------------------------------------------------------------------------------------


def counted(monkeypatch):
    """How many passes went through lean layers."""
    runs = []
    run = LeanLayer.forward
    monkeypatch.setattr(LeanLayer, "forward", lambda self, *a, **k: (runs.append(1), run(self, *a, **k))[1])
    return runs


IDS = torch.tensor([[3, 4, 5, 6, 7], [8, 9, 3, 0, 0]])
SOURCE = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}


def test_generate_reads_lean_and_leaves_nothing_behind(monkeypatch):
    model, runs = small(), counted(monkeypatch)
    called = []
    model.encoder.register_forward_hook(lambda module, args, output: called.append(output))
    before = set(vars(model.encoder))
    model.generate(**SOURCE, max_new_tokens=3)
    assert len(runs) == 2 and len(called) == 1, "hooks on the encoder are called"
    assert set(vars(model.encoder)) == before and model.get_encoder() is model.encoder
    assert not any(isinstance(m, LeanLayer) for m in model.modules())


def test_encoder_outputs_that_are_given_are_used(monkeypatch):
    model = small()
    with torch.no_grad():
        outputs = model.encoder(**SOURCE)
    expected, runs = model.generate(**SOURCE, max_new_tokens=4), counted(monkeypatch)
    found = model.generate(encoder_outputs=outputs, attention_mask=SOURCE["attention_mask"], max_new_tokens=4)
    assert not runs and torch.equal(found, expected)


def test_recorded_states_are_transformers_own(monkeypatch):
    model, runs = small(), counted(monkeypatch)
    model.encoder.config.output_hidden_states = True
    model.generate(**SOURCE, max_new_tokens=2)
    assert not runs
    model.encoder.config.output_hidden_states = False
    with torch.no_grad():
        model(**SOURCE, decoder_input_ids=IDS[:, :2], output_hidden_states=True)  # leaves hooks in the layers
    model.generate(**SOURCE, max_new_tokens=2)
    assert len(runs) == 2


def test_forward_and_autocast_run_by_themselves(monkeypatch):
    model, runs = small(), counted(monkeypatch)
    with torch.no_grad():
        model(**SOURCE, decoder_input_ids=IDS[:, :2])
    with torch.autocast("cpu", torch.bfloat16):
        model.generate(**SOURCE, max_new_tokens=2)
    assert not runs


def test_changed_weights_show():
    model = small()
    with torch.no_grad():
        compare(model, SOURCE, tolerance=1e-5)
        for p in model.encoder.parameters():
            p.mul_(1.5)
        compare(model, SOURCE, tolerance=1e-5)


def test_threads_read_side_by_side():
    model = small()
    expected = [model.generate(input_ids=IDS[r : r + 1], max_new_tokens=4) for r in range(2)]
    found = {}
    threads = [
        threading.Thread(
            target=lambda r=r: found.update({r: model.generate(input_ids=IDS[r % 2 : r % 2 + 1], max_new_tokens=4)})
        )
        for r in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[r], expected[r % 2]) for r in range(4))


def test_padding_is_left_out(monkeypatch):
    """Of 3 rows with little to read, the layers see the tokens that are there."""
    model, seen = small(), []
    run = LeanLayer._run
    monkeypatch.setattr(
        LeanLayer, "_run", lambda self, hidden, mask: (seen.append(hidden.shape[:2]), run(self, hidden, mask))[1]
    )
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 0, 0], [1, 0, 0, 1, 0]])
    ids = torch.randint(3, 40, (3, 5))
    compare(model, {"input_ids": ids, "attention_mask": mask}, tolerance=1e-5)
    assert seen == [(1, 9)] * 2
    empty = mask * torch.tensor([1, 0, 1])[:, None]  # a row of padding alone has to come out of softmax somehow
    with torch.no_grad():
        lean(model.encoder)(input_ids=ids, attention_mask=empty)
    assert seen[2:] == [(3, 5)] * 2


# -- int8 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["T5ForConditionalGeneration", "BartForConditionalGeneration"])
@torch.no_grad()
def test_int8_rows_are_the_same_in_any_batch(name, monkeypatch):
    monkeypatch.setenv("DEED_KERNELS", "fixed")
    model = deed.quantize(CASES[name].plain().float(), parts=("encoder",), min_weights=0)
    ids = torch.randint(3, 40, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(9) < torch.tensor([9, 8, 4])[:, None]).long()
    together = lean(model.get_encoder())(input_ids=ids, attention_mask=mask)[0]
    for row, length in enumerate((9, 8, 4)):
        alone = lean(model.get_encoder())(input_ids=ids[row : row + 1, :length])[0]
        assert torch.equal(together[row, :length], alone[0])
    # Transformers' own loop computes the same but for rounding, which may be a step of an activation here and there.
    own = model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
    assert (together - own)[mask.bool()].abs().mean() < 0.02 * own[mask.bool()].abs().mean()
