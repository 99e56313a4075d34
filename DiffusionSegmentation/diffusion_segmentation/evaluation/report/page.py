"""evaluation.html: the report of an evaluation on one printable page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...runtime.units import Units
from ..dataset.cases import SOURCES
from ..known_answer.posterior import LEVELS
from ..known_answer.samplers import DIRECT, EXACT, FITTED
from ..store import CaseStore, write_bytes
from . import figures, tables
from . import html as markup
from .formatting import finer_digits, number

# In these texts {voxel}, {volume} and so on are filled in by `_worded`.
READING_KNOWN = (
    "The exact posterior of every case is known, so every score has a right value. Gates are bounds that a sampler "
    "must keep; wrong samplers made from the same model must fail them. Voxels count where the exact probability lies "
    "between 2 and 98 %. GED is the squared generalised energy distance. Its unbiased form is 0 for a perfect sampler "
    "at any number of samples; with self-pairs a perfect sampler scores the floor below it. Ratios are ratios of sums "
    "over cases. Intervals are predictive: they contain the next volume with the given probability. PIT is the "
    "randomised rank of the true volume among all samples. E-AURC is the excess risk from ranking cases by their "
    "uncertainty instead of by their risk."
)
READING_FOLDER = (
    "Dice is 1 for a structure that is in neither map. HD95 is the larger of the two directed 95th percentiles; a "
    "missed or false structure scores the diagonal of the grid. NSD weights elements of surfaces and contours by size; "
    "its tolerance is the working {voxel} size. Lesion-wise F1 counts connected components; one {voxel} of overlap is "
    "a detection. 'Near the structures' is within {near} of segmentation or reference. ECE has 15 equal-width bins "
    "over the {voxel}s of all cases. Risk is 1 - Dice; E-AURC is the AURC minus that of the best order of the cases. "
    "Intervals are predictive; they are the spread of the model's samples, not its accuracy. With several raters a "
    "score is the mean over them."
)
READING_JOINT = (
    "For a perfect sampler the true label map is exchangeable with the samples. The band contains the scores of a "
    "perfect sampler with as many samples and cases in 99 % of evaluations; it comes from random samples in the place "
    "of the truth. Each measure must detect a wrong sampler. z is (truth - mean) / (s sqrt(1 + 1/n)) of the {volume} "
    "of a structure. CRPS and energy score are lower for better samplers, whatever their band."
)
WORKING_PIXELS = " Working pixels, of {spacing} {length}, are those of the grid on which the model sees pictures."
RELIABILITY = "Accuracy over the probability of the chosen class; bands: 95 % over cases; below: {voxel} counts."
RISK_COVERAGE = "Mean risk of the most confident cases by mean entropy."

Sections = list[tuple[str, str]]


def write_page(path: Path, evaluation: Mapping[str, Any], records: Mapping[str, Any], store: CaseStore) -> None:
    """Write the page; pictures of cases come from the store. Raises DiffusionSegmentationError."""
    build = {"known answer": _known, "synthetic heads": _heads}.get(evaluation["kind"], _folder)
    title = f"Evaluation of {evaluation['model']['title']}"
    lead = f"On {evaluation['data']['title']}: {evaluation['data']['which']}."
    sections = [("Results", markup.sentences(evaluation["sentences"])), *build(evaluation, records, store)]
    sections.append(("Evaluation", markup.facts(_facts(evaluation))))
    program = evaluation["versions"]["diffusion_segmentation"]
    footer = f"Written by diffusion-segmentation {program}. Research, not for clinical use."
    write_bytes(path, markup.page(title, lead, sections, footer).encode("utf-8"))


def _facts(evaluation: Mapping[str, Any]) -> dict[str, str]:
    model, data = evaluation["model"], evaluation["data"]
    entries = {
        "model": f"{model['name']}, version {model['version']}",
        "SHA-256 of the weights": model["sha256"],
        "data": f"{data['name']}, {data['cases']} cases",
        "structures": ", ".join(data["labels"]),
        "samples per case": str(evaluation["samples"]),
        "seed": str(evaluation["seed"]),
        "machine": evaluation["machine"],
        "versions": ", ".join(f"{name} {version}" for name, version in evaluation["versions"].items()),
    }
    if evaluation["kind"] == "folder":
        entries |= {
            "steps": str(evaluation["steps"]),
            "maps shown by the model": SOURCES[evaluation["map_source"]],
            "tolerance of the NSD": f"{_working_spacing(evaluation):g} {Units(evaluation['unit']).length}",
            "raters per case, at most": str(data["raters"]),
            **{f"case {name}": " ".join(warnings) for name, warnings in evaluation["warnings"].items()},
            **{f"case {name}, skipped": error for name, error in data["skipped"].items()},
        }
    return entries


def _working_spacing(evaluation: Mapping[str, Any]) -> float:
    """In mm or pixels."""
    return evaluation[f"tolerance_{Units(evaluation['unit']).length}"]


def _worded(text: str, evaluation: Mapping[str, Any]) -> str:
    """A text with the words of the evaluation's units, and for pictures a sentence on the pixels of the grid."""
    units = Units(evaluation.get("unit", "ml"))
    near = "10 working pixels" if units.is_area else "10 mm"
    spacing = ""
    if "{near}" in text and units.is_area:
        text, spacing = text + WORKING_PIXELS, f"{_working_spacing(evaluation):g}"
    return text.format(voxel=units.cell, volume=units.what, length=units.length, near=near, spacing=spacing)


