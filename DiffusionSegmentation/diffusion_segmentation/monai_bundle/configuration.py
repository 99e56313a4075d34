"""The configuration of a bundle: its values with references resolved, and no code run.

References are `@name`, or `@name::part` and `@name#part` for parts of an entry.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from monai.utils import optional_import

from ..errors import ModelError
from ..model.metadata import read_limited
from ..model.refusal import Refusal
from .expressions import REFERENCE, value_of

MAX_JSON_BYTES = 4 * 2**20
MAX_YAML_BYTES = 2**17  # PyYAML reads some 100 kB a second
MAX_VALUES = 100_000  # that are resolved: lists of references to lists of references can have any number
MAX_DEPTH = 50  # of lists, objects and references within each other
METADATA, INFERENCE = "configs/metadata.json", "configs/inference"
PREFIXES = ("monai.transforms.", "monai.networks.nets.", "monai.inferers.", "monai.handlers.")


class Configuration:
    """Values of configs/inference.json."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self._left = MAX_VALUES

    def has(self, name: str) -> bool:
        """Whether there is an entry."""
        return name in self._content

    def component(self, name: str) -> Component | None:
        """Entry with `_target_`, or None if there is no such entry. Raises Refusal."""
        entry: Any = self.unresolved(self._content.get(name))
        return Component(entry, self) if isinstance(entry, dict) and "_target_" in entry else None

    def components(self, value: Any) -> list[Component] | None:
        """Entries with `_target_` of a list, without disabled ones; None if it is no such list."""
        items = self.unresolved(value)
        if isinstance(items, str) and items.startswith("$"):
            items = self.resolved(items)
        entries: list[Any] = [self.unresolved(item) for item in items] if isinstance(items, list) else [None]
        if not all(isinstance(entry, dict) and "_target_" in entry for entry in entries):
            return None
        return [one for one in (Component(entry, self) for entry in entries) if not one.disabled]

    def unresolved(self, value: Any, depth: int = 0) -> Any:
        """A value whose parts can be references still, by following the reference that it can be."""
        while isinstance(value, str) and re.fullmatch(rf"\$?{REFERENCE}", value):
            self._count(depth := depth + 1)
            value = self._looked_up(value.lstrip("$"), depth)
        return value

    def resolved(self, value: Any, depth: int = 0) -> Any:
        """A value with all references resolved. Raises Refusal."""
        self._count(depth)
        value = self.unresolved(value, depth)
        if isinstance(value, dict):
            return {key: self.resolved(part, depth + 1) for key, part in value.items()}
        if isinstance(value, list):
            return [self.resolved(part, depth + 1) for part in value]
        if isinstance(value, str) and value.startswith("$"):
            return value_of(value[1:], lambda reference: self.resolved(reference, depth + 1))
        if isinstance(value, str) and value.startswith(("@", "%")):
            raise Refusal(f"has the reference '{_shown(value)}', which cannot be resolved; choose another model")
        return value

    def _looked_up(self, reference: str, depth: int) -> Any:
        value: Any = self._content
        for key in re.split("::|#", reference[1:]):
            value = self.unresolved(value, depth)
            try:
                value = value[int(key) if isinstance(value, list) else key]
            except (KeyError, IndexError, TypeError, ValueError):
                raise Refusal(f"has the reference '{_shown(reference)}' to nothing; copy its folder again") from None
        return value

    def _count(self, depth: int) -> None:
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            raise Refusal("has references in a circle, or too many; choose another model")


class Component:
    """An entry of a configuration that names a class of MONAI in `_target_`; it is never imported."""

    def __init__(self, entry: dict[str, Any], configuration: Configuration) -> None:
        self._entry, self.configuration = entry, configuration
        target = entry["_target_"]
        is_name = isinstance(target, str) and re.fullmatch(r"[A-Za-z_][\w.]{0,199}", target, re.ASCII)
        if not is_name or not all(isinstance(key, str) for key in entry):
            raise Refusal("has a class without a valid name; choose another model")
        prefix = next((prefix for prefix in PREFIXES if target.startswith(prefix)), "")
        self.target = target.removeprefix(prefix)

    @property
    def arguments(self) -> list[str]:
        """Names of the arguments."""
        return [key for key in self._entry if not (key.startswith("_") and key.endswith("_"))]

    @property
    def disabled(self) -> bool:
        """Whether the entry is switched off."""
        return self.configuration.resolved(self._entry.get("_disabled_", False)) in (True, "true", "True")

    def argument(self, name: str, default: Any = None) -> Any:
        """Value of an argument. Raises Refusal."""
        return self.configuration.resolved(self._entry[name]) if name in self._entry else default

    def is_one_of(self, name: str, allowed: tuple[Any, ...]) -> bool:
        """Whether an argument is missing, or its value, or its text, which is not evaluated, is one of `allowed`."""
        if name not in self._entry or any(self._entry[name] is one or self._entry[name] == one for one in allowed):
            return True
        text = self._entry[name]
        return not (isinstance(text, str) and text.startswith("$")) and self.argument(name) in allowed

    def parts(self, name: str) -> list[Component] | None:
        """Components in the list that is the value of an argument."""
        return self.configuration.components(self._entry.get(name))

    def refuse_other(self, allowed: tuple[str, ...]) -> None:
        """Raise Refusal if there are other arguments than those that are allowed."""
        other = next((name for name in self.arguments if name not in allowed), None)
        if other is not None:
            shown = _shown(other)
            raise Refusal(f"has the option '{shown}' of {self.target[:60]}, which cannot be used; choose another model")


def read_metadata(bundle: Path) -> dict[str, Any]:
    """Content of configs/metadata.json. Raises Refusal."""
    return _object(bundle, METADATA, json.loads)


def read_configuration(bundle: Path) -> Configuration:
    """The configuration for inference. Raises Refusal."""
    if (bundle / f"{INFERENCE}.json").exists():
        return Configuration(_object(bundle, f"{INFERENCE}.json", json.loads))
    file = next((f"{INFERENCE}{end}" for end in (".yaml", ".yml") if (bundle / f"{INFERENCE}{end}").exists()), None)
    if file is None:
        raise Refusal(f"has no {INFERENCE}.json; copy its whole folder again")
    return Configuration(_object(bundle, file, _read_yaml))


def _object(bundle: Path, file: str, read: Any) -> dict[str, Any]:
    try:
        data = read_limited(bundle, file, MAX_JSON_BYTES)
    except ModelError:
        raise Refusal(f"has no {file} that can be read; copy its whole folder again") from None
    try:
        content = read((data or b"").decode("utf-8"))
        json.dumps(content, ensure_ascii=False, default=str).encode("utf-8")  # refuses lone surrogates
    except Refusal:
        raise
    except (ValueError, TypeError, RecursionError, AttributeError):
        content = None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise Refusal(f"has a {file} that is not valid; copy its whole folder again")
    return content


def _read_yaml(text: str) -> Any:
    yaml, is_installed = optional_import("yaml")
    if not is_installed:
        raise Refusal("has a configuration in YAML; install the package PyYAML, or convert it to JSON")
    if len(text) > MAX_YAML_BYTES:
        raise Refusal(f"has a configuration in YAML of more than {MAX_YAML_BYTES // 1000} kB; convert it to JSON")

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]
        """Builds plain values only; aliases, with which a small file can have any size, are refused."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("alias")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError("not YAML") from error


def _shown(text: str) -> str:
    return text[:60] if text.isprintable() else "?"
