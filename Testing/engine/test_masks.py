"""Import of masks and class probabilities: labels, grids, consensus, volumes and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.cli import main
from diffusion_segmentation.errors import Cancelled, InputError
from diffusion_segmentation.images import writing
from diffusion_segmentation.images.label_file import Segment
from diffusion_segmentation.images.label_table import label_table
from diffusion_segmentation.masks.import_masks import ImportRequest, import_masks
from diffusion_segmentation.masks.label_sets import IGNORED_TAKEN, LabelSet, common_labels

SHAPE = (20, 22, 24)
ANGLE = np.deg2rad(20)


def image_of(array: np.ndarray) -> sitk.Image:
    """An image on an oblique, anisotropic grid."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.0, 1.5, 2.0))
    image.SetOrigin((5.0, -7.0, 3.0))
    c, s = np.cos(ANGLE), np.sin(ANGLE)
    image.SetDirection((c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0))
    return image


def ball(radius: float, x: float = 12.0) -> np.ndarray:
    k, j, i = np.mgrid[:20, :22, :24]
    return (k - 10) ** 2 + (j - 11) ** 2 + (i - x) ** 2 < radius**2


@pytest.fixture
def a_volume(tmp_path: Path) -> Path:
    path = tmp_path / "volume.nrrd"
    noise = np.random.default_rng(0).normal(size=SHAPE)
    sitk.WriteImage(image_of((noise + 5 * ball(6)).astype(np.float32)), str(path))
    return path


@pytest.fixture
def arrays() -> list[np.ndarray]:
    """Five label maps with the labels 1 and 300."""
    return [
        np.where(ball(2 + n / 2, x), 300, ball(6 + n / 2, x)).astype(np.int16)
        for n, x in enumerate((12, 11, 13, 12, 10))
    ]


@pytest.fixture
def masks(tmp_path: Path, arrays: list[np.ndarray]) -> tuple[Path, ...]:
    paths = []
    for n, array in enumerate(arrays):
        paths.append(tmp_path / f"rater{n}.nii.gz")
        sitk.WriteImage(image_of(array), str(paths[-1]))
    return tuple(paths)


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def segments(path: Path, labels: np.ndarray, names: dict[int, str]) -> Path:
    """A Slicer segmentation with these names of its label numbers."""
    table = [{**entry, "label": number} for entry, number in zip(label_table(list(names.values())), names, strict=True)]
    writing.write_segmentation(path, labels.astype(np.uint8), image_of(labels), table, compress=True)
    return path


@pytest.fixture
def swapped(tmp_path: Path) -> tuple[Path, Path]:
    """Two equal segmentations of a tumour in an oedema that number them differently."""
    tumour, oedema = ball(3), ball(6) & ~ball(3)
    one = segments(tmp_path / "a.seg.nrrd", tumour + 2 * oedema, {1: "Tumour", 2: "Oedema"})
    return one, segments(tmp_path / "b.seg.nrrd", 2 * tumour + 1 * oedema, {1: "oedema", 2: "tumour"})


def label_list(path: Path, *names: str) -> Path:
    path.write_text(json.dumps({"labels": {"background": 0, **{name: n for n, name in enumerate(names, 1)}}}))
    return path


def test_entropy_consensus_and_volumes_are_those_of_the_masks(
    tmp_path: Path, a_volume: Path, arrays: list[np.ndarray], masks: tuple[Path, ...]
) -> None:
    output = tmp_path / "result"
    report = import_masks(ImportRequest(a_volume, output, masks, keep_samples=True)).report
    p = np.stack([np.mean([array == label for array in arrays], axis=0) for label in (0, 1, 300)])
    entropy = -(p * np.log2(np.maximum(p, 1e-12))).sum(0)
    assert np.abs(read(output / "entropy.nrrd") - entropy).max() < 1e-6
    assert (read(output / "segmentation.seg.nrrd") == p.argmax(0)).all()
    assert [entry["name"] for entry in report["volumes"]] == ["Label 1", "Label 300"]
    for entry, number in zip(report["volumes"], (1, 300), strict=True):
        ml = [float((array == number).sum()) * 3 / 1000 for array in arrays]
        assert entry["samples_ml"] == pytest.approx(ml, abs=1e-3)
        assert entry["expected_ml"] == pytest.approx(np.mean(ml), abs=1e-3)
    assert report["samples"] == report["kept_samples"] == 5
    assert report["imported"]["kind"] == report["map_source"] == "masks"
    assert "disagreement of 5 imported masks" in report["warnings"][0]
    assert report["regions"]


