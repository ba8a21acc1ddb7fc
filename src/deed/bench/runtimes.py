"""Other runtimes on the same weights: CTranslate2 and ONNX Runtime, each by its own converter, loop and kernels.

Both run the encoder inside, so their time to the first token has it in it; steps do not.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import time
import warnings
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deed.utils.files import read_json, write_json

from .shapes import NotAvailable, Workload
from .subjects import Subject, Timing, check_baseline

Answer = tuple[float, float, list[list[int]]]  # ms to the first token, ms per further step, tokens

INSTALL = 'pip install "deed-transformers[bench]"'


def ctranslate2(workload: Workload, compute_type: str) -> Subject:
    """CTranslate2, converted by its own converter; quantised when it is loaded. Tokens are timed as they come."""
    try:
        import ctranslate2 as ct2
    except ImportError:
        raise NotAvailable(f"not installed: {INSTALL}") from None
    folder = workload.workplace / "ctranslate2"
    if not folder.exists():
        converter = ct2.converters.TransformersConverter(str(plain_folder(workload)))
        try:
            converter.convert(str(folder))
        except ValueError as error:  # it lists all it knows in brackets
            raise NotAvailable(str(error).split(" (")[0]) from None
    source = [[f"t{i}" for i in row] for row in unpadded(workload)]
    end = f"t{workload.base.config.pad_token_id}"  # what the minimal length forbids: nothing a model says
    answer = Apart(_ctranslate2, str(folder), compute_type, torch.get_num_threads(), source, end, workload.new_tokens)
    size = {"float32": 4, "int8": 1}[compute_type]
    name = f"ctranslate2 {'int8' if size == 1 else 'fp32'}"
    check = partial(check_baseline, workload)
    return Subject(name, answer, check, weight_bytes=size, head_bytes=size, with_encoder=True)


def _ctranslate2(
    folder: str, compute_type: str, threads: int, source: list[list[str]], end: str, n: int
) -> Callable[[], Answer]:
    import ctranslate2 as ct2

    translator = ct2.Translator(
        folder, device="cpu", compute_type=compute_type, inter_threads=1, intra_threads=threads
    )

    def run() -> Answer:
        stamps: dict[int, float] = {}

        def note(result: Any) -> bool:
            stamps[result.step] = time.perf_counter()
            return False

        start = time.perf_counter()
        results = translator.translate_batch(
            source, beam_size=1, max_decoding_length=n, min_decoding_length=n, end_token=end, callback=note
        )
        first, last = stamps[min(stamps)], stamps[max(stamps)]
        tokens = [[int(token[1:]) for token in r.hypotheses[0]] for r in results]
        return (first - start) * 1e3, (last - first) * 1e3 / (n - 1), tokens

    return run


def onnxruntime(workload: Workload) -> Subject:
    """ONNX Runtime with the exporter it brings along, whose graph holds the generation loop. That exporter knows T5.

    The other well-kept one, optimum-onnx (0.1.0), does not import beside Transformers 5.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        from onnxruntime.transformers import convert_generation as exporter
    except ImportError as error:
        raise NotAvailable(f"{error.name} is not installed: {INSTALL}") from None
    if type(workload.base.config).__name__ != "T5Config":
        raise NotAvailable("its exporter with a generation loop knows T5 only; optimum-onnx needs Transformers 4")
    path = workload.workplace / "onnx" / "model.onnx"
    if not path.exists():
        path.parent.mkdir()
        given = ["-m", str(plain_folder(workload)), "--model_type", "t5", "--output", str(path), "--num_beams", "1"]
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            exporter.convert_generation_model(exporter.parse_arguments(given))
    ids = workload.inputs["input_ids"].tolist()
    answer = Apart(_onnxruntime, str(path), torch.get_num_threads(), ids, workload.new_tokens)
    return Subject("onnxruntime fp32", answer, partial(check_baseline, workload), with_encoder=True)


def _onnxruntime(path: str, threads: int, ids: list[list[int]], n: int) -> Callable[[], Answer]:
    import numpy as np
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    constants = {"num_beams": 1, "num_return_sequences": 1, "length_penalty": 1.0, "repetition_penalty": 1.0}
    fixed = {k: np.array([v], dtype=np.float32 if isinstance(v, float) else np.int32) for k, v in constants.items()}
    fixed["input_ids"] = np.array(ids, dtype=np.int32)

    def answer(new_tokens: int) -> Any:
        length = np.array([new_tokens + 1], dtype=np.int32)
        return session.run(None, {"max_length": length, "min_length": length, **fixed})[0]

    def run() -> Answer:
        start = time.perf_counter()
        answer(1)
        middle = time.perf_counter()
        sequences = answer(n)
        first, whole = middle - start, time.perf_counter() - middle
        return first * 1e3, (whole - first) * 1e3 / (n - 1), sequences[:, 0, 1:].tolist()

    return run


class Apart:
    """A runtime in a process of its own, which sleeps between its turns: CTranslate2's OpenMP beside PyTorch's makes int8
    products of the latter take twice as long once both have run in one process.

    Args:
        make: a function of this module: from `arguments`, in the other process, to what answers once.
    """

    def __init__(self, make: Callable[..., Callable[[], Answer]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self.process.start()
        theirs.close()
        weakref.finalize(self, self.process.kill)

    def __call__(self) -> Timing:
        """Raises:
        NotAvailable: with what went wrong over there.
        """
        try:
            self.pipe.send(None)
            answer = self.pipe.recv()
        except (EOFError, OSError):
            raise NotAvailable("its process died") from None
        if isinstance(answer, str):
            raise NotAvailable(answer)
        first, step, tokens = answer
        return Timing(first, step, torch.tensor(tokens))


def _serve(pipe: Any, make: Callable[..., Callable[[], Answer]], arguments: tuple[Any, ...]) -> None:
    try:
        run = make(*arguments)
        while True:
            pipe.recv()
            pipe.send(run())
    except EOFError:
        pass
    except Exception as error:  # whatever it is, it is that library's
        pipe.send(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def plain_folder(workload: Workload) -> Path:
    """The plain model saved as converters want it: with a tokenizer, which calls id 7 "t7", and attention in the open."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    folder = workload.workplace / "plain"
    if folder.exists():
        return folder
    workload.base.save_pretrained(folder)
    config = workload.base.config
    ids = {f"t{i}": i for i in range(config.vocab_size)}
    special = {
        f"{kind}_token": f"t{getattr(config, f'{kind}_token_id')}"
        for kind in ("bos", "eos", "pad")
        if getattr(config, f"{kind}_token_id", None) is not None
    }
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="t3"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="t3", **special).save_pretrained(folder)
    path = folder / "config.json"
    # onnxruntime's exporter cannot write sdpa; CTranslate2 asks BART for a field that Transformers 5 has dropped.
    extra = {"attn_implementation": "eager", "normalize_before": False}
    # Its loop forbids the end token up to the length asked for; so use a token id that the model never generates.
    ends = {"eos_token_id": config.pad_token_id}
    write_json(path, {**extra, **read_json(path), **ends})
    return folder


def unpadded(workload: Workload) -> list[list[int]]:
    """The ids of every row without their padding."""
    ids, mask = workload.inputs["input_ids"], workload.inputs["attention_mask"]
    return [row[: int(keep.sum())].tolist() for row, keep in zip(ids, mask, strict=True)]
