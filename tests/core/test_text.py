"""Text that others wrote is harmless where it is printed and where it names a file."""

import pytest

from worldsim.io.text import file_stem, printable, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("take cover 9000 … “naïve” 雪 👩‍🚀", "take cover 9000 … “naïve” 雪 👩‍🚀"),
        ("a\x1b[31mb\x07\x00\x7f\x9b", r"a\x1b[31mb\x07\x00\x7f\x9b"),
        ("safe\rnot", r"safe\rnot"),
        ("invoice\u202egpj.exe", r"invoice\u202egpj.exe"),
        ("half \udc80", r"half \udc80"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_a_terminal_obeys_nothing_in_a_text(text, shown):
    assert printable(text) == shown


def test_a_line_stays_one_line():
    assert printable("one\ntwo", keep="") == r"one\ntwo"


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("doom-take-cover", "doom-take-cover"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "clip"),
        ("", "clip"),
        ("雪", "clip"),
        ("%Y\x00 of\nrain", "Y-of-rain"),
        ("C:\\temp", "C-temp"),
        (".hidden", "hidden"),
        ("a" * 300, "a" * 80),
    ],
)
def test_a_name_becomes_a_name_of_a_file_and_no_path(name, stem):
    assert file_stem(name, "clip") == stem


def test_a_table_is_aligned_for_a_console_and_markdown_for_a_page():
    assert table(("envs", "steps/s"), [("1", "66.2"), ("a longer name", "1,411.0")]).splitlines() == [
        "| envs          | steps/s |",
        "|---------------|--------:|",
        "| 1             |    66.2 |",
        "| a longer name | 1,411.0 |",
    ]
    assert table(("only",), []).splitlines() == ["| only |", "|------|"]


def test_a_row_that_lacks_a_cell_is_refused():
    with pytest.raises(ValueError):
        table(("envs", "steps/s"), [("1",)])
