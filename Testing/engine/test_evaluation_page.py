"""Sentences, tables and figures of an evaluation."""

import copy
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from diffusion_segmentation.evaluation import pooling
from diffusion_segmentation.evaluation.report import figures, sentences, tables
from diffusion_segmentation.evaluation.report import html as markup
from diffusion_segmentation.evaluation.report.formatting import number, one_in, percent, shown
from diffusion_segmentation.evaluation.report.tables import Cell, Table

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(figures, "DPI", 30)
    monkeypatch.setattr(pooling, "RESAMPLES", 20)


def about(value, reach=0.02):
    return {"value": value, "low": value - reach, "high": value + reach}


@pytest.fixture
def folder():
    """As much of a folder's evaluation as the sentences read: fifty cases of one rater, everything in order."""
    maps = {
        "dice": about(0.9),
        "ece": about(0.03),
        "error_auroc": {**about(0.9), "cases": 50},
        "levels": [
            {"bits": [0.0, 0.05], "voxels": 900, "wrong": 0.001},
            {"bits": [0.4, 0.6], "voxels": 90, "wrong": 0.2},
        ],
    }
    return {
        "kind": "folder",
        "unit": "ml",
        "samples": 8,
        "map_source": "samples",
        "data": {"cases": 50, "seen_in_training": False, "which": "all", "raters": 1, "skipped": {}},
        "scores": {
            "maps": {"samples": maps, "direct": copy.deepcopy(maps)},
            "difference": {"dice": about(0.001), "ece": about(0.0, 0.005)},
            "ece_floor": 0.05,
            "samples": {"volumes": 100, "interval_90": about(0.88, 0.05)},
        },
    }


def verdict(evaluation, words):
    """Verdict of the one sentence that contains `words`."""
    verdicts = [
        sentence["verdict"]
        for sentence in sentences.evaluation_sentences(evaluation)
        if words.lower() in sentence["text"].lower()
    ]
    assert len(verdicts) == 1, [sentence["text"] for sentence in sentences.evaluation_sentences(evaluation)]
    return verdicts[0]


def test_valid_and_open_claims_on_a_folder(folder):
    assert verdict(folder, "Coverage of the 90 % volume intervals: 88 % (83 to 93 %) of 100 volumes.") == "holds"
    assert verdict(folder, "ECE near the structures, samples: 0.030") == "holds"
    assert verdict(folder, "do not decide which is better") == "open"
    assert verdict(folder, "one rater per case") == "open"
    assert verdict(folder, "at 0.4 to 0.6 bits (samples): about 1 in 5") == "fact"
    assert verdict(folder, "AUROC of entropy for wrong voxels") == "holds"
    assert not [s for s in sentences.evaluation_sentences(folder) if "few" in s["text"]]


def test_failed_claims_on_a_folder(folder):
    scores = folder["scores"]
    scores["samples"]["interval_90"] = about(0.6, 0.1)
    assert verdict(folder, "too narrow") == "fails"
    scores["samples"]["interval_90"] = about(0.97, 0.02)
    assert verdict(folder, "too wide") == "fails"
    scores["samples"]["interval_90"] = about(0.85, 0.2)
    assert verdict(folder, "more cases are needed") == "open"
    del scores["samples"]["interval_90"]
    assert verdict(folder, "one sample per case") == "open"
    scores["maps"]["samples"]["ece"] = about(0.2)
    assert verdict(folder, "ECE near the structures, samples: 0.200") == "fails"
    scores["maps"]["samples"]["error_auroc"] = about(0.5)
    assert verdict(folder, "chance is 0.5") == "fails"
    scores["difference"]["dice"] = about(-0.05)
    assert verdict(folder, "the direct head is better") == "fact"
    scores["difference"]["ece"] = about(0.05)
    assert verdict(folder, "the direct head would be the better choice") == "open"
    folder["map_source"] = "direct"
    assert verdict(folder, "ECE near the structures, direct head: 0.030") == "fact"
    assert verdict(folder, "at 0.4 to 0.6 bits (direct head)") == "fact"
    folder["data"] |= {"seen_in_training": True, "which": "all 4 cases, on which ...", "cases": 4}
    folder["data"]["skipped"] = {"seven": "The label file is gone."}
    assert verdict(folder, "Evaluated on all 4 cases") == "fails"
    assert verdict(folder, "Case seven was skipped") == "fails"
    assert verdict(folder, "4 cases are too few for intervals; the minimum is 5.") == "open"
    folder["data"]["cases"] = 12
    assert verdict(folder, "12 cases are few") == "open"


