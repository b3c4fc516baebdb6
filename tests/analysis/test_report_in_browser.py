"""The page in a real browser: headless Chromium opens it from disk, at two widths, light and dark."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image
from sample_study import sample_study  # type: ignore[import-not-found]

from nml_ray.analysis.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (Debian: apt-get install chromium)"),
]

WIDTHS = (1280, 420)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--allow-file-access-from-files",
    "--enable-logging=stderr",
    "--virtual-time-budget=10000",
]
# Chromium makes no window narrower than 500 px, so the page is measured in frames of the widths asked for.
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">%s<pre id="found"></pre><script>
addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) {
    const page = frame.contentDocument, root = page.documentElement, wide = [];
    for (const element of page.querySelectorAll("main *, header *, footer *")) {
      const box = element.getBoundingClientRect();
      const inside = element.closest(".scroll, pre, svg");
      if (box.right > root.clientWidth + 1 && !inside) wide.push(element.outerHTML.slice(0, 90));
    }
    const boxes = [...page.querySelectorAll("figure > svg")].map(svg => svg.getBoundingClientRect());
    found[frame.width] = {
      client: root.clientWidth, scroll: root.scrollWidth, wide,
      figures: boxes.map(box => [box.width, box.height]),
      drawn: [...page.querySelectorAll("figure > svg")].map(svg => svg.querySelectorAll("path, use, text").length),
      cards: page.querySelectorAll(".card").length, tables: page.querySelectorAll("table").length,
      ink: frame.contentWindow.getComputedStyle(page.body).color,
      line: frame.contentWindow.getComputedStyle(page.querySelector("figure > svg text")).fill,
    };
  }
  document.getElementById("found").textContent = JSON.stringify(found);
});
</script></body>"""


def chromium(profile: Path, *arguments: str) -> tuple[str, str]:
    """Run Chromium headless with a profile of its own; its standard output, and the console lines of the page."""
    assert CHROMIUM is not None
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=True)
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    write_report(sample_study(), directory)
    return directory / "report.html"


def probe(page: Path, profile: Path, *arguments: str) -> tuple[dict, str]:
    frames = "".join(f'<iframe src="report.html" width="{width}" height="900"></iframe>' for width in WIDTHS)
    outer = page.with_name("probe.html")
    outer.write_text(PROBE % frames)
    dom, console = chromium(profile, *arguments, "--window-size=1800,1000", "--dump-dom", outer.as_uri())
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found and found[1], dom[-2000:]
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console


def test_figures_are_drawn_and_nothing_overflows_at_either_width(page, tmp_path):
    found, console = probe(page, tmp_path)
    assert console == ""
    for width in WIDTHS:
        seen = found[str(width)]
        assert seen["wide"] == [] and seen["scroll"] <= seen["client"] <= width
        assert len(seen["figures"]) == 19 and min(seen["drawn"]) > 10
        assert all(300 < w <= width and h > 180 for w, h in seen["figures"])
        assert seen["cards"] == 4 and seen["tables"] >= 6
    assert found["1280"]["figures"][0][0] > 450


def test_figures_follow_the_dark_theme(page, tmp_path):
    light, _ = probe(page, tmp_path / "light")
    dark, console = probe(page, tmp_path / "dark", "--blink-settings=preferredColorScheme=0")
    assert console == ""
    for name in ("ink", "line"):
        assert light["1280"][name] != dark["1280"][name]


def test_the_page_alone_opens_from_disk_without_a_word_on_the_console(page, tmp_path):
    picture = tmp_path / "page.png"
    arguments = ("--window-size=1280,2400", f"--screenshot={picture}", page.as_uri())
    _, console = chromium(tmp_path / "profile", *arguments)
    assert console == ""
    with Image.open(picture) as image:
        assert image.size == (1280, 2400)
        colours = image.convert("RGB").getcolors(1 << 24)
    assert colours is not None and len(colours) > 200
