"""Adds the corrected segmentation of a result and its volumes to a data set, with the engine's command `add-case`.

Nothing blocks: the files are written on another thread and the command runs in a process of its own; `poll`, called by
a timer, advances the work. Independent of Qt.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusion_segmentation import errors

from ..i18n import tr as _
from ..scene.display import VOLUME_ROLE
from ..scene.result_nodes import reportOf
from . import temporary_files
from .dependencies import DependencyError
from .engine_command import EngineCommand
from .handover import INPUT_NAME, MASK_NAME, Handover, HandoverError
from .mask_nodes import MaskNode
from .models import Entry

CHANNEL_OF_MODALITY = {"MR": "MRI"}
"""Names of channels in nnU-Net's dataset.json by the modality in a model's metadata; others are the same."""


def channelName(report: Mapping[str, Any], models: Sequence[Entry]) -> str:
    """Name of the only channel of the volume of a result; empty if its model is not among `models`."""
    model = next((one for one in models if one.digest == report["model"].get("sha256")), None)
    if model is None or len(model.inputs) > 1:
        return ""
    if model.inputs[0].channels > 1:
        return model.inputs[0].name
    return CHANNEL_OF_MODALITY.get(model.modality, model.modality)


class CaseExport:
    """One case that is being added to the data set in `folder`.

    `message` is one sentence on what is being done or, once `running` is False, on the outcome.
    """

    def __init__(
        self,
        segmentationNode: Any,
        folder: str,
        facts: Mapping[str, Any],
        start: Callable[[Sequence[str]], EngineCommand],
        channel: str = "",
        inputs: Mapping[str, Any] | None = None,
        temporaryFolder: str | None = None,
    ) -> None:
        """Start to write the files.

        `facts` are kept beside the labels. `start` starts a command of the engine. `channel` is the name of the only
        input, `inputs` are the volume nodes of several by their names. Raises HandoverError, one sentence.
        """
        report = reportOf(segmentationNode)
        volumeNode = segmentationNode.GetNodeReference(VOLUME_ROLE)
        if volumeNode is None:
            raise HandoverError(_("The volume of this result was removed."))
        source = report.get("input", {})
        names = source.get("names", [])
        nodes = [(inputs or {}).get(name) for name in names]
        if names and (None in nodes or nodes[0] is not volumeNode):
            text = _("Select the volumes of this result, {names}, as inputs of its model.")
            raise HandoverError(text.format(names=", ".join(names)))
        structures = {entry["id"]: entry["name"] for entry in report["volumes"]}
        labels = MaskNode(segmentationNode, volumeNode, structures)
        self._handover = Handover(volumeNode, [labels], dict(zip(names, nodes, strict=True)))
        digests = [source[key] for key in ("sha256",) if key in source] + [*source.get("further_sha256", {}).values()]
        self._facts = dict(facts) | ({"images_sha256": digests} if digests else {})
        self._dataSet, self._channel, self._startCommand = folder, channel, start
        try:
            self._folder = Path(tempfile.mkdtemp(prefix=temporary_files.PREFIX, dir=temporaryFolder))
        except OSError as error:
            raise HandoverError(errors.explain(error)[1]) from error
        self._command: EngineCommand | None = None
        self.running, self.message = True, _("Writing the case ...")
        self._handover.startWriting(self._folder)

    def poll(self) -> None:
        """Advance the work by one step; call it about every 100 ms while it is `running`."""
        if not self.running:
            return
        if self._command is None:
            if self._handover.writing:
                return
            problem = self._handover.problem()
            if problem is None:
                problem = self._start()
            if problem is not None:
                self._end(problem)
        elif not self._command.running:
            self._end(self._command.message)

    def close(self) -> None:
        """Give up; the command that adds the case, if it has started, adds it completely or not at all."""
        if self.running:
            self._end("")

    def _start(self) -> str | None:
        """Start the command; returns why it could not be started, one sentence, or None."""
        inputs = self._handover.inputFiles(self._folder)
        if not inputs and self._channel:
            inputs = {self._channel: str(self._folder / INPUT_NAME)}
        images = [part for name, file in inputs.items() for part in ("--input", f"{name}={file}")]
        review = self._folder / "review.json"
        labels = self._folder / MASK_NAME.format(number=0)
        try:
            temporary_files.writeCompletely(review, json.dumps(self._facts, ensure_ascii=False))
            arguments = ["add-case", self._dataSet, *(images or [str(self._folder / INPUT_NAME)])]
            self._command = self._startCommand([*arguments, "--labels", str(labels), "--review", str(review)])
        except DependencyError as error:
            return str(error)
        except OSError as error:
            return errors.explain(error)[1]
        return None

    def _end(self, message: str) -> None:
        self.running, self.message = False, message
        self._handover.discard(self._folder)
