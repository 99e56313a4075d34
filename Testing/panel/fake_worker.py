"""A worker without a network: follows the worker's protocol and writes real result files.

    python fake_worker.py BEHAVIOUR [SECONDS] [--kept FOLDER]

`good` makes samples by thresholding the volume, one every SECONDS, and previews after 1, 2, 4, 8, ... of them, as the
engine does. `direct`, `both` and `exact` report that their maps are a direct prediction: wholly, partly, or as the
exact mean of samples without steps. `unfitted` warns of its spread, `unlike` also of the volume. `seams` is uncertain
only along boundaries. Every behaviour draws the rest one step brighter after an `update`, and keeps the facts.
`seven` has the structures of the included model. `keeps` also writes finished samples. `old` writes the files of
version 0.3. `older` does not know questions, and `mute` ends when it is asked one. Every other behaviour is a kind of
failure.

Files of a result are kept in FOLDER and copied for the next equal request, so that most runs import no package.
"""

import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

from diffusion_segmentation.worker import protocol

TERMINOLOGY = (
    "Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^123037004^Anatomical Structure~SCT^{code}~^^~Anatomic codes - DICOM master list~^^~^^"
)
LABELS = [
    {
        "label": 1,
        "id": "grey_matter",
        "name": "Grey matter",
        "color": [0.78, 0.51, 0.35],
        "terminology": TERMINOLOGY.format(code="25991003^Grey matter"),
    },
    {
        "label": 2,
        "id": "white_matter",
        "name": "White matter",
        "color": [0.93, 0.89, 0.74],
        "terminology": TERMINOLOGY.format(code="68523003^White matter"),
    },
]
KEPT = Path(sys.argv.pop()) if "--kept" in sys.argv[:-1] and sys.argv.pop(-2) else None
WORKING_MM = 1.0
"""Small enough that uncertain layers are thick enough to be reviewed, except with `seams`."""
SEVEN = ("Cerebrospinal fluid", "Ventricles", "Cortical grey matter", "White matter", "Deep grey matter", "Cerebellum")
SEVEN += ("Brainstem",)
UNLIKE = (
    "The scan is unlike those that the model was made for (distance 9.1, limit 3.0, most in white matter); "
    "do not trust the segmentation without checking it."
)
UNFITTED = "The spread of this model's samples was not fitted to labelled cases; its intervals can be too narrow."


def main(behaviour: str, seconds: float) -> None:
    if behaviour == "no-start":
        sys.exit("ModuleNotFoundError: No module named 'torch'")
    if behaviour == "no-engine":
        words = "The Python package 'monai' is missing; install it and try again."
        say({"type": "error", "job": None, "kind": "internal", "message": words, "details": "Traceback ..."})
        sys.exit(1)
    version = 99 if behaviour == "foreign" else protocol.PROTOCOL
    devices = [
        {"id": "cpu", "name": "Processor", "totalBytes": 16 * 2**30, "freeBytes": 8 * 2**30},
        {"id": "cuda:0", "name": "Quick GPU", "totalBytes": 24 * 2**30, "freeBytes": 20 * 2**30},
    ]
    say({"type": "hello", "protocol": version, "versions": {"torch": "2.13"}, "devices": devices})
    inbox: queue.Queue = queue.Queue()
    threading.Thread(target=listen, args=(inbox,), daemon=True).start()
    while (message := inbox.get()) is not None and message["type"] != "bye":
        if message["type"] in ("run", "update"):
            run(message, behaviour, seconds, inbox)
        elif message["type"] == "ask":
            ask(message, behaviour)
        elif message["type"] == "cancel":
            say({"type": "cancelled", "job": message["job"]})
    os._exit(0)  # a normal exit waits 1 s for the lock of stdin, which the listening thread holds


