"""`report.html` and `report.json` from one results dict (cli/demo_measure.py and its siblings say how it is made).

The page loads nothing from anywhere: charts are matplotlib SVGs, inlined, whose text and colors are the page's own
(CSS variables), so they follow its light or dark mode.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deed.utils.files import atomic_write

from . import depth_colors, depth_runs, threshold_text

# Stand-ins that matplotlib draws with; `_svg` puts the page's colors in their place.
INK, FAINT, ACCENT, PAPER = "#010203", "#010204", "#010205", "#010206"
CSS = {INK: "currentColor", FAINT: "var(--line)", ACCENT: "var(--accent)", PAPER: "var(--card)"}
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "deed",  # the same results give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
}
SHOWN_EXAMPLES = 24


def require_report() -> None:
    """Raises:
    ValueError: matplotlib or jinja2 is missing; says how to get them.
    """
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f'the report needs {error.name}, which is not installed: pip install "deed-transformers[report]"'
        ) from None


def write_report(
    results: dict[str, Any], folder: Path, pictures: Sequence[str] = (), thumbs: Mapping[str, str] | None = None
) -> Path:
    """Write `report.json` and `report.html` into `folder`, each whole or not at all; returns the page's path.

    Args:
        pictures: of `results["pages"]` or `results["scenes"]`, as data URIs; they go into the page only.
        thumbs: small ones for other examples, by `picture`, which these have.

    Raises:
        ValueError: matplotlib or jinja2 is missing.
        OSError: the folder cannot be written.
    """
    files = {
        "report.json": json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.html": render(results, pictures, thumbs),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / "report.html"


def render(results: dict[str, Any], pictures: Sequence[str] = (), thumbs: Mapping[str, str] | None = None) -> str:
    """The page.

    Args:
        results, pictures, thumbs: as for `write_report`.

    Raises:
        ValueError: matplotlib or jinja2 is missing.
    """
    require_report()
    import jinja2
    import matplotlib
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(zip=zip, depth_runs=depth_runs)
    environment.filters.update(pct=percent, change=change, points=points, metric=metric, ms=milliseconds)
    environment.filters.update(threshold=threshold_text)
    with matplotlib.rc_context(STYLE):
        charts = {
            "curve": curve_chart(results) if results["curve"]["points"] else "",
            "histogram": histogram_chart(results),
            "position": position_chart(results),
        }
    examples = results["examples"]
    counted = [e for e in examples if not e["asked"]]
    sheets = results.get("pages") or results.get("scenes") or []
    drawn = {answer["example"] for sheet in sheets for answer in sheet["answers"]}
    others = [e for i, e in enumerate(examples) if i not in drawn and not e["asked"]]
    differing = [e for e in counted if e["tokens"] != e["full_depth_tokens"]]
    return environment.get_template("report.html.j2").render(
        r=results,
        pictures=[*pictures, *[""] * (len(sheets) - len(pictures))],
        thumbs=thumbs or {},
        charts={name: Markup(svg) for name, svg in charts.items()},
        colors=depth_colors(results["n_layers"]),
        asked=[e for e in examples if e["asked"]],
        skipped=len(drawn),
        shown=others[:SHOWN_EXAMPLES],
        differing=differing[:SHOWN_EXAMPLES],
        n_differing=len(differing),
    )


def percent(share: float, digits: int = 1) -> str:
    """`68.3 %`, with a no-break space."""
    return f"{100 * share:.{digits}f}\N{NO-BREAK SPACE}%"


def change(saving: float) -> str:
    """A share saved as a signed change: 0.58 is `−58 %`, -0.03 is `+3 %`."""
    points = round(100 * saving)
    sign = "\N{MINUS SIGN}" if points > 0 else "+" if points < 0 else ""
    return f"{sign}{abs(points)}\N{NO-BREAK SPACE}%"


def points(difference: float, unit: str = " points") -> str:
    """A difference of scores in percentage points: -0.012 is `−1.2 points`."""
    return f"{signed(100 * difference, 1)}{unit}"


def metric(value: float, best: float, unit: str = "\N{NO-BREAK SPACE}%") -> str:
    """A score by a metric of its own: one that ends at 1 in percent, any other as it is: `7.89`.

    Args:
        value: 0..`best`.
        best: the metric's largest value.
        unit: comes behind a percentage.
    """
    return f"{100 * value:.1f}{unit}" if best == 1 else f"{value:.2f}"


def metric_change(difference: float, best: float) -> str:
    """A difference of such scores: `−1.2` (percentage points), `+0.03`."""
    return signed(100 * difference, 1) if best == 1 else signed(difference, 2)


def signed(value: float, digits: int) -> str:
    """`−1.2`, `+0.03`, `0.0`."""
    value = round(value, digits)
    sign = "\N{MINUS SIGN}" if value < 0 else "+" if value > 0 else ""
    return f"{sign}{abs(value):.{digits}f}"


def milliseconds(value: float) -> str:
    """`17 s`, `1.72 s`, `431 ms` or `43.1 ms`."""
    if value >= 1000:
        return f"{value / 1000:.{0 if value >= 100_000 else 2}f}\N{NO-BREAK SPACE}s"
    return f"{value:.{0 if value >= 100 else 1}f}\N{NO-BREAK SPACE}ms"


def curve_chart(results: dict[str, Any]) -> str:
    """Score against decoder time per input, a point per threshold; the one in use and the plain model stand out."""
    curve, chosen, unit = results["curve"], results["deed"]["threshold"], results["unit"]
    figure, axes = _figure(4.0, 3.1)
    full, points = curve["full_depth"], curve["points"]

    def at(row: dict[str, Any]) -> tuple[float, float]:
        return row["decoder_ms"] / curve["timed_inputs"], 100 * row["score"]

    axes.plot(*zip(*map(at, points), strict=True), "-o", color=ACCENT, lw=1.3, ms=4.5, mec=PAPER, mew=0.6)
    axes.plot(*at(full), "s", color=INK, ms=7, mec=PAPER, label="full depth, untouched base class")
    kind = "calibrated" if results["deed"]["threshold_source"] == "calibrated" else "in use"
    for row in points:
        if row["threshold"] == chosen:
            label = f"threshold {threshold_text(chosen)} ({kind})"
            axes.plot(*at(row), "o", color=ACCENT, ms=9, mec=INK, mew=1.2, label=label)
    scores = [at(row)[1] for row in [full, *points]]
    pad = max(1.0, 0.22 * (max(scores) - min(scores)))
    axes.set_ylim(min(scores) - pad, max(scores) + pad)
    axes.set_xlim(0, 1.12 * max(at(row)[0] for row in [full, *points]))
    axes.locator_params(axis="both", nbins=6)
    axes.set_xlabel(f"decoder time per {unit}, ms")
    axes.set_ylabel(f"{results['score_name']}, %")
    axes.legend(frameon=False, fontsize=8.5, loc="lower right")
    figure.draw_without_rendering()  # settles the layout, so that points are where they will be

    def spot_of(row: dict[str, Any]) -> tuple[float, float]:
        x, y = axes.transData.transform(at(row)) * 72 / figure.dpi  # points
        return float(x), float(y)

    taken = {i: (*spot_of(row), 3.0) for i, row in enumerate([*points, full])}  # with half of what is drawn there
    for i, row in enumerate(points):
        if row["threshold"] == chosen:
            continue  # named in the legend
        x, y = spot_of(row)
        text = threshold_text(row["threshold"], short=True)
        half = (5 + 4.6 * len(text)) / 2  # points
        # The curve bends away from the upper left. Where a label would run into a point or another label it is left
        # out: the table beside the chart has them all.
        for dx, dy in ((-half - 3, 5), (0, 10), (0, -10), (half + 3, -5)):
            spot = (x + dx, y + dy)
            others = [place for key, place in taken.items() if key != i]
            if all(abs(spot[0] - x1) > half + wide + 2 or abs(spot[1] - y1) > 9 for x1, y1, wide in others):
                middle = {"ha": "center", "va": "center", "fontsize": 8}
                axes.annotate(text, at(row), (dx, dy), textcoords="offset points", **middle)
                taken[-1 - i] = (*spot, half)
                break
    return _svg(figure, "curve", f"{results['score_name']} against decoder time per {unit}, by threshold")


def histogram_chart(results: dict[str, Any]) -> str:
    """Share of tokens per depth."""
    counts, n_layers = results["depth_histogram"], results["n_layers"]
    figure, axes = _figure(4.0, 2.4)
    shares = [100 * count / max(1, sum(counts)) for count in counts]
    bars = axes.bar(
        range(1, n_layers + 1), shares, width=0.78, color=[f"#0201{d:02x}" for d in range(1, n_layers + 1)]
    )
    axes.bar_label(bars, [f"{s:.0f}" if s >= 0.5 or s == 0 else f"{s:.1f}" for s in shares], padding=2, fontsize=8.5)
    axes.margins(y=0.12)
    axes.set_xticks(range(1, n_layers + 1))
    axes.set_xlabel("decoder layers run for the token")
    axes.set_ylabel("tokens, %")
    axes.grid(axis="x", visible=False)
    return _svg(figure, "histogram", "Share of tokens by exit depth")


def position_chart(results: dict[str, Any]) -> str:
    """Mean depth by position in the answer, as far as five answers reach."""
    rows = results["depth_by_position"]
    rows = [row for row in rows if row["tokens"] >= 5] or rows
    figure, axes = _figure(4.0, 2.4)
    x, y = [row["position"] for row in rows], [row["mean_depth"] for row in rows]
    axes.fill_between(x, 0, y, color=ACCENT, alpha=0.16, lw=0)
    axes.plot(x, y, "-o", color=ACCENT, lw=1.5, ms=4, mec=PAPER, mew=0.6)
    mean = results["deed"]["mean_depth"]
    axes.axhline(mean, color=INK, lw=0.8, ls=(0, (3, 3)), label=f"all tokens: {mean:.2f}")
    axes.legend(frameon=False, fontsize=8.5, loc="upper right")
    axes.set_ylim(0, results["n_layers"] * 1.02)
    axes.set_xticks(x[:: 1 + len(x) // 13])
    axes.set_xlabel("position of the token in the answer")
    axes.set_ylabel("mean depth, layers")
    return _svg(figure, "position", "Mean exit depth by position in the answer")


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    # Small on purpose: drawn at this width on a phone and enlarged elsewhere, so its text never gets too small.
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.grid(True, axis="both")
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Any, name: str, title: str) -> str:
    """The figure as an `<svg>` element for the page: its colors, its font, ids of its own, no namespaces to look up."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for color, css in CSS.items():
        text = text.replace(color, css)
    text = re.sub(r"#0201([0-9a-f]{2})", lambda m: f"var(--d{int(m[1], 16)})", text)
    head = re.compile(r'<svg[^>]*?viewBox="([^"]*)"[^>]*>')
    label = f'<svg viewBox="{{}}" role="img" aria-labelledby="{name}-title"><title id="{name}-title">{title}</title>'
    return head.sub(lambda m: label.format(m[1]), text, count=1)
