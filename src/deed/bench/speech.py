"""`deed bench speech`: the same recordings transcribed by Transformers, faster-whisper and deed, in turns, in one run.

Each workload (short recordings alone, in batches, long ones) goes on for its share of the time that is given, and at least for
a few batches; which recordings were heard is in the record. Ratios are taken batch by batch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from deed.utils.progress import SILENT_BAR, Tell
from deed.utils.timing import installed, machine, spread

from .isa import RESTRICTED, ran
from .speech_catalogue import BASELINE, FULL, RIVAL, Model, load_model, make_listeners, names_of
from .speech_clips import find_sounds
from .speech_goals import goal_rows
from .speech_scores import depths_of, same_texts, tokens_changed, wer_change, wer_of
from .speech_subjects import Listener
from .speech_turns import Results, flat, ratios, run_turns, workloads_of
from .speed import header


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Args:
        model: a size of Whisper or a folder of CTranslate2's format.
        exits: folder of exits alone, `"none"`, or None: those that came with deed for the model.
        data: folder with recordings, see `speech_clips.find_sounds`.
        language: only this one; None: all.
        batches: rows transcribed at once; 1 alone, others by the batch.
        long: long recordings, too.
        points: label and threshold of early exit, such as `("0.2", 0.95)`; none: the exits' own threshold.
        exact_threshold: of drafts of exact decoding; None: the exits' own.
        subjects: names or patterns; none: all.
        minutes: the whole measuring may take; loading comes on top.
        threads: of every runtime.
        isa: of `isa.RESTRICTED`, which the process must have been started under.
    """

    model: str = "base"
    exits: str | None = None
    data: str = ""
    language: str | None = None
    batches: tuple[int, ...] = (1, 8)
    long: bool = True
    points: tuple[tuple[str, Any], ...] = ()
    exact_threshold: float | None = None
    subjects: tuple[str, ...] = ()
    minutes: float = 6.5
    threads: int = 2
    isa: str = "native"

    def __post_init__(self) -> None:
        if not self.batches or min(self.batches) < 1:
            raise ValueError(f"--batch must be at least 1, got {list(self.batches)}")
        if not self.minutes > 0:
            raise ValueError(f"--minutes must be above 0, got {self.minutes}")
        if self.threads < 1:
            raise ValueError(f"--threads must be at least 1, got {self.threads}")
        if self.isa not in RESTRICTED:
            raise ValueError(f"--isa must be one of {', '.join(RESTRICTED)}, got {self.isa!r}")


def measure_speech(settings: Settings, progress: Tell | None = None) -> dict[str, Any]:
    """All workloads of the settings.

    Returns:
        JSON values: `settings`, `command`, `versions`, `machine`, `isa`, `model`; `workloads` (what was heard), `rows` (one
        per workload and subject), `quality` (of all short, and of all long recordings) and `goals`.

    Raises:
        DataError: no recordings.
        DeedLoadError: no such model, or exits of another.
        ValueError: a pattern that fits no subject.
    """
    say = progress or SILENT_BAR.update
    report = header("speech", asdict(settings))
    report["versions"].update(installed(("faster-whisper", "ctranslate2", "jiwer")))
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    report["machine"], report["isa"] = machine(), ran(settings.isa)
    try:
        say("loading", 0.0)
        names_of(settings)  # before anything is loaded
        short, long = find_sounds(Path(settings.data), settings.language)
        model = load_model(settings)
        report["model"] = {
            "name": settings.model,
            "exits": model.deed["fp32"].deed_exits_from and Path(model.deed["fp32"].deed_exits_from).name,
            "exit_layers": model.deed["fp32"].deed_config.exit_layers,
            "adapter": model.deed["fp32"].deed_config.adapter,
            "threshold": model.deed["fp32"].deed_config.threshold,
            "calibration": risk_of(model.deed["fp32"].deed_config.calibration),
            "int8": model.deed["int8"].deed_quantized,
        }
        listeners, missing = make_listeners(settings, model, (short or long)[:1], say)
        report.update({"workloads": [], "rows": [], "quality": [], "goals": []})
        heard: dict[str, Results] = {}
        plans = workloads_of(settings, short, long)
        end = time.perf_counter() + 60 * settings.minutes
        for i, (name, size, inputs, share) in enumerate(sorted(plans, key=lambda plan: plan[3])):
            left = sum(plan[3] for plan in plans) - sum(sorted(plan[3] for plan in plans)[:i])
            budget = max(0.0, end - time.perf_counter()) * share / left
            base, part = 1 - left / sum(plan[3] for plan in plans), share / sum(plan[3] for plan in plans)

            def tell(line: str, done: float, base: float = base, part: float = part, name: str = name) -> None:
                say(f"{name}: {line}", 0.1 + 0.9 * (base + part * done))

            heard[name] = results = run_turns(listeners, inputs, budget, tell)
            batches = results.inputs
            report["workloads"].append(
                {
                    "workload": name,
                    "batch": size,
                    "batches": len(batches),
                    "recordings": [sound.name for sounds in batches for sound in sounds],
                    "sound_s": round(sum(sound.seconds for sounds in batches for sound in sounds), 1),
                    "languages": sorted({sound.language for sounds in batches for sound in sounds}),
                }
            )
            report["rows"] += [
                {"workload": name, "batch": size, "subject": n, "available": False, "reason": why}
                for n, why in {**missing, **results.failed}.items()
            ]
            report["rows"] += [
                result_row(name, size, n, listeners[n], results) for n in listeners if results.heard.get(n)
            ]
        order = [name for name, *_ in plans]
        for key in ("workloads", "rows"):
            report[key].sort(key=lambda row: order.index(row["workload"]))
        heard = {name: heard[name] for name in order}
        for kind in ("short", "long"):
            parts = [results for name, results in heard.items() if name.startswith(kind)]
            report["quality"] += quality_rows(kind, parts, listeners, model)
        report["goals"] = goal_rows(report, list(heard))
    finally:
        torch.set_num_threads(threads)
    return report


