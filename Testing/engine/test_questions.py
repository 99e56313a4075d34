"""Measurements of label maps, questions about them, and answers from samples."""

import itertools
import json
import math

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation import cli
from diffusion_segmentation.errors import InputError
from diffusion_segmentation.measurements.answer import answer, text
from diffusion_segmentation.measurements.functions import FUNCTIONS
from diffusion_segmentation.measurements.label_map import ALL, LabelMap
from diffusion_segmentation.measurements.question import parse
from diffusion_segmentation.measurements.table import MEASUREMENTS
from diffusion_segmentation.segmentation.asked import ask
from diffusion_segmentation.segmentation.pipeline import Request, segment

LABELS = [
    {"label": 1, "id": "lesion", "name": "Lesion"},
    {"label": 2, "id": "grey_matter", "name": "Grey matter"},
    {"label": 3, "id": "absent", "name": "Absent"},
]
SPACING = (1.0, 2.0, 3.0)  # i, j, k


def image_of(array, spacing=SPACING):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    return LabelMap(array, image)


@pytest.fixture
def boxes():
    """A box of 4 x 2 x 3 voxels of label 1, 16 x 6 x 6 mm with a gap of 8 mm to one of label 2."""
    array = np.zeros((12, 10, 40), np.uint8)
    array[2:4, 3:6, 5:21] = 1
    array[2:4, 3:6, 28:32] = 2
    return array


def value(name, image, *labels):
    return FUNCTIONS[name](image, *((label,) for label in labels))


def test_measurements_of_boxes_are_those_of_their_formulas(boxes):
    image = image_of(boxes)
    assert value("volume", image, 1) == pytest.approx(16 * 6 * 6 / 1000)
    assert value("distance", image, 1, 2) == pytest.approx(8)  # from the centre of voxel 20 to that of voxel 28
    assert value("centroid_distance", image, 1, 2) == pytest.approx(29.5 - 12.5)
    assert value("ratio", image, 2, 1) == pytest.approx(0.25)
    assert value("width_ratio", image, 2, 1) == pytest.approx(0.25)
    # Between face centres: 16 mm apart along i, the centres along j and k 4 and 3 mm; or 15, 6 and 3, or 15, 4 and 6.
    assert value("diameter", image, 1) == pytest.approx(math.hypot(16, 4, 3))
    assert value("pieces", image, 1) == 1 and value("pieces", image, ALL) == 2
    assert value("one_piece", image, 1) == 1 and value("one_piece", image, ALL) == 0
    assert value("exists", image, 2) == 1 and value("exists", image, 3) == 0
    # The middle of all voxels lies at i = 15.9; i points to the left.
    assert value("asymmetry", image, 1) == pytest.approx(100 * (5 - 11) / 16)
    assert value("asymmetry", image, 2) == 100
    # Marching cubes cut the edges of a box: less than its 408 mm2.
    assert 0.85 * 408 < value("surface", image, 1) < 408


def test_a_slice_of_a_volume_is_measured_as_a_volume(boxes):
    volume = sitk.GetImageFromArray(boxes)
    volume.SetSpacing(SPACING)
    part = LabelMap(boxes[2:3], volume)
    assert value("volume", part, 1) == pytest.approx(16 * 6 * 3 / 1000)
    assert value("diameter", part, 1) == pytest.approx(math.hypot(16, 4))


def test_structures_with_a_common_voxel_have_no_distance(boxes):
    boxes[:, :, :] = np.maximum(boxes, np.uint8(3))
    boxes[5, 5, 20] = 1
    assert value("distance", image_of(boxes), 1, ALL) == 0 and value("distance", image_of(boxes), 3, 3) == 0


def test_a_ball_has_its_diameter_and_surface():
    z, y, x = np.ogrid[-24:25, -24:25, -24:25]
    image = image_of((z**2 + y**2 + x**2 <= 20**2).astype(np.uint8), (0.5, 0.5, 0.5))
    assert value("diameter", image, 1) == pytest.approx(20.5, abs=0.3)
    assert value("surface", image, 1) == pytest.approx(4 * math.pi * 10.25**2, rel=0.1)


def test_what_is_absent_has_no_length_and_no_volume(boxes):
    image = image_of(boxes)
    assert value("volume", image, 3) == value("pieces", image, 3) == 0
    for name in ("diameter", "surface", "asymmetry"):
        assert math.isnan(value(name, image, 3))
    for name in ("distance", "centroid_distance", "width_ratio"):
        assert math.isnan(value(name, image, 1, 3)) and math.isnan(value(name, image, 3, 1))
    assert math.isnan(value("ratio", image, 1, 3)) and value("ratio", image, 3, 1) == 0


