"""From a matplotlib Figure to SVG text that lives inside a page: small, deterministic, coloured by the page's theme.

Figures are drawn in the light theme's colours; on the way out each of these becomes a CSS variable with the light
colour as fallback, so that the page switches figures to its dark theme without drawing them twice.
"""

import html
import io
import itertools
import re
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1c2733", "#5d6b7a", "#e3e7ec", "#fdfefe"
FRAME = {INK: ("ink", "#e7ecf2"), MUTED: ("muted", "#9aa8b8"), GRID: ("grid", "#323c49"), PAPER: ("paper", "#1a212b")}

# light, dark; told apart by lightness and hue, and in the figures by the marker's shape too
HEAD_COLOURS = (
    ("#5b6b80", "#a5b4c8"),
    ("#b87309", "#f0b352"),
    ("#0b8466", "#46cfa6"),
    ("#8b45bd", "#cd9bf5"),
    ("#c0354f", "#ff8d9c"),
    ("#2179b5", "#6dbcf2"),
)
# the ends and the middle of the ramp for noise: light darkens, dark brightens as noise grows
RAMP_LIGHT, RAMP_DARK = ("#35a3bf", "#6a5fb5", "#7d1550"), ("#3f93b8", "#bd86d6", "#ffc88a")


def _mix(anchors: Sequence[str], place: float) -> str:
    """The colour at `place` in [0, 1] on straight lines between the anchors."""
    left = min(int(place * (len(anchors) - 1)), len(anchors) - 2)
    share = place * (len(anchors) - 1) - left
    pair = [[int(anchor[i : i + 2], 16) for i in (1, 3, 5)] for anchor in anchors[left : left + 2]]
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(*pair, strict=True))


class Palette:
    """The light colours to draw with, and the CSS variables they turn into.

    `head[method]` and `encoder[name]` are qualitative, `ratio[text]` sequential by rank; each covers all that the
    study holds, so that one thing has one colour in every figure.
    """

    def __init__(self, methods: Sequence[str], ratios: Sequence[str], encoders: Sequence[str] = ()) -> None:
        self._themes = dict(FRAME)
        self.ratio: dict[str, str] = {}
        light_colours = [light for light, _ in HEAD_COLOURS]
        self.head = dict(zip(methods, itertools.cycle(light_colours), strict=False))
        self.encoder = dict(zip(encoders, itertools.cycle(light_colours), strict=False))
        for i, (light, dark) in enumerate(HEAD_COLOURS):
            self._themes[light] = (f"head-{i}", dark)
        for i, ratio in enumerate(ratios):
            place = i / max(len(ratios) - 1, 1)
            light = _mix(RAMP_LIGHT, place)
            self.ratio[ratio] = light
            self._themes[light] = (f"ratio-{i}", _mix(RAMP_DARK, place))

    def css(self, colour: str) -> str:
        """A light colour as the CSS variable that stands for it."""
        return f"var(--{self._themes[colour][0]}, {colour})"

    def variables(self, dark: bool) -> Mapping[str, str]:
        """CSS variable names and their colours in one theme."""
        return {name: other if dark else light for light, (name, other) in self._themes.items()}

    def themed(self, svg: str) -> str:
        """SVG text with every colour of the palette replaced by its variable."""
        known = self._themes
        return re.sub(r"#[0-9a-f]{6}\b", lambda found: self.css(found[0]) if found[0] in known else found[0], svg)


def panel(width: float = 4.5, height: float = 3.0) -> tuple[Figure, Axes]:
    """An empty figure in the house style; inches at 72 points. No pyplot, no global settings."""
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left=0.115, right=0.985, bottom=0.165, top=0.915)
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelcolor=INK, labelsize=9, length=3)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(which="minor", length=0, labelsize=0)
    axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def label(axes: Axes, x: str, y: str) -> None:
    """Axis labels: x below, y above the axis and upright, where it can be read without turning the head."""
    axes.set_xlabel(x, fontsize=9, color=MUTED)
    axes.set_title(y, fontsize=9, color=MUTED, loc="left", pad=8)


def to_svg(figure: Figure, name: str, title: str, palette: Palette) -> str:
    """One `<svg>` element: text stays text, ids are unique by `name`, equal figures give equal bytes.

    Raises nothing of its own; `title` must be plain text and is escaped here.
    """
    out = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue()
    for pattern in (r"<metadata>.*?</metadata>", r"<style.*?</style>", r"<!--.*?-->", r"<defs>\s*</defs>"):
        text = re.sub(pattern, "", text, flags=re.DOTALL)
    used = set(re.findall(r"#([\w.-]+)[\")]", text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r' (?:d|x|y|width|height|points|transform)="[^"]*"', _shortened, text)
    text = re.sub(r" font-family: [^;]*;", "", text)
    text = re.sub(r' transform="rotate\(-0 [^"]*"', "", text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    text = re.sub(r"<g([^>]*)>\n((?:<use [^>]*/>\n)+)</g>", _styled_once, text)
    view = re.search(r'viewBox="[^"]*"', text)
    body = text[text.index(">", text.index("<svg")) + 1 :]
    root = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view[0] if view else ""} '
        f'stroke-linejoin="round" role="img" aria-label="{html.escape(title)}">'
    )
    return palette.themed(root + body.strip())


def _styled_once(group: re.Match[str]) -> str:
    """A group of marks of one style carries it once, not on each mark."""
    styles = set(re.findall(r' style="[^"]*"', group[2]))
    if len(styles) != 1:
        return group[0]
    style = styles.pop()
    return f"<g{group[1]}{style}>\n{group[2].replace(style, '')}</g>"


def _shortened(attribute: re.Match[str]) -> str:
    """Coordinates cut to a hundredth of a point; never the text of labels."""
    return re.sub(r"(\d+\.\d\d)\d+", r"\1", attribute[0])
