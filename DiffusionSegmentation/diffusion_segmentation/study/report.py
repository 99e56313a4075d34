"""The report of a study: a self-contained HTML page, the same as Markdown, and the numbers and figures behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..evaluation.report import html
from ..evaluation.store import write_bytes, write_rows
from ..images.writing import write_report
from . import markdown
from .question import Question
from .summary import Figure, Summary, join

READING = (
    "All networks were trained for the same time; where several share a GPU, those that ran beside fewer others had "
    "more iterations. Scores are means over the seeds. An interval spans the 95 % "
    "bootstrap intervals of all seeds over the test cases. A difference is decided only if every seed decides it the "
    "same way. Intervals are not corrected for the number of scores. ECE is computed over voxels whose exact "
    "probability lies between 2 and 98 %; in a folder over voxels near the structures. GED is the squared generalised "
    "energy distance in its unbiased form, 0 for a perfect sampler; with a single rater it is the energy score up to a "
    "constant, and only differences are meaningful. 90 % coverage is the share of true volumes whose rank among 8 "
    "samples lies in the middle 90 %. The volume variance ratio is 1 for a perfect sampler. E-AURC is 0 if the "
    "uncertainty ranks the cases perfectly."
)

TITLE = "A study of diffusion segmentation"
FOOTER = "Questions after Öttl et al., Analysing Diffusion Segmentation for Medical Images, arXiv 2403.14440."
CLAIMS_TITLE = "The paper's claims on this data"
CLAIMS = "Claims of Öttl et al., some of them known from a summary only, tested on these tasks and networks."


def write(output: Path, facts: Mapping[str, Any], summaries: Mapping[Question, Summary]) -> dict[str, Any]:
    """Write study.html, study.md, study.json and figures/; returns the content of study.json."""
    content = {
        "facts": dict(facts),
        "questions": {
            question.key: {
                "title": question.title,
                "sentences": summary.sentences,
                "numbers": summary.numbers,
                "figures": [_path(figure) for figure in summary.figures],
            }
            for question, summary in summaries.items()
        },
    }
    for summary in summaries.values():
        for figure in summary.figures:
            write_bytes(output / _path(figure), figure.png)
            write_rows((output / _path(figure)).with_suffix(".csv"), figure.rows)
    write_report(output / "study.json", content)
    write_bytes(output / "study.md", _page(markdown, "\n\n", facts, summaries).encode("utf-8"))
    write_bytes(output / "study.html", _page(html, "", facts, summaries).encode("utf-8"))
    return content


def text(content: Mapping[str, Any], output: Path) -> str:
    """The sentences for a terminal, and the path of the report."""
    lines = []
    for key, question in content["questions"].items():
        lines.append(f"{key} {question['title']}")
        lines += [f"  {html.MARKS[sentence['verdict']]} {sentence['text']}" for sentence in question["sentences"]]
    return "\n".join([*lines, f"The report is {output / 'study.html'}"])


def _page(markup: ModuleType, separator: str, facts: Mapping[str, Any], summaries: Mapping[Question, Summary]) -> str:
    """The page as HTML or Markdown; `markup` is the module that builds its parts."""

    def show(figure: Figure) -> str:
        source = figure.png if markup is html else _path(figure)
        return markup.figure(source, figure.caption)

    claims = [sentence for summary in summaries.values() for sentence in summary.sentences if sentence["claim"]]
    sections = [(CLAIMS_TITLE, [markup.paragraph(CLAIMS), markup.sentences(claims)])] if claims else []
    for question, summary in summaries.items():
        blocks = [markup.paragraph(question.why), *map(show, summary.figures)]
        blocks += [markup.sentences(summary.sentences), *map(markup.table, summary.tables)]
        numbered = question.key[1:].isdigit()  # A1, but not "architectures"
        sections.append((f"{question.key}. {question.title}" if numbered else question.title, blocks))
    sections.append(("How to read this", [markup.paragraph(READING)]))
    sections.append(("What was done", [markup.facts(_facts(facts))]))
    lead = (
        f"{facts['networks']} networks of {facts['minutes_an_arm']:g} minutes each on {join(list(facts['data']))}; "
        f"{facts['seeds']} seeds. The results hold for this data and this training time."
    )
    return markup.page(TITLE, lead, [(heading, separator.join(blocks)) for heading, blocks in sections], FOOTER)


def _facts(facts: Mapping[str, Any]) -> dict[str, str]:
    entries = {
        "command": facts["command"],
        "machine": facts["machine"],
        "iterations": "; ".join(f"{form} {low} to {high}" for form, (low, high) in facts["iterations"].items()),
        "time taken": f"{facts['minutes_taken']:g} min of {facts['budget_minutes']:g}",
        "samples per case": str(facts["samples"]),
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    }
    for name, data in facts["data"].items():
        kind = "with a known answer" if data["known_answer"] else "with raters' masks"
        shape = "x".join(map(str, data["shape"]))
        inputs = f"; inputs {join(data['inputs'])}" if len(data["inputs"]) > 1 else ""
        structures = ", ".join(data["structures"])
        entries[name] = f"{data['test_cases']} test cases of {shape} voxels {kind}: {structures}{inputs}"
    return entries


def _path(figure: Figure) -> str:
    return f"figures/{figure.name}.png"
