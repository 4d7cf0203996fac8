"""The Markdown pages of the repository, taken apart: code blocks, inline code, links, headings."""

import re
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = [*(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
PAGES += sorted((REPOSITORY / "docs").rglob("*.md"))
RECORDS = [page for page in PAGES if page.parent.name == "results" or page.name == "CHANGELOG.md"]  # of the past

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"<!-- (?P<kind>not run:|as of) (?P<reason>.+?) -->\n$")


def name_of(page):
    return str(page.relative_to(REPOSITORY))


@dataclass(frozen=True)
class Block:
    """A fenced code block."""

    page: Path
    line: int  # of its first line of code, from 1
    language: str
    code: str
    kind: str = ""  # of the marker above it: "not run:" (with a reason), "as of" (a commit), "" for none
    reason: str = ""

    def commands(self):
        """The commands of a shell block, one a line, joined where a line ends in a backslash."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [command.strip() for line in lines for command in line.split("&&") if command.strip()]


def blocks(page, *languages):
    """The code blocks of a page, all of them or those in some languages."""
    text, found = page.read_text(encoding="utf-8"), []
    for fence in FENCE.finditer(text):
        marker = MARKER.search(text[: fence.start()])
        line = text[: fence.start("code")].count("\n") + 1
        said = (marker["kind"], marker["reason"]) if marker else ()
        found.append(Block(page, line, fence["language"], fence["code"], *said))
    return [block for block in found if not languages or block.language in languages]


def prose(page):
    """The text of a page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def inline_code(page):
    """What stands between backticks outside of code blocks."""
    return re.findall(r"`([^`]+)`", prose(page))


def links(page):
    """The targets of links and images, as written."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))


def anchors(page):
    """The fragments that GitHub gives the headings of a page."""
    found = []
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
        found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return found
