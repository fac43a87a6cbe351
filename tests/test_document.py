"""Documents: what each way of writing them says of every kind of block, and that names stay names."""

import pytest
from made import Page

from cnntrain.report import svg
from cnntrain.report.document import (
    Block,
    Bullets,
    Code,
    Details,
    Document,
    Facts,
    Figure,
    Gallery,
    Mark,
    Matrix,
    Panels,
    Paragraph,
    Picture,
    Section,
    Share,
    Table,
    noted_tables,
)
from cnntrain.report.html import as_html
from cnntrain.report.text import as_markdown, as_text
from cnntrain.runtime.drawing import SERIES, Medium, empty_figure, styled

ODD = """<b>"x"&amp;`y` $z$ url(#a) id="q" #0072b2"""
PNG = "data:image/png;base64,AAAA"


def document(name: str) -> Document:
    """Return a document with every kind of block, which all say `name`."""
    with styled():
        figure = empty_figure(2, 2)
        figure.subplots().set_title(name)
        drawing = svg.as_svg(figure, "odd")
    blocks: list[Block] = [
        Paragraph((name, Mark(name), Mark(name, "strong"))),
        Bullets([name]),
        Facts({name: name}),
        Table([{"run": name, "score": Share(0.5), name: 1234}], name, {name: name}),
        Matrix([name, "other"], [[3, 1], [0, 1000]]),
        Figure(drawing, name, name, "figures/odd.png"),
        Panels([Figure(PNG, name)]),
        Gallery([Picture(PNG, name, name, [name])]),
        Code(name),
    ]
    return Document(name, name, [Details(name, blocks)], [Section(name, blocks)])


def test_names_stay_names_in_every_block_of_a_page() -> None:
    page = Page(as_html(document(ODD)))
    assert not page.all("b") and not page.all("script")
    plain = Page(as_html(document("plain")))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]  # a name adds no element
    assert page.text.count(ODD) == plain.text.count("plain") and page.text.count(ODD) > 20


def test_figures_and_pictures_say_what_they_show() -> None:
    page = Page(as_html(document(ODD)))
    drawings = [element for element in page.all("svg") if element.get("role") == "img"]
    assert len(drawings) == 2 and {element["aria-label"] for element in drawings} == {ODD}
    assert {element["alt"] for element in page.all("img")} == {ODD}
    assert page.all("details") and page.all("th")


def test_a_page_shows_tables_with_bars_and_notes() -> None:
    page = Page(as_html(document("name")))
    bars = [cell for cell in page.all("td") if "share" in str(cell.get("class"))]
    assert bars[0]["style"] == "--share: 0.500" and "50.0 %" in page.text and "1,234" in page.text
    matrix = [cell["class"] for cell in page.all("td") if "--share" in str(cell.get("style"))][1:5]
    assert matrix == ["right", "", "none", "right"]


def test_markdown_says_all_that_needs_no_page() -> None:
    text = as_markdown(document("name"))
    for part in ("# name\n\nname\n", "## name", "name`name`**name**", "- name: name", "| name | 50.0 % | 1,234 |"):
        assert part in text, part
    assert "![name](figures/odd.png)" in text and "```\nname\n```" in text and PNG not in text
    assert "| name | 3 | 1 |" in text


def test_a_terminal_gets_no_marks_and_no_notes() -> None:
    (details,) = document("name").blocks
    assert isinstance(details, Details)
    text = as_text(details.blocks)
    assert text.startswith("namenamename\n\nname\n\nname: name\n\nname\n\nrun   score    name\n")
    assert "`" not in text and "figures" not in text and "- name" not in text
    assert as_text(details.blocks[3:4], "csv") == "name\n\nrun,score,name\nname,50.0 %,1234"
    assert max(map(len, as_text(details.blocks[3:4], width=16).splitlines())) <= 16


def test_a_note_stands_under_the_first_table_that_has_its_column() -> None:
    tables = noted_tables({"a": [{"p": 1}], "b": [], "c": [{"p": 1, "n": 2}]}, {"p": "test", "n": "images", "x": ""})
    assert [(table.caption, table.notes) for table in tables] == [("a", {"p": "test"}), ("c", {"n": "images"})]


@pytest.mark.parametrize("medium", ["page", "slide"])
def test_drawings_take_the_colours_of_the_page(medium: Medium) -> None:
    with styled(medium):
        figure = empty_figure(2, 2)
        axes = figure.subplots()
        for place, colour in enumerate(SERIES):
            axes.plot([0, 1], [place, place], color=colour)
        drawing = svg.as_svg(figure, "x")
    assert all(f"var(--series-{place})" in drawing for place in range(1, 8)) and "currentColor" in drawing
    assert not [colour for colour in svg.COLOURS if colour in drawing]
