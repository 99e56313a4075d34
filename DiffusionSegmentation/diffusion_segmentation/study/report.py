"""The report of a study: one page that needs nothing from elsewhere, and the numbers and pictures behind it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.report import html as markup
from ..evaluation.store import write_whole
from ..images.writing import write_report
from . import markdown
from .findings import Findings, listed
from .question import Question

READING = (
    "All networks had the same training time. A score stands as the mean over the seeds; its interval reaches over the "
    "95 % bootstrap intervals over test cases of every seed, and a difference is decided only where every seed decides "
    "it the same way. ECE counts voxels that the exact law leaves open between 2 and 98 % (in a folder, voxels near "
    "the structures). GED is the squared generalised energy distance in its unbiased form, 0 for a perfect sampler; "
    "against a single rater it is the energy score up to a constant factor, and only differences mean anything. 90 % "
    "coverage is the share of true volumes whose rank among 8 samples lies in the middle 90 %. The volume variance "
    "ratio is 1 where samples spread as the truth does. E-AURC is 0 where the uncertainty ranks the cases perfectly. "
    "Intervals do not allow for looking at many scores at once."
)

TITLE = "A study of diffusion segmentation"
FOOTER = "Questions after Öttl et al., Analysing Diffusion Segmentation for Medical Images, arXiv 2403.14440."
CLAIMS_TITLE = "The paper's claims on this data"
CLAIMS = (
    "Claims of Öttl et al., some of them known from a summary only, and whether they hold for these tasks and networks."
)


def write(output: Path, facts: Mapping[str, Any], findings: Mapping[Question, Findings]) -> dict[str, Any]:
    """Write study.html, study.md, study.json and figures/; returns what study.json holds."""
    said = {
        "facts": dict(facts),
        "questions": {
            question.key: {
                "title": question.title,
                "sentences": found.sentences,
                "numbers": found.numbers,
                "figures": [f"figures/{figure.name}.png" for figure in found.figures],
            }
            for question, found in findings.items()
        },
    }
    for found in findings.values():
        for figure in found.figures:
            write_whole(output / "figures" / f"{figure.name}.png", figure.png)
            write_whole(output / "figures" / f"{figure.name}.csv", _csv(figure.rows))
    write_report(output / "study.json", said)
    write_whole(output / "study.md", _markdown(facts, findings).encode("utf-8"))
    write_whole(output / "study.html", _page(facts, findings).encode("utf-8"))
    return said


def text(said: Mapping[str, Any], output: Path) -> str:
    """The sentences for a terminal, and where the report is."""
    lines = []
    for key, question in said["questions"].items():
        lines += [f"{key} {question['title']}", *(f"  {_mark(s)} {s['text']}" for s in question["sentences"])]
    return "\n".join([*lines, f"The report is {output / 'study.html'}"])


def _mark(sentence: Mapping[str, str]) -> str:
    return markup.MARKS[sentence["verdict"]]


def _page(facts: Mapping[str, Any], findings: Mapping[Question, Findings]) -> str:
    claims = _claims(findings)
    sections = [(CLAIMS_TITLE, markup.paragraph(CLAIMS) + markup.sentences(claims))] if claims else []
    for question, found in findings.items():
        content = markup.paragraph(question.why)
        content += "".join(markup.figure(f.png, f.caption) for f in found.figures)
        content += markup.sentences(found.sentences)
        content += "".join(markup.table(table) for table in found.tables)
        sections.append((_heading(question), content))
    sections.append(("How to read this", markup.paragraph(READING)))
    sections.append(("What was done", markup.facts(_facts(facts))))
    return markup.page(TITLE, _lead(facts), sections, FOOTER)


def _markdown(facts: Mapping[str, Any], findings: Mapping[Question, Findings]) -> str:
    claims = _claims(findings)
    sections = [(CLAIMS_TITLE, [CLAIMS, markdown.sentences(claims)])] if claims else []
    for question, found in findings.items():
        blocks = [markdown.escape(question.why)]
        blocks += [markdown.figure(f"figures/{f.name}.png", f.caption) for f in found.figures]
        blocks += [markdown.sentences(found.sentences), *(markdown.table(table) for table in found.tables)]
        sections.append((_heading(question), blocks))
    sections.append(("How to read this", [markdown.escape(READING)]))
    sections.append(("What was done", [markdown.facts(_facts(facts))]))
    return markdown.page(TITLE, _lead(facts), sections, FOOTER)


def _heading(question: Question) -> str:
    numbered = question.key[1:].isdigit()  # A1 is worth saying, "architectures" the title says
    return f"{question.key}. {question.title}" if numbered else question.title


def _claims(findings: Mapping[Question, Findings]) -> list[dict[str, Any]]:
    return [sentence for found in findings.values() for sentence in found.sentences if sentence["claim"]]


def _lead(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['networks']} networks of {facts['minutes_an_arm']:g} minutes each on {listed(list(facts['data']))}; "
        f"{facts['seeds']} seeds. What holds here holds for this data and this training time."
    )


def _facts(facts: Mapping[str, Any]) -> dict[str, str]:
    said = {
        "command": facts["command"],
        "machine": facts["machine"],
        "time taken": f"{facts['minutes_taken']:g} min of {facts['budget_minutes']:g}",
        "samples a case": str(facts["samples"]),
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    }
    for name, data in facts["data"].items():
        kind = "with a known answer" if data["known_answer"] else "with raters' masks"
        shape = "x".join(map(str, data["shape"]))
        said[name] = f"{data['test_cases']} test cases of {shape} voxels {kind}: {', '.join(data['structures'])}"
    return said


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().encode("utf-8")
