"""Questions of the study find differences that were put into the data, and none where there are none."""

from dataclasses import replace

import numpy as np
import planted
import pytest
import torch
from planted import TASK

from diffusion_segmentation.diffusion.process import LOG_SNR_MIN, adapted_grid
from diffusion_segmentation.errors import InputError
from diffusion_segmentation.networks import space_to_depth
from diffusion_segmentation.study import fit
from diffusion_segmentation.study.architectures.pair import Pair
from diffusion_segmentation.study.questions import (
    adaptation,
    chosen,
    complete,
    crop_selection,
    direct_or_diffusion,
    frozen,
    fusion,
    sample_count,
    short,
    variations,
    windows,
)
from diffusion_segmentation.study.questions.fusion import RULES
from diffusion_segmentation.study.sampling import Samples, VariantSampler
from diffusion_segmentation.study.scores import BETTER, OPEN
from diffusion_segmentation.study.variants import Variant
from diffusion_segmentation.training.loss import bin_centres

pytestmark = pytest.mark.usefixtures("few_study_resamples")

LEVELS = bin_centres()
FACTS = {"iterations": 1, "parameters": 1, "operations": 1}


# A1


@pytest.mark.slow
@pytest.mark.parametrize(("diffusion", "direct", "verdict"), [
    (planted.exact, planted.pixels, "holds"),
    (planted.pixels, planted.exact, "fails"),
    (planted.exact, planted.exact, "open"),
])  # fmt: skip
def test_a1_decides_which_of_two_rows_samples_the_posterior(study_context, diffusion, direct, verdict):
    rows = {"direct": direct, "head": planted.exact, "copula": planted.pixels}
    rows |= {f"diffusion-{n}": diffusion for n in (1, 8, 32)} | {f"exact-{n}": planted.exact for n in (8, 32)}
    question = direct_or_diffusion.DirectOrDiffusion(("direct",))
    summary = question.summarise(
        study_context, planted.results(study_context, rows, seconds={"direct": 0.1, "diffusion-32": 0.2})
    )
    sentence = next(s for s in summary.sentences if '"direct, CE"' in s["text"] and "unbiased GED" in s["text"])
    assert sentence["verdict"] == verdict, sentence
    assert summary.figures and summary.tables and summary.figures[0].png.startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize(("dice", "ce", "claims", "controls"), [
    (planted.sharpened, planted.exact, ["open", "holds"], ["open", "open"]),
    (planted.single, planted.single, ["holds", "holds"], ["holds", "holds"]),
])  # fmt: skip
def test_a1_compares_the_claim_with_its_control(study_context, dice, ce, claims, controls):
    rows = {"direct": ce, "direct-dice": dice, "head": planted.exact, "copula": planted.exact}
    rows |= {f"diffusion-{n}": planted.exact for n in (1, 8, 32)} | {f"exact-{n}": planted.exact for n in (8, 32)}
    seconds = {"direct": 0.1, "direct-dice": 0.1, "diffusion-32": 0.2}
    question = direct_or_diffusion.DirectOrDiffusion(("direct", "direct-dice"))
    summary = question.summarise(study_context, planted.results(study_context, rows, seconds=seconds))
    for kind, verdicts in (("claim", claims), ("control", controls)):
        sentences = [s for s in summary.sentences if s["claim"] and f", {kind}: " in s["text"]]
        assert ["IoU" in s["text"] for s in sentences] == [True, False] and "ECE" in sentences[1]["text"]
        assert [s["verdict"] for s in sentences] == verdicts, sentences


# A2, with real samples from networks with the exact answer


