"""The measured teacher's words: what was measured that speaks for a conclusion, and the conclusion.

"Noise 31 is very high at the top left, suggesting severe noise." A number is what was measured in the box, a grade how
many spreads it lies above the typical clean picture: beyond 1 high or low, beyond 2.5 very. Ours, not of a paper.
"""

from __future__ import annotations

from tasks.annotate import typical
from tasks.annotate.evidence import AFFECTED, MEASURED, WHOLE, Box, Evidence, Found
from tasks.media.positions import WHOLE_PICTURE, position_of

_NAMES = {
    "exposure": "brightness",
    "under_share": "black share",
    "over_share": "white share",
    "flatness": "flat share",
    "motion_anisotropy": "directionality",
    "aliasing": "staircase share",
}
_WHOLE_NUMBERS = ("sharpness", "noise", "exposure", "contrast", "colorfulness")
_TELLING_OF_CLEAN = ("sharpness", "blur", "noise", "blockiness", "ringing", "exposure", "contrast")
_HIGH, _VERY_HIGH = 1.0, 2.5  # spreads above the typical clean value


def phrase(one: Found) -> str:
    """Severity and name: "Severe noise"."""
    return f"{one.severity} {one.distortion.lower()}"


def suggesting(observed: str, conclusion: str) -> str:
    """What was observed, and what it suggests, in one sentence."""
    return f"{observed}, suggesting {conclusion}."


def choosing(observed: str, option: str, letter: str) -> str:
    """What was observed, then the option and its letter: a letter never said beside its option is hard to learn."""
    return f"{observed}. {option} {letter}."


def telling(evidence: Evidence, one: Found) -> str:
    """The measurement of its box that speaks most for a distortion."""
    values, above = evidence.mean(one.box)
    expected = dict(zip(MEASURED, typical.MEANS[AFFECTED.index((one.distortion, one.severity)) + 1], strict=True))
    return f"{_graded([max(MEASURED, key=lambda name: above[name] * expected[name])], values, above)}{_where(one.box)}"


def nothing_unusual(evidence: Evidence, box: Box = WHOLE) -> str:
    """The two measurements nearest to those of a clean picture."""
    values, above = evidence.mean(box)
    nearest = sorted(_TELLING_OF_CLEAN, key=lambda name: abs(above[name]))[:2]
    return f"{_graded(nearest, values, above)}{_where(box)}"


def not_seen(evidence: Evidence, distortion: str) -> str:
    """The measurement that a distortion would change most: it was not enough."""
    values, above = evidence.mean(WHOLE)
    expected = dict(zip(MEASURED, typical.MEANS[AFFECTED.index((distortion, "Severe")) + 1], strict=True))
    return _graded([max(MEASURED, key=lambda name: abs(expected[name]))], values, above)


def _graded(names: list[str], values: dict[str, float], above: dict[str, float]) -> str:
    """ "Noise 31 and blur 0.15 are normal", "Noise 31 is high and blur 0.15 low"; one or two names."""
    shown, grades = [_value(name, values) for name in names], [_grade(above[name]) for name in names]
    if len(names) == 1:
        said = f"{shown[0]} is {grades[0]}"
    elif grades[0] == grades[1]:
        said = f"{shown[0]} and {shown[1]} are {grades[0]}"
    else:
        said = f"{shown[0]} is {grades[0]} and {shown[1]} {grades[1]}"
    return said[0].upper() + said[1:]


def _value(name: str, values: dict[str, float]) -> str:
    number = f"{values[name]:.0f}" if name in _WHOLE_NUMBERS else f"{values[name]:.2f}"
    return f"{_NAMES.get(name, name)} {number}"


def _grade(above: float) -> str:
    if abs(above) < _HIGH:
        return "normal"
    return ("very " if abs(above) > _VERY_HIGH else "") + ("high" if above > 0 else "low")


def _where(box: Box) -> str:
    position = position_of(box)
    return "" if position == WHOLE_PICTURE else f" at the {position}"
