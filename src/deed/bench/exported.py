"""ONNX Runtime and OpenVINO on the graphs of `export.py`, with a greedy loop of our own around the step.

ONNX Runtime: float32; int8 by its dynamic quantization (activations too); int8 and int4 weights by `MatMulNBits` (float
activations). OpenVINO: a stateful step (keys and values stay inside), the latency hint; float32, and int8 weights by
`nncf.compress_weights`, once with float activations and once with activations quantized in groups at run time.
"""

from __future__ import annotations

import contextlib
import io
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .export import example, first_ids, graphs, source_mask, state_names
from .runtimes import INSTALL, Answer, Apart
from .shapes import NotAvailable, Workload
from .subjects import Subject, check_baseline

ONNX_KINDS = {"fp32": 4.0, "int8": 1.0, "int8 weights": 1.0, "int4 weights": 0.5}
OPENVINO_KINDS = {"fp32": 4.0, "int8": 1.0, "int8 weights": 1.0}
BLOCK = 32  # weights that share a scale in MatMulNBits
PARTS = ("encoder", "step")
LENGTHS = ("source", "past", "length")  # of cross keys, of keys so far, of keys with the position


def onnxruntime(workload: Workload, kind: str) -> Subject:
    """ONNX Runtime.

    Args:
        kind: of `ONNX_KINDS`.

    Raises:
        NotAvailable: not installed, or no graphs of this model.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise NotAvailable(f"{error.name} is not installed: {INSTALL}") from None
    folder = workload.workplace / "onnx"
    paths = [folder / f"{part} {kind}.onnx" for part in PARTS]
    if not all(path.exists() for path in paths):
        plain = [folder / f"{part} fp32.onnx" for part in PARTS]
        if not all(path.exists() for path in plain):
            folder.mkdir(parents=True, exist_ok=True)
            export_onnx(workload, *plain)
        for source, path in zip(plain, paths, strict=True):
            if kind != "fp32":
                quantize_onnx(source, path, kind)
    return _subject(workload, "onnxruntime", kind, ONNX_KINDS[kind], _onnxruntime, [str(p) for p in paths])


def openvino(workload: Workload, kind: str) -> Subject:
    """OpenVINO.

    Args:
        kind: of `OPENVINO_KINDS`.

    Raises:
        NotAvailable: not installed, or no graphs of this model.
    """
    # OpenVINO and NNCF send statistics about their use, and wait for the network; without this module they do not.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino as ov

        if kind != "fp32":
            import nncf
    except ImportError as error:
        raise NotAvailable(f"{error.name} is not installed: {INSTALL}") from None
    folder = workload.workplace / "openvino"
    stored = kind.split()[0]
    paths = [folder / f"{part}_{stored}.xml" for part in PARTS]
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        with quietly():
            for model, path in zip(convert_openvino(workload), paths, strict=True):
                ov.save_model(
                    nncf.compress_weights(model) if stored == "int8" else model, path, compress_to_fp16=False
                )
    group = {"int8": 32, "int8 weights": 0}.get(kind)
    return _subject(workload, "openvino", kind, OPENVINO_KINDS[kind], _openvino, [str(p) for p in paths], group)


def _subject(workload: Workload, name: str, kind: str, size: float, make: Any, *arguments: Any) -> Subject:
    inputs = [v.numpy() for v in (*workload.inputs.values(), first_ids(workload), source_mask(workload))]
    answer = Apart(make, *arguments, torch.get_num_threads(), inputs, workload.new_tokens)
    return Subject(f"{name} {kind}", answer, partial(check_baseline, workload), size, size)


@contextlib.contextmanager
def quietly() -> Any:
    """Without what converters print and warn of."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# -- ONNX Runtime -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def export_onnx(workload: Workload, encoder_path: Path, step_path: Path) -> None:
    """Write both graphs; rows, source and positions stay open.

    Args:
        workload: whose plain model and inputs.
        encoder_path, step_path: files to write.
    """
    encoder, step = graphs(workload)
    given = tuple(workload.inputs.values())
    names = list(workload.inputs)
    tensors = example(workload, encoder)
    cross, past, present = state_names((len(tensors) - 2) // 2)
    inputs: dict[str, dict[int, str]] = {
        n: dict(enumerate(("rows", "read")[: v.ndim])) for n, v in workload.inputs.items()
    }
    rows = {0: "rows"}
    axes = {"ids": rows, "mask": {**rows, 3: "source"}, "next": rows}
    axes |= {
        n: {**rows, 2: which} for names_, which in zip((cross, past, present), LENGTHS, strict=True) for n in names_
    }
    both: tuple[Any, ...] = (
        (encoder, given, encoder_path, names, cross, inputs | {n: axes[n] for n in cross}),
        (step, tensors, step_path, ["ids", "mask", *cross, *past], ["next", *present], axes),
    )
    for module, example_inputs, path, input_names, output_names, dynamic_axes in both:
        with quietly():
            torch.onnx.export(
                module,
                example_inputs,
                str(path),
                input_names=input_names,
                output_names=output_names,
                dynamic_axes=dynamic_axes,
                opset_version=17,
                dynamo=False,
            )


def quantize_onnx(source: Path, path: Path, kind: str) -> None:
    """Write a quantized copy of a graph.

    Args:
        source, path: from where, to where.
        kind: of `ONNX_KINDS`.
    """
    import onnx

    if kind == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
        quantize_dynamic(source, path, weight_type=QuantType.QInt8, per_channel=True, extra_options=options)
        return
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    bits = int(kind[3])
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, accuracy_level=4, bits=bits)
    made = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    made.process()
    made.model.save_model_to_file(str(path))