def test_samples_are_the_masks_in_the_order_given(
    tmp_path: Path, a_volume: Path, arrays: list[np.ndarray], masks: tuple[Path, ...]
) -> None:
    output = tmp_path / "result"
    import_masks(ImportRequest(a_volume, output, masks[::-1], keep_samples=True))
    samples = sitk.ReadImage(str(output / "samples.seq.nrrd"))
    stored = sitk.GetArrayFromImage(samples)
    whole = np.stack([np.searchsorted([0, 1, 300], array) for array in arrays[::-1]], axis=-1)
    offset = image_of(arrays[0]).TransformPhysicalPointToIndex(samples.GetOrigin())
    box = tuple(slice(a, a + n) for a, n in zip(offset[::-1], stored.shape, strict=False))
    assert (stored == whole[box]).all()
    assert whole[box].astype(bool).sum() == whole.astype(bool).sum()


def test_a_volume_of_the_same_result_is_the_same_file(tmp_path: Path, a_volume: Path, masks: tuple[Path, ...]) -> None:
    reports = [import_masks(ImportRequest(a_volume, tmp_path / name, masks)).report for name in ("a", "b")]
    assert reports[0]["files"] == reports[1]["files"]


def test_more_masks_than_are_stored_all_count(
    tmp_path: Path, a_volume: Path, masks: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diffusion_segmentation.segmentation.members.MAX_MASKS", 3)
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", masks, keep_samples=True)).report
    assert (report["samples"], report["kept_samples"]) == (5, 3)
    assert len(report["volumes"][0]["samples_ml"]) == 5


def test_names_decide_over_numbers(tmp_path: Path, a_volume: Path, swapped: tuple[Path, Path]) -> None:
    def check(masks: tuple[Path, ...], labels: Path | None = None) -> None:
        report = import_masks(ImportRequest(a_volume, tmp_path / "result", masks, labels)).report
        assert [entry["name"] for entry in report["volumes"]] == ["Tumour", "Oedema"]
        assert read(tmp_path / "result" / "entropy.nrrd").max() < 1e-5
        assert any("matched by name" in warning for warning in report["warnings"])

    check(swapped)
    for path in swapped:  # names that Slicer took from a terminology
        path.write_bytes(path.read_bytes().replace(b"NameAutoGenerated:=0", b"NameAutoGenerated:=1"))
    check(swapped)
    names = label_list(tmp_path / "names.json", "Tumour", "Oedema")
    label_list(tmp_path / "dataset.json", "another", "list")
    check(swapped, names)
    number = tmp_path / "c.nii.gz"
    sitk.WriteImage(image_of(read(swapped[0])), str(number))
    check((swapped[1], number), names)
    refused("'Tumour', which is not in the list", ImportRequest(a_volume, tmp_path / "r", swapped, tmp_path))


def test_names_that_contradict_are_refused() -> None:
    def labels(name: str, **segments: str) -> LabelSet:
        named = {int(number[1:]): Segment(segment) for number, segment in segments.items()}
        return LabelSet(f"The mask '{name}'", frozenset({1, 2}), named)

    for segment in ({"n1": "Left +", "n2": "Left -"}, {"n1": "Liver", "n2": "Liver"}):
        with pytest.raises(InputError, match="two labels"):
            common_labels([labels("a", **segment)] * 2)
    for other in ({"n2": "Tumour"}, {"n1": "Oedema"}):
        with pytest.raises(InputError, match="only some of their labels, and the mask 'b'"):
            common_labels([labels("a", n1="Tumour"), labels("b", **other)])
    assert common_labels([labels("a", n1="Tumour"), labels("b")]).table[0]["name"] == "Tumour"
    for invalid in ("a\nb", "\udce9", "a" * 201):
        with pytest.raises(InputError, match="not printable"):
            common_labels([labels("a", n1=invalid)])
    with pytest.raises(InputError, match="label -1"):
        common_labels([LabelSet("The mask 'a'", frozenset({-1, 1}), {})])
    composed, decomposed = labels("a", n1="\u00d6dem", n2="Left +"), labels("b", n1="O\u0308dem", n2="Left -")
    common = common_labels([composed, decomposed])
    assert len(common.table) == 2 and common.warnings == ["The names 'Left +' and 'Left -' were taken for one label."]


def test_a_label_that_a_mask_lacks_is_a_warning(tmp_path: Path, a_volume: Path) -> None:
    paths = []
    for name, array in (("a", ball(4)), ("b", ball(4) + 1 * ball(2))):
        paths.append(tmp_path / f"{name}.nii.gz")
        sitk.WriteImage(image_of(array.astype(np.uint8)), str(paths[-1]))
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", tuple(paths))).report
    assert any("'Label 2' (in 1 of 2)" in warning for warning in report["warnings"])


def test_a_tie_takes_the_lower_label_and_is_a_warning(tmp_path: Path, a_volume: Path, masks: tuple[Path, ...]) -> None:
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", masks[:2])).report
    differ = read(masks[0]) != read(masks[1])
    assert any(f"In {differ.sum()} voxels" in warning and "lower label" in warning for warning in report["warnings"])


def test_dataset_json_beside_the_masks_names_the_numbers(tmp_path: Path, a_volume: Path) -> None:
    paths = tuple(tmp_path / f"{name}.nii.gz" for name in "ab")
    for path in paths:
        sitk.WriteImage(image_of(ball(4).astype(np.uint8)), str(path))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Spleen": 1}}))
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", paths)).report
    assert [entry["name"] for entry in report["volumes"]] == ["Spleen"]
    assert any("dataset.json beside" in warning for warning in report["warnings"])


def test_a_dataset_json_beside_the_masks_can_be_left_out(
    tmp_path: Path, a_volume: Path, masks: tuple[Path, ...]
) -> None:
    label_list(tmp_path / "dataset.json", "Spleen")  # it lacks a name for 300
    with pytest.raises(InputError, match="has the label 300, which has no name"):
        import_masks(ImportRequest(a_volume, tmp_path / "result", masks))
    files = ["--volume", str(a_volume), "--output", str(tmp_path / "result")]
    assert main(["import", *map(str, masks), *files, "--labels", "none", "--json"]) == 0
    report = json.loads((tmp_path / "result/report.json").read_text())
    assert [entry["name"] for entry in report["volumes"]] == ["Label 1", "Label 300"]


def test_an_interval_does_not_exceed_the_image(tmp_path: Path, a_volume: Path) -> None:
    paths = tuple(tmp_path / f"{name}.nii.gz" for name in "ab")
    for path, mask in zip(paths, (ball(3), ~ball(3)), strict=True):
        sitk.WriteImage(image_of(mask.astype(np.uint8)), str(path))
    (volume,) = import_masks(ImportRequest(a_volume, tmp_path / "result", paths)).report["volumes"]
    whole = float(np.prod(SHAPE)) * 3 / 1000
    assert volume["interval90_ml"] == [0, pytest.approx(whole, abs=1e-3)] and volume["samples_ml"][1] < whole


def test_255_is_said_to_be_taken_for_a_structure_or_refused() -> None:
    masks = [LabelSet("The mask 'a'", frozenset({1, 255}), {})]
    assert common_labels(masks).warnings == [IGNORED_TAKEN]
    with pytest.raises(InputError, match="255, which has no name .* or, if it marks voxels that are to be ignored"):
        common_labels(masks, ["Spleen"])


def test_a_dataset_json_with_regions_beside_the_masks_is_a_warning(
    tmp_path: Path, a_volume: Path, masks: tuple[Path, ...]
) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "whole": [1, 300], "core": [300]}}))
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", masks)).report
    assert any("no list of labels that can be used" in warning for warning in report["warnings"])


