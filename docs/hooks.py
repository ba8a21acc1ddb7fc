"""What MkDocs needs of us: reference pages made from the code, and links that leave docs/ kept working inside the site.

The command line's page is rendered from the Typer app, the API's page lists `deed.__all__` for mkdocstrings. A page may link
to any file of the repository by its relative path, as GitHub shows it; such files are copied into the site under `source/`.
"""

from __future__ import annotations

import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
LINK = re.compile(r"(?<=\]\()([^)#\s]+)(?=[)#])")
GROUPS = {  # of the API page; public names that are in none of them come last
    "Put early exit on a model": ["get_deed_model", "unwrap", "from_pretrained", "load_exits", "DeedConfig"],
    "Choose thresholds": [
        "calibrate",
        "calibrate_answers",
        "estimate",
        "record_curve",
        "set_target",
        "record_exits",
        "ExitStatistics",
        "measure_costs",
    ],
    "Decode faster": ["quantize", "use_cuda_graphs", "fit_gate", "fit_screen"],
    "Train": ["DeedTrainer"],
    "One-liners": ["pipeline", "data_job"],
    "Tasks": ["Task", "register_task"],
    "Exit policies": ["ExitPolicy", "ThresholdPolicy", "FixedSchedule", "ExitDecision", "ExitQuery", "Ask"],
    "Confidence measures": ["MaxProb", "Margin", "Entropy", "StateSimilarity", "Patience", "OrderedProb"],
    "Decoder families": ["DecoderFamily", "register_family"],
    "Cache": ["StaircaseCache"],
    "Errors": ["DeedConfigError", "DeedLoadError", "DataError", "CalibrationError", "ExitsCostMore"],
}
MIXIN = [
    "generate",
    "exit_logits",
    "exit_head",
    "freeze_backbone",
    "save_exits",
]  # what a model gets, documented with get_deed_model
NOT_LISTED = {"__version__", "families"}  # not objects with a docstring of their own


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages and the repository's files that pages link to."""
    sys.path.insert(0, str(SOURCE))  # here: MkDocs restores the path after loading this file
    files.append(File.generated(config, "reference/cli.md", content=cli_page()))
    files.append(File.generated(config, "reference/api.md", content=api_page()))
    waiting = [ROOT / "docs" / file.src_uri for file in files if file.src_uri.endswith(".md") and file.abs_src_path]
    done: set[Path] = set()
    while waiting:
        page = waiting.pop()
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            path = Path(os.path.normpath(page.parent / target))
            if ":" in target or path in done or (ROOT / "docs") in path.parents or not path.is_file():
                continue
            done.add(path)
            files.append(File.generated(config, place(path), abs_src_path=str(path)))
            if path.suffix == ".md":
                waiting.append(path)
    return files


def place(path: Path) -> str:
    """Where a file of the repository lies in the site's sources: docs/ at the top, everything else under source/."""
    inside = path.relative_to(ROOT).as_posix()
    return inside.removeprefix("docs/") if inside.startswith("docs/") else f"source/{inside}"


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turn links by repository path into links inside the site; what does not exist is left for MkDocs to complain of."""
    uri = page.file.src_uri
    if uri.startswith("reference/"):
        return markdown
    home = (ROOT / uri.removeprefix("source/") if uri.startswith("source/") else ROOT / "docs" / uri).parent

    def inside(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(home / match[1]))
        if ":" in match[1] or ROOT not in path.parents or files.get_file_from_path(place(path)) is None:
            return match[1]
        return posixpath.relpath(place(path), posixpath.dirname(uri) or ".")

    return LINK.sub(inside, markdown)


def cli_page() -> str:
    """The reference of every verb, from its Typer command."""
    import typer
    from typer.cli import get_docs_for_click

    from deed.cli import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(
        obj=command, ctx=typer.Context(command, info_name="deed"), name="deed", title="Command line"
    )
    text = re.sub(
        r"^\*\*Commands\*\*:\n\n(\* .*\n)+", "", text, flags=re.MULTILINE
    )  # cut short; the contents list them
    text = re.sub(
        r"^`deed( \w+)+`: (\w)", lambda start: start[2].upper(), text, flags=re.MULTILINE
    )  # the heading says it
    return re.sub(r"^Example: (.*)$", r"**Example**:\n\n```console\n\1\n```", text, flags=re.MULTILINE)


def api_page() -> str:
    """One entry per public name, in groups."""
    import deed

    public = [name for name in deed.__all__ if name not in NOT_LISTED]
    listed = {name for names in GROUPS.values() for name in names}
    parts = [
        "# Python API",
        "Everything here is imported from `deed` itself, as in `from deed import get_deed_model`.",
    ]
    for title, names in {**GROUPS, "More": [name for name in public if name not in listed]}.items():
        if not (here := [name for name in names if name in public]):
            continue
        parts += [f"## {title}", *(f"::: deed.{name}" for name in here)]
        if "get_deed_model" in here:
            methods = "".join(f"\n        - {method}" for method in MIXIN)
            options = f"options:\n      inherited_members: true\n      members:{methods}"
            parts.append(f"::: deed.modeling.model.DeedMixin\n    {options}")
    return "\n\n".join(parts) + "\n"
