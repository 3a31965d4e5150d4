"""The report's plots: small panels, each an SVG that takes its colours and font from the page.

matplotlib draws with stand-in colours which are then named as CSS variables, so that one drawing serves the light and
the dark page. Ours; the figures follow what the paper reports (score by stage) and what a reader needs to doubt it.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Role -> colour that matplotlib writes; the page's style sheet gives each role its value, light and dark.
ROLES = ("ink", "muted", "line", "accent")
STUDENTS = ("base", "constant", "swapped", "sft", "grpo", "champion")
POOLS = {"hard": "hard: trained on", "easy": "easy, kept", "dropped": "dropped"}
STAND_INS = {name: f"#0102{number:02x}" for number, name in enumerate((*ROLES, *STUDENTS, *POOLS))}
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "discern",
    "font.size": 11,
    "axes.edgecolor": STAND_INS["line"],
    "axes.labelcolor": STAND_INS["muted"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": STAND_INS["ink"],
    "xtick.color": STAND_INS["muted"],
    "ytick.color": STAND_INS["muted"],
    "grid.color": STAND_INS["line"],
    "grid.linewidth": 0.8,
}
PANEL = (4.1, 2.5)  # inches at 72 dots: 295 x 180 CSS pixels before the page scales it


@dataclass(frozen=True)
class Panel:
    """One plot of a figure: its title, the SVG element, and the same in words for those who cannot see it."""

    title: str
    svg: str
    words: str


def score_panels(
    students: Mapping[str, Mapping[str, Mapping[str, float]]], labels: Mapping[str, str], metrics: Mapping[str, str]
) -> list[Panel]:
    """Score by stage: per metric a dot and its 95 % interval per student.

    students: student -> metric -> {"value", "low", "high"}; labels: student -> name; metrics: metric -> title.
    """
    panels = []
    for metric, title in metrics.items():
        scores = {name: s[metric] for name, s in students.items() if metric in s}
        with _drawing(PANEL[0], 0.62 + 0.27 * len(scores)) as (figure, axes):
            _draw_scores(axes, scores, labels)
            words = "; ".join(
                f"{labels.get(n, n)} {s['value']:.3f}, from {s['low']:.3f} to {s['high']:.3f}"
                for n, s in scores.items()
            )
            panels.append(Panel(title, _svg(figure, f"score-{metric}"), words))
    return panels


def _draw_scores(axes: Axes, scores: Mapping[str, Mapping[str, float]], labels: Mapping[str, str]) -> None:
    ends = [end for s in scores.values() for end in (s["low"], s["high"])]
    axes.set_xlim(min([0.0, *ends]), max([*ends, 1e-3]) * 1.05)
    for row, (name, s) in enumerate(scores.items()):
        colour = STAND_INS.get(name, STAND_INS["ink"])
        interval = [s["low"], s["high"]]
        axes.plot(interval, [row, row], color=colour, alpha=0.45, linewidth=4, solid_capstyle="round", clip_on=False)
        axes.plot(s["value"], row, "o", color=colour, markersize=7, clip_on=False)
        value = f"{s['value']:.2f}".replace("-", "−")
        axes.text(1.04, row, value, transform=axes.get_yaxis_transform(), va="center", ha="left")
    axes.set_yticks(range(len(scores)), [labels.get(name, name) for name in scores])
    axes.set_ylim(len(scores) - 0.5, -0.5)
    axes.tick_params(axis="y", labelcolor=STAND_INS["ink"], pad=8)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=4)


def mos_panels(pairs: Mapping[str, Sequence[tuple[float, float]]], labels: Mapping[str, str]) -> list[Panel]:
    """Predicted against true MOS, a panel per student; pairs: student -> [(true, predicted)], both in [1, 5]."""
    panels = []
    for name, points in pairs.items():
        if not points:
            continue
        true, predicted = np.array(points).T
        with _drawing(3.7, 3.3) as (figure, axes):
            axes.plot([1, 5], [1, 5], color=STAND_INS["muted"], linewidth=1, linestyle=(0, (4, 4)))
            colour = STAND_INS.get(name, STAND_INS["ink"])
            axes.scatter(true, predicted, s=26, color=colour, alpha=0.55, linewidths=0, clip_on=False)
            axes.set(xlim=(0.9, 5.1), ylim=(0.9, 5.1), xlabel="true", ylabel="predicted", aspect="equal")
            axes.set_xticks(range(1, 6))
            axes.set_yticks(range(1, 6))
            axes.grid()
            words = f"{len(points)} answers; mean true {true.mean():.2f}, mean predicted {predicted.mean():.2f}"
            panels.append(Panel(labels.get(name, name), _svg(figure, f"mos-{name}"), words))
    return panels


def history_panels(history: Sequence[Mapping[str, Any]], series: Mapping[str, str]) -> list[Panel]:
    """Curves over GRPO's steps: the raw value faint, its running mean strong; series: key of a history row -> title.

    A share's axis runs from 0 to 1.
    """
    panels = []
    for key, title in series.items():
        points = [(row["step"], row[key]) for row in history if row.get(key) is not None]
        if len(points) < 2:
            continue
        step, value = np.array(points, dtype=float).T
        smooth = _running_mean(value)
        with _drawing(*PANEL) as (figure, axes):
            axes.plot(step, value, color=STAND_INS["accent"], linewidth=1, alpha=0.4)
            axes.plot(step, smooth, color=STAND_INS["accent"], linewidth=2.4)
            axes.set_xlabel("step")
            axes.grid(axis="y")
            axes.locator_params(axis="y", nbins=5)
            axes.locator_params(axis="x", nbins=5, integer=True)
            if key.endswith("_share"):
                axes.set_ylim(-0.02, 1.02)
            words = f"running mean {smooth[0]:.3g} at step {step[0]:.0f}, {smooth[-1]:.3g} at step {step[-1]:.0f}"
            panels.append(Panel(title, _svg(figure, f"history-{key}"), words))
    return panels


def difficulty_panel(rows: Sequence[Mapping[str, Any]]) -> Panel:
    """Mined prompts by pass rate, stacked by the pool they went to; rows of the difficulty table.

    The random control is left out: its prompts stand in the other pools too.
    """
    edges = np.linspace(0, 1, 21)
    bottom = np.zeros(len(edges) - 1)
    counts = {}
    with _drawing(12.6, 2.7) as (figure, axes):
        for pool, label in POOLS.items():
            rates = [row["pass_rate"] for row in rows if row["pool"] == pool]
            if rates:
                heights, _ = np.histogram(rates, edges)
                colour = STAND_INS[pool]
                axes.bar(edges[:-1] + 0.025, heights, 0.044, bottom, color=colour, label=label, linewidth=0)
                bottom, counts[label] = bottom + heights, len(rates)
        axes.set(xlim=(0, 1), xlabel="mean accuracy of the rollouts", ylabel="prompts")
        axes.grid(axis="y")
        axes.tick_params(axis="x", pad=8)
        axes.locator_params(axis="y", integer=True, nbins=5)
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0)
        words = ", ".join(f"{label}: {count}" for label, count in counts.items())
        return Panel("Mined prompts by difficulty", _svg(figure, "difficulty"), words)


@contextlib.contextmanager
def _drawing(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one plot, in inches, in the page's style for as long as it is drawn and written."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), dpi=72, layout="constrained")
        axes = figure.add_subplot()
        axes.tick_params(length=0)
        yield figure, axes


def _running_mean(values: np.ndarray, share: float = 0.15) -> np.ndarray:
    """Mean over a centred window of `share` of the steps (at least three), narrower at the ends."""
    half = max(1, round(len(values) * share / 2))
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def _svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element whose colours are the page's and whose ids are its own. Within `_drawing`."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    prefix = re.sub(r"\W+", "-", name.lower())
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", text)
    for role, colour in STAND_INS.items():
        text = text.replace(colour, f"var(--{role})")
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
