"""A drawing → SVG to put into a page, in the page's own colours and font."""

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
VARIABLES = {
    INK: "--ink", MUTED: "--muted", LINE: "--line", PAPER: "--paper", WIN: "--win", ALIKE: "--alike",
    OTHER: "--other", BASE: "--base",
}  # fmt: skip
SCALE = ["#0a0011", "#0a0012", "#0a0013", "#0a0014", "#0a0015"]  # worst to best
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
    """A function that makes a canvas, under the house's style; nothing global is left changed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    def draw(left: float = 0.12, right: float = 0.98) -> tuple[Canvas, Axes]:
        canvas = Canvas(figsize=(WIDTH / 72, HEIGHT / 72))
        axes = canvas.add_axes((left, 0.155, right - left, 0.815))
        return canvas, axes

    with mpl.rc_context(_STYLE):
        yield draw


def style() -> dict[str, Any]:
    """Matplotlib's settings for pictures that others draw."""
    return dict(_STYLE)


def percent(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.3g}%"))


def whole_numbers(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))


def plain_ticks(axis: Any) -> None:
    """Numbers as people write them; Matplotlib's own on a logarithmic axis are formulas, which stay unset here."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_formatter(NullFormatter())


def clean(text: str) -> str:
    """On one line and without characters that XML forbids."""
    return "".join(
        " " if c in "\n\r\t" else c for c in text if c in "\n\r\t" or unicodedata.category(c) not in ("Cc", "Cs", "Cn")
    )


def to_svg(canvas: Canvas, key: str, title: str, notes: Mapping[str, str] | None = None) -> str:
    """The picture for a page: ids that are its own, colours and font of the page, a name for who can't see it.

    Args:
        notes: gid of an artist → what is told of it when it is pointed at.
    """
    out = io.StringIO()
    canvas.savefig(out, format="svg", metadata={"Date": None})
    ET.register_namespace("", SVG)
    root = ET.fromstring(out.getvalue())
    for element in list(root):
        if element.tag == f"{{{SVG}}}metadata" or element.find(f"{{{SVG}}}style") is not None:
            root.remove(element)  # a licence, and a style that would hold for all of the page
    for element in root.iter():
        told = (notes or {}).get(element.get("id", ""))
        for name, value in list(element.attrib.items()):
            element.attrib.pop(name)
            element.set(name.replace(f"{{{XLINK}}}", ""), _attribute(name, value, key))
        if "style" in element.attrib:
            element.set("style", _page_style(element.attrib["style"]))
        if told is not None:
            note = ET.Element(f"{{{SVG}}}title")
            note.text = told
            element.insert(0, note)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("style", f"max-width:{1.25 * float(root.get('viewBox', '').split()[2]):.0f}px")  # letters stay letters
    root.set("role", "img")
    root.set("aria-label", title)
    return re.sub(r"\s*\n\s*", " ", ET.tostring(root, encoding="unicode"))


def _attribute(name: str, value: str, key: str) -> str:
    """Every id, and what points to one, begins with the picture's key: pages hold several."""
    if name == "id":
        return f"{key}-{value}"
    if name.endswith("href"):
        return value.replace("#", f"#{key}-", 1)
    if "url(#" in value:
        return value.replace("url(#", f"url(#{key}-")
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", value)  # a hundredth of a pixel is enough


def _page_style(style: str) -> str:
    style = re.sub(r"font-family:[^;]*;?\s*", "", style)
    return re.sub(
        r"#[0-9a-f]{6}", lambda found: f"var({VARIABLES[found[0]]})" if found[0] in VARIABLES else found[0], style
    )


if TYPE_CHECKING:  # drawing takes half a second to import
    from matplotlib.axes import Axes


WIDTH, HEIGHT = 460, 300  # CSS pixels of one picture