def test_no_measurement_depends_on_the_orientation_of_the_array():
    rng = np.random.default_rng(0)
    array = np.zeros((9, 11, 13), np.uint8)
    array[1:8, 2:9, 3:11] = rng.integers(0, 3, (7, 7, 8))
    stored = sitk.GetImageFromArray(array)
    stored.SetSpacing(SPACING)
    stored.SetDirection((0.0, 0.0, -1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0))
    expected = LabelMap(array, stored)
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((False, True), repeat=3):
            turned = sitk.Flip(sitk.PermuteAxes(stored, order), flips)
            image = LabelMap(sitk.GetArrayFromImage(turned), turned)
            for name, measurement in MEASUREMENTS.items():
                if measurement.picture:
                    continue
                labels = ((1,), (2,))[: measurement.structures]
                same = pytest.approx(FUNCTIONS[name](expected, *labels), rel=1e-5, nan_ok=True)
                assert FUNCTIONS[name](image, *labels) == same, name


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 7), (1, 5, 1), (4, 1, 1), (3, 4, 1), (2, 2, 2)])
def test_the_smallest_structures_have_a_diameter(shape):
    array = np.zeros((8, 9, 10), np.uint8)
    array[tuple(slice(1, 1 + n) for n in shape)] = 1
    lengths = np.array(shape) - 1
    centre = lengths * SPACING[::-1]
    faces = [math.sqrt((centre**2).sum() - centre[a] ** 2 + ((lengths[a] + 1) * SPACING[2 - a]) ** 2) for a in range(3)]
    assert value("diameter", image_of(array), 1) >= max(faces) - 1e-6


def test_one_slice_of_a_volume_is_no_picture(boxes):
    image = sitk.GetImageFromArray(boxes)
    image.SetSpacing(SPACING)
    thin = LabelMap(np.ascontiguousarray(boxes[2:3]), image)
    assert value("volume", thin, 1) == pytest.approx(16 * 6 * 3 / 1000)
    assert value("diameter", thin, 1) == pytest.approx(math.hypot(16, 4))


def test_pictures_have_areas_and_perimeters():
    array = np.zeros((1, 40, 40), np.uint8)
    array[0, 10:20, 5:25] = 1
    image = image_of(array, (0.5, 0.5, 1.0))
    assert value("area", image, 1) == 50 and value("diameter", image, 1) == pytest.approx(math.hypot(10, 4.5))
    assert value("perimeter", image, 1) == pytest.approx(30, rel=0.05)
    assert parse("area(lesion) > 3", LABELS, "px", True).unit == "px"
    assert parse("diameter(lesion)", LABELS, "px", True).unit == "px"
    with pytest.raises(InputError, match="not a measurement of pictures; known are area"):
        parse("volume(lesion)", LABELS, "px", True)


@pytest.mark.parametrize(("question", "sentence"), [
    ("how big is it", "is not a question; ask for example 'volume(lesion) > 40'"),
    ("volum(lesion)", "'volum' is not a measurement of volumes; known are volume, diameter"),
    ("perimeter(lesion)", "not a measurement of volumes"),
    ("volume(tumour)", "has no structure 'tumour'; it has lesion, grey_matter, absent, or all of them together"),
    ("volume(lesion, absent)", "must name one structure, as in 'volume(lesion)'"),
    ("distance(lesion) < 4", "must name two structures, as in 'distance(lesion, grey_matter)'"),
    ("volume(lesion) > 4 mm", "'volume' is not measured in 'mm'; give ml or cm3 or mm3"),
    ("pieces(lesion) > 4 mm", "'pieces' is not measured in 'mm'; give no unit"),
    ("volume(lesion) > 4.5.6", "'4.5.6' in 'volume(lesion) > 4.5.6' is not a number"),
    ("exists(lesion) > 0", "leave the comparison out"),
    ("volume(lesion) >", "is not a question"),
])  # fmt: skip
def test_a_wrong_question_is_one_sentence(question, sentence):
    with pytest.raises(InputError) as error:
        parse(question, LABELS, "ml", False)
    assert sentence in str(error.value)