def run(request: dict, behaviour: str, seconds: float, inbox: queue.Queue) -> None:
    job = request["job"]
    print(f"run {job}", file=sys.stderr, flush=True)
    if behaviour == "crash":
        print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
        os._exit(134)
    if behaviour == "memory":
        say({"type": "error", "job": job, "kind": "memory", "message": "The memory did not suffice.", "details": ""})
        return
    if behaviour == "short" and request["device"] != "cpu":
        note = "The memory of 'cuda:0' is short, so fewer samples are drawn at a time."
        for _ in range(20):
            say({"type": "progress", "job": job, "samples": 8, "steps": 5, "stage": "sampling", "sample": 1, "step": 1,
                 "secondsLeft": None, "note": note})  # fmt: skip
            time.sleep(seconds)
        say({"type": "error", "job": job, "kind": "memory", "message": "The memory of 'cuda:0' did not suffice.",
             "details": "", "tryDevice": "cpu"})  # fmt: skip
        return
    if behaviour == "deaf" and request["seed"] == 0:  # ignores all messages, and has a child process
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print(f"child {child.pid}", file=sys.stderr, flush=True)
        time.sleep(600)
    if behaviour == "lost" and request["seed"] == 0:  # its GPU is lost; the process takes a while to end
        say({"type": "error", "job": job, "kind": "internal", "message": "The graphics card stopped working.",
             "details": "", "tryDevice": "cpu", "ends": True})  # fmt: skip
        time.sleep(0.5)
        os._exit(1)
    if behaviour in ("hangs", "writes-late") and request["seed"] == 0:  # acknowledges, and does not end
        wait(60, inbox)
        say({"type": "cancelled", "job": job, "over": False})
        folder = Path(request["folder"])
        while behaviour == "hangs" or folder.exists():
            time.sleep(0.05)
        time.sleep(0.5)  # so that the removal and the return are both observed
        folder.mkdir()
        (folder / "preview-segmentation.seg.nrrd").write_bytes(b"of a person")
        time.sleep(0.5)
        say({"type": "cancelled", "job": job})
        return
    if behaviour == "garbage":
        os.write(1, b'\xff\xfe a library prints\n{"type": "surprise"}\n')
    sampled = 0
    steps = 1 if behaviour == "exact" else request["steps"] or 5
    request["samples"] = request["samples"] or (64 if behaviour == "exact" else 8)
    progress = {"type": "progress", "job": job, "samples": request["samples"], "steps": steps}
    say({**progress, "stage": "reading", "sample": 0, "step": 0, "secondsLeft": None})
    while sampled < request["samples"]:
        for step in range(1, steps + 1):
            left = seconds * (request["samples"] - sampled - step / steps)
            say({**progress, "stage": "sampling", "sample": sampled + 1, "step": step, "secondsLeft": left})
            cancel = wait(seconds / steps, inbox)
            if cancel is not None:
                if cancel["keep"] and sampled:
                    say({"type": "partial", "job": job, **write(request, sampled, behaviour)})
                else:
                    say({"type": "cancelled", "job": job})
                return
        sampled += 1
        if behaviour == "late-crash" and sampled == 3:
            os._exit(134)
        if sampled & (sampled - 1) or (request.get("ask") and not request.get("keepSamples")):
            continue
        if behaviour in ("late-crash", "keeps"):
            part = Path(request["folder"]) / f"finished-{sampled}"
            part.mkdir()
            write({**request, "folder": str(part)}, sampled, behaviour)
        write(request, sampled, behaviour, prefix="preview-")
        folder = Path(request["folder"])
        files = {"segmentation": "preview-segmentation.seg.nrrd", "entropy": "preview-entropy.nrrd"}
        say(
            {"type": "preview", "job": job, "samples": sampled}
            | {key: str(folder / name) for key, name in files.items()}
        )
    say({"type": "done", "job": job, **write(request, sampled, behaviour)})


def write(request: dict, samples: int, behaviour: str, prefix: str = "") -> dict:
    """Write the result files of `samples` thresholded masks, or copy kept ones, and return the fields of the answer."""
    folder, more = Path(request["folder"]), (samples, behaviour, prefix)
    if KEPT is None:
        make(request, *more)
    else:
        import kept_results  # not found where another program runs this file

        kept_results.copy_or_make(KEPT, request, more, make)
    report = json.loads((folder / f"{prefix}report.json").read_text())
    if request.get("ask") and not prefix:
        from diffusion_segmentation.segmentation import asked

        report["answers"] = asked.ask(folder, request["ask"])
    return {"folder": str(folder), "report": report}