def test_copies_and_masks_of_different_structures_are_warnings(
    tmp_path: Path, a_volume: Path, masks: tuple[Path, ...]
) -> None:
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(masks[0].read_bytes())
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", (*masks, copy))).report
    assert any("equal to another one: 1 of 6" in warning for warning in report["warnings"])
    paths = tmp_path / "liver.nii.gz", tmp_path / "spleen.nii.gz"
    for path, x in zip(paths, (5, 18), strict=True):
        sitk.WriteImage(image_of(ball(3, x).astype(np.uint8)), str(path))
    report = import_masks(ImportRequest(a_volume, tmp_path / "result", paths)).report
    assert any("mask of another structure" in warning for warning in report["warnings"])


def test_a_file_that_is_read_is_not_replaced(tmp_path: Path, a_volume: Path, masks: tuple[Path, ...]) -> None:
    output = tmp_path / "result"
    import_masks(ImportRequest(a_volume, output, masks))
    with pytest.raises(InputError, match="would replace 'segmentation.seg.nrrd'"):
        import_masks(ImportRequest(a_volume, output, (output / "segmentation.seg.nrrd", masks[0])))
    refused("volume is one of the masks", ImportRequest(masks[0], tmp_path / "other", masks))


def probabilities(path: Path, p: np.ndarray, key: str = "probabilities") -> Path:
    np.savez_compressed(path, **{key: p})
    return path


def refused(sentence: str, request: ImportRequest) -> None:
    with pytest.raises(InputError, match=sentence):
        import_masks(request)
    assert not request.output.exists()


