"""What the README names exists: commands, options, files, pictures, and the error texts of its troubleshooting."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DiffusionSegmentation"
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = "\n".join(re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL))


def texts() -> list[str]:
    """Every string of the sources, with one * for each value that is filled in."""
    found = []
    for path in [*MODULE.rglob("*.py"), ROOT / "Testing" / "run.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"\{\w*\}", "*", node.value))
            elif isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
                )
    return found


def test_links_and_pictures_exist() -> None:
    names = re.findall(r"\]\((?!http|#)([^)]+)\)", README) + re.findall(r'src="([^"]+)"', README)
    assert len(names) >= 4
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_two_commands_exist() -> None:
    commands = re.findall(r"^python (\S+) (\w+)$", BLOCKS, re.MULTILINE)
    assert commands == [("Testing/run.py", "demo"), ("Testing/run.py", "tests")]
    for script, command in commands:
        assert f'case ["{command}", ' in (ROOT / script).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", sorted(set(re.findall(r"diffusion-segmentation (\w+)", README))))
def test_subcommands_and_their_options_exist(command: str) -> None:
    ask = [sys.executable, "-m", "diffusion_segmentation", command, "--help"]
    help_text = subprocess.run(ask, cwd=MODULE, capture_output=True, text=True, check=True).stdout
    examples = re.findall(rf"diffusion-segmentation {command}([^`\n]*)", README)
    table = README.partition(f"| option of `{command}` |")[2].partition("\n\n")[0]
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join([*examples, table])))
    assert {option for option in options if option not in help_text} == set()


def test_files_of_the_table_are_written() -> None:
    names = re.findall(r"^\| `([\w.]+\.(?:nrrd|json))` \|", README, re.MULTILINE)
    assert len(names) == 7
    assert [name for name in names if name not in texts()] == []


def test_troubleshooting_quotes_what_the_program_says() -> None:
    quotes = re.findall(r"\*\*“(.+?)”\*\*", README.partition("## Troubleshooting")[2])
    assert len(quotes) >= 15
    said = texts()
    for quote in quotes:
        # An ellipsis stands for a value, or for what the sentence says before or after.
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in quote.split("…")))
        assert any(pattern.search(text) for text in said), quote


def test_labels_to_click_are_in_the_panel() -> None:
    steps = README.partition("**Use it**")[2].partition("## ")[0]
    labels = re.findall(r"\*\*(.+?)\*\*", steps)
    assert len(labels) >= 5
    panel = (MODULE / "Resources" / "UI" / "DiffusionSegmentation.ui").read_text(encoding="utf-8")
    shown = {label.rstrip(":") for label in re.findall(r"<string>([^<]*)</string>", panel)} | set(texts())
    assert [label for label in labels if label not in shown] == []


def test_the_numbers_of_the_study_are_those_of_its_report() -> None:
    report = (ROOT / "Documentation/study/README.md").read_text("utf-8")
    task, checked = "", 0
    for cells in re.findall(r"^\| (\w*) ?\| (d\w+,[^|]+) \|(.+)\|$", README, re.MULTILINE):
        task, row, shown = cells[0] or task, cells[1], cells[2].split("|")
        table = report.partition(f"\n{task}: mean over 2 seeds")[2].partition("\n\n")[2].partition("\n\n")[0]
        line = next(line for line in table.splitlines() if line.startswith(f"| {row} |"))
        iou, ece, _, ged, coverage = (cell.split()[0] for cell in line.split("|")[2:7])
        assert [cell.strip() for cell in shown] == [iou, ece, ged, coverage]
        checked += 1
    assert checked == 9
    for question in ("", "architectures/"):
        page = (ROOT / "Documentation/study" / question / "README.md").read_text("utf-8")
        pictures = re.findall(r"\]\((figures/[\w-]+\.png)\)", page)
        assert pictures and all((ROOT / "Documentation/study" / question / name).is_file() for name in pictures)


def test_the_model_card_is_of_the_shipped_model() -> None:
    metadata = json.loads((MODULE / "diffusion_segmentation/models/brain-structures/metadata.json").read_text("utf-8"))
    card = (ROOT / "Documentation/brain-structures/README.md").read_text("utf-8")
    assert card.startswith(f"# Model card: {metadata['name']} {metadata['version']}\n")
    for scores in metadata["diffusion_segmentation"]["card"]["heads"].values():
        assert f"| {scores['error_auroc']:.3f} (" in card and f"| {scores['ece']:.3f} (" in card
    for name in re.findall(r"\]\((\w+\.png)\)", card):
        assert (ROOT / "Documentation/brain-structures" / name).stat().st_size > 10_000
