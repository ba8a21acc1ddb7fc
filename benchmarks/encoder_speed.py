"""Milliseconds of an encoder's pass: by Transformers alone, lean, and lean in int8; natively and restricted to AVX2.

    python benchmarks/encoder_speed.py [--rounds 4] [--settings native avx2] [--subjects t5-base …] [--out FILE]

Subjects: T5-base's and BART-base's encoders and ViT-B with random weights (256 tokens or 224 x 224 pixels; batch 1 and
8, the latter also with texts of 81 to 256 tokens), OFA-base's (a ResNet-101 stem, 384 x 384 pixels), Whisper base on
one window of 30 s (`--whisper FOLDER`), and the shipped LaTr++ and OFA on pages and scenes of their test splits. Ways
take turns within each round; the first round warms up. Beside them, the keys and values of T5-base's 12 attentions to
the source: per layer as decoding asks for them, and as one product for all.

One process per setting, since the variables that restrict libraries are read when they are loaded. Writes
benchmarks/results/encoder_speed.json.
"""

from __future__ import annotations

import argparse
import copy
import functools
import inspect
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent / "results" / "encoder_speed.json"
SETTINGS: dict[str, dict[str, str]] = {
    "native": {},
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    },
}
SUBJECTS = ("t5-base", "bart-base", "vit-b", "whisper-base", "latr", "ofa", "ofa-base")
Case = tuple[str, Any, dict[str, Any]]  # what it is called, a model, what its encoder reads


