"""The documentation as a site: it builds without a warning, its links lead somewhere, and nothing outside is asked."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("furo", reason="the theme of the documentation is in the extra `dev`")


class Page(HTMLParser):
    """The ids of a page, where it links to, and what a browser would load for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag == "a":
            self.links.append(values.get("href", ""))
        # A data: address is in the page itself.
        self.loaded += [values[name] for name in ("src", "poster") if not values.get(name, "data:").startswith("data:")]
        if tag == "link":
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site. Warnings are errors."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(folder / "doctrees")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(
        [*command, str(ROOT / "docs"), str(folder / "html")], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return folder / "html"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_there_is_a_page_for_each_text(pages: dict[Path, Page], site: Path) -> None:
    texts = {path.relative_to(ROOT / "docs").with_suffix("") for path in (ROOT / "docs").rglob("*.md")}
    assert texts <= {path.relative_to(site).with_suffix("") for path in pages}


def test_links_lead_to_a_page_and_a_place_on_it(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            if not target.is_file() or (place and target in pages and place not in pages[target].ids):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_nothing_outside_of_the_folder_is_loaded(pages: dict[Path, Page], site: Path) -> None:
    loaded = {address for page in pages.values() for address in page.loaded}
    assert [address for address in loaded if urlsplit(address).scheme or address.startswith("//")] == []
    styles = [path.read_text(encoding="utf-8") for path in site.rglob("*.css")]
    assert [
        text for style in styles for text in re.findall(r"(?:@import\s+|url\(\s*)['\"]?(?:https?:)?//", style)
    ] == []


def test_the_reference_is_that_of_the_program(site: Path) -> None:
    """Each command with its options, each option with its default, each public name with its text."""
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert "--learning-rate" in commands
    assert "Usage: rango predict" in commands
    options = (site / "reference" / "options.html").read_text(encoding="utf-8")
    assert "Rank r of the update." in options
    assert "Cross-entropy" in (site / "reference" / "decisions.html").read_text(encoding="utf-8")
    assert "Adapt" in (site / "reference" / "python.html").read_text(encoding="utf-8")
