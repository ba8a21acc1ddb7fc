"""The graphs for other runtimes give the plain model's tokens, and the runtimes run them, where they are installed."""

import pytest
import torch

from deed import DeedConfig, get_deed_model, unwrap
from deed.bench import exported
from deed.bench.export import first_ids, graphs, source_mask
from deed.bench.shapes import NotAvailable, make_workload
from deed.bench.subjects import generate


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("exported")


@pytest.mark.parametrize("name", ["tiny-t5", "tiny-bart", "tiny-latr"])
@torch.no_grad()
def test_the_graphs_are_the_model(name):
    workload = make_workload(name, 2, 8, None)
    workload.mask[1, 9:] = 0  # padding
    workload.inputs["attention_mask"] = workload.mask
    encoder, step = graphs(workload)
    cross = encoder(*workload.inputs.values())
    ids, mask, states = first_ids(workload), source_mask(workload), [c[:, :, :0] for c in cross]
    tokens = []
    for _ in range(8):
        ids, *states = step(ids, mask, *cross, *states)
        tokens.append(ids)
    assert torch.equal(torch.cat(tokens, 1), generate(workload, workload.base, 8)[:, 1:])


def test_no_graphs_of_other_models():
    workload = make_workload("tiny-t5", 1, 4, None)
    workload.base = torch.nn.Linear(1, 1)
    with pytest.raises(NotAvailable, match="no export of Linear"):
        graphs(workload)


@pytest.mark.parametrize("adapter", ["residual_linear", "layer"])
def test_no_graphs_of_exits(adapter):
    workload = make_workload("tiny-bart", 1, 4, None)
    workload.base = get_deed_model(workload.base, DeedConfig(adapter=adapter))
    with pytest.raises(NotAvailable, match=f"adapter='{adapter}'.*cannot be exported; take deed.unwrap"):
        graphs(workload)
    workload.base = unwrap(workload.base)
    assert len(graphs(workload)[1].layers) == workload.n_layers


@pytest.mark.parametrize("kind", ["fp32", "int8", "int4 weights"])
def test_onnxruntime_decodes_the_same_weights(kind, workplace):
    pytest.importorskip("onnx")
    pytest.importorskip("onnx_ir")
    workload = make_workload("tiny-bart" if kind == "fp32" else "tiny-t5", 2, 6, workplace)
    if kind == "fp32":
        workload.workplace = workplace / "bart"
    subject = exported.onnxruntime(workload, kind)
    timing = subject.run()
    assert len(timing.token_ms) == 6 and timing.token_ms == sorted(timing.token_ms)
    parity = subject.check(timing.tokens)
    assert parity["tokens"] == 12 and (parity["equal"] == 1.0 if kind == "fp32" else parity["equal"] > 0)


def test_openvino_decodes_the_same_weights(workplace):
    pytest.importorskip("openvino")
    subject = exported.openvino(make_workload("tiny-t5", 2, 6, workplace), "fp32")
    tokens = subject.run().tokens
    assert torch.equal(tokens, subject.run().tokens), "its state is its own each time"
    assert subject.check(tokens)["equal"] == 1.0