def make(request: dict, samples: int, behaviour: str, prefix: str) -> None:
    """Write the result files of `samples` thresholded masks."""
    import numpy as np
    import SimpleITK as sitk

    from diffusion_segmentation.images import writing
    from diffusion_segmentation.segmentation import uncertain_regions
    from diffusion_segmentation.segmentation.watershed import watershed_regions

    inputs = {name: sitk.ReadImage(path) for name, path in (request.get("inputs") or {}).items()}
    reference = sitk.ReadImage(request["volume"])
    voxels = sitk.GetArrayFromImage(reference).astype(np.float32)
    if voxels.ndim == 4:  # colours
        reference, voxels = sitk.VectorIndexSelectionCast(reference, 0), voxels[..., :3].mean(-1)
    unit = (voxels - voxels.min()) / (voxels.max() - voxels.min())
    table, borders = LABELS, np.array([0.3, 0.6])
    if behaviour == "seven":
        table = [{**LABELS[0], "label": n, "id": f"s{n}", "name": name} for n, name in enumerate(SEVEN, 1)]
        borders = np.linspace(0.1, 0.8, len(SEVEN))
    classes = len(table) + 1
    facts = None
    if request["type"] == "update":
        borders = borders + 0.04
        facts = sitk.GetArrayFromImage(sitk.ReadImage(request["facts"]))
    labels = np.digitize(unit, borders).astype(np.uint8)
    entropy = np.exp(-(((unit[..., None] - borders) / 0.05) ** 2)).sum(-1).astype(np.float32)
    known = np.zeros(labels.shape, bool) if facts is None else facts != 255
    labels[known], entropy[known] = facts[known] if facts is not None else 0, 0
    folder = Path(request["folder"])
    writing.write_segmentation(folder / f"{prefix}segmentation.seg.nrrd", labels, reference, table, False)
    if behaviour == "half-result":
        (folder / f"{prefix}entropy.nrrd").write_bytes(b"NRRD0004\n")
    else:
        writing.write_volume(folder / f"{prefix}entropy.nrrd", entropy, reference, False)
    box = ((0, 0, 0), reference.GetSize())
    limits = [borders + 0.02 * np.sin(2 * n) for n in range(samples)]
    sampled = [np.digitize(unit, limit).astype(np.uint8) for limit in limits]
    for mask in sampled:
        mask[known] = labels[known]
    stored = samples if behaviour == "old" else min(samples, 16)
    writing.write_sequence(folder / f"{prefix}samples.seq.nrrd", sampled[:stored], reference, box, False)
    if behaviour != "old" and not prefix:
        votes = np.stack([sum(mask == c for mask in sampled) / samples for c in range(classes)])
        bits = -(votes * np.log2(np.maximum(votes, 1e-9))).sum(0).astype(np.float32)
        writing.write_volume(folder / "disagreement.nrrd", bits, reference, False)
    second = np.clip(entropy, 0, 1) / 2.1  # the label stays the most probable
    after = (labels + 1) % classes
    p = np.stack([np.where(labels == c, 1 - second, np.where(after == c, second, 0)) for c in range(classes)])
    quantised = list(np.rint(255 * p).astype(np.uint8))
    path = folder / f"{prefix}probabilities.seq.nrrd"
    writing.write_sequence(path, quantised, reference, box, False, index_name="class")
    zones = watershed_regions(1 - p.max(0), reference.GetSpacing()[::-1])
    spacing = reference.GetSpacing()
    workingMm = 20.0 if behaviour == "seams" else WORKING_MM
    thickness = uncertain_regions.reviewable_voxels(workingMm, spacing[::-1], zones.shape)
    size, suffix = uncertain_regions.voxel_size(spacing[::-1], zones.shape)
    ranking = uncertain_regions.Ranking(zones, quantised, entropy, size, thickness)
    regions = ranking.at(uncertain_regions.REVIEW_BITS, most=uncertain_regions.REPORTED)
    writing.write_volume(folder / f"{prefix}regions.nrrd", zones, reference, False, box)

    def ras(kji: tuple[int, int, int]) -> np.ndarray:
        return np.array(reference.TransformIndexToPhysicalPoint(kji[::-1])) * [-1, -1, 1]

    report = {
        "schema": 1,
        "model": {"name": request["model"], "title": "Fake", "sha256": "0" * 64, "version": "1"},
        "map_source": behaviour if behaviour in ("direct", "both", "exact") else "samples",
        "seed": request["seed"],
        "steps": 0 if behaviour == "exact" else request["steps"] or 5,
        "samples": samples,
        "requested_samples": request["samples"],
        "partial": samples < request["samples"],
        "device": request["device"],
        "classes": classes,
        "contours": {"inner": 0.95, "outer": 0.05},
        "max_entropy_bits": round(float(np.log2(classes)), 3),
        "volumes": [volume(entry, sampled, labels, size, suffix) for entry in table],
        **({"unit": suffix} if suffix != "ml" else {}),
        "samples_dice": [1 - 0.02 * abs(float(np.sin(2 * n))) for n in range(stored)],
        "working_spacing_mm": workingMm,
        **uncertain_regions.as_json(regions, ["background", *(entry["name"] for entry in table)], ras, suffix),
        "timings_s": {"reading": 0.5, "encoding": 1.5, "sampling": 3.0 * samples, "writing": 1.0},
        "memory_bytes": {"process_peak": 1_600_000_000},
        "input": {
            "size_ijk": list(reference.GetSize()),
            "spacing_mm": list(reference.GetSpacing()),
            "sha256": hashlib.sha256(voxels.tobytes()).hexdigest(),
        }
        | ({"names": list(inputs)} if inputs else {}),
        "means": {name: float(sitk.GetArrayViewFromImage(image).mean()) for name, image in inputs.items()},
        "warnings": {"unfitted": [UNFITTED], "unlike": [UNLIKE, UNFITTED]}.get(behaviour, []),
        "kept_samples": stored,
        "map_prior": {"direct": None, "both": 4.0}.get(behaviour, 0.0),
        "start": {"kind": "copula" if behaviour == "exact" else "noise", "log_snr": None},
    }
    if facts is not None:
        report["facts"] = {"voxels": int(known.sum()), "rounds": request["rounds"], "labels": {}}
        writing.write_volume(folder / f"{prefix}facts.nrrd", facts, reference, False)
    if behaviour == "unlike":
        report["input"] |= {"distance": 9.1, "limit": 3.0, "unlike_training": True}
        report["region_limit"] = 2.3
        for number, region in enumerate(report["regions"]):
            region["distance"] = 5.0 - 4 * (number > 0)
    if behaviour == "old":
        for key in ("kept_samples", "map_prior", "start", "contours"):
            del report[key]
        for entry in report["volumes"]:
            del entry["expected_ml"]
    (folder / f"{prefix}report.json").write_text(json.dumps(report))


