"""Triage of a cohort: order, table, page and pictures, and what is kept between two calls."""

from __future__ import annotations

import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cohorts import FAILED, set_report, write_case, write_cohort, write_index

from diffusion_segmentation.cohort import triage, triage_picture
from diffusion_segmentation.cohort.triage import write_triage
from diffusion_segmentation.errors import InputError

SPREADS = {"Ärm <1>": 0.3, "B": 1.0, "C": 0.0}
CHECK = {"limit": 3.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_cohort(tmp_path_factory.mktemp("cohort"), SPREADS, ("D & E",))
    for n, (distance, unlike) in enumerate(((5.0, True), (1.0, False), (2.0, False))):
        set_report(folder, f"key{n}", input={"distance": distance, "unlike_training": unlike, **CHECK})
    write_triage(folder)
    return folder


@pytest.fixture
def cohort(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "cohort"))


def cases(folder: Path) -> list[dict]:
    return json.loads((folder / "triage.json").read_text(encoding="utf-8"))["cases"]


def report(folder: Path, key: str) -> dict:
    return json.loads((folder / "cases" / key / "report.json").read_text(encoding="utf-8"))


class Parsed(HTMLParser):
    """Attributes of the rows of cases, sources of pictures and all text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[dict] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        found = dict(attrs)
        if tag == "tr" and "data-dice" in found:
            self.rows.append(found)
        self.sources += [found["src"]] if "src" in found else []

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(folder: Path) -> Parsed:
    return Parsed((folder / "cohort.html").read_text(encoding="utf-8"))


def test_cases_whose_samples_disagree_most_come_first(cohort: Path) -> None:
    assert [row["case"] for row in cases(cohort)] == ["B", "Ärm <1>", "C"]
    for row in cases(cohort):
        assert row["expected_dice"] == report(cohort, row["key"])["expected_dice"]
    assert cases(cohort)[-1]["expected_dice"] == 1.0


def test_the_page_lists_cases_in_each_order_and_failed_ones_with_their_sentence(cohort: Path) -> None:
    parsed = page(cohort)
    orders = {
        key: [n for _, n in sorted((int(row[f"data-{key}"]), n) for n, row in enumerate(parsed.rows))]
        for key in ("dice", "check", "name")
    }
    assert orders == {"dice": [0, 1, 2], "check": [1, 0, 2], "name": [0, 2, 1]}
    texts = [text.strip() for text in parsed.text]
    assert "3 cases are done, 1 failed, 0 left. Not for clinical use." in texts
    assert texts[texts.index("D & E") + 1] == FAILED
    assert "Ärm <1>" in texts and "unlike" in texts
    assert sorted(parsed.sources) == [f"thumbnails/key{n}.png" for n in range(3)]
    assert all((cohort / source).is_file() for source in parsed.sources)


def test_neither_page_nor_table_has_paths_of_the_files(cohort: Path) -> None:
    for name in ("cohort.html", "cohort.csv", "triage.json"):
        assert "volume0" not in (cohort / name).read_text(encoding="utf-8")


def test_the_table_has_the_precision_of_each_volume(cohort: Path) -> None:
    with open(cohort / "cohort.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["structure"]) for row in rows[:2]] == [("B", "Label 1"), ("B", "Label 2")]
    for row in rows:
        volume = next(one for one in report(cohort, row["key"])["volumes"] if one["name"] == row["structure"])
        variance = np.var(volume["samples_ml"], ddof=1)
        if variance:
            assert float(row["precision_weight"]) == pytest.approx(1 / variance, rel=1e-5)
        else:
            assert row["precision_weight"] == ""
        assert [float(row["interval90_low"]), float(row["interval90_high"])] == volume["interval90_ml"]
        assert float(row["expected_dice"]) == volume["expected_dice"] and row["unit"] == "ml"
    assert {row["case"] for row in rows if row["precision_weight"]} == {"B", "Ärm <1>"}
    assert {row["case"]: row["input_distance"] for row in rows} == {"B": "1.0", "Ärm <1>": "5.0", "C": "2.0"}


def test_folds_have_no_precision_and_class_probabilities_no_expected_dice(cohort: Path) -> None:
    folds, probabilities = report(cohort, "key0")["volumes"], report(cohort, "key1")["volumes"]
    for volume in folds:
        volume |= {"range_ml": [1.0, 2.0], "interval50_ml": None, "interval90_ml": None}
    for volume in probabilities:
        volume |= {"samples_ml": [], "interval50_ml": None, "interval90_ml": None, "expected_dice": None}
    set_report(cohort, "key0", volumes=folds)
    set_report(cohort, "key1", volumes=probabilities, expected_dice=None)
    write_triage(cohort)
    weights = {row["case"]: [one["precision_weight"] for one in row["structures"]] for row in cases(cohort)}
    assert weights["Ärm <1>"] == weights["B"] == [None, None]
    assert [row["case"] for row in cases(cohort)] == ["Ärm <1>", "C", "B"]
    assert "no samples" in page(cohort).text


def test_only_new_cases_are_read_and_drawn(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.loads((cohort / "cohort.json").read_text())["cases"]
    drawn: list[str] = []
    write_picture = triage_picture.write_picture

    def counted(path: Path, *arguments: object) -> bool:
        drawn.append(path.stem)
        return write_picture(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(triage, "write_picture", counted)
    before = (cohort / "cohort.html").read_bytes()
    write_triage(cohort)
    assert drawn == [] and (cohort / "cohort.html").read_bytes() == before
    write_index(cohort, [*index, write_case(cohort, "F", 0.7, 7)])
    write_triage(cohort)
    assert drawn == ["key7"] and len(cases(cohort)) == 4
    (cohort / "thumbnails" / "key7.png").unlink()
    set_report(cohort, "key1", expected_dice=0.999)
    write_triage(cohort)
    assert sorted(drawn) == ["key1", "key7", "key7"] and cases(cohort)[0]["case"] != "B"


def test_the_picture_shows_image_outline_and_entropy_at_the_peak(cohort: Path) -> None:
    row = next(row for row in cases(cohort) if row["case"] == "B")
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(cohort / "thumbnails" / f"{row['key']}.png")))
    assert picture.shape == (triage_picture.PIXELS, triage_picture.PIXELS, 3)
    colours = triage_picture._label_colours(
        sitk.ReadImage(str(cohort / "cases" / row["key"] / "segmentation.seg.nrrd"))
    )
    pixels = {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}
    assert tuple(round(255 * part) for part in colours[1]) in pixels  # an outline
    centre = picture[98:102, 98:102].astype(int).reshape(-1, 3).mean(0)
    assert np.ptp(centre) > 60  # the peak has the colour of its entropy, neither grey nor black
    greys = picture[(picture == picture[..., :1]).all(-1)][:, 0]
    assert len(np.unique(greys)) > 20  # noise of the image where nothing is uncertain


def test_a_picture_of_an_image_that_is_gone_says_so(cohort: Path) -> None:
    index = json.loads((cohort / "cohort.json").read_text())["cases"]
    index[1]["inputs"] = ["/nowhere/volume.nrrd"]
    write_index(cohort, index)
    (cohort / "thumbnails" / "key1.png").unlink()
    write_triage(cohort)
    row = next(row for row in cases(cohort) if row["key"] == "key1")
    assert not row["image_read"]
    assert any("the image could not be read" in text for text in page(cohort).text)


def test_a_damaged_result_fails_alone(cohort: Path) -> None:
    (cohort / "cases" / "key1" / "report.json").write_text("{")
    write_triage(cohort)
    assert [row["case"] for row in cases(cohort)] == ["Ärm <1>", "C"]
    assert any("cannot be read" in text for text in page(cohort).text)


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_folder_without_an_index_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "cohort.json").write_text(content)
    with pytest.raises(InputError, match=r"no readable cohort\.json"):
        write_triage(tmp_path)
    assert not (tmp_path / "cohort.html").exists()


def test_a_damaged_earlier_table_is_replaced(cohort: Path) -> None:
    (cohort / "triage.json").write_text("[1")
    write_triage(cohort)
    assert len(cases(cohort)) == 3


def test_equal_sizes_in_all_cases_and_a_single_case_have_strips(tmp_path: Path) -> None:
    folder = write_cohort(tmp_path, {"only": 0.0})
    write_triage(folder)
    assert len(page(folder).rows) == 1
