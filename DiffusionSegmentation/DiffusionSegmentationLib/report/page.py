"""The report on a result: what was computed, what a reviewer has said and changed, with pictures of the worst regions.

One HTML page that holds all it needs, with the same as JSON and the volumes as CSV beside it. No qt.
"""

import base64
import html
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import slicer

from ..i18n import tr as _
from ..review import corrections
from ..review.review import DONE, FLAGGED, OPEN, SKIPPED, Region, Review
from ..runs import messages as wording
from ..scene import offscreen, volumes
from ..scene.display import VOLUME_ROLE
from ..scene.label_map import Labels
from ..scene.result_nodes import RUN_ATTRIBUTE
from .pictures import Plates

PICTURED = 6

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin-top: 2rem }
table { border-collapse: collapse; margin: .6rem 0 } th, td { padding: .25rem .8rem; text-align: right;
  border-bottom: 1px solid #ddd } th:first-child, td:first-child { text-align: left } th { font-weight: 600 }
td.text, th.text { text-align: left } figure { margin: 1rem 0; break-inside: avoid }
img { max-width: 100%; display: block }
figcaption { color: #444; margin-top: .3rem } code { background: #f2f2f2; padding: .1rem .3rem; word-break: break-all }
.note { color: #555 } @media print { body { margin: 0 } }
"""


def stateText(state: str) -> str:
    """A region's state in words."""
    return {OPEN: _("not looked at"), DONE: _("done"), FLAGGED: _("flagged"), SKIPPED: _("skipped")}[state]


class Report:
    """Collects what a report on one segmentation node of ours tells, and writes it."""

    def __init__(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Raises LookupError, one sentence, where a part of the result is gone."""
        self._node = segmentationNode
        self._run = json.loads(segmentationNode.GetAttribute(RUN_ATTRIBUTE))
        self._review = Review(segmentationNode)
        labels = Labels(segmentationNode)
        self._edited = labels.edited()
        self._editedMl = self._edited * labels.voxelMl
        volumeNode = segmentationNode.GetNodeReference(VOLUME_ROLE)
        self._volumeName = volumeNode.GetName() if volumeNode else ""

    def writeSteps(self, path: Path) -> Iterator[None]:
        """Write `path` (.html), and beside it .json and .csv; yields between slow pieces. Raises OSError, LookupError.

        Nothing is written before all is drawn.
        """
        plates = Plates(self._node)
        pictures = []
        masks = []
        for region in self._review.regions[:PICTURED]:
            mask = corrections.regionMask(self._node, region.basin)
            masks.append(mask)
            pictures.append((region, plates.slices(region.peakRAS, mask)))
            yield
        for picture in plates.solidSteps(masks):
            solid = picture
            yield
        page = self._page(pictures, solid)
        texts = {".json": json.dumps(self.content(), indent=2, ensure_ascii=False) + "\n"}
        texts[".csv"] = "\ufeff" + volumes.asTable(volumes.volumesOf(self._run), ",")
        texts[path.suffix or ".html"] = page
        for suffix, text in texts.items():
            target = path.with_suffix(suffix)
            draft = target.with_name(target.name + ".part")
            try:
                draft.write_text(text, encoding="utf-8", newline="\n")
                draft.replace(target)
            finally:
                draft.unlink(missing_ok=True)

    def content(self) -> dict[str, Any]:
        """The report without pictures."""
        regions = [
            {"rank": r.rank, "basin": r.basin, "state": self._review.state(r), "expected_error_ml": r.expectedErrorMl}
            | {
                "reviewable_ml": r.reviewableMl,
                "share": r.share,
                "volume_ml": r.volumeMl,
                "classes": dict(r.classes),
                "peak_ras_mm": list(r.peakRAS),
            }
            for r in self._review.regions
        ]
        wish = self._review.wish
        return {
            "volume": self._volumeName,
            "segmentation": self._node.GetName(),
            "run": self._run,
            "command": self.command(),
            "edited_voxels": self._edited,
            "edited_ml": round(self._editedMl, 4),
            "review": {"threshold_bits": wish.bits, "smallest_mm3": wish.smallestMm3, "regions": regions},
        }

    def command(self) -> str:
        """What computes the same again, from a file of the volume."""
        run = self._run
        parts = ["diffusion-segmentation", "segment", "VOLUME", "--model", run["model"]["name"]]
        parts += ["--samples", run["samples"], "--seed", run["seed"], "--device", run["device"]]
        if run["steps"]:
            parts += ["--steps", run["steps"]]
        return shlex.join(map(str, [*parts, "--output", "DIR"]))

    def _page(self, pictures: Sequence[tuple[Region, Any]], solid: Any) -> str:
        title = _("{name}: segmentation and its uncertainty").format(name=self._volumeName)
        body = [f"<h1>{_e(title)}</h1>", f"<p class=note>{_e(self._summary())}</p>"]
        body += [f"<p><b>{_e(warning)}</b></p>" for warning in self._run.get("warnings", [])]
        body += [f"<h2>{_e(_('Volumes'))}</h2>", self._volumesTable()]
        body += [f"<h2>{_e(_('Uncertain regions'))}</h2>", f"<p>{_e(self._reviewText())}</p>"]
        caption = _("Where the {count} worst regions lie, from the front and the right.")
        body.append(_figure(solid, caption.format(count=len(pictures))))
        body += [_figure(picture, self._regionText(region)) for region, picture in pictures]
        if pictures:
            text = _(
                "Axial, coronal and sagittal slices of {mm:.0f} mm, above the image alone; the patient's right and"
                " front are at the left."
            )
            body.append(f"<p class=note>{_e(text.format(mm=110))}</p>")
        body.append(self._regionsTable())
        body += [f"<h2>{_e(_('Corrections'))}</h2>", f"<p>{_e(self._editedText())}</p>"]
        source = _("Segmentation and entropy are from {source}.").format(source=wording.mapSource(self._run))
        body += [f"<h2>{_e(_('Model and settings'))}</h2>", f"<p>{_e(source)}</p>"]
        body += [self._settingsTable(), self._cardText()]
        again = _("The same volume, model, seed, kind of device and versions give the same result:")
        body.append(f"<p>{_e(again)} <code>{_e(self.command())}</code></p>")
        head = f"<meta charset=utf-8><meta name=viewport content='width=device-width'><title>{_e(title)}</title>"
        head += f"<style>{STYLE}</style>"
        return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(body)}</body></html>\n"

    def _summary(self) -> str:
        run = self._run
        return _("{samples} samples by {model} {version}, seed {seed}. Not for clinical use.").format(
            samples=run["samples"],
            model=run["model"]["title"],
            version=run["model"].get("version", ""),
            seed=run["seed"],
        )

    def _volumesTable(self) -> str:
        told = volumes.volumesOf(self._run)
        rows = [
            [volume.name, volumes.mlText(volume.shown)]
            + [volumes.intervalText(interval) for interval in (volume.interval50, volume.interval90)]
            + [volumes.mlText(volume.mask)]
            for volume in told
        ]
        shown = _("Expected (ml)") if volumes.isExpected(told) else _("Mean (ml)")
        head = [_("Structure"), shown, _("50 % (ml)"), _("90 % (ml)"), _("Mask (ml)")]
        notes = " ".join([*volumes.noteOn(told).splitlines(), volumes.measuredOn(self._run)])
        return _table(head, rows) + f"<p class=note>{_e(notes.strip())}</p>"

    def _reviewText(self) -> str:
        review = self._review
        states = [review.state(region) for region in review.regions]
        count, share = review.left()
        text = _(
            "{total} regions with {bits:.2f} bits or more; done: {done}, flagged: {flagged}, skipped: {skipped}, not"
            " looked at: {count}."
        )
        parts = [
            text.format(
                total=len(states),
                bits=review.wish.bits,
                done=states.count(DONE),
                flagged=states.count(FLAGGED),
                skipped=states.count(SKIPPED),
                count=count,
            )
        ]
        if review.reviewableMl is not None:
            text = _(
                "Of {wrong} ml that are expected to be wrong {reviewable} ml can be reviewed, and the regions that were"
                " not looked at hold {share:.0f} % of those; the others lie in seams along borders, no wider than a"
                " voxel of the model to each side, or below the threshold."
            )
            wrong, reviewable = map(volumes.mlText, (review.expectedErrorMl, review.reviewableMl))
            parts.append(text.format(wrong=wrong, reviewable=reviewable, share=100 * share))
        return " ".join(parts)

    def _regionText(self, region: Region) -> str:
        text = _("Region {rank}, {state}: {classes}; {wrong:.2f} of {volume:.1f} ml are expected to be wrong.")
        text = text.format(
            rank=region.rank,
            state=stateText(self._review.state(region)),
            classes=_classes(region),
            wrong=region.expectedErrorMl,
            volume=region.volumeMl,
        )
        return f"{text} {wording.unlikeText(*region.unlike)}" if region.unlike else text

    def _regionsTable(self) -> str:
        head = [
            _("Region"),
            _("In dispute"),
            _("To review (ml)"),
            _("Share"),
            _("Wrong (ml)"),
            _("Peak (bits)"),
            _("Place (RAS, mm)"),
            _("State"),
        ]
        rows = [
            [
                str(region.rank),
                _classes(region),
                f"{region.reviewableMl:.2f}",
                f"{100 * region.share:.1f} %",
                f"{region.expectedErrorMl:.2f}",
                f"{region.peakBits:.2f}",
                ", ".join(f"{mm:.0f}" for mm in region.peakRAS),
                stateText(self._review.state(region)),
            ]
            for region in self._review.regions
        ]
        return _table(head, rows, text=(1, 7)) if rows else ""

    def _editedText(self) -> str:
        if not self._edited:
            return _("The segmentation is as the model made it.")
        text = _("{count} voxels ({volume} ml) were changed by hand.")
        return text.format(count=self._edited, volume=volumes.mlText(self._editedMl))

    def _settingsTable(self) -> str:
        run = self._run
        model, source = run["model"], run.get("input", {})
        rows = [
            [_("Model"), f"{model['title']} {model.get('version', '')}"],
            [_("Checksum of the model"), model["sha256"]],
            [_("Samples, steps, seed"), f"{run['samples']}, {run.get('steps') or _('none')}, {run['seed']}"],
            [_("Device"), run.get("device", "")],
            [_("Volume"), " x ".join(map(str, source.get("size_ijk", [])))],
            [_("Checksum of its voxels"), source.get("sha256", "")],
            [_("Versions"), ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())],
        ]
        return _table([_("What"), ""], [row for row in rows if row[1].strip()], text=(1,))

    def _cardText(self) -> str:
        model = self._run["model"]
        sentences = [model.get("description", ""), model.get("intended_use", "")]
        for name, head in model.get("card", {}).get("heads", {}).items():
            wrong = head["wrong_at_entropy"].get("0.4")
            text = _("On the head {name}: mean Dice {dice:.2f}, expected calibration error {ece:.3f}")
            text = text.format(name=name, dice=head["mean_dice"], ece=head["ece"])
            if wrong:
                text += _("; of the voxels with about 0.4 bits 1 in {count} was wrong").format(count=round(1 / wrong))
            sentences.append(text + ".")
        return "".join(f"<p>{_e(sentence)}</p>" for sentence in sentences if sentence)


def _classes(region: Region) -> str:
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in region.classes)


def _figure(picture: Any, caption: str) -> str:
    data = base64.b64encode(offscreen.png(picture)).decode("ascii")
    return f"<figure><img alt='' src='data:image/png;base64,{data}'><figcaption>{_e(caption)}</figcaption></figure>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text: tuple[int, ...] = ()) -> str:
    def cells(kind: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{kind}{' class=text' if column in text else ''}>{_e(value)}</{kind}>"
            for column, value in enumerate(values)
        )

    lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{lines}</table>"


def _e(text: str) -> str:
    return html.escape(text)
