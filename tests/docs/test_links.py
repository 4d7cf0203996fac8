import re

import pytest
from pages import PAGES, REPOSITORY, anchors, inline_code, links, name_of

FILE = re.compile(r"(?:worldsim|envs|memory|policies|examples|docs|tests)/[\w./-]+\.(?:py|md|json|png|webp)")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in links(page):
        if re.match(r"https?://", link):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}, which is not there"
        assert target.is_relative_to(REPOSITORY), f"{name_of(page)} links to {link}, outside of the repository"
        if fragment:
            assert fragment in anchors(target), f"{name_of(page)} links to {link}; the headings are {anchors(target)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page):
    for code in inline_code(page):
        if FILE.fullmatch(code):
            assert (REPOSITORY / code).exists(), f"{name_of(page)} names {code}, which is not there"


def test_every_page_of_the_docs_is_linked_from_an_index():
    for page in PAGES:
        folder = page.parent
        if folder == REPOSITORY or page.name == "README.md":
            continue
        assert page.name in links(folder / "README.md"), f"{name_of(folder / 'README.md')} does not list {page.name}"


def test_an_anchor_is_the_one_that_github_makes(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Train your *own* world\n\n```sh\n# no heading\n```\n\n## Figures: `bench`, 2\n\n## A\n\n## A\n")
    assert anchors(page) == ["train-your-own-world", "figures-bench-2", "a", "a-1"]
