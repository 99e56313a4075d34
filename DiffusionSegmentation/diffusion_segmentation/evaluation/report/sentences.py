"""The results of an evaluation as sentences, each with one claim, one verdict and one number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...metrics import GATES
from ...metrics.joint import LAGS, variogram_key
from ...runtime.units import VOLUMES, Units
from ..joint import paired_scores, titles
from ..known_answer.samplers import CONTROLS, EXACT, FITTED
from ..pooling import FEWEST_CASES, above
from .formatting import GATED_SCORES, finer_digits, number, one_in, percent, shown, span

Sentence = tuple[str, str]  # verdict, a key of `formatting.VERDICTS`, and text

FEW_CASES = 20  # percentile bootstrap intervals are too narrow below this number of cases
WIDE = 0.2  # a coverage with a wider interval is not decided
MAP_NAMES = {"samples": "samples", "direct": "direct head"}
TOLERATED_ECE = 0.01
"""The samples' ECE may exceed the direct head's by this much before the direct head's map is the better choice."""


def evaluation_sentences(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """The sentences of an evaluation, each {"verdict", "text"}; see `formatting.VERDICTS`."""
    kinds = {"known answer": _known, "synthetic heads": lambda evaluation: _joint(evaluation["joint"])}
    sentences = [*kinds.get(evaluation["kind"], _folder)(evaluation), *_few_cases(evaluation["data"]["cases"])]
    return [{"verdict": verdict, "text": text[0].upper() + text[1:]} for verdict, text in sentences]


def _few_cases(cases: int) -> Iterator[Sentence]:
    count = "1 case is" if cases == 1 else f"{cases} cases are"
    if cases < FEWEST_CASES:
        yield "open", f"{count} too few for intervals; the minimum is {FEWEST_CASES}."
    elif cases < FEW_CASES:
        yield "open", f"{count} few: intervals are too narrow below about {FEW_CASES} cases."


def _known(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    rows, titles, blind = evaluation["rows"], evaluation["titles"], evaluation["blind"]
    for key in (FITTED, *evaluation["steps"]):
        if key in rows:
            yield from _gates(titles[key], rows[key])
    for key in CONTROLS:
        if key in blind:
            yield "fails", f"wrong sampler '{titles[key]}': passes all gates, so that passing them proves nothing here."
        elif key in rows:
            failed = sum(not gate["passed"] for gate in rows[key]["gates"].values())
            gates = "1 gate" if failed == 1 else f"{failed} gates"
            yield "holds", f"wrong sampler '{titles[key]}': detected by {gates}."
    if EXACT in blind:
        failures = " ".join(rows[EXACT]["failures"])
        yield "fails", f"the exact sampler fails, so there are too few cases or samples: {failures}"
    else:
        yield "holds", "the exact sampler passes every gate."
    for note in evaluation["notes"]:
        yield "fact", note


def _gates(title: str, row: Mapping[str, Any]) -> Iterator[Sentence]:
    """One sentence for each gate that a row fails or may fail; one if it surely passes all of them."""
    unsure = {name: gate for name, gate in row["gates"].items() if not gate["passed"] or not gate["decided"]}
    for name, gate in unsure.items():
        text = f"{title}: {GATED_SCORES[name]} {shown(row['scores'][name])}, required {GATES[name].bounds}"
        undecided = "" if gate["decided"] else "; not certain with these cases"
        yield "open" if gate["passed"] else "fails", f"{text}{undecided}."
    if not unsure:
        yield "holds", f"{title}: passes all {len(row['gates'])} gates."


def _folder(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    scores, data, source = evaluation["scores"], evaluation["data"], evaluation["map_source"]
    units = Units(evaluation["unit"])
    if data["seen_in_training"]:
        yield "fails", f"evaluated on {data['which']}."
    if evaluation.get("one_map"):
        yield "fact", "the exact mean of the samples is the direct head's map; there is only one map."
    else:
        yield from _dice(scores)
    yield from _calibration(evaluation)
    yield _coverage(scores["samples"], units)
    yield from _entropy(scores["maps"][source], MAP_NAMES[source], units)
    if not evaluation.get("one_map"):
        yield _source(scores["difference"]["ece"], source)
    if data["raters"] > 1:
        yield _raters(scores["samples"]["raters"])
    else:
        yield "open", "one rater per case: the variability between raters is unknown."
    if "joint" in evaluation:
        yield from _joint(evaluation["joint"], units, finer_digits(evaluation))
    for name, error in data["skipped"].items():
        yield "fails", f"case {name} was skipped: {error}"


def _dice(scores: Mapping[str, Any]) -> Iterator[Sentence]:
    for source, name in MAP_NAMES.items():
        yield "fact", f"mean Dice of the {name}: {shown(scores['maps'][source]['dice'])}."
    gap = scores["difference"]["dice"]
    text, samples_better = f"mean Dice, samples minus direct head: {shown(gap)}", above(gap)
    if samples_better is None:
        yield "open", f"{text}; these cases do not decide which is better."
    else:
        yield "fact", f"{text}; the {MAP_NAMES['samples' if samples_better else 'direct']} is better."


def _calibration(evaluation: Mapping[str, Any]) -> Iterator[Sentence]:
    """ECE of the samples' map against its floor, and of the direct head's map if the model shows that one."""
    scores = evaluation["scores"]
    texts = {s: f"ECE near the structures, {name}: {shown(scores['maps'][s]['ece'])}" for s, name in MAP_NAMES.items()}
    if evaluation["map_source"] == "direct":
        yield "fact", f"{texts['direct']}."
    low, floor = scores["maps"]["samples"]["ece"]["low"], scores["ece_floor"]
    if floor is None or low is None:
        yield "open", f"{texts['samples']}; these cases do not decide whether it is too high."
    else:
        perfect = f"a perfect sampler with {evaluation['samples']} samples: at most {number(floor)}"
        yield "holds" if low <= floor else "fails", f"{texts['samples']}; {perfect}."


def _coverage(samples: Mapping[str, Any], units: Units) -> Sentence:
    if "interval_90" not in samples:
        return "open", f"one sample per case: there are no {units.what} intervals."
    coverage = samples["interval_90"]
    low, high = coverage["low"], coverage["high"]
    text = f"coverage of the 90 % {units.what} intervals: {percent(coverage)} of {samples['volumes']} {units.what}s"
    if low is None or (low <= 0.9 <= high and high - low > WIDE):
        return "open", f"{text}; more cases are needed to decide."
    if low <= 0.9 <= high:
        return "holds", f"{text}."
    return "fails", f"{text}; the intervals are too {'narrow' if high < 0.9 else 'wide'}."


def _entropy(maps: Mapping[str, Any], name: str, units: Units) -> Iterator[Sentence]:
    """Share of wrong voxels at three levels of entropy, and the AUROC of the entropy."""
    for level in maps["levels"]:
        low, high = level["bits"]
        if low in (0.0, 0.4, 1.0) and level["wrong"] is not None:
            text = f"wrong {units.cell}s near the structures at {low:g} to {high:g} bits ({name})"
            yield "fact", f"{text}: {one_in(level['wrong'])}."
    auroc = maps["error_auroc"]
    if auroc["value"] is not None:
        verdict = "open" if auroc["low"] is None else "holds" if auroc["low"] > 0.5 else "fails"
        yield verdict, f"AUROC of entropy for wrong {units.cell}s ({name}): {shown(auroc)}; chance is 0.5."


def _source(gap: Mapping[str, Any], source: str) -> Sentence:
    """Whether the model shows the better map: the samples' unless the direct head is clearly better calibrated."""
    better = "direct" if gap["value"] is not None and gap["value"] > TOLERATED_ECE else "samples"
    text = f"ECE, samples minus direct head: {shown(gap)}; the model shows the map of the {MAP_NAMES[source]}"
    if better == source:
        return "fact", f"{text}."
    return "open", f"{text}, but the {MAP_NAMES[better]} would be the better choice."


def _raters(raters: Mapping[str, Any]) -> Sentence:
    ged = raters["ged_u"]
    undecided = ged["low"] is None or (ged["low"] <= 0.01 and ged["high"] > 0.05)
    verdict = "open" if undecided else "holds" if ged["low"] <= 0.01 else "fails"
    return verdict, f"GED between {raters['n']} samples and the raters, unbiased: {shown(ged)}; a perfect sampler: 0."


def _joint(scores: Mapping[str, Any], units: Units = VOLUMES, finer: int = 0) -> Iterator[Sentence]:
    """Whether the samples are distributed as the truth, by each measure that has a band."""
    names, shortest_lag = titles(units), variogram_key(LAGS[0], units.suffix)
    for name in ("z_rms", "coverage_90", "dice_ratio", shortest_lag, "specks"):
        one = scores["measures"][name]
        if one["inside"] is not None:
            verdict = "holds" if one["inside"] else "fails"
            yield verdict, f"{names[name]}: {number(one['value'])}; perfect sampler: {span(one)}."
    for name, one in (scores.get("against_copula") or {}).items():
        larger = above(one)
        verdict = "open" if larger is None else "holds" if larger == (name == "one_sample_dice") else "fails"
        digits = 3 + 2 * finer * (name == units.key("crps"))
        yield verdict, f"{paired_scores(units)[name]}, samples minus copula alone: {shown(one, digits)}."
    for name in scores["blind"]:
        yield "open", f"{names[name]}: does not detect the wrong sampler on these cases."
