"""A Matplotlib figure → SVG for a page, in the page's own colours and font."""

from __future__ import annotations

import io
import re
import unicodedata
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # drawing takes half a second to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

INK, MUTED, LINE, PAPER = "#0a0001", "#0a0002", "#0a0003", "#0a0004"
WIN, ALIKE, OTHER, BASE = "#0a0005", "#0a0006", "#0a0007", "#0a0008"
SCALE = ["#0a0011", "#0a0012", "#0a0013", "#0a0014", "#0a0015"]  # worst to best
VARIABLES = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper", WIN: "--win", ALIKE: "--alike",
    OTHER: "--other", BASE: "--base", **{colour: f"--scale-{i}" for i, colour in enumerate(SCALE, start=1)},
}  # fmt: skip
WIDTH, HEIGHT = 460, 300  # CSS pixels of a picture
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "reranker", "text.parse_math": False, "font.size": 11.5,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": LINE, "axes.facecolor": "none",
    "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False, "axes.axisbelow": True,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": LINE, "grid.linewidth": 0.8, "axes.labelsize": 11.5,
    "xtick.color": LINE, "ytick.color": LINE, "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED,
    "ytick.major.size": 0, "xtick.major.size": 3, "ytick.minor.size": 0, "figure.facecolor": "none",
    "lines.solid_capstyle": "round", "path.simplify": False,
}  # fmt: skip
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


@contextmanager
def drawing() -> Iterator[Callable[..., tuple[Canvas, Axes]]]:
    """Yields a function that makes a canvas in the report's style; restores global settings."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    def draw(left: float = 0.12, right: float = 0.98) -> tuple[Canvas, Axes]:
        canvas = Canvas(figsize=(WIDTH / 72, HEIGHT / 72))
        axes = canvas.add_axes((left, 0.155, right - left, 0.815))
        return canvas, axes

    with mpl.rc_context(_STYLE):
        yield draw


def style() -> dict[str, Any]:
    """The report's Matplotlib settings, for charts that other libraries draw."""
    return dict(_STYLE)


def percent(axis: Any) -> None:
    """Show ticks as percentages."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))


def whole_numbers(axis: Any) -> None:
    """Put ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))


def plain_ticks(axis: Any) -> None:
    """Show ticks as plain numbers; Matplotlib's own on a log axis are formulas, which are not rendered here."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_formatter(NullFormatter())


def clean(text: str) -> str:
    """The text on one line, without characters that XML forbids."""
    return "".join(
        " " if character in "\n\r\t" else character
        for character in text
        if character in "\n\r\t" or unicodedata.category(character) not in ("Cc", "Cs", "Cn")
    )


def to_svg(canvas: Canvas, key: str, title: str, notes: Mapping[str, str] | None = None) -> str:
    """The canvas as SVG for a page: unique ids, the page's colours and font, an accessible name.

    Args:
        notes: gid of an artist → its tooltip.
    """
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata={"Date": None})
    ET.register_namespace("", SVG)
    root = ET.fromstring(buffer.getvalue())
    for element in list(root):
        if element.tag == f"{{{SVG}}}metadata" or element.find(f"{{{SVG}}}style") is not None:
            root.remove(element)  # a licence, and a style that would apply to the whole page
    for element in root.iter():
        note_text = (notes or {}).get(element.get("id", ""))
        for name, value in list(element.attrib.items()):
            element.attrib.pop(name)
            element.set(name.replace(f"{{{XLINK}}}", ""), _attribute(name, value, key))
        if "style" in element.attrib:
            element.set("style", _page_style(element.attrib["style"]))
        if note_text is not None:
            note = ET.Element(f"{{{SVG}}}title")
            note.text = note_text
            element.insert(0, note)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("style", f"max-width:{1.25 * float(root.get('viewBox', '').split()[2]):.0f}px")  # text stays readable
    root.set("role", "img")
    root.set("aria-label", title)
    return re.sub(r"\s*\n\s*", " ", ET.tostring(root, encoding="unicode"))


def _attribute(name: str, value: str, key: str) -> str:
    """Prefix ids and references with the chart's key, since a page holds several charts."""
    if name == "id":
        return f"{key}-{value}"
    if name.endswith("href"):
        return value.replace("#", f"#{key}-", 1)
    if "url(#" in value:
        return value.replace("url(#", f"url(#{key}-")
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", value)  # a hundredth of a pixel is enough


def _page_style(style: str) -> str:
    """Use the page's font, and its CSS variables for placeholder colours."""
    style = re.sub(r"font-family:[^;]*;?\s*", "", style)
    return re.sub(
        r"#[0-9a-f]{6}", lambda match: f"var({VARIABLES[match[0]]})" if match[0] in VARIABLES else match[0], style
    )
