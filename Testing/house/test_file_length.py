"""No Python file, of the product or of the tests, has more than 350 lines."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 350


def test_no_file_is_longer_than_350_lines() -> None:
    files = [path for folder in ("DiffusionSegmentation", "Testing") for path in (ROOT / folder).rglob("*.py")]
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {path.relative_to(ROOT).as_posix(): n for path, n in lengths.items() if n > MOST_LINES} == {}
