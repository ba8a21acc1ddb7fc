"""Peak memory of one training step against the number of exits: deed's loss, and a naive one that keeps every exit's
logits.

    python benchmarks/loss_memory.py            # writes benchmarks/results/loss_memory.json and prints a table

A T5 with 12 decoder layers, width 64 and a vocabulary of 32128 takes one forward and backward pass on 1024 target
tokens. Each configuration runs in a process of its own, forked from one that has only imported; its figure is that
process's peak resident size (`ru_maxrss`) minus its resident size just before the step. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from pathlib import Path

import torch
import transformers
from torch.nn import functional as F
from transformers import T5Config, T5ForConditionalGeneration

import deed

N_LAYERS = 12
EXITS = (1, 2, 4, 8, 12)
LOSSES = ("deed", "naive")
BATCH, SOURCE, TARGET, VOCAB, D_MODEL = 8, 32, 128, 32128, 64
RESULTS = Path(__file__).parent / "results" / "loss_memory.json"


def exit_layers(count: int) -> list[int]:
    """`count` depths spread evenly over the decoder, the last layer among them."""
    return [round(N_LAYERS * (i + 1) / count) for i in range(count)]


def naive_loss(model: torch.nn.Module, source: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same value as deed's loss, written the obvious way: all exits' logits, then a cross-entropy on each."""
    decoder_input_ids = model.prepare_decoder_input_ids_from_labels(labels)
    out = model(input_ids=source, decoder_input_ids=decoder_input_ids, output_hidden_states=True, use_cache=False)
    early = model.deed_config.exit_layers[:-1]
    logits = [model.exit_head(depth, out.decoder_hidden_states[depth]) for depth in early] + [out.logits]
    losses = torch.stack([F.cross_entropy(z.flatten(0, 1), labels.flatten()) for z in logits])
    return losses.mean() + losses[-1]


def step(model: torch.nn.Module, loss: str, source: torch.Tensor, labels: torch.Tensor) -> float:
    """One forward and backward pass; returns the loss."""
    value = model(input_ids=source, labels=labels).loss if loss == "deed" else naive_loss(model, source, labels)
    value.backward()
    return value.item()


def measure(loss: str, count: int, connection) -> None:
    """One configuration, in a process of its own."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCAB,
        d_model=D_MODEL,
        d_kv=16,
        d_ff=128,
        num_heads=4,
        num_layers=2,
        num_decoder_layers=N_LAYERS,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    model = deed.get_deed_model(model, deed.DeedConfig(exit_layers=exit_layers(count))).train()
    source, labels = torch.randint(2, VOCAB, (BATCH, SOURCE)), torch.randint(2, VOCAB, (BATCH, TARGET))
    # A small step first: it loads kernels and makes the gradient buffers, which are no part of the loss.
    step(model, loss, source[:1, :2], labels[:1, :2])
    model.zero_grad(set_to_none=False)
    before, peak_before = resident(), peak()
    value = step(model, loss, source, labels)
    if peak() == peak_before:
        raise RuntimeError("the step did not raise the process's peak; nothing was measured")
    connection.send(
        {
            "loss": loss,
            "exits": count,
            "exit_layers": model.deed_config.exit_layers,
            "peak_mib": round((peak() - before) / 2**20, 1),
            "value": round(value, 4),
        }
    )


def resident() -> int:
    """Resident size of this process now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak() -> int:
    """Largest resident size of this process so far, in bytes (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )


def report(rows: list[dict]) -> dict:
    """The recorded form: command, versions, machine, settings, rows."""
    return {
        "command": " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "deed": deed.__version__,
        },
        "machine": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": 1,
            "device": "cpu",
            "system": platform.platform(),
        },
        "settings": {
            "decoder_layers": N_LAYERS,
            "d_model": D_MODEL,
            "vocabulary": VOCAB,
            "target_tokens": BATCH * TARGET,
            "dtype": "float32",
        },
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exits", type=int, nargs="+", default=EXITS, help="numbers of exits to measure")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where the JSON goes")
    arguments = parser.parse_args()
    fork = multiprocessing.get_context("fork")
    rows = []
    for count in arguments.exits:
        for loss in LOSSES:
            receiver, sender = fork.Pipe(duplex=False)
            process = fork.Process(target=measure, args=(loss, count, sender))
            process.start()
            sender.close()
            try:
                rows.append(receiver.recv())
            except EOFError:
                process.join()
                raise SystemExit(f"{loss} with {count} exits failed, exit code {process.exitcode}") from None
            process.join()
            print(f"measured {loss} with {count} exits", file=sys.stderr)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = arguments.output.with_suffix(".tmp")
    temporary.write_text(json.dumps(report(rows), indent=2) + "\n", encoding="utf-8")
    temporary.replace(arguments.output)
    peaks = {(row["loss"], row["exits"]): row["peak_mib"] for row in rows}
    print("exits  deed MiB  naive MiB")
    for count in arguments.exits:
        print(f"{count:5d} {peaks['deed', count]:9.0f} {peaks['naive', count]:10.0f}")


if __name__ == "__main__":
    main()