def volume(entry: dict, sampled: list, labels, voxel: float, suffix: str) -> dict:
    """Return the report's entry of one class; `voxel` is the size of a voxel in the unit `suffix`."""
    import numpy as np

    sizes = np.array([(mask == entry["label"]).sum() for mask in sampled]) * voxel
    mean, spread = sizes.mean(), sizes.std()
    intervals = {f"interval{p}_{suffix}": [mean - w * spread, mean + w * spread] for p, w in ((50, 0.7), (90, 2.0))}
    return {key: entry[key] for key in ("label", "id", "name")} | {
        f"consensus_{suffix}": (labels == entry["label"]).sum() * voxel,
        f"expected_{suffix}": mean + 0.1 * spread,
        f"mean_{suffix}": mean,
        **(intervals if len(sampled) > 1 else dict.fromkeys(intervals)),
        "method": "t-predictive",
        f"samples_{suffix}": list(sizes),
        f"contour_distance_{'px' if suffix == 'px' else 'mm'}": 4.0 * entry["label"],
    }


def ask(message: dict, behaviour: str) -> None:
    from diffusion_segmentation import errors
    from diffusion_segmentation.segmentation import asked

    if behaviour == "mute":
        os._exit(134)
    error = {"type": "error", "job": message["job"], "kind": "input", "details": ""}
    if behaviour == "older":
        say({**error, "job": None, "message": "The message type 'ask' is unknown here."})
        return
    try:
        answers = asked.ask(Path(message["folder"]), message["questions"])
    except errors.InputError as problem:
        say({**error, "message": str(problem)})
        return
    progress = {"type": "progress", "job": message["job"], "stage": "measuring", "sample": 1, "samples": 2}
    say({**progress, "step": 0, "steps": None, "secondsLeft": None})
    say({"type": "answers", "job": message["job"], "answers": answers})


def wait(seconds: float, inbox: queue.Queue) -> dict | None:
    """Sleep, or return a cancel message as soon as it arrives; exit at the end of stdin."""
    try:
        message = inbox.get(timeout=seconds)
    except queue.Empty:
        return None
    if message is None or message["type"] == "bye":
        os._exit(0)
    return message if message["type"] == "cancel" else None


def listen(inbox: queue.Queue) -> None:
    for line in sys.stdin.buffer:
        inbox.put(protocol.decode(line, protocol.TO_WORKER))
    inbox.put(None)


def say(message: dict) -> None:
    sys.stdout.buffer.write(protocol.encode(message))
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 0.1)