@pytest.mark.parametrize(
    ("u", "expected"), [(about(0.0, 0.005), "holds"), (about(0.2), "fails"), (about(0.03, 0.03), "open")]
)
def test_raters_decide_by_the_unbiased_distance(folder, u, expected):
    folder["data"]["raters"] = 4
    folder["scores"]["samples"]["raters"] = {"n": 8, "ged_u": u}
    assert verdict(folder, "GED between 8 samples and the raters") == expected


def known(passed, decided, blind=()):
    gate = {"passed": passed, "decided": decided}
    row = {"scores": {"ged_u": about(0.004, 0.003)}, "gates": {"ged_u": gate}, "failures": []}
    wrong = {**row, "gates": {"ged_u": {"passed": "one-step" in blind, "decided": True}}}
    return {
        "kind": "known answer",
        "data": {"cases": 400},
        "rows": {"adapted-5": row, "one-step": wrong, "exact": {**row, "failures": ["ged_u is off."]}},
        "titles": {"adapted-5": "5 adapted steps", "one-step": "one step", "exact": "exact sampler"},
        "steps": ["adapted-5"],
        "blind": list(blind),
        "notes": ["Coverage is so."],
    }


def test_gates_are_reported_for_each_row():
    assert verdict(known(True, True), "5 adapted steps: passes all 1 gates") == "holds"
    failed = "5 adapted steps: GED, unbiased 0.004 (0.001 to 0.007), required at most 0.01"
    assert verdict(known(True, False), f"{failed}; not certain with these cases.") == "open"
    assert verdict(known(False, True), f"{failed}.") == "fails"
    assert verdict(known(False, False), f"{failed}; not certain with these cases.") == "fails"


def test_wrong_samplers_that_pass_all_gates_are_reported():
    assert verdict(known(True, True), "Wrong sampler 'one step': detected by 1 gate.") == "holds"
    assert verdict(known(True, True, ["one-step"]), "Wrong sampler 'one step': passes all gates") == "fails"
    assert verdict(known(True, True), "The exact sampler passes every gate") == "holds"
    assert verdict(known(True, True, ["exact"]), "exact sampler fails") == "fails"


def test_numbers_in_words():
    assert number(-0.0001) == "0.000" and number(None) == "-" and number(12.34, 1) == "12.3"
    assert (
        shown(about(0.5, 0.1), 1) == "0.5 (0.4 to 0.6)" and shown({"value": 1.0, "low": None, "high": None}) == "1.000"
    )
    assert percent(about(0.9, 0.05)) == "90 % (85 to 95 %)" and percent({"value": None}) == "-"
    assert [one_in(x) for x in (0.0, 0.5, 0.2, 0.0213)] == ["none", "50 in 100", "about 1 in 5", "about 1 in 50"]
    assert one_in(0.00094) == "about 1 in 1,100"