def test_structures_go_by_identifier_name_or_all(boxes):
    image = image_of(boxes)
    for name in ("grey_matter", "Grey matter", "GREY MATTER"):
        assert parse(f"Volume( {name} )", LABELS, "ml", False).value(image) == pytest.approx(4 * 36 / 1000)
    assert parse("volume(all)", LABELS, "ml", False).value(image) == pytest.approx(20 * 36 / 1000)
    ids = [{"label": label, "id": id_, "name": id_} for label, id_ in ((1, "L"), (2, "l"))]  # of Slicer's questions
    assert [parse(f"volume({entry['id']})", ids, "ml", False).labels for entry in ids] == [((1,),), ((2,),)]


def test_an_identifier_comes_before_the_name_of_another_structure():
    labels = [{"label": 1, "id": "a", "name": "tumour"}, {"label": 2, "id": "tumour", "name": "Core"}]
    assert [parse(f"volume({one})", labels, "ml", False).labels for one in ("tumour", "a")] == [((2,),), ((1,),)]


def test_units_are_converted():
    assert parse("volume(lesion) > 500 mm3", LABELS, "ml", False).threshold == 0.5
    assert parse("diameter(lesion) <= 1.5 cm", LABELS, "ml", False).threshold == 15
    assert parse("asymmetry(lesion) < -5 %", LABELS, "ml", False).threshold == -5


def test_a_number_has_intervals_and_counts_where_it_is_not_defined():
    question = parse("diameter(lesion)", LABELS, "ml", False)
    found = answer(question, 10.0, [9.0, 11.0, float("nan"), 10.0])
    assert found["mean"] == 10 and found["undefined"] == 1 and found["samples"][2] is None
    low, high = found["interval90"]
    assert low < found["interval50"][0] < 10 < found["interval50"][1] < high
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "10 mm, mean of 3 samples 10 mm, 90 % interval" in text([found])
    assert "not defined in 1 of 4 samples" in text([found])
    surface = answer(parse("surface(lesion)", LABELS, "ml", False), 298012.4, [298012.4, 358600.0])
    assert text([surface]).startswith("surface(lesion): 298012 mm²") and "e+" not in text([surface])
    below = answer(parse("asymmetry(lesion)", LABELS, "ml", False), -9.0, [-9.0, -11.0, -10.0])
    assert below["interval90"][0] < -11  # 0 is not the smallest asymmetry
    assert answer(question, float("nan"), [])["interval90"] is None


def test_intervals_end_at_the_largest_possible_value():
    samples = [60.0, 80.0, 95.0, 99.0, 100.0, 100.0]
    share = answer(parse("asymmetry(lesion)", LABELS, "ml", False), 100.0, samples, image_size=7.0)
    assert share["interval90"][1] == share["interval50"][1] == 100
    size = answer(parse("volume(lesion)", LABELS, "ml", False), 100.0, samples, image_size=110.0)
    assert size["interval90"][1] == 110 and 100 < size["interval50"][1] < 110
    length = answer(parse("diameter(lesion)", LABELS, "ml", False), 100.0, samples, image_size=7.0)
    assert length["interval90"][1] > 110


def test_the_size_of_a_structure_has_the_calibrated_interval_of_the_report():
    samples, wide = [9.0, 10.0, 11.0, 10.5], {"interval50_factor": 2.0, "interval50_floor": 0.01}
    table = [{"label": 1, **wide, "interval90_factor": 2.0, "interval90_floor": 0.01}]
    lesion = parse("volume(lesion)", LABELS, "ml", False)
    raw, found = answer(lesion, 10.0, samples), answer(lesion, 10.0, samples, table=table)
    for key in ("interval50", "interval90"):
        assert found[key][1] - found["mean"] == pytest.approx(2 * (raw[key][1] - raw["mean"]), rel=1e-4)
    for other in ("diameter(lesion)", "volume(all)", "volume(lesion) > 9"):
        question = parse(other, LABELS, "ml", False)
        assert answer(question, 10.0, samples, table=table) == answer(question, 10.0, samples)
    assert answer(lesion, 10.0, samples, table=[{"label": 1, "interval90_factor": "2"}]) == raw
    kept = answer(lesion, 10.0, samples, table=table, drawn=64)
    assert kept == found | {"factors_of": 64} and answer(lesion, 10.0, samples, table=table, drawn=4) == found
    assert (
        text([kept]).endswith("; its factor is that of all 64 samples")
        and answer(lesion, 10.0, samples, drawn=64) == raw
    )