def _onnxruntime(paths: Sequence[str], threads: int, inputs: list[Any], n: int) -> Callable[[], Answer]:
    import numpy as np
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    encoder, step = (ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"]) for path in paths)
    *given, start_ids, mask = inputs
    named = {a.name: v for a, v in zip(encoder.get_inputs(), given, strict=True)}
    cross, past, present = state_names((len(step.get_inputs()) - 2) // 2)
    rows, heads, width = len(start_ids), *(step.get_inputs()[2].shape[i] for i in (1, 3))
    empty = ort.OrtValue.ortvalue_from_numpy(np.zeros((rows, heads, 0, width), np.float32))
    read = ort.OrtValue.ortvalue_from_numpy(mask)

    def run() -> Answer:
        start = time.perf_counter()
        bound = encoder.io_binding()
        for name, value in named.items():
            bound.bind_cpu_input(name, value)
        for name in cross:
            bound.bind_output(name)
        encoder.run_with_iobinding(bound)
        keys = bound.get_outputs()
        binding, states, ids = step.io_binding(), [empty] * len(past), start_ids
        binding.bind_ortvalue_input("mask", read)
        for name, state in zip(cross, keys, strict=True):
            binding.bind_ortvalue_input(name, state)
        stamps, tokens = [], []
        for _ in range(n):
            binding.bind_cpu_input("ids", ids)
            for name, state in zip(past, states, strict=True):
                binding.bind_ortvalue_input(name, state)
            binding.clear_binding_outputs()
            for name in ("next", *present):
                binding.bind_output(name)
            step.run_with_iobinding(binding)
            found, *states = binding.get_outputs()
            ids = found.numpy()
            tokens.append(ids)
            stamps.append((time.perf_counter() - start) * 1e3)
        return stamps, np.concatenate(tokens, 1).tolist()

    return run


# -- OpenVINO ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def convert_openvino(workload: Workload) -> tuple[Any, Any]:
    """Both graphs as OpenVINO models, all sizes open."""
    import openvino as ov

    encoder, step = graphs(workload)
    tensors = example(workload, encoder)
    cross, past, present = state_names((len(tensors) - 2) // 2)
    first = ov.convert_model(encoder, example_input=tuple(workload.inputs.values()))
    name_ports(first.inputs, list(workload.inputs))
    name_ports(first.outputs, cross)
    second = ov.convert_model(step, example_input=tensors)
    name_ports(second.inputs, ["ids", "mask", *cross, *past])
    name_ports(second.outputs, ["next", *present])
    return first, second


def name_ports(ports: Sequence[Any], names: Sequence[str]) -> None:
    """Give a model's inputs or outputs these names."""
    for port, name in zip(ports, names, strict=True):
        port.get_tensor().set_names({name})


def _openvino(
    paths: Sequence[str], group: int | None, threads: int, inputs: list[Any], n: int
) -> Callable[[], Answer]:
    import numpy as np
    import openvino as ov
    from openvino._offline_transformations import apply_make_stateful_transformation

    core = ov.Core()
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    if group is not None:
        options["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = group
    *given, start_ids, mask = inputs
    first, second = (core.read_model(path) for path in paths)
    first.reshape({port.any_name: list(value.shape) for port, value in zip(first.inputs, given, strict=True)})
    cross, past, present = state_names((len(second.inputs) - 2) // 2)
    heads, width = first.output(0).partial_shape[1].get_length(), first.output(0).partial_shape[3].get_length()
    there, before = ([len(start_ids), heads, length, width] for length in (mask.shape[-1], -1))
    second.reshape(
        {"ids": [len(start_ids), 1], "mask": list(mask.shape)}
        | dict.fromkeys(cross, there)
        | dict.fromkeys(past, before)
    )
    apply_make_stateful_transformation(second, dict(zip(past, present, strict=True)))  # once its rows are known
    encoder, step = (core.compile_model(m, "CPU", options).create_infer_request() for m in (first, second))

    def run() -> Answer:
        start = time.perf_counter()
        encoder.infer(given, share_inputs=True, share_outputs=True)
        for i, port in enumerate(encoder.model_outputs):
            step.set_tensor(port.any_name, encoder.get_output_tensor(i))
        step.set_tensor("mask", ov.Tensor(mask, shared_memory=True))
        step.reset_state()
        ids, stamps, tokens = start_ids, [], []
        for _ in range(n):
            step.set_tensor("ids", ov.Tensor(ids, shared_memory=True))
            step.infer()
            ids = step.get_output_tensor(0).data.copy()
            tokens.append(ids)
            stamps.append((time.perf_counter() - start) * 1e3)
        return stamps, np.concatenate(tokens, 1).tolist()

    return run
