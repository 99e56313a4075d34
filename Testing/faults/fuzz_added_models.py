"""Offers hostile models to `models add`: each must be installed soundly, or refused by one sentence within 5 s.

    python Testing/faults/fuzz_added_models.py --examples 100000 [--seed 0] [--keep FOLDER]

The models are ours, trained nnU-Nets and MONAI bundles, and converted ones of both, in folders, .zip and .tar archives.
Their faults: entries of JSON and YAML, also expressions and names of any function; bytes of every file; pickles that
run code, ask for memory or take for ever; tensors that claim more than their file holds; paths that lead out of the
archive, links, devices, sparse members, members of one name, bombs. A pickle or expression that ran would create a
file. Memory is limited as in the other fuzzers. The lines before the last have the counts of each shape; the exit
status is 1 if code ran, a file was written elsewhere or left behind, the process crashed or hung, its memory grew, or
anything else than a sentence came out. `--keep` keeps those inputs.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "engine"))

import fuzzing
from fuzzing import ENGINE, Counts, Tally, copy_kept, in_children, limit_memory, temporary_folder

sys.path.insert(0, str(ENGINE))

KINDS = ("own", "nnU-Net", "bundle", "converted nnU-Net", "converted bundle")
SHAPES = tuple(f"{kind}, {form}" for kind in KINDS for form in ("folder", ".zip", ".tar"))
JSON_NAMES = (
    *("_disabled_", "_target_", "dropout", "act", "norm", "overlap", "mode", "lazy", "reader", "kernel_size", "factor"),
    *("previous_stage", "inherits_from", "kind", "frozen", "start", "regions", "0", "foreign_bait"),
)
SOURCES = ("model", "model.nnunet", "x" * 200, "a\nb", "\udcff", "é", " ", "-", ".hidden", "a'b", "configs", "fold_0")
NAMES = ("mine", "../up", "", "a\0b", "x" * 300, "brain-structures", ".adding-", "a/b", "\udcff", "models")
MAX_GROWTH = 2**30
"""Bytes by which the memory of the process may grow for one model; its metadata may have up to 16 MB."""


def write_sound(folder: Path) -> None:
    """A sound model of each kind, in a folder of its name."""
    import model_faults
    import monai_bundles
    import nnunet_folders

    from diffusion_segmentation import any_model
    from diffusion_segmentation.runtime.locations import MODELS_VARIABLE

    model_faults.write_sound(folder / "own")
    nnunet_folders.write_folder(folder / "nnU-Net", folds=("0", "1"))
    oriented, crop = (
        {"_target_": "Orientationd", "axcodes": "RAS"},
        {"_target_": "CropForegroundd", "margin": [1, 1, 1]},
    )
    transforms = (oriented, monai_bundles.SPACING, {**crop, "source_key": "image"}, monai_bundles.SCALED)
    small = {**monai_bundles.NETWORK, "channels": [4, 4], "strides": [2], "num_res_units": 0}
    config = monai_bundles.inference(network_def=small, preprocessing=monai_bundles.transforms(*transforms))
    monai_bundles.write_bundle(folder / "bundle", config)
    before = os.environ.get(MODELS_VARIABLE)
    os.environ[MODELS_VARIABLE] = str(folder / "installed")
    for kind in ("nnU-Net", "bundle"):
        any_model.add(folder / kind).rename(folder / f"converted {kind}")
        (folder / f"converted {kind}" / "source.json").unlink()
    (folder / "installed").rmdir()
    if before is None:
        del os.environ[MODELS_VARIABLE]
    else:
        os.environ[MODELS_VARIABLE] = before


class Bench:
    """Offers models with random faults to `models add`, in a folder with `write_sound`'s models in it."""

    def __init__(self, folder: Path) -> None:
        import torch
        from hostile_json import hostile_values
        from model_faults import VALUES

        from diffusion_segmentation.runtime.locations import MODELS_VARIABLE

        self.folder, self.work, self.canary = folder, folder / "work", folder / "work" / "canary"
        self.values = (*hostile_values(self.canary), *VALUES)
        self.sound = {
            kind: {p.relative_to(folder / kind).as_posix(): p.read_bytes() for p in (folder / kind).rglob("*.*")}
            for kind in KINDS
        }
        self.pickled = {
            kind: {name: torch.load(folder / kind / name, weights_only=False) for name in files if _is_pickle(name)}
            for kind, files in self.sound.items()
        }
        os.environ[MODELS_VARIABLE] = str(self.work / "models")
        for kind in KINDS:  # the first models take seconds, for libraries that are imported late
            self.work.mkdir()
            answer = self.answer(folder / kind, random.Random(0))
            assert answer == "accepted", f"{kind}: {answer}"
            shutil.rmtree(self.work)

    def write(self, shape: str, draw: random.Random) -> Path:
        """Write a model of a shape; returns its folder or archive."""
        from hostile_archives import bomb, tarred, zipped

        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        kind, _, form = shape.partition(", ")
        files = self._damaged(kind, draw)
        source = self.work / (draw.choice(SOURCES) if draw.random() < 0.1 else "source")
        if form == "folder":
            self._write_folder(source, files, draw)
            return source
        source = source.with_name(source.name + form)
        if form == ".tar" and draw.random() < 0.001:
            source.write_bytes(bomb(draw))
        else:
            source.write_bytes((zipped if form == ".zip" else tarred)(files, draw))
        return source

    def answer(self, source: Path, draw: random.Random) -> str:
        """Install a model: "accepted", "refused", or what is wrong."""
        from diffusion_segmentation import any_model
        from diffusion_segmentation.errors import ModelError

        before = _peak_memory()
        name = draw.choice(NAMES) if draw.random() < 0.05 else None
        try:
            installed = any_model.add(source, name)
            answer = self._wrong(installed, name) or "accepted"
        except ModelError as error:
            sentence = str(error)
            shown = sentence.replace(str(self.canary), "")  # an expression may be quoted
            plain = sentence.endswith(".") and sentence.isprintable() and str(self.work) not in shown
            one = len(re.findall(r"[.?!](?=\s|$)", shown)) == 1 and len(sentence) < 500
            answer = "refused" if plain and one else f"no sentence: {sentence}"
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"[:100]
        if self.canary.exists():
            return "code ran"
        if {*os.listdir(self.work)} - {"models", source.name} or {*os.listdir(self.work.parent)} - {*KINDS, "work"}:
            return "a file elsewhere"
        left = os.listdir(self.work / "models") if (self.work / "models").is_dir() else []
        if left != ([installed.name] if answer == "accepted" else []):
            return f"left behind: {left}"[:100] if answer in ("accepted", "refused") else answer
        return "much memory" if _peak_memory() - before > MAX_GROWTH else answer

    def _wrong(self, installed: Path, name: str | None) -> str | None:
        """What is wrong with an installed model; None if it is sound."""
        from diffusion_segmentation.model import folder as models
        from diffusion_segmentation.model.metadata import kind, read_metadata
        from diffusion_segmentation.model.weights import weight_files
        from diffusion_segmentation.monai_bundle import model as monai
        from diffusion_segmentation.nnunet import model as nnunet

        metadata = read_metadata(installed)
        section = metadata["diffusion_segmentation"]
        if installed.parent != self.work / "models" or not installed.name == section["name"] == (
            name or installed.name
        ):
            return f"installed as {installed.name}"
        if {*os.listdir(installed)} != {"metadata.json", "source.json", *weight_files(metadata)}:
            return "other files than those of a model"
        if kind(section) == "monai":
            network = monai.read_model(installed).network
            return None if all(bool(p.isfinite().all()) for p in network.parameters()) else "weights are not finite"
        model = nnunet.read_model(installed) if kind(section) == "nnunet" else models.load(installed)
        return None if model is not None else "no model"

    def _damaged(self, kind: str, draw: random.Random) -> dict[str, bytes]:
        """Files of a model, most of them with faults in one or two files."""
        from hostile_files import damaged_tensors, damaged_text, fit_checksums

        files = dict(self.sound[kind])
        for fault in draw.sample(
            ("json", "json", "json", "text", "weights", "weights", "none"), draw.choice((1, 1, 2))
        ):
            if fault == "json":
                self._damage_json(kind, files, draw)
            elif fault == "text":
                name = draw.choice(list(files))
                files[name] = damaged_text(files[name], draw)
            elif fault == "weights" and self.pickled[kind]:
                self._damage_pickle(kind, files, draw)
            elif fault == "weights":
                name = draw.choice([name for name in files if name.endswith(".safetensors")])
                files[name] = damaged_tensors(files[name], draw)
        if kind in ("own", "converted nnU-Net", "converted bundle") and draw.random() < 0.8:
            fit_checksums(files)
        return files

    def _damage_json(self, kind: str, files: dict[str, bytes], draw: random.Random) -> None:
        """Change entries of a JSON file, which can become YAML, and in half of the cases those of the checkpoints."""
        import yaml
        from hostile_json import damaged

        name = draw.choice([name for name in files if name.endswith(".json")])
        content = damaged(json.loads(self.sound[kind][name]), draw, self.values, JSON_NAMES)
        files[name] = json.dumps(content).encode()
        if name == "configs/inference.json" and draw.random() < 0.05:
            del files[name]
            try:
                text = yaml.safe_dump(content)
            except (yaml.YAMLError, RecursionError):
                text = "a: [" * 300
            files["configs/inference.yaml"] = text.encode("utf-8", "surrogatepass")
        entry = {"plans.json": "plans", "dataset.json": "dataset_json"}.get(name)
        if entry is not None and draw.random() < 0.5:
            for path, checkpoint in self.pickled[kind].items():
                trained = {**checkpoint["init_args"], entry: content}
                files[path] = self._pickled({**checkpoint, "init_args": trained}, draw)

    def _damage_pickle(self, kind: str, files: dict[str, bytes], draw: random.Random) -> None:
        from hostile_json import damaged
        from hostile_pickles import MARK, damaged_file, damaged_state

        name = draw.choice(list(self.pickled[kind]))
        content = self.pickled[kind][name]
        if draw.random() < 0.4:
            files[name] = damaged_file(files[name], draw, self.canary)
        elif kind == "bundle":
            files[name] = self._pickled(damaged_state(content, draw), draw)
        elif draw.random() < 0.5:
            files[name] = self._pickled(
                {**content, "network_weights": damaged_state(content["network_weights"], draw)}, draw
            )
        else:
            keys = ("trainer_name", "init_args", "inference_allowed_mirroring_axes", "logging")
            plain = {key: list(content[key]) if isinstance(content[key], tuple) else content[key] for key in keys}
            plain["init_args"] = {**plain["init_args"], "device": "cpu"}
            changed = damaged(plain, draw, (*self.values, *[MARK] * 40), JSON_NAMES)
            files[name] = self._pickled({**content, **changed} if isinstance(changed, dict) else changed, draw)

    def _pickled(self, content: Any, draw: random.Random) -> bytes:
        from hostile_pickles import saved

        return saved(content, draw, self.canary)

    def _write_folder(self, folder: Path, files: dict[str, bytes], draw: random.Random) -> None:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        if draw.random() < 0.1:
            name = draw.choice(list(files))
            path = folder / name
            path.unlink()
            fault = draw.choice(("none", "link", "zero", "loop", "pipe", "folder", "above"))
            if fault == "folder":
                path.mkdir()
            elif fault == "pipe" and hasattr(os, "mkfifo"):
                os.mkfifo(path)
            elif fault == "above" and path.parent != folder:
                shutil.rmtree(path.parent)
                path.parent.symlink_to(self.folder / "own")
            elif fault != "none":
                path.symlink_to({"zero": "/dev/zero", "loop": path.name}.get(fault, "/etc/passwd"))


