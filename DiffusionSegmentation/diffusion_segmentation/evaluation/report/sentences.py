"""What an evaluation says in plain sentences: what holds, what does not, and what these cases do not decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..joint import AGAINST, TITLES
from ..known_answer.samplers import CONTROLS, EXACT, FITTED
from ..pooling import FEWEST_CASES
from .formatting import GATED_SCORES, bounds, number, one_in, percent, shown, span

Sentence = dict[str, str]
FEW_CASES = 20
"""Below so many cases percentile intervals of the bootstrap are too narrow."""
WIDE = 0.2
"""A coverage whose interval is wider than this decides nothing, whatever it holds."""
SHOWN = {"samples": "the samples' mean", "direct": "the direct head"}
TOLERATED_ECE = 0.01
"""So much lower the direct head's calibration error must be for its map to be shown instead of the samples'."""


def of(found: Mapping[str, Any]) -> list[Sentence]:
    """The sentences of an evaluation, each {"verdict", "text"}; see `wording.VERDICTS`."""
    kinds = {"known answer": _known, "synthetic heads": lambda found: _joint(found["joint"])}
    said = kinds.get(found["kind"], _folder)(found)
    cases = found["data"]["cases"]
    if cases < FEWEST_CASES:
        said.append(
            _say("open", f"{_cases(cases)} are too few for intervals over cases; {FEWEST_CASES} are the least.")
        )
    elif cases < FEW_CASES:
        said.append(
            _say("open", f"{_cases(cases)} are few: intervals over cases are too narrow below about {FEW_CASES}.")
        )
    return said


def _say(verdict: str, text: str) -> Sentence:
    return {"verdict": verdict, "text": _capital(text)}


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _known(found: Mapping[str, Any]) -> list[Sentence]:
    rows, titles = found["rows"], found["titles"]
    said = [_row(titles[key], rows[key]) for key in (FITTED, *found["steps"]) if key in rows]
    passing = [titles[key] for key in found["blind"] if key in CONTROLS]
    controls = [titles[key] for key in rows if key in CONTROLS]
    if passing:
        text = f"the wrong samplers are not all found out: {', '.join(passing)} passes; so passing proves nothing here."
        said.append(_say("fails", text))
    elif controls:
        said.append(_say("holds", f"the wrong samplers are found out, each by a gate at least: {', '.join(controls)}."))
    if EXACT in found["blind"]:
        failures = " ".join(rows[EXACT]["failures"])
        said.append(_say("fails", f"the exact sampler itself fails, so these are too few cases or samples: {failures}"))
    else:
        said.append(_say("holds", "the exact sampler, the best that can be, passes every gate."))
    return said + [_say("fact", note) for note in found["notes"]]


def _row(title: str, row: Mapping[str, Any]) -> Sentence:
    """What the gates say of one way to sample."""
    gates, scores = row["gates"], row["scores"]
    told = {name: f"{GATED_SCORES[name]} {shown(scores[name])}, wanted {bounds(name)}" for name in gates}
    failed = [name for name, gate in gates.items() if not gate["passed"]]
    unsure = [name for name, gate in gates.items() if not gate["decided"]]
    if failed:
        what = "; ".join(told[name] + (" (not surely)" if name in unsure else "") for name in failed)
        return _say("fails", f"{title}: fails {len(failed)} of {len(gates)} gates. {_capital(what)}.")
    if unsure:
        what = "; ".join(told[name] for name in unsure)
        return _say("open", f"{title}: within all {len(gates)} gates, but with these cases not surely so for {what}.")
    return _say("holds", f"{title}: passes all {len(gates)} gates. {_capital('; '.join(told.values()))}.")


def _folder(found: Mapping[str, Any]) -> list[Sentence]:
    scores, data = found["scores"], found["data"]
    maps = scores["maps"]
    said = []
    if data["seen_in_training"]:
        said.append(_say("fails", f"evaluated were {data['which']}."))
    if found.get("one_map"):
        said.append(_say("fact", "the samples' exact mean is the direct head: the two maps are one."))
    else:
        said.append(_dice(scores))
    said += _calibration(found)
    said += _coverage(scores["samples"])
    said += _entropy(maps[found["map_source"]], SHOWN[found["map_source"]])
    if not found.get("one_map"):
        said.append(_source(found))
    if data["raters"] > 1:
        raters = scores["samples"]["raters"]
        text = f"GED between {raters['n']} samples and the raters, unbiased: {shown(raters['ged_u'])}; 0 is right."
        low, high = raters["ged_u"]["low"], raters["ged_u"]["high"]
        verdict = (
            "open" if low is None else "holds" if low <= 0.01 and high <= 0.05 else "fails" if low > 0.01 else "open"
        )
        said.append(_say(verdict, text))
    else:
        said.append(_say("open", "one rater a case: whether the samples spread as people disagree is not known here."))
    if "joint" in found:
        said += _joint(found["joint"])
    for name, sentence in data["skipped"].items():
        said.append(_say("fails", f"case {name} was left out: {sentence}"))
    return said


def _joint(found: Mapping[str, Any]) -> list[Sentence]:
    """Whether the truth could be one more sample, by each measure that has a band."""
    said = []
    for name in ("z_rms", "coverage_90", "dice_ratio", "variogram_2mm", "specks"):
        one = found["measures"][name]
        if one["inside"] is None:
            continue
        told = f"{TITLES[name]}: {number(one['value'])}; a perfect sampler scores {span(one)}"
        said.append(_say("holds" if one["inside"] else "fails", f"{told}."))
    for name, one in (found.get("against_copula") or {}).items():
        better = one["value"] is not None and (one["value"] > 0) == (name == "one_sample_dice")
        decided = one["low"] is not None and not one["low"] <= 0 <= one["high"]
        told = f"{AGAINST[name]} of the samples less that of the copula alone: {shown(one)}"
        said.append(_say(("holds" if better else "fails") if decided else "open", f"{told}."))
    if found["blind"]:
        names = ", ".join(TITLES[name] for name in found["blind"])
        said.append(_say("open", f"these cases do not find out the wrong sampler by: {names}."))
    return said


def _dice(scores: Mapping[str, Any]) -> Sentence:
    both = (scores["maps"][source]["dice"] for source in ("samples", "direct"))
    gap = scores["difference"]["dice"]
    told = "mean Dice {} from the samples and {} from the direct head".format(*map(shown, both))
    if gap["low"] is None or gap["low"] <= 0 <= gap["high"]:
        return _say("open", f"{told}: the difference, {shown(gap)}, does not decide which is better.")
    better = "samples'" if gap["value"] > 0 else "direct head's"
    return _say("fact", f"{told}: the {better} is better, difference {shown(gap)}.")


def _calibration(found: Mapping[str, Any]) -> list[Sentence]:
    """Of the samples' maps against their floor, and of the direct head's where these are what a person sees."""
    scores = found["scores"]
    ece, floor = scores["maps"]["samples"]["ece"], scores["ece_floor"]
    of_samples = f"calibration error near the structures, maps of {SHOWN['samples']}: {shown(ece)}"
    direct = []
    if found["map_source"] == "direct":
        own = shown(scores["maps"]["direct"]["ece"])
        direct.append(_say("fact", f"calibration error near the structures, maps of {SHOWN['direct']}: {own}."))
    if floor is None or ece["low"] is None:
        return [*direct, _say("open", f"{of_samples}; these cases do not decide more.")]
    told = (
        f"{of_samples}; from {found['samples']} hard masks a perfect sampler "
        f"would score {number(floor)}, from probabilities such as these at most that"
    )
    return [*direct, _say("holds" if ece["low"] <= floor else "fails", f"{told}.")]


def _coverage(samples: Mapping[str, Any]) -> list[Sentence]:
    if "interval_90" not in samples:
        return [_say("open", "a single sample has no volume intervals.")]
    found = samples["interval_90"]
    told = f"the 90 % volume intervals hold the drawn volume in {percent(found)} of {samples['volumes']} volumes"
    if found["low"] is None:
        return [_say("open", f"{told}; one case does not decide whether that is right.")]
    if found["low"] <= 0.9 <= found["high"]:
        wide = found["high"] - found["low"] > WIDE
        return [
            _say("open", f"{told}; these cases do not decide whether that is right.")
            if wide
            else _say("holds", f"{told}.")
        ]
    what = "narrow" if found["high"] < 0.9 else "wide"
    return [
        _say("fails", f"{told}: they are too {what}. They are the spread of the model's samples, not its accuracy.")
    ]


def _entropy(maps: Mapping[str, Any], whose: str) -> list[Sentence]:
    levels = {tuple(level["bits"]): level["wrong"] for level in maps["levels"] if level["wrong"] is not None}
    told = []
    for (low, high), wrong in levels.items():
        if low in (0.0, 0.4, 1.0):
            told.append(f"at {low:g} to {high:g} bits {one_in(wrong)}")
    said = []
    if told:
        said.append(
            _say("fact", f"voxels near the structures that are wrong, by the entropy of {whose}: {'; '.join(told)}.")
        )
    found = maps["error_auroc"]
    if found["value"] is not None:
        text = f"A wrong voxel is more uncertain than a right one with probability {shown(found)}; 0.5 is chance."
        verdict = "open" if found["low"] is None else "holds" if found["low"] > 0.5 else "fails"
        said.append(_say(verdict, text))
    return said


def _source(found: Mapping[str, Any]) -> Sentence:
    """Whether the model shows the better of its two maps: the samples', unless the direct head's is clearly better."""
    gap, shows = found["scores"]["difference"]["ece"], found["map_source"]
    wanted = "direct" if gap["value"] is not None and gap["value"] > TOLERATED_ECE else "samples"
    told = (
        f"the model shows maps of {SHOWN[shows]}; the samples' calibration error less the direct head's is {shown(gap)}"
    )
    if wanted == shows:
        return _say("fact", f"{told}.")
    return _say("open", f"{told}, which speaks for {SHOWN[wanted]}.")


def _cases(count: int) -> str:
    return "one case" if count == 1 else f"{count} cases"
