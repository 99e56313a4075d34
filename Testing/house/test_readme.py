"""README and Documentation agree with the product: commands, options, files, links, labels and quoted messages."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DiffusionSegmentation"
DOCUMENTATION = ROOT / "Documentation"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCUMENTATION.glob("*.md"))}
EVERYTHING = "\n".join([README, *PAGES.values()])
LINKED = sorted([ROOT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "CHANGELOG.md")])
LINKED += sorted(DOCUMENTATION.rglob("*.md"))
BLOCKS = "\n".join(re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL))


# Terms that the tutorial defines in bold.
NOT_LABELS = {"0 bits", "1 bit", "expected volume", "interval", "mask"}
# What the last section of the architecture page names beside functions: commands, a message, files, a class of CTK.
NOT_FUNCTIONS = {"evaluate", "train", "calibrate", "hello", "json", "py", "ctkCollapsibleButton"}


def texts() -> list[str]:
    """Every string of the sources, with one * for each value that is filled in."""
    result = []
    for path in [*MODULE.rglob("*.py"), ROOT / "Testing" / "run.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                result.append(re.sub(r"\{\w*\}", "*", node.value))
            elif isinstance(node, ast.JoinedStr):
                result.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in node.values)
                )
    return result


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them: lower case, spaces as hyphens, no punctuation."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\((?!https?:|mailto:)([^)]+)\)", text) + re.findall(r'src(?:set)?="(?!http)([^"]+)"', text)
    broken = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_readme_has_600_to_900_words() -> None:
    assert 600 <= len(README.split()) <= 900


def test_readme_links_every_page() -> None:
    assert [name for name in PAGES if f"](Documentation/{name})" not in README] == []


def test_files_of_the_architecture_page_exist() -> None:
    """Paths in backticks, relative to the root, the module's folder, the engine or the Slicer side."""
    page = PAGES["architecture.md"]
    names = set(re.findall(r"`([\w/]+/[\w.]*|\w+\.py)`", page)) | {
        f"{name}.py" for name in re.findall(r'\["([a-z_]+/[a-z_]+)<br>', page)
    }
    assert len(names) >= 30
    roots = [ROOT, MODULE, MODULE / "diffusion_segmentation", MODULE / "DiffusionSegmentationLib"]
    missing = {name for name in names if not any((root / name).exists() for root in roots)}
    assert missing - {"DiffusionSegmentation/modelsFolder"} == set()


def test_modules_and_tests_that_pages_name_exist() -> None:
    """`name.py`, and `layer/test_name` with `test_name` of the same layer after it, as failures.md gives them."""
    files = [path.relative_to(ROOT).as_posix() for root in (MODULE, ROOT / "Testing") for path in root.rglob("*.py")]
    missing = []
    for name, page in PAGES.items():
        modules = re.findall(r"`([\w/]+\.py)`", page)
        tests = [f"{test}.py" for test in re.findall(r"`((?:\w+/)?test_\w+)`", page)]
        missing += [
            f"{name}: {one}" for one in modules + tests if not any(f"/{file}".endswith(f"/{one}") for file in files)
        ]
    assert missing == []


def test_functions_of_the_architecture_page_exist() -> None:
    page = PAGES["architecture.md"].partition("## Changes and their places")[2]
    for paragraph in page.split("\n\n"):
        files = [MODULE / name for name in re.findall(r"`([\w/]+\.py)`", paragraph)]
        source = "".join(path.read_text(encoding="utf-8") for path in files if path.exists())
        names = re.findall(r"`(\w+(?:\.\w+)?)(?:\([\w, ]*\))?`", paragraph)
        code = {name.split(".")[-1] for name in names} - NOT_FUNCTIONS
        defined = set(re.findall(r"(?:def|class) (\w+)|^(\w+)\b", source, re.MULTILINE))
        assert code - {name for pair in defined for name in pair} == set()


def test_every_benchmark_is_listed() -> None:
    folder = ROOT / "Testing" / "benchmarks"
    listed = re.findall(r"^\| `(\w+)` \|", (folder / "README.md").read_text("utf-8"), re.MULTILINE)
    assert listed == sorted(path.stem for path in folder.glob("*.py"))


def test_versions_agree() -> None:
    """The package, the citation and the newest entry of the changelog have one version."""
    import diffusion_segmentation

    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)[1]
    assert diffusion_segmentation.__version__ == cited == versions[0]


def test_messages_of_the_architecture_page_are_the_protocol() -> None:
    from diffusion_segmentation.worker import protocol

    rows = re.findall(r"^\| `(\w+)` \| (to|from) worker \|", PAGES["architecture.md"], re.MULTILINE)
    assert {name for name, direction in rows if direction == "to"} == set(protocol.TO_WORKER)
    assert {name for name, direction in rows if direction == "from"} == set(protocol.FROM_WORKER)


def test_the_two_commands_exist() -> None:
    commands = re.findall(r"^python (\S+) (\w+)$", BLOCKS, re.MULTILINE)
    assert commands == [("Testing/run.py", "demo"), ("Testing/run.py", "tests")]
    for script, command in commands:
        assert f'case ["{command}", ' in (ROOT / script).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"(?:^|`)diffusion-segmentation (\w[\w-]*)", EVERYTHING, re.MULTILINE)))
)
def test_subcommands_and_their_options_exist(command: str) -> None:
    ask = [sys.executable, "-m", "diffusion_segmentation", command, "--help"]
    help_text = subprocess.run(ask, cwd=MODULE, capture_output=True, text=True, check=True).stdout
    examples = re.findall(rf"diffusion-segmentation {command}([^`\n]*)", EVERYTHING)
    table = EVERYTHING.partition(f"| option of `{command}` |")[2].partition("\n\n")[0]
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join([*examples, table])))
    assert {option for option in options if option not in help_text} == set()


@pytest.mark.slow
def test_files_of_the_table_are_written() -> None:
    names = re.findall(r"^\| `([\w.]+\.(?:nrrd|json))` \|", PAGES["command-line.md"], re.MULTILINE)
    assert len(names) == 9
    assert [name for name in names if name not in texts()] == []


def test_quoted_messages_of_troubleshooting_exist() -> None:
    quotes = re.findall(r"\*\*“(.+?)”\*\*", PAGES["troubleshooting.md"])
    assert len(quotes) >= 15
    known = texts()
    for quote in quotes:
        # An ellipsis stands for a value, or for what the sentence says before or after.
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in quote.split("…")))
        assert any(pattern.search(text) for text in known), quote


def test_labels_to_click_are_in_the_panel() -> None:
    """Bold words of the first result and of the tutorial are labels; `(key O)` of a label may follow in plain text."""
    steps = README.partition("## First result")[2].partition("\n## ")[0] + PAGES["tutorial.md"]
    labels = set(re.findall(r"\*\*([^*]+)\*\*", steps)) - NOT_LABELS
    assert len(labels) >= 25
    panel = (MODULE / "Resources" / "UI" / "DiffusionSegmentation.ui").read_text(encoding="utf-8")
    known = [*re.findall(r"<string>([^<]*)</string>", panel), *texts()]
    shown = {re.sub(r"( \(\*\)|:|\.\.\.)$", "", label) for label in known}
    assert sorted(labels - shown) == []


def test_the_numbers_of_the_study_are_those_of_its_report() -> None:
    report = (ROOT / "Documentation/study/README.md").read_text("utf-8")
    task, checked = "", 0
    for cells in re.findall(r"^\| (\w*) ?\| (d\w+,[^|]+) \|(.+)\|$", PAGES["study.md"], re.MULTILINE):
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