def _is_pickle(name: str) -> bool:
    return name.endswith((".pt", ".pth"))


def _peak_memory() -> int:
    """Largest memory of this process so far in bytes; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _work(counts: Counts, unexpected: Any, folder: Path, examples: int, seed: int, keep: Path | None) -> None:
    """In the child: damage and install `examples` times; answers that are not allowed go into the queue."""
    import torch

    from diffusion_segmentation.runtime.log import configure_logging

    torch.set_num_threads(1)
    bench, draw = Bench(folder), random.Random(seed)
    configure_logging()
    limit_memory()
    for number in range(examples):
        draw.seed(seed + number)
        shape = (seed + number) % len(SHAPES)
        source = bench.write(SHAPES[shape], draw)
        counts.begin()
        answer = bench.answer(source, draw)
        if counts.add(answer, shape):
            continue
        unexpected.put(f"{answer} ({SHAPES[shape]})")
        if keep:
            kept = re.sub(r"\W+", " ", answer)[:60]
            copy_kept(bench.work, keep / f"{seed + number} {SHAPES[shape]} {kept}")


def fuzz(examples: int, seed: int = 0, keep: Path | None = None) -> Tally:
    """Offer `examples` models; those with an answer that is not allowed are copied into `keep`."""
    with temporary_folder() as f:
        write_sound(Path(f) / "sound")
        return in_children(_work, Path(f) / "sound", examples, seed, keep, SHAPES)


if __name__ == "__main__":
    sys.exit(fuzzing.main(fuzz, __doc__))
