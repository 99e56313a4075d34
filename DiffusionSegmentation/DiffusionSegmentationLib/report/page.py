"""HTML report of a result: volumes, review, corrections, settings, and pictures of the most uncertain regions.

The page is one file that needs no others; the same content is written as JSON and the volumes as CSV beside it.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import slicer

from diffusion_segmentation.runtime.html_page import figure, heading, page, paragraph, text_table

from ..i18n import tr as _
from ..review import corrections, region_alternatives
from ..review.review import DONE, FLAGGED, OPEN, SKIPPED, Region, Review
from ..review.updates import roundsOf
from ..runs import status_texts
from ..runs.temporary_files import writeCompletely
from ..scene import answers, offscreen, questions
from ..scene.display import VOLUME_ROLE
from ..scene.label_map import Labels
from ..scene.result_nodes import reportOf
from ..scene.units import sizeText
from ..scene.volumes import Sizes, intervalText
from .pictures import SLICE_MM, RegionPictures

PICTURED_REGIONS = 6


def stateText(state: str) -> str:
    return {OPEN: _("not reviewed"), DONE: _("done"), FLAGGED: _("flagged"), SKIPPED: _("skipped")}[state]


class Report:
    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Raises LookupError, one sentence, if a part of the result was removed."""
        self._node = segmentationNode
        self._run = reportOf(segmentationNode)
        self._review = Review(segmentationNode)
        labels = Labels(segmentationNode)
        self._sizes = Sizes(self._run)
        self._unit = self._sizes.unit
        self._answers = self._run.get("answers", [])
        self._edited = labels.edited()
        self._editedSize, self._editedCount = labels.sizeOf(self._edited), labels.countText(self._edited)
        self._facts = self._run.get("facts", {})
        """Voxels given which the samples of an updated result were drawn; empty for others."""
        self._factsCount = labels.countText(self._facts.get("voxels", 0))
        volumeNode = segmentationNode.GetNodeReference(VOLUME_ROLE)
        self._volumeName = volumeNode.GetName() if volumeNode else ""

    def writeSteps(self, path: Path) -> Iterator[None]:
        """Write `path` (.html), and beside it .json, .csv and .answers.csv (if any); yields between slow steps.

        All pictures are made before anything is written. Raises OSError, LookupError.
        """
        pictures = RegionPictures(self._node)
        slices, masks, surfaces = [], [], None
        for region in self._review.regions[:PICTURED_REGIONS]:
            masks.append(corrections.regionMask(self._node, region["basin"]))
            found = region_alternatives.alternativesIn(self._node, masks[-1])
            caption = f"{self._regionText(region)} {region_alternatives.sharesText(found)}".rstrip()
            slices.append((caption, pictures.slices(region["peak_ras_mm"], masks[-1])))
            yield
        for picture in () if self._unit.isArea else pictures.surfaceSteps(masks):
            surfaces = picture
            yield
        texts = {
            ".json": json.dumps(self.content(), indent=2, ensure_ascii=False) + "\n",
            ".csv": "\ufeff" + self._sizes.asTable(","),
            **({".answers.csv": "\ufeff" + answers.asTable(self._run, ",")} if self._answers else {}),
            path.suffix or ".html": self._page(slices, surfaces),
        }
        for suffix, text in texts.items():
            writeCompletely(path.with_suffix(suffix), text)

    def content(self) -> dict[str, Any]:
        regions = []
        for region in self._review.regions:
            identity = {"rank": region["rank"], "basin": region["basin"], "state": self._review.state(region)}
            keys = [self._unit.key(name) for name in ("expected_error", "reviewable")]
            numbers = dict(zip(keys, (region["expected_error"], region["reviewable"]), strict=True))
            numbers |= {"share": region["share"], self._unit.key("volume"): region["volume"]}
            classes = {part["name"]: part["share"] for part in region["classes"]}
            regions.append({**identity, **numbers, "classes": classes, "peak_ras_mm": region["peak_ras_mm"]})
        criteria = self._review.criteria
        smallest = {} if self._unit.isArea else {"smallest_mm3": criteria.smallestMm3}
        return {
            "volume": self._volumeName,
            "segmentation": self._node.GetName(),
            "run": self._run,
            "command": self.command(),
            "edited_voxels": self._edited,
            self._unit.key("edited"): round(self._editedSize, 4),
            **({"facts": {**self._facts, "updates": roundsOf(self._node)}} if self._facts else {}),
            "review": {"threshold_bits": criteria.bits, **smallest, "regions": regions},
        }

    def command(self) -> str:
        """The command that repeats the run, with the file of the volume as VOLUME, or of several as VOLUME1 etc.

        For an updated result also the command that draws it again, given all its facts in the file FACTS.
        """
        run = self._run
        if "imported" in run:
            return "diffusion-segmentation import MASKS --volume VOLUME --output DIR"
        names = run.get("input", {}).get("names", [])
        inputs = [part for n, name in enumerate(names, 1) for part in ("--input", f"{name}=VOLUME{n}")] or ["VOLUME"]
        parts = ["diffusion-segmentation", "segment", *inputs, "--model", run["model"]["name"]]
        sampling = ["--samples", run["samples"], "--seed", run["seed"]] if status_texts.isSampled(run) else []
        parts += [*sampling, "--device", run["device"]]
        parts += ["--steps", run["steps"]] if run["steps"] else []
        first = shlex.join(map(str, [*parts, "--output", "DIR"]))
        if not self._facts:
            return first
        update = ["update", "DIR", *inputs, "--facts", "FACTS", "--device", run["device"], "--output", "UPDATED"]
        return f"{first} && {shlex.join(map(str, ['diffusion-segmentation', *update]))}"

    def _page(self, slices: Sequence[tuple[str, Any]], surfaces: Any) -> str:
        """The page with the pictures of regions and their captions, and that of the surfaces, if there is one."""
        title = _("{name}: segmentation and its uncertainty").format(name=self._volumeName)
        body = [paragraph(self._summary(), "note")]
        body += [f"<p><b>{escape(warning)}</b></p>" for warning in self._run.get("warnings", [])]
        body += [heading(self._unit.either(_("Volumes"), _("Areas"))), self._volumesTable()]
        if self._answers:
            note = f"{answers.legend()} {answers.note(self._run)}"
            body += [heading(_("Measurements")), self._answersTable(), paragraph(note, "note")]
        body += [heading(_("Uncertain regions")), paragraph(self._reviewText())]
        if surfaces is not None:
            caption = _("The {count} most uncertain regions, seen from the front right.")
            caption = caption if slices else _("The segmentation, seen from the front right.")
            body.append(_figure(surfaces, caption.format(count=len(slices))))
        body += [_figure(picture, caption) for caption, picture in slices]
        if slices and self._unit.isArea:
            body.append(paragraph(_("The whole picture: image only (left), with overlay (right)."), "note"))
        elif slices:
            text = _(
                "Axial, coronal and sagittal slices ({mm:.0f} mm); image only (top), with overlay (bottom). The"
                " patient's right and front are at the left."
            )
            body.append(paragraph(text.format(mm=SLICE_MM), "note"))
        body.append(self._regionsTable())
        body += [heading(_("Corrections")), *map(paragraph, (self._editedText(), *self._factsTexts()))]
        body += [self._factsTable()]
        source = _("Segmentation and entropy are from {source}.").format(source=status_texts.mapSource(self._run))
        body += [heading(_("Model and settings")), paragraph(source), self._settingsTable()]
        body += map(paragraph, self._cardSentences())
        repeat = _(
            "With the same input, model, seed, device type and package versions, this command reproduces the result:"
        )
        body.append(f"<p>{escape(repeat)} <code>{escape(self.command())}</code></p>")
        return page(title, "".join(body))

    def _summary(self) -> str:
        run, model = self._run, self._run["model"]
        if "imported" in run:
            return _("Result of {title}. Not for clinical use.").format(title=model["title"])
        if "folds" in run:
            count = len(run["folds"]["names"])
            one, several = (
                _("One fold of {title}. Not for clinical use."),
                _("{count} folds of {title}. Not for clinical use."),
            )
            return (one if count == 1 else several).format(count=count, title=model["title"])
        if "network" in run:
            return _("By {title}. Not for clinical use.").format(title=model["title"])
        values = {"samples": run["samples"], "seed": run["seed"], "version": model.get("version", "")}
        text = _("{samples} samples by {model} {version}, seed {seed}. Not for clinical use.")
        return text.format(model=model["title"], **values)

    def _volumesTable(self) -> str:
        sizes, cells = self._sizes, []
        for segment in sizes.segments:
            intervals = map(intervalText, sizes.bounds(segment, (50, 90)))
            shown, mask = map(sizeText, (sizes.shown(segment), sizes.mask(segment)))
            dice = segment.get("expected_dice")
            cells.append([segment["name"], shown, *intervals, mask, *sizes.contourTexts(segment)])
            cells[-1] += [] if dice is None else [f"{dice:.2f}"]
        shown = _("Expected") if sizes.areExpected else _("Mean")
        spread = [_("Range of the folds")] if sizes.areRanges else ["50 %", "90 %"]
        head = [_("Structure"), *(f"{text} ({self._unit.text})" for text in (shown, *spread, _("Mask")))]
        head += [_("Gap ({unit})").format(unit=sizes.lengthUnit)] if sizes.haveContours else []
        head += [_("Expected Dice")] if self._run.get("expected_dice") is not None else []
        notes = " ".join([*sizes.note().splitlines(), sizes.coverageText(), sizes.checkText()])
        return text_table(head, cells) + paragraph(notes.strip(), "note")

    def _answersTable(self) -> str:
        cells = []
        for answer in self._answers:
            samples = [*answers.sampleTexts(answer), *answers.beforeTexts(answer)]
            texts = map("; ".join, (answers.valueTexts(answer), samples))
            cells.append([questions.words(answer, self._run), *texts])
        return text_table([_("Question"), _("Segmentation"), _("Samples")], cells, left=(1, 2))

    def _reviewText(self) -> str:
        review = self._review
        states = [review.state(region) for region in review.regions]
        text = _(
            "{total} regions with {bits:.2f} bits or more; done: {done}, flagged: {flagged}, skipped: {skipped}, not"
            " reviewed: {open}."
        )
        counts = {state: states.count(state) for state in (DONE, FLAGGED, SKIPPED, OPEN)}
        text = text.format(total=len(states), bits=review.criteria.bits, **counts)
        if review.reviewable is not None:
            expected, reviewable = map(self._unit.textOf, (review.expectedError, review.reviewable))
            error = _(
                "The expected error is {expected}, of which {reviewable} can be reviewed; {share:.0f} % of that"
                " is in regions that were not reviewed. The rest is below the threshold or within one model voxel of"
                " a border."
            )
            share = 100 * review.remaining()[1]
            text = f"{text} {error.format(expected=expected, reviewable=reviewable, share=share)}"
        return text

    def _regionText(self, region: Region) -> str:
        text = _("Region {rank}, {state}: {classes}; expected error {error} of {size}.")
        values = {"rank": region["rank"], "state": stateText(self._review.state(region)), "classes": _classes(region)}
        error, size = sizeText(region["expected_error"]), self._unit.textOf(region["volume"])
        text = text.format(**values, error=error, size=size)
        return f"{text} {status_texts.unlikeText(*region['unlike'])}" if region["unlike"] else text

    def _regionsTable(self) -> str:
        unit = {"unit": self._unit.text}
        head = [_("Region"), _("Classes"), _("Reviewable error ({unit})").format(**unit), _("Share")]
        head += [_("Expected error ({unit})").format(**unit), _("Peak (bits)"), _("Position (RAS, mm)"), _("State")]
        rows = []
        for region in self._review.regions:
            review, error = map(sizeText, (region["reviewable"], region["expected_error"]))
            peak = f"{region['peak_entropy_bits']:.2f}"
            place = ", ".join(f"{mm:.0f}" for mm in region["peak_ras_mm"])
            numbers = [review, f"{100 * region['share']:.1f} %", error, peak, place]
            rows.append([str(region["rank"]), _classes(region), *numbers, stateText(self._review.state(region))])
        return text_table(head, rows, left=(1, 7)) if rows else ""

    def _editedText(self) -> str:
        if not self._edited:
            return _("The segmentation was not edited.")
        return _("{voxels} were edited manually.").format(voxels=self._editedCount)

    def _factsTexts(self) -> Iterator[str]:
        """What the samples of an updated result were drawn given."""
        if self._facts:
            text = _("{voxels} became facts in {rounds} rounds of updates: the samples were drawn again given them.")
            yield text.format(voxels=self._factsCount, rounds=self._facts["rounds"])
            yield _("Facts are never changed. The rest follows them only roughly, so check it.")

    def _factsTable(self) -> str:
        rounds = roundsOf(self._node) if self._facts else []
        keys = "edited_voxels", "done_regions", "voxels"
        rows = [[str(number), *(str(entry[key]) for key in keys)] for number, entry in enumerate(rounds, 1)]
        head = [_("Round"), _("Edited voxels"), _("Regions done"), _("Voxels of all facts")]
        return text_table(head, rows) if rows else ""

    def _settingsTable(self) -> str:
        run, model, source = self._run, self._run["model"], self._run.get("input", {})
        steps = run.get("steps") or _("none")
        seed = _("none") if run["seed"] is None else run["seed"]
        rows = [
            [_("Model"), f"{model['title']} {model.get('version', '')}"],
            [_("Checksum of the model"), model["sha256"]],
            [_("On top of the model"), "{name}, {sha256}".format(**model["frozen"]) if "frozen" in model else ""],
            [_("Samples, steps, seed"), f"{run['samples']}, {steps}, {seed}"],
            [_("Device"), run.get("device", "")],
            [_("Volume"), " x ".join(map(str, source.get("size_ijk", [])))],
            [_("DICOM series"), source.get("series_uid", "")],
            [_("Checksum of the voxels"), source.get("sha256", "")],
            [_("Versions"), ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())],
        ]
        return text_table([_("Setting"), _("Value")], [row for row in rows if row[1].strip()], left=(1,))

    def _cardSentences(self) -> Iterator[str]:
        """Description, intended use and measured accuracy from the model card."""
        model = self._run["model"]
        yield from filter(None, (model.get("description"), model.get("intended_use")))
        for name, scores in model.get("card", {}).get("heads", {}).items():
            text = _("On the head {name}: mean Dice {dice:.2f}, expected calibration error {ece:.3f}")
            text = text.format(name=name, dice=scores["mean_dice"], ece=scores["ece"])
            wrong = scores["wrong_at_entropy"].get("0.4")
            if wrong:
                text += _("; 1 in {count} voxels with about 0.4 bits was wrong").format(count=round(1 / wrong))
            yield text + "."


def _classes(region: Region) -> str:
    return ", ".join(f"{part['name']} {100 * part['share']:.0f} %" for part in region["classes"])


def _figure(picture: Any, caption: str) -> str:
    return figure(offscreen.png(picture), "", caption)