def _known(evaluation: Mapping[str, Any], records: Mapping[str, Any], store: CaseStore) -> Sections:
    rows, titles = evaluation["rows"], {**evaluation["titles"], DIRECT: "direct head"}
    sampling = {titles[key]: rows[key] for key in (FITTED, *evaluation["steps"], EXACT) if key in rows}
    probable = {titles[key]: rows[key] for key in (FITTED, *evaluation["steps"], DIRECT, EXACT) if key in rows}
    coverages = {n: {level: r["scores"][f"interval_{level}"] for level in LEVELS} for n, r in sampling.items()}
    plots = {
        _worded(RELIABILITY, evaluation): figures.reliability(_each(probable, "reliability")),
        RISK_COVERAGE: figures.risk_coverage(_each(probable, "risk_coverage"), "expected 1 - IoU"),
        "Ranks of true volumes among 8 samples; flat for a perfect sampler, U-shaped for too little spread.": (
            figures.ranks(_each(sampling, "ranks"), None)
        ),
        "Coverage of predictive intervals from 8 samples; bars: 95 % over cases.": figures.coverage(coverages),
    }
    first, cost, caption = next(iter(rows)), evaluation["cost"], f"Cost of a case with {evaluation['samples']} samples"
    costs = {titles[key]: row for key, row in cost["rows"].items() if key in rows}
    order = {name: record["rows"][first].get("ged_u", 0.0) for name, record in records.items()}
    return [
        ("Scores", _tables(*tables.known_scores(evaluation), tables.cost(caption, costs, cost["memory_bytes"], 3))),
        ("Figures", markup.side_by_side(plots)),
        ("Cases", _cases(order, store, "a true label map", None, f"GED of {titles[first]}, unbiased")),
        ("Definitions", markup.paragraph(READING_KNOWN)),
    ]


def _heads(evaluation: Mapping[str, Any], records: Mapping[str, Any], store: CaseStore) -> Sections:
    units = Units(evaluation.get("unit", "ml"))
    shown = _tables(*tables.joint(evaluation["joint"], units, finer_digits(evaluation)))
    return [("Joint samples", shown + markup.paragraph(_worded(READING_JOINT, evaluation)))]


def _folder(evaluation: Mapping[str, Any], records: Mapping[str, Any], store: CaseStore) -> Sections:
    maps = {title: evaluation["scores"]["maps"][source] for source, title in SOURCES.items()}
    samples, cost, units = evaluation["scores"]["samples"], evaluation["cost"], Units(evaluation["unit"])
    levels = figures.entropy_levels(_each(maps, "levels"), units)
    ranks = figures.ranks({"samples": samples["ranks"]}, sum(samples["ranks"]), units)
    plots = {
        _worded(RELIABILITY, evaluation): figures.reliability(_each(maps, "reliability"), units),
        f"Share of wrong {units.cell}s near the structures by entropy.": levels,
        RISK_COVERAGE: figures.risk_coverage(_each(maps, "risk_coverage"), "1 - Dice"),
        f"Ranks of reference {units.what}s among the samples; flat for a perfect sampler, U-shaped for too little "
        "spread.": ranks,
    }
    if "interval_90" in samples:
        coverages = {"samples": {level: samples[f"interval_{level}"] for level in LEVELS}}
        plots["Coverage of predictive intervals; bars: 95 % over cases."] = figures.coverage(coverages)
    order = {name: record["maps"]["samples"]["risk"] for name, record in records.items()}
    shown = [
        *(tables.by_class(evaluation, source, title.capitalize()) for source, title in SOURCES.items()),
        tables.maps(evaluation, SOURCES),
        tables.levels(evaluation, SOURCES),
        tables.samples(evaluation),
        tables.cost("Cost of a case", {"with reading and writing": cost}, cost["memory_bytes"], 1),
    ]
    return [
        ("Scores", _tables(*shown)),
        *_heads(evaluation, records, store),
        ("Figures", markup.side_by_side(plots)),
        ("Cases", _cases(order, store, "reference", evaluation["colors"], "1 - Dice")),
        ("Definitions", markup.paragraph(_worded(READING_FOLDER, evaluation))),
    ]


def _each(rows: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, Any]:
    """One entry of every row, by name."""
    return {name: row[key] for name, row in rows.items()}


def _tables(*shown: tables.Table) -> str:
    return "".join(map(markup.table, shown))


def _cases(order: Mapping[str, float], store: CaseStore, truth: str, colors: Any, score: str) -> str:
    """Worst, median and best case by the numbers in `order`; `score` names these numbers."""
    strips = []
    for word, name in figures.pick_cases(order).items():
        picture = store.picture(name)
        if picture:
            caption = f"The {word} case, {name}: {score} {number(order[name])}."
            image = figures.case_strip(picture, truth, colors)
            strips.append(markup.figure(image, f"{caption} Image, label maps and entropy.", caption))
    return "".join(strips)