def texts(batch: int, ragged: bool) -> dict[str, Any]:
    """Rows of 256 random tokens; ragged: 256, 231 … 81."""
    import torch

    ids = torch.randint(3, 1000, (batch, 256), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    for row in range(batch if ragged else 0):
        mask[row, 256 - 25 * row :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def t5_base() -> Any:
    """The encoder of T5-base, with one decoder layer."""
    import transformers as hf

    sizes = {"d_model": 768, "d_kv": 64, "d_ff": 3072, "num_heads": 12, "num_layers": 12, "num_decoder_layers": 1}
    return hf.T5ForConditionalGeneration(hf.T5Config(**sizes, vocab_size=1000)).eval()


def bart_base() -> Any:
    """The encoder of BART-base, with one decoder layer."""
    import transformers as hf

    sizes = {
        f"{side}_{name}": n
        for side in ("encoder", "decoder")
        for name, n in (("ffn_dim", 3072), ("attention_heads", 12))
    }
    config = hf.BartConfig(d_model=768, encoder_layers=6, decoder_layers=1, vocab_size=1000, **sizes)
    return hf.BartForConditionalGeneration(config).eval()


def vit_b() -> Any:
    """ViT-B at 16 pixels a patch, with a small decoder."""
    import transformers as hf

    options = {"is_decoder": True, "add_cross_attention": True, "num_hidden_layers": 1, "vocab_size": 1000}
    decoder = hf.BertLMHeadModel(hf.BertConfig(**options))
    return hf.VisionEncoderDecoderModel(encoder=hf.ViTModel(hf.ViTConfig()), decoder=decoder).eval()


def ofa_base() -> Any:
    """OFA-base's encoder with its ResNet-101 stem, with one decoder layer."""
    from deed.models.ofa import OFAConfig, OFAForConditionalGeneration

    return OFAForConditionalGeneration(OFAConfig(resnet_type="resnet101", decoder_layers=1, vocab_size=1000)).eval()


def shipped(name: str, task_name: str, batch: int) -> tuple[Any, dict[str, Any]]:
    """A shipped model and examples of its test split."""
    from deed.tasks.task import get_task
    from deed.utils.shipped import CHECKPOINTS

    task = get_task(task_name, name)
    model, processor = task.load(CHECKPOINTS / name)
    rows = [task.encode(processor, task.opened(example)) for example in task.examples("test", batch)]
    made = task.collate(processor, rows)
    takes = set(inspect.signature(model.get_encoder().forward).parameters)
    return model, {k: v for k, v in made.items() if k in takes}


def cases(subject: str, whisper: Path) -> Iterator[Case]:
    """The cases of a subject."""
    import torch

    if subject in ("t5-base", "bart-base"):
        model = t5_base() if subject == "t5-base" else bart_base()
        for batch, ragged in ((1, False), (8, False), (8, True)):
            yield f"{subject}, batch {batch}{', ragged' if ragged else ''}", model, texts(batch, ragged)
    elif subject == "vit-b":
        model = vit_b()
        for batch in (1, 8):
            yield f"{subject}, batch {batch}", model, {"pixel_values": torch.randn(batch, 3, 224, 224)}
    elif subject == "ofa-base":
        model = ofa_base()
        for batch in (1, 8):
            images = torch.randn(batch, 3, 384, 384, generator=torch.Generator().manual_seed(0))
            yield (
                f"{subject}, batch {batch}",
                model,
                {"input_ids": texts(batch, False)["input_ids"][:, :12], "patch_images": images},
            )
    elif subject == "whisper-base":
        if whisper.is_dir():
            import deed

            yield f"{subject}, batch 1", deed.from_pretrained(whisper), {"input_features": torch.randn(1, 80, 3000)}
    else:
        for batch in (1, 8):
            model, inputs = shipped(subject, {"latr": "pages", "ofa": "scenes-vqa"}[subject], batch)
            yield f"{subject}, batch {batch}", model, inputs


def ways_of(model: Any, inputs: dict[str, Any], quantized: Any) -> dict[str, Callable[[], Any]]:
    """Ways to run an encoder."""
    from deed.families.encoders import lean

    encoder, packs = model.get_encoder(), inputs.get("attention_mask") is not None
    ways = {"transformers": lambda: encoder(**inputs), "lean": lambda: lean(encoder, packs)(**inputs)}
    if quantized is not None:
        ways["lean int8"] = lambda: lean(quantized.get_encoder(), packs)(**inputs)
    return ways


def timed(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Median and least milliseconds per way, their order turning from round to round."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for i in range(rounds + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            calls, started = 0, time.perf_counter()
            while not calls or time.perf_counter() - started < 0.1:  # small models: several at once
                ways[name]()
                calls += 1
            if i:  # the first round warms up
                taken[name].append((time.perf_counter() - started) / calls * 1e3)
    return {name: {"median": round(statistics.median(t), 2), "least": round(min(t), 2)} for name, t in taken.items()}


def _each(functions: list[Callable[[Any], Any]], states: Any) -> None:
    for function in functions:
        function(states)


def cross_keys_and_values(rounds: int) -> dict[str, Any]:
    """T5-base's 12 attentions to 256 tokens: keys and values of the first 3 or of all layers."""
    import torch

    from deed.kernels.float32 import product

    weights = [torch.randn(768, 768) * 0.02 for _ in range(24)]
    single = [product(w, None) for w in weights]
    pairs = [product(torch.cat(weights[i : i + 2]), None) for i in range(0, 24, 2)]
    joint = {depth: product(torch.cat(weights[: 2 * depth]), None) for depth in (3, 12)}
    found = {}
    for batch in (1, 8):
        states = torch.randn(batch, 256, 768)
        for depth in (3, 12):
            ways = {
                "a product each": functools.partial(_each, single[: 2 * depth], states),
                "keys and values together": functools.partial(_each, pairs[:depth], states),
                "all layers together": functools.partial(joint[depth], states),
            }
            found[f"batch {batch}, {depth} layers"] = timed(ways, rounds)
    return found


def work(subjects: list[str], rounds: int, whisper: Path) -> dict[str, Any]:
    """All cases under the variables of this process."""
    import torch

    import deed
    from deed.utils.timing import machine

    torch.manual_seed(0)
    found: dict[str, Any] = {"machine": machine(), "milliseconds": {}}
    with torch.no_grad():
        for subject in subjects:
            kept = None
            for name, model, inputs in cases(subject, whisper):
                if kept is None or kept[0] is not model:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        kept = (model, deed.quantize(copy.deepcopy(model), parts=("encoder",)))
                said = kept[1].deed_quantized
                times = timed(ways_of(model, inputs, kept[1] if said["replaced"] else None), rounds)
                found["milliseconds"][name] = {
                    **times,
                    "int8": {k: said[k] for k in ("replaced", "kept", "kernels", "levels")},
                }
                print(name, {k: v["median"] for k, v in times.items()}, file=sys.stderr, flush=True)
        if "t5-base" in subjects:
            found["cross_keys_and_values"] = cross_keys_and_values(rounds)
    return found


def main() -> None:
    """Runs a process per setting and writes what they found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--settings", nargs="+", choices=list(SETTINGS), default=list(SETTINGS))
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--whisper", type=Path, default=Path("/work/cache/whisper/base"))
    parser.add_argument("--out", type=Path, default=OUTPUT)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(args.subjects, args.rounds, args.whisper)))
        return
    from deed.utils.timing import versions

    found = {}
    for setting in args.settings:
        names = [name for variables in SETTINGS.values() for name in variables]
        env = {k: v for k, v in os.environ.items() if k not in names} | SETTINGS[setting]
        command = [sys.executable, __file__, "--worker", *sys.argv[1:]]
        print(setting, file=sys.stderr)
        found[setting] = json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout)
    kept = json.loads(args.out.read_text()) if args.out.exists() else {}
    result = {
        "command": " ".join(["python", "benchmarks/encoder_speed.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
        "settings": {**kept.get("settings", {}), **found},
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