class Tags(HTMLParser):
    """Every tag with its attributes, and whether all that is opened is closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_closed_and_needs_nothing_from_elsewhere():
    table = Table(
        "a < b",
        ["", "x & y"],
        [[Cell("one <i>", "small"), Cell("0.5", "0.4 to 0.6", True)], [Cell("2"), Cell("1", "", False)]],
    )
    body = (
        markup.table(table)
        + markup.figure(PNG, 'a "figure"')
        + markup.sentences([{"verdict": "fails", "text": "<script>"}])
    )
    text = markup.page("Title <b>", "lead", [("Scores", body + markup.facts({"a": "<"}))], "footer")
    tags = Tags()
    tags.feed(text)
    assert tags.open == [] and not [tag for tag, _ in tags.seen if tag in ("script", "link", "i", "b", "iframe")]
    addresses = [value for _, attributes in tags.seen for name, value in attributes.items() if name in ("src", "href")]
    assert len(addresses) == 1 and addresses[0].startswith("data:image/png;base64,")
    assert not re.search(r"https?:|url\(|@import", text)
    assert "✓" in text and "✗" in text, "verdicts are not told by colour alone"


@pytest.mark.slow
def test_figures_are_pictures_whatever_is_missing():
    tables_of = np.array([pooling.binned(np.full(9, 0.7), np.arange(9) < n) for n in (3, 6, 3, 6, 3)])
    some, none = pooling.diagram(tables_of), pooling.diagram(np.zeros((1, 3, pooling.BINS)))
    level = {"bits": [0.0, 0.1], "voxels": 3, "wrong": 0.5}
    curve = {"share": [0.5, 1.0], "risk": [0.1, 0.2], "oracle": [0.1, 0.2]}
    scores = {50: about(0.5), 90: {"value": None, "low": None, "high": None}}
    pngs = [
        figures.reliability({"one": some, "exact sampler": none}),
        figures.reliability({"one": none}),
        figures.risk_coverage({"one": curve, "two": curve}, "risk"),
        figures.ranks({"one": [1, 2, 3]}, 6),
        figures.ranks({"one": [0, 0, 0]}, None),
        figures.coverage({"one": scores}),
        figures.entropy_levels({"one": [level, {**level, "wrong": None}]}),
    ]
    assert all(content.startswith(PNG) for content in pngs) and len(set(pngs)) == len(pngs)
    assert figures.ranks({"one": [1, 2, 3]}, 6) == pngs[3], "the same picture gives the same bytes"


def test_the_worst_the_median_and_the_best_are_shown_once_each():
    assert figures.pick_cases({"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.2}) == {"worst": "b", "median": "c", "best": "a"}
    assert figures.pick_cases({"a": 0.1, "b": 0.9}) == {"worst": "b", "best": "a"}
    assert figures.pick_cases({"a": 0.1}) == {"worst": "a"} and figures.pick_cases({}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (5.0, 0.5)])
def test_a_case_is_a_strip_of_pictures(spacing):
    rng = np.random.default_rng(0)
    picture = {name: rng.integers(0, 3, (12, 16)).astype(np.uint8) for name in ("truth", "consensus")}
    picture |= {"image": rng.random((12, 16)).astype(np.float16), "entropy": np.zeros((12, 16), np.float16)}
    picture |= {"samples": np.zeros((2, 12, 16), np.uint8), "spacing": np.array(spacing)}
    plain = figures.case_strip(picture, "reference")
    exact = figures.case_strip({**picture, "exact_entropy": picture["image"]}, "reference", [(1, 0, 0), (0, 0, 1)])
    assert plain.startswith(PNG) and exact.startswith(PNG) and plain != exact


def test_a_score_without_values_is_omitted():
    row = {"scores": {"ged_u": about(0.004)}, "gates": {"ged_u": {"passed": True, "decided": True}}}
    evaluation = {"data": {"cases": 3}, "titles": {"one": "One"}, "rows": {"one": row}, "ideal": {"risk": about(0.3)}}
    gated, others = tables.known_scores(evaluation)
    assert [[cell.text for cell in cells] for cells in gated.rows] == [["GED, unbiased", "at most 0.01", "0.004"]]
    assert others.rows == [] and gated.rows[0][2].passed