def risk_of(calibration: dict[str, Any] | None) -> dict[str, Any] | None:
    """What a calibration report promises, without what was tested on the way."""
    names = ("threshold", "risk", "confidence", "examples", "mean_depth", "disagreement_bound")
    return None if calibration is None else {name: calibration[name] for name in names if name in calibration}


def result_row(workload: str, batch: int, name: str, listener: Listener, results: Results) -> dict[str, Any]:
    """Times, shares and ratios of one subject in one workload.

    Args:
        workload, batch: its name and rows.
        name: of the subject.
        listener: the subject.
        results: of all of them.
    """
    own = results.heard[name]
    sound_s = {i: sum(sound.seconds for sound in results.inputs[i]) for i in own}
    others = {BASELINE: BASELINE, RIVAL: RIVAL, "full depth of its runtime": f"{listener.runtime} full"}
    others = {label: other for label, other in others.items() if results.heard.get(other)}
    total = {
        part: sum(getattr(h, part) for h in own.values()) for part in ("seconds", "features", "encoder", "decoder")
    }
    texts, sounds = flat(results, name, own)
    row: dict[str, Any] = {
        "workload": workload,
        "batch": batch,
        "subject": name,
        "available": True,
        "runtime": listener.runtime,
        "batches": len(own),
        "real_time_factor": total["seconds"] / sum(sound_s.values()),
        "real_time_factors": spread([h.seconds / sound_s[i] for i, h in own.items()]),
        "batch_ms": spread([1e3 * h.seconds for h in own.values()]),
        "decoder_ms": spread([1e3 * h.decoder for h in own.values()]),
        "share": {part: total[part] / total["seconds"] for part in ("features", "encoder", "decoder")},
        "times_faster_than": {label: ratios(results, name, other, "seconds") for label, other in others.items()},
        "decoder_times_faster_than": {
            label: ratios(results, name, other, "decoder") for label, other in others.items()
        },
        "wer": wer_of(texts, sounds),
    }
    if results.heard.get(BASELINE):
        row["same_text_as_transformers"] = same_texts(texts, flat(results, BASELINE, own)[0])
    return row


def quality_rows(
    kind: str, parts: Sequence[Results], listeners: dict[str, Listener], model: Model
) -> list[dict[str, Any]]:
    """Word error rate of each subject over all workloads of a kind, and what changed against full depth: deed's against its
    own in that precision, peers' against Transformers.

    Args:
        kind: `"short"` or `"long"`.
        parts: the workloads.
        listeners: subjects by name.
        model: whose exits there are.
    """
    rows = []
    config = model.deed["fp32"].deed_config
    for name, listener in listeners.items():
        full = FULL.format(listener.runtime.split()[-1]) if name.startswith("deed") else BASELINE
        here = [part for part in parts if part.heard.get(name) and part.heard.get(full)]
        if not here:
            continue
        pairs = [(p, [i for i in p.heard[name] if i in p.heard[full]]) for p in here]
        texts = [text for p, kept in pairs for text in flat(p, name, kept)[0]]
        others = [text for p, kept in pairs for text in flat(p, full, kept)[0]]
        sounds = [sound for p, kept in pairs for sound in flat(p, name, kept)[1]]
        own = [p.heard[name][i] for p, kept in pairs for i in kept]
        row = {
            "kind": kind,
            "subject": name,
            "recordings": len(sounds),
            "words": sum(len(sound.text.split()) for sound in sounds),
            "wer": wer_of(texts, sounds),
            "against": full,
            "wer_change": wer_change(texts, others, sounds),
            "same_text": same_texts(texts, others),
            "tokens_changed": tokens_changed(own, [p.heard[full][i] for p, kept in pairs for i in kept]),
        }
        if " early " in name:
            row["depth"] = depths_of(own, asked_exits(config, listener.threshold), config.adapter == "layer")
            row["layers"] = config.exit_layers[-1]
        rows.append(row)
    return rows


def asked_exits(config: Any, threshold: Any) -> list[int]:
    """Depths of the exits before the last that a threshold lets anything leave by.

    Args:
        config: the exits' configuration.
        threshold: of the subject; None: the configuration's.
    """
    exits, threshold = config.exit_layers[:-1], config.threshold if threshold is None else threshold
    each = threshold if isinstance(threshold, (list, tuple)) else [threshold] * len(exits)
    return [depth for depth, value in zip(exits, each, strict=False) if value <= 1]