def test_what_cannot_be_imported_is_one_sentence(tmp_path: Path, a_volume: Path, masks: tuple[Path, ...]) -> None:
    output = tmp_path / "result"
    refused("One mask has no uncertainty", ImportRequest(a_volume, output, masks[:1]))
    refused("given twice", ImportRequest(a_volume, output, (masks[0], masks[0])))
    flat = np.full((2, *SHAPE), 0.5, np.float32)
    soft = probabilities(tmp_path / "soft.npz", flat)
    refused("give one kind", ImportRequest(a_volume, output, (masks[0], soft)))
    refused("sum to 1", ImportRequest(a_volume, output, (probabilities(tmp_path / "a.npz", 2 * flat),)))
    refused("sum to 1", ImportRequest(a_volume, output, (probabilities(tmp_path / "n.npz", np.nan * flat),)))
    refused("volume's grid", ImportRequest(a_volume, output, (probabilities(tmp_path / "b.npz", flat[:, 1:]),)))
    refused(
        "no entry 'probabilities'", ImportRequest(a_volume, output, (probabilities(tmp_path / "c.npz", flat, "x"),))
    )
    objects = probabilities(tmp_path / "d.npz", np.array([{"a": 1}], dtype=object))
    refused("no class probabilities", ImportRequest(a_volume, output, (objects,)))
    (tmp_path / "e.npz").write_bytes(soft.read_bytes()[:200])
    refused("cannot be read", ImportRequest(a_volume, output, (tmp_path / "e.npz",)))
    shifted = image_of(np.ones(SHAPE, np.uint8))
    shifted.SetOrigin((0, 0, 0))
    sitk.WriteImage(shifted, str(tmp_path / "shifted.nii.gz"))
    refused("image's grid", ImportRequest(a_volume, output, (masks[0], tmp_path / "shifted.nii.gz")))
    sitk.WriteImage(image_of(np.random.default_rng(0).normal(size=SHAPE)), str(tmp_path / "grey.nii.gz"))
    refused("not label numbers", ImportRequest(a_volume, output, (masks[0], tmp_path / "grey.nii.gz")))
    for name in "fg":
        sitk.WriteImage(image_of(np.zeros(SHAPE, np.uint8)), str(tmp_path / f"{name}.nii.gz"))
    refused("masks are empty", ImportRequest(a_volume, output, (tmp_path / "f.nii.gz", tmp_path / "g.nii.gz")))


def test_named_and_numbered_masks_are_refused_together() -> None:
    named = LabelSet("The mask 'a'", frozenset({1}), {1: Segment("Liver")})
    numbered = LabelSet("The mask 'b'", frozenset({1}), {})
    with pytest.raises(InputError, match="'a' names its labels and the mask 'b' does not"):
        common_labels([named, numbered])
    assert common_labels([named, numbered], ["Liver"]).table[0]["name"] == "Liver"
    with pytest.raises(InputError, match="label 7, which has no name"):
        common_labels([LabelSet("The mask 'c'", frozenset({7}), {})], ["Liver"])


def test_colour_and_terminology_of_segments_are_kept() -> None:
    terminology = "a~b^c^d~e^f^g~^^~h~^^~^^"
    segment = Segment("Liver", "0.1 0.2 0.3", f"TerminologyEntry:{terminology}|Segmentation.Status:inprogress|")
    [entry] = common_labels([LabelSet("The mask 'a'", frozenset({4}), {4: segment})] * 2).table
    assert (entry["label"], entry["color"], entry["terminology"]) == (1, [0.1, 0.2, 0.3], terminology)


def test_a_cancelled_import_writes_nothing(tmp_path: Path, a_volume: Path, masks: tuple[Path, ...]) -> None:
    stages: list[str] = []
    with pytest.raises(Cancelled):
        import_masks(
            ImportRequest(a_volume, tmp_path / "result", masks),
            progress=lambda value: stages.append(value.stage),
            cancel=lambda: "drop" if len(stages) > 3 else None,
        )
    assert not (tmp_path / "result").exists()


@pytest.mark.slow
def test_command_prints_volumes_and_the_meaning_of_the_spread(
    tmp_path: Path, a_volume: Path, masks: tuple[Path, ...]
) -> None:
    command = [sys.executable, "-m", "diffusion_segmentation", "import", *masks, "--volume", a_volume]
    finished = subprocess.run([*command, "--output", tmp_path / "result"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "From 5 imported masks." in finished.stdout and "Label 300" in finished.stdout
    assert "disagreement of 5 imported masks" in finished.stdout