def test_eight_of_eight_are_not_certain():
    question = parse("volume(lesion) > 1", LABELS, "ml", False)
    found = answer(question, 2.0, [2.0] * 8)
    assert found["count"] == 8 and found["probability"] == pytest.approx(8.5 / 9, abs=1e-5)
    assert 0.7 < found["interval90"][0] < 0.9 and found["interval90"][1] == 1
    assert "true in 8 of 8 samples: probability 94 % (90 % interval" in text([found]).replace("%", " %").replace(
        "  ", " "
    )
    nothing = answer(parse("distance(lesion, absent) < 5", LABELS, "ml", False), float("nan"), [float("nan")] * 4)
    assert nothing["count"] == 0 and nothing["holds"] is False and nothing["interval90"][0] == 0


def test_masks_that_are_no_draws_have_a_range_and_no_probability():
    number, statement = (parse(f"volume(lesion){more}", LABELS, "ml", False) for more in ("", " > 1"))
    assert answer(number, 2.0, [1.0, 3.0], are_draws=False)["range"] == [1, 3]
    assert "probability" not in answer(statement, 2.0, [1.0, 3.0], are_draws=False)


def test_a_run_answers_and_a_finished_result_answers_the_same(a_head_file, a_model_folder, tmp_path, capsys):
    asked = ("volume(all) > 1", "diameter(all)", "pieces(all)")
    request = Request(a_head_file, tmp_path / "out", str(a_model_folder), 4, ask=asked, device="cpu", keep_samples=True)
    answers = segment(request).report["answers"]
    assert [one["question"] for one in answers] == list(asked)
    assert ask(tmp_path / "out", asked) == answers
    volumes = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["volumes"]
    (found,) = ask(tmp_path / "out", [f"volume({volumes[0]['id']})"])
    assert found["samples"] == pytest.approx(volumes[0]["samples_ml"], abs=1e-3)
    assert found["interval90"] == pytest.approx(volumes[0]["interval90_ml"], abs=1e-3)
    assert found["value"] == pytest.approx(volumes[0]["consensus_ml"], abs=1e-3)
    assert cli.main(["ask", str(tmp_path / "out"), *asked]) == 0
    assert capsys.readouterr().out.count("\n") == 3


def test_a_wrong_question_of_a_run_writes_nothing(a_head_file, a_model_folder, tmp_path):
    request = Request(a_head_file, tmp_path / "out", str(a_model_folder), 4, ask=("volume(x)",), device="cpu")
    with pytest.raises(InputError, match="no structure 'x'"):
        segment(request)
    assert not (tmp_path / "out").exists()


def test_only_kept_samples_can_be_asked(a_head_file, a_model_folder, tmp_path):
    with pytest.raises(InputError, match="is not the folder of a finished result"):
        ask(tmp_path, ["volume(all)"])
    segment(Request(a_head_file, tmp_path / "out", str(a_model_folder), 2, device="cpu"))
    with pytest.raises(InputError, match="has no samples to ask; segment again with --keep-samples"):
        ask(tmp_path / "out", ["volume(all)"])


@pytest.mark.parametrize("table", [[], [{"method": None}], {"a": 1}, [{"label": 1, "id": 3, "method": None}]])
def test_a_folder_of_another_program_is_no_result(boxes, tmp_path, table):
    sitk.WriteImage(sitk.GetImageFromArray(boxes), tmp_path / "segmentation.seg.nrrd")
    (tmp_path / "report.json").write_text(json.dumps({"volumes": table}), encoding="utf-8")
    with pytest.raises(InputError, match="is not the folder of a finished result"):
        ask(tmp_path, ["volume(all)"])


@pytest.mark.parametrize("samples", [np.float64, np.uint8])
def test_samples_of_another_result_are_refused(boxes, tmp_path, samples):
    sitk.WriteImage(sitk.GetImageFromArray(boxes), tmp_path / "segmentation.seg.nrrd")
    table = [entry | {"method": None} for entry in LABELS]
    (tmp_path / "report.json").write_text(json.dumps({"volumes": table}), encoding="utf-8")
    larger = np.pad(boxes, 2 if samples is np.uint8 else 0).astype(samples)
    sitk.WriteImage(sitk.GetImageFromArray(np.stack([larger] * 3, -1), isVector=True), tmp_path / "samples.seq.nrrd")
    with pytest.raises(InputError, match="not those of its segmentation"):
        ask(tmp_path, ["volume(all)"])
