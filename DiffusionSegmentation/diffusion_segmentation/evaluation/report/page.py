"""evaluation.html: one page that a person can read, print and pass on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..dataset.cases import SOURCES
from ..known_answer.posterior import LEVELS
from ..known_answer.samplers import CONTROLS, EXACT, FITTED
from ..store import Kept, write_whole
from . import figures, gallery, tables
from . import html as markup
from .formatting import number

DIRECT = next(iter(CONTROLS))

READING_KNOWN = (
    "The exact law of every case's label map is known here, so every score has a right value. The gates are bounds "
    "that a sampler has to keep; wrong samplers made of the same model stand beside it and have to fail them. Voxels "
    "count where the exact probability lies between 2 and 98 %. GED, the squared generalised energy distance, is 0 in"
    " its unbiased form for a perfect sampler, whatever the number of samples; in the published form a perfect "
    "sampler scores the floor below it. Ratios are of sums over cases. Intervals are predictive: where the next "
    "volume falls. The PIT is the randomised rank of the true volume among all samples. E-AURC is how much risk comes"
    " from ranking the cases by their uncertainty instead of by their risk."
)
READING_FOLDER = (
    "Dice is 1 where a structure is in neither map. HD95 is the larger of the two directed 95th percentiles; a "
    "structure that is missed, or found where there is none, counts with the diagonal of the grid. NSD takes surface "
    "elements by area, with the working voxel size as tolerance. Parts (for F1) are connected components; one is "
    "found when the segmentation overlaps it by a voxel or more. 'Near the structures' is within 10 mm of "
    "segmentation or reference. ECE has 15 equal bins over voxels of all cases. Risk is 1 - Dice; E-AURC is what the "
    "best order of the cases would score less. Intervals are predictive; they are the spread of the model's samples, "
    "not its accuracy. With several raters a score is the mean over them."
)


READING_JOINT = (
    "For an honest sampler the true label map is one more sample. The band is what a perfect sampler of as many "
    "samples and cases scores in 99 % of evaluations: a random sample takes the truth's place. Each measure stands "
    "beside a wrong sampler that it must find out. z is (truth - mean) / (s sqrt(1 + 1/n)) of a structure's volume; "
    "CRPS and energy score are lower for better samplers, whatever their band."
)


def write_page(path: Path, found: Mapping[str, Any], records: Mapping[str, Any], kept: Kept) -> None:
    """Write the page; pictures of cases come from what is kept of them. Raises DiffusionSegmentationError."""
    build = {"known answer": _known, "synthetic heads": _heads}.get(found["kind"], _folder)
    title = f"Evaluation of {found['model']['title']}"
    lead = f"On {found['data']['title']}: {found['data']['which']}."
    sections = [("What holds", markup.sentences(found["sentences"])), *build(found, records, kept)]
    sections.append(("What was evaluated", markup.facts(_facts(found))))
    program = found["versions"]["diffusion_segmentation"]
    footer = f"Written by diffusion-segmentation {program}. Research, not for clinical use."
    write_whole(path, markup.page(title, lead, sections, footer).encode("utf-8"))


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    model, data = found["model"], found["data"]
    entries = {
        "model": f"{model['name']}, version {model['version']}",
        "SHA-256 of its weights": model["sha256"],
        "data": f"{data['name']}, {data['cases']} cases",
        "structures": ", ".join(data["labels"]),
        "samples a case": str(found["samples"]),
        "seed": str(found["seed"]),
        "machine": found["machine"],
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    }
    if found["kind"] == "folder":
        entries |= {
            "steps": str(found["steps"]),
            "maps the model shows": SOURCES[found["map_source"]],
            "tolerance of the NSD": f"{found['tolerance_mm']:g} mm",
            "raters": f"{data['raters']} at most",
        }
        for name, sentences in found["warnings"].items():
            entries[f"case {name}"] = " ".join(sentences)
        for name, sentence in data["skipped"].items():
            entries[f"case {name}, left out"] = sentence
    return entries


def _known(found: Mapping[str, Any], records: Mapping[str, Any], kept: Kept) -> list[tuple[str, str]]:
    rows, titles = found["rows"], {**found["titles"], DIRECT: "direct head"}
    joint = {titles[key]: rows[key] for key in (FITTED, *found["steps"], EXACT) if key in rows}
    probable = {titles[key]: rows[key] for key in (FITTED, *found["steps"], DIRECT, EXACT) if key in rows}
    plots = [
        markup.figure(
            figures.reliability({name: row["reliability"] for name, row in probable.items()}),
            "How often the chosen class is right, over its probability; bands are 95 % over cases, below are counts.",
        ),
        markup.figure(
            figures.risk_coverage({name: row["risk_coverage"] for name, row in probable.items()}, "expected 1 - IoU"),
            "Mean risk of the cases that look most certain by their mean entropy.",
        ),
        markup.figure(
            figures.ranks({name: row["ranks"] for name, row in joint.items()}, None),
            "Where true volumes rank among 8 samples: flat is right, a hollow is too little spread, a hump too much.",
        ),
        markup.figure(
            figures.coverage(
                {n: {level: r["scores"][f"interval_{level}"] for level in LEVELS} for n, r in joint.items()}
            ),
            "How many true volumes the predictive intervals from 8 samples hold; bars are 95 % over cases.",
        ),
    ]
    shown = [*tables.known_scores(found), tables.known_cost(found, titles)]
    first = next(iter(rows))
    order = {name: record["rows"][first].get("ged_u", 0.0) for name, record in records.items()}
    strips = _strips(order, kept, "a true answer", None, f"GED of {titles[first]}, unbiased")
    return [
        ("Scores", "".join(map(markup.table, shown))),
        ("Figures", markup.side_by_side(plots)),
        ("Cases", strips),
        ("How to read this", markup.paragraph(READING_KNOWN)),
    ]


def _heads(found: Mapping[str, Any], records: Mapping[str, Any], kept: Kept) -> list[tuple[str, str]]:
    return [("Joint samples", _joint(found["joint"]))]


def _joint(found: Mapping[str, Any]) -> str:
    """Tables of the joint samples, and how to read them."""
    return "".join(map(markup.table, tables.joint(found))) + markup.paragraph(READING_JOINT)


def _folder(found: Mapping[str, Any], records: Mapping[str, Any], kept: Kept) -> list[tuple[str, str]]:
    scores = found["scores"]
    maps = {title: scores["maps"][source] for source, title in SOURCES.items()}
    of = scores["samples"]
    plots = [
        markup.figure(
            figures.reliability({name: one["reliability"] for name, one in maps.items()}),
            "How often a voxel near the structures is right, over its probability; bands are 95 % over cases, below "
            "are the counts.",
        ),
        markup.figure(
            figures.entropy_levels({name: one["levels"] for name, one in maps.items()}),
            "Share of wrong voxels near the structures at each level of entropy.",
        ),
        markup.figure(
            figures.risk_coverage({name: one["risk_coverage"] for name, one in maps.items()}, "1 - Dice"),
            "Mean risk of the cases that look most certain by their mean entropy.",
        ),
        markup.figure(
            figures.ranks({"samples": of["ranks"]}, sum(of["ranks"])),
            "Where the drawn volumes rank among the samples': flat is right, a hollow is too little spread.",
        ),
    ]
    if "interval_90" in of:
        plots.append(
            markup.figure(
                figures.coverage({"samples": {level: of[f"interval_{level}"] for level in LEVELS}}),
                "How many drawn volumes the predictive intervals hold; bars are 95 % over cases.",
            )
        )
    order = {name: record["maps"]["samples"]["risk"] for name, record in records.items()}
    shown = [tables.by_class(found, source, title.capitalize()) for source, title in SOURCES.items()]
    shown += [
        tables.maps(found, SOURCES),
        tables.levels(found, SOURCES),
        tables.samples(found),
        tables.folder_cost(found),
    ]
    return [
        ("Scores", "".join(map(markup.table, shown))),
        ("Joint samples", _joint(found["joint"])),
        ("Figures", markup.side_by_side(plots)),
        ("Cases", _strips(order, kept, "reference", found["colors"], "1 - Dice")),
        ("How to read this", markup.paragraph(READING_FOLDER)),
    ]


def _strips(order: Mapping[str, float], kept: Kept, truth: str, colors: Any, what: str) -> str:
    """Worst, middle and best case by `order`; `what` says what that number is."""
    strips = []
    for word, name in gallery.pick(order).items():
        picture = kept.picture(name)
        if picture:
            caption = f"The {word} case, {name}: {what} {number(order[name])}."
            strips.append(
                markup.figure(
                    gallery.strip(picture, truth, colors), f"{caption} Image, label maps and entropy.", caption
                )
            )
    return "".join(strips)
