"""Scores over cases: pooled tables compared with all voxels at once, intervals, and stored cases."""

import json

import numpy as np
import pytest

from diffusion_segmentation import metrics
from diffusion_segmentation.errors import DiffusionSegmentationError, GeometryError, InputError
from diffusion_segmentation.evaluation import pooling
from diffusion_segmentation.evaluation.store import CaseStore, run_cases


def test_tables_of_cases_add_up_to_the_calibration_error_of_all_voxels():
    rng = np.random.default_rng(0)
    confidence = [rng.random(n) for n in (50, 200, 7, 30, 9)]
    correct = [rng.random(len(c)) < c**2 for c in confidence]
    tables = np.array([pooling.binned(c, r) for c, r in zip(confidence, correct, strict=True)])
    whole = np.concatenate(confidence), np.concatenate(correct)
    assert pooling.pooled_ece(tables) == pytest.approx(metrics.expected_calibration_error(*whole))
    result, (counts, _, correct_sum) = pooling.diagram(tables), metrics.calibration_table(*whole)
    np.testing.assert_allclose(result["accuracy"], correct_sum / counts)
    np.testing.assert_allclose(result["counts"], counts)
    assert all(
        low <= value <= high for low, value, high in zip(*(result[k] for k in ("low", "accuracy", "high")), strict=True)
    )


def test_a_diagram_of_one_case_has_no_bands_and_of_empty_bins_no_values():
    result = pooling.diagram([pooling.binned(np.array([0.95, 0.99]), np.array([True, False]))])
    assert result["low"] == [None] * pooling.BINS and result["accuracy"][:-1] == [None] * (pooling.BINS - 1)
    assert result["accuracy"][-1] == 0.5


def test_scores_have_intervals_from_five_cases_on():
    assert pooling.score([3.0]) == {"value": 3.0, "low": None, "high": None}
    assert pooling.score([1.0, 2.0, 3.0, 6.0]) == {"value": 3.0, "low": None, "high": None}
    assert pooling.score([]) == {"value": None, "low": None, "high": None}
    result = pooling.score(np.arange(100.0))
    assert result["value"] == 49.5 and 40 < result["low"] < 49 and 50 < result["high"] < 59
    assert pooling.score([1.0, 2.0], lambda x: float("nan"))["value"] is None
    assert (
        pooling.score_defined([None, 1.0, 3.0])["value"] == 2.0
        and pooling.score_defined([None, 1.0, 3.0])["cases"] == 2
    )
    shifted = pooling.difference(np.arange(50.0) + 0.5, np.arange(50.0))
    assert shifted["low"] == pytest.approx(0.5) and shifted["high"] == pytest.approx(0.5), "paired, so certain"


@pytest.fixture
def store(tmp_path):
    return CaseStore(tmp_path / "cases", {"model": "abc", "steps": (5, 10)})


PICTURE = {"image": np.arange(6, dtype=np.float16).reshape(2, 3)}


def test_a_stored_case_is_used_only_for_the_same_settings(store, tmp_path):
    store.put("a/b: ü", {"score": 1.5}, PICTURE, {"file": [1, 2]})
    again = CaseStore(store.folder, {"model": "abc", "steps": [5, 10]})
    assert again.get("a/b: ü", {"file": [1, 2]}) == {"score": 1.5}
    np.testing.assert_array_equal(again.picture("a/b: ü")["image"], PICTURE["image"])
    assert again.get("a/b: ü", {"file": [1, 3]}) is None, "the file has changed since"
    assert again.get("a_b_ ü", {"file": [1, 2]}) is None, "another case"
    assert CaseStore(store.folder, {"model": "abd", "steps": [5, 10]}).get("a/b: ü", {"file": [1, 2]}) is None
    older = json.dumps({**json.loads((path := store._path("a/b: ü")).read_text()), "key": {**store.key, "schema": 3}})
    path.write_text(older, encoding="utf-8")
    assert store.get("a/b: ü", {"file": [1, 2]}) is None, "heads were drawn by another generator"
    assert all(path.name.isascii() and path.parent == store.folder for path in store.folder.iterdir())


def test_a_damaged_record_is_ignored(store):
    store.put("one", {"score": 1.5}, PICTURE)
    record, picture = (next(store.folder.glob(f"one*.{kind}")) for kind in ("json", "npz"))
    picture.write_bytes(b"no")
    assert store.picture("one") == {} and store.get("one") is not None
    record.write_text(record.read_text()[:40])
    assert store.get("one") is None
    record.write_text("[]")
    assert store.get("one") is None


def test_similar_case_names_have_different_files(store):
    for name in ("a b", "a_b", "A_B", "." * 80, "ä", "ö"):
        store.put(name, {"name": name}, PICTURE)
    assert all(store.get(name) == {"name": name} for name in ("a b", "a_b", "A_B", "." * 80, "ä", "ö"))


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiffusionSegmentationError, match="could not be written"):
        CaseStore(tmp_path / "file", {}).put("one", {}, PICTURE)


def test_unusable_cases_are_reported_and_finished_ones_reused(store, capsys):
    indices = []

    def work(index):
        indices.append(index)
        if index == 1:
            raise GeometryError("Its slices are too thick.")
        return {"index": index}, PICTURE

    records, skipped = run_cases(["a", "b", "c"], work, store)
    assert records == {"a": {"index": 0}, "c": {"index": 2}} and skipped == {"b": "Its slices are too thick."}
    assert "case b is skipped: Its slices are too thick." in capsys.readouterr().err
    assert run_cases(["a", "b", "c"], work, store)[0] == records
    assert indices == [0, 1, 2, 1], "only what was left out is tried again"


def test_no_usable_case_is_one_sentence(store):
    def work(index):
        raise InputError(f"File {index} is empty.")

    with pytest.raises(InputError, match="None of the 2 cases can be used; the first: File 0 is empty."):
        run_cases(["a", "b"], work, store)


def test_finished_cases_are_kept_when_stopped(store, capsys):
    def work(index):
        if index == 2:
            raise KeyboardInterrupt
        return {"index": index}, PICTURE

    with pytest.raises(KeyboardInterrupt):
        run_cases(["a", "b", "c"], work, store)
    assert "2 of 3 cases are done and stored" in capsys.readouterr().err
    assert store.get("b") == {"index": 1} and store.get("c") is None
