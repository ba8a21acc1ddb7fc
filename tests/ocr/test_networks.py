"""The engine's networks on OpenVINO: the numbers of ONNX Runtime, from several threads at once, and without OpenVINO."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageDraw

from deed.ocr import networks, rapid, read_page

openvino = pytest.importorskip("openvino")  # no wheel of it is installed where processors are of another make


@pytest.fixture
def fresh():
    networks.precision.cache_clear()
    yield
    networks.precision.cache_clear()


def runtime(task):
    import onnxruntime

    session = onnxruntime.InferenceSession(rapid._model(task), providers=["CPUExecutionProvider"])
    return lambda values: session.run(None, {session.get_inputs()[0].name: values})[0]


@pytest.mark.parametrize(("task", "size"), [("det", (96, 160)), ("rec", (48, 200))])
def test_the_same_numbers(task, size):
    values = np.random.default_rng(0).normal(size=(1, 3, *size)).astype(np.float32)
    np.testing.assert_allclose(networks.Network(rapid._model(task), 1)(values), runtime(task)(values), atol=1e-4)


def test_threads_do_not_disturb_each_other():
    network = networks.Network(rapid._model("rec"), 1)
    lines = [np.random.default_rng(i).normal(size=(1, 3, 48, 160 + 16 * i)).astype(np.float32) for i in range(6)]
    alone = [network(line) for line in lines]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(network, lines * 3))
    for found, wanted in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_an_output_outlives_the_next_call():
    network = networks.Network(rapid._model("rec"), 1)
    one, other = (np.full((1, 3, 48, 160), value, np.float32) for value in (0.0, 1.0))
    found = network(one)
    kept = found.copy()
    network(other)
    np.testing.assert_array_equal(found, kept)


def test_without_it_onnx_runtime_reads(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(rapid, "_engines", {})
    assert networks.precision() is None
    image = Image.new("RGB", (400, 120), "white")
    ImageDraw.Draw(image).text((20, 30), "Invoice 20931", fill="black", font_size=32)
    found = read_page(image, threads=1)
    assert found.engine.count(" ") == 1
    assert [word.text for word in found.words] == ["Invoice", "20931"]


@pytest.mark.parametrize(("able", "wanted"), [(["FP32", "BF16"], "bf16"), (["FP32", "INT8"], "f32")])
def test_precision_is_the_processors(able, wanted, fresh, monkeypatch):
    class Core:
        def get_property(self, device, name):
            return able

    monkeypatch.setattr(openvino, "Core", Core)
    assert networks.precision() == wanted
    assert rapid.version().endswith(" bf16") == (wanted == "bf16")  # what is kept is told apart