@pytest.mark.slow
def test_a2_a_network_without_image_or_state_is_worse(study_context, monkeypatch):
    task = study_context.tasks[TASK]
    cases = [task.case(n) for n in range(len(task.cases))]
    networks = {
        "mask": planted.Oracle(cases),
        "noise": planted.Oracle(cases, ignore_image=True),
        "nothing": planted.Oracle(cases, ignore_state=True),
        "shuffled": planted.Oracle(cases),
    }
    monkeypatch.setattr(type(study_context), "network", lambda self, variant: networks[variant.state])
    monkeypatch.setattr(type(study_context), "training_facts", lambda self, variant: FACTS)
    flat = {"log_snr": LEVELS, "loss": np.linspace(1, 0, len(LEVELS))[None], "error": None}
    monkeypatch.setattr("diffusion_segmentation.study.sampling.loss_over_levels", lambda *_: flat)
    monkeypatch.setattr("diffusion_segmentation.study.questions.variations.NoisyMask.cases", 10)
    question = variations.NoisyMask()
    summary = question.summarise(
        study_context, {(TASK, s): question.measure(study_context, TASK, s) for s in study_context.seeds}
    )
    differences = summary.numbers[TASK]["differences"]
    full = variations.STATES["mask"]
    for state in ("noise", "nothing"):
        assert differences[f"{full} | {variations.STATES[state]}"]["ged_u"]["verdict"] == BETTER, state
    assert summary.numbers[TASK]["scores"][full]["ged_u"]["value"] < 0.05


def test_a2_a_network_that_ignores_its_state_gains_nothing(study_context):
    question = variations.NoisyMask()
    rows = dict.fromkeys(variations.STATES.values(), planted.pixels)
    facts = dict.fromkeys(rows, FACTS)
    summary = question.summarise(study_context, planted.results(study_context, rows, facts=facts))
    assert {s["verdict"] for s in summary.sentences} == {"open"}


# A4


@pytest.mark.slow
@pytest.mark.parametrize(("adapted", "cosine", "verdict"), [
    (planted.exact, planted.single, "holds"),
    (planted.single, planted.exact, "fails"),
])  # fmt: skip
def test_a4_finds_the_better_grid(study_context, adapted, cosine, verdict):
    kinds = {"adapted": adapted, "fingerprint": planted.exact, "cosine": cosine, "uniform": planted.exact}
    rows = {f"{kind}-{k}": row for kind, row in kinds.items() for k in adaptation.STEPS}
    summary = adaptation.StepGrids().summarise(study_context, planted.results(study_context, rows))
    against_cosine = [s["verdict"] for s in summary.sentences if adaptation.TITLES["cosine"] in s["text"]]
    assert against_cosine == [verdict] * len(adaptation.STEPS)


@pytest.mark.slow
def test_a4_advice_follows_the_fingerprint(study_context):
    assert adaptation.recommended_scale(0.0) == 1.0
    assert adaptation.recommended_scale(2 * np.log(0.2)) == 0.2
    question = adaptation.Adaptation()
    variants = [variant for variant in question.variants(TASK, 0) if variant.form == "diffusion"]
    for good in ("cosine 0.2, fingerprint", "linear 1, uniform"):
        rows = {
            name: (planted.exact if name == good else planted.single)
            for variant in variants
            for kind in adaptation.GRIDS
            for name in [adaptation.row_of(variant, kind)]
        }
        summary = question.summarise(study_context, planted.results(study_context, rows, half_point=2 * np.log(0.2)))
        verdict = "holds" if good.startswith("cosine") else "fails"
        assert summary.numbers[TASK]["best"] == good and summary.sentences[0]["verdict"] == verdict


# A5, A6, A8 and the architectures share their form


@pytest.mark.slow
@pytest.mark.parametrize("question", [variations.Targets(), variations.Losses(), variations.Architectures()])
def test_rows_find_the_better_of_every_pair_and_its_opposite(study_context, question):
    better = {a for a, _ in list(question.pairs().values())[:1]}
    for good, verdict in ((True, "holds"), (False, "fails")):
        rows = {
            title: planted.exact if (title in better) == good else planted.sharpened for title in question.rows(TASK, 0)
        }
        facts = dict.fromkeys(rows, FACTS)
        summary = question.summarise(study_context, planted.results(study_context, rows, facts=facts))
        assert summary.sentences[0]["verdict"] == verdict, summary.sentences[0]


def test_a6_one_step_of_the_exact_denoiser_does_not_give_a_sample(study_context):
    task = study_context.tasks[TASK]
    truth = task.truth(1)
    sampler = VariantSampler(planted.Oracle([truth.case]), Variant(TASK), task)
    once, many = (sampler.sample(truth.case.image, 32, np.linspace(LOG_SNR_MIN, 7, k), 0).masks for k in (1, 25))
    volumes = [masks.reshape(32, -1).sum(1).var() for masks in (once, many)]
    assert volumes[0] < 0.05 * volumes[1]


