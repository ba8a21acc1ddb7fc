"""OFA's stem with its norms folded into the convolutions, beside the stem itself."""

import copy

import pytest
import torch
from torch import nn

import deed
from deed.families.encoders import stem as stems
from deed.families.encoders.lean import lean
from deed.models.ofa.configuration_ofa import OFAConfig
from deed.models.ofa.stem import OFAStem
from deed.utils.shipped import CHECKPOINTS


def stem_of(kind="bottleneck", frozen=True):
    torch.manual_seed(0)
    config = OFAConfig(stem_widths=[8, 16, 24, 32], stem_depths=[2, 1, 2], stem_layer_type=kind, freeze_resnet=frozen)
    stem = OFAStem(config).eval()
    for module in stem.modules():
        if hasattr(module, "running_var"):
            module.running_var.uniform_(0.3, 3.0)
            module.running_mean.normal_(0, 0.3)
            module.weight.data.uniform_(0.3, 1.5)
            module.bias.data.normal_(0, 0.3)
    return stem


@pytest.mark.parametrize("onednn", [True, False], ids=["onednn", "torch"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "batch_norm"])
@pytest.mark.parametrize("kind", ["bottleneck", "basic"])
@torch.no_grad()
def test_equals_the_stem(kind, frozen, onednn):
    stem, images = stem_of(kind, frozen), torch.randn(3, 3, 50, 34)
    with torch.backends.mkldnn.flags(enabled=onednn):
        made = stems.lean_stem(stem)
        assert isinstance(made, stems.LeanStem)
        found, wanted = made(images), stem(images)
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
        for i in range(3):  # a picture of a batch is what it is alone
            assert torch.allclose(made(images[i : i + 1])[0], found[i], rtol=1e-5, atol=1e-5)


def hooked(stem):
    stem.layer2[0].conv1.register_forward_hook(lambda module, args, out: 2 * out)


def training(stem):
    stem.train()


def other_activation(stem):
    stem.layer1[0].activation = nn.GELU()


@pytest.mark.parametrize("change", [hooked, training, other_activation, nn.Module.double], ids=lambda f: f.__name__)
def test_a_changed_stem_runs_by_itself(change):
    stem = stem_of(frozen=False)
    assert stems.lean_stem(stem) is not stem
    change(stem)
    assert stems.lean_stem(stem) is stem


@torch.no_grad()
def test_folded_once_and_anew_where_weights_change(monkeypatch):
    stem, images, made = stem_of(), torch.randn(1, 3, 32, 32), []
    real = stems._folded
    monkeypatch.setattr(stems, "_folded", lambda stem: (made.append(1), real(stem))[1])
    before = stems.lean_stem(stem)(images)
    stems.lean_stem(stem)
    assert len(made) == 1
    stem.bn1.running_mean.add_(1.0)
    after = stems.lean_stem(stem)(images)
    assert len(made) == 2 and not torch.allclose(before, after)
    assert torch.allclose(after, stem(images), rtol=1e-4, atol=1e-4)
    assert torch.allclose(stems.lean_stem(copy.deepcopy(stem))(images), after, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_encoder_reads_pictures_by_it(monkeypatch):
    model = deed.from_pretrained(CHECKPOINTS / "ofa")
    torch.manual_seed(0)
    inputs = {
        "input_ids": torch.randint(5, 60, (2, 6)),
        "patch_images": torch.randn(2, 3, 96, 96),
        "patch_masks": torch.tensor([True, False]),
    }
    encoder, runs = model.get_encoder(), []
    twin = lean(encoder, packs=False)
    found, wanted = twin(**inputs)[0], encoder(**inputs)[0]
    assert isinstance(twin.embed_images, stems.LeanStem)
    assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))
    real = stems.LeanStem.forward
    monkeypatch.setattr(
        stems.LeanStem, "forward", lambda self, images: (runs.append(len(images)), real(self, images))[1]
    )
    tokens = model.generate(**inputs, max_new_tokens=4, exit_threshold=2.0)
    assert runs == [1]  # of the row that has a picture
    plain = deed.unwrap(model).generate(**inputs, max_new_tokens=4)
    assert torch.equal(tokens, plain)