# A7


@pytest.mark.slow
def test_a7_distinguishes_errors_of_counting_from_errors_of_the_model(study_context):
    task, case_scores = study_context.tasks[TASK], {"good": [], "bad": []}
    rng = np.random.default_rng(1)
    for index in range(12):
        truth = task.truth(index)
        exact = truth.case.sample(rng, 64)
        for kind, masks in (("good", truth.case.sample(rng, 64)), ("bad", np.repeat(exact[:1], 64, 0))):
            softmax = np.stack([masks == 0, masks == 1], 1).astype(np.float32)
            case_scores[kind].append(sample_count.count_scores(truth, masks, softmax, exact))
    question = sample_count.SampleCount()
    for kind, verdict in (("good", "holds"), ("bad", "fails")):
        summary = question.summarise(
            study_context, {(TASK, s): {"cases": case_scores[kind]} for s in study_context.seeds}
        )
        assert summary.sentences[-1]["verdict"] == verdict, summary.sentences[-1]
        ece = summary.numbers[TASK]["ece"]
        gap = dict(ece["model"])[64]["value"] - dict(ece["exact"])[64]["value"]
        assert (gap < 0.03) == (kind == "good")


# A9


def test_a9_windows_around_the_mask_overrepresent_it():
    rng = np.random.default_rng(0)
    masks = np.zeros((400, 1, 16, 16), np.uint8)
    masks[::4, :, 3:6, 3:6] = 1  # there in a quarter of the cases
    images = np.zeros((400, 1, 16, 16), np.float32)
    share = {kind: fit.half_windows(images, masks, kind, rng)[1].any((1, 2, 3)).mean() for kind in ("image", "labels")}
    foreground = {kind: fit.half_windows(images, masks, kind, rng)[1].mean() for kind in ("image", "labels")}
    assert share["labels"] > share["image"] + 0.03 and foreground["labels"] > 1.2 * foreground["image"]


@pytest.mark.parametrize(("bias", "verdict"), [(0.05, "holds"), (0.0, "open"), (-0.05, "fails")])
def test_a9_finds_a_biased_loader(study_context, bias, verdict):
    rng = np.random.default_rng(0)

    def rows(shift):
        noise = rng.standard_normal(40) * 0.01 + shift
        return {row: [[100 * value, 100.0, 50.0] for value in noise] for row in ("direct head", "samples")}

    results = {(TASK, s): {"image": rows(0.0), "labels": rows(bias)} for s in study_context.seeds}
    summary = crop_selection.CropSelection().summarise(study_context, results)
    if bias:
        assert {s["verdict"] for s in summary.sentences} == {verdict}
    else:
        assert verdict in {s["verdict"] for s in summary.sentences}


# A10


class Local(Pair):
    """A cellwise network, for which windows make no difference."""

    def encode(self, image):
        cells = space_to_depth(image)
        return (torch.cat([-cells, cells], 1),)

    def denoise(self, x, log_snr, condition):
        return x + condition[0]

    def head(self, condition):
        return condition[0]


def test_a10_windows_of_one_noise_field_equal_the_whole_image_for_a_local_network():
    network, image = Local(2, 2, 8), np.random.default_rng(0).random((32, 32), np.float32)
    grid = adapted_grid(LEVELS, np.linspace(1, 0, len(LEVELS)), 5)
    samples = {how: windows.sample_in_windows(network, image, how, 4, grid, 3) for how in windows.TITLES}
    np.testing.assert_allclose(samples["whole"], samples["one"], atol=1e-5)
    assert all(p.shape == (4, 2, 32, 32) for p in samples.values())
    assert not np.allclose(samples["stitched"], samples["one"], atol=0.1)  # its noise is another


def test_a10_detects_seams():
    rng = np.random.default_rng(0)
    whole = np.repeat(rng.integers(0, 2, (200, 1, 1)), 32, 1).repeat(32, 2)
    halves = np.concatenate([whole[:, :16], rng.permutation(whole)[:, 16:]], 1)
    noise = rng.integers(0, 2, (200, 32, 32))
    assert windows.seam_rate(np.array([windows.seams(noise)])) == pytest.approx(1, abs=0.05)
    speckled = np.where(rng.random(halves.shape) < 0.02, 1 - halves, halves)
    assert windows.seam_rate(np.array([windows.seams(speckled)])) > 3


# A11


@pytest.mark.slow
def test_a11_prefers_what_has_the_true_spread(study_context):
    rows = dict.fromkeys(frozen.TITLES, planted.pixels) | {frozen.DICE: planted.exact, frozen.OWN: planted.exact}
    summary = frozen.Frozen().summarise(study_context, planted.results(study_context, rows))
    by_pair = summary.numbers[TASK]["differences"]
    assert by_pair[frozen.COPULA["dice"]]["ged_u"]["verdict"] == BETTER
    assert by_pair[frozen.ENSEMBLE]["ged_u"]["verdict"] == BETTER
    assert by_pair[frozen.OWN]["ged_u"]["verdict"] == OPEN


@pytest.mark.slow
def test_a11_trains_on_top_of_a_network_that_stays_as_it_is(study_context):
    context = replace(study_context, minutes=0.01, seeds=(0,))
    question = frozen.Frozen()
    assert {v.frozen.loss for v in question.variants(TASK, 0) if v.frozen} == {"ce", "dice"}
    records = question.measure(context, TASK, 0)["records"]
    assert set(records[0]["rows"]) == set(frozen.TITLES) and all("ged_u" in row for row in records[0]["rows"].values())
    on_top = Variant(TASK, on="dice")
    below, network = context.network(on_top.frozen), context.network(on_top)
    for name, weights in below.encoder.state_dict().items():
        assert torch.equal(network.encoder.frozen.state_dict()[name], weights)
    image = torch.from_numpy(context.tasks[TASK].case(0).image)[None, None]
    logits = below.direct(image) / network.encoder.temperature
    torch.testing.assert_close(network.head(network.encode(image)), logits)


# Fusion


def test_fusion_rules_follow_their_definitions():
    masks = np.zeros((5, 8, 8), np.uint8)
    masks[:3, 2:6, 2:6] = 1
    softmax = np.stack([1 - masks, masks], 1).astype(np.float32)
    samples = Samples(masks, softmax, [softmax] * 10)
    at = {rule: RULES[rule](samples)[1, 3, 3] for rule in RULES}
    assert at["mean probability"] == pytest.approx(0.6) and at["majority"] == pytest.approx(0.6)
    assert at["squared mean (MedSegDiff)"] == pytest.approx(0.36)
    assert at["medoid sample"] == 1
    assert at["step uncertainty (Diff-UNet)"] > 0.99  # a sum of fifty terms, thirty of them positive
    assert at["STAPLE"] > 0.6
    for rule in RULES:
        np.testing.assert_allclose(RULES[rule](samples).sum(0), 1, atol=1e-5)


@pytest.mark.slow
def test_fusion_prefers_the_mean_to_its_square(study_context):
    rows = {rule: planted.exact if rule == fusion.MEAN else planted.sharpened for rule in RULES}
    summary = fusion.Fusion().summarise(study_context, planted.results(study_context, rows))
    verdicts = [s["verdict"] for s in summary.sentences if " in ECE by " in s["text"]]
    assert verdicts == ["holds"] * (len(RULES) - 1) and all(s["verdict"] != "fails" for s in summary.sentences)


# All of them


def test_questions_are_chosen_by_name():
    assert [q.key for q in chosen("a3, A1")] == ["A3", "A1"]
    assert {q.key for q in short()} == {"A1", "A3", "A4"}
    assert set(complete()) == {"architectures", "fusion", *(f"A{n}" for n in range(1, 13))}
    with pytest.raises(InputError, match="A13"):
        chosen("A13")


def test_no_claim_holds_if_all_rows_are_equal(study_context):
    question = variations.Losses()
    rows = dict.fromkeys(question.rows(TASK, 0), planted.exact)
    facts = dict.fromkeys(rows, FACTS)
    summary = question.summarise(study_context, planted.results(study_context, rows, facts=facts))
    assert all(
        d["verdict"] == OPEN for pair in summary.numbers[TASK]["differences"].values() for d in pair.values() if d
    )
