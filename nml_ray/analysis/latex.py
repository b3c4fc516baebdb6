"""Tables for papers: LaTeX with booktabs."""

from nml_ray.analysis.tables import Table

_SPECIAL = {
    "\\": "\\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "±": "$\\pm$",
    "\N{MINUS SIGN}": "$-$",
    "\N{NO-BREAK SPACE}": "~",
}


def to_latex(table: Table, caption: str = "") -> str:
    """A `tabular` of the table (needs booktabs), in a `table` with the caption where there is one."""
    above = [("", 1), *table.groups]
    spans = [f"\\multicolumn{{{width}}}{{c}}{{{escaped(name)}}}" if name else "" for name, width in above]
    lines = [
        f"\\begin{{tabular}}{{l{'r' * len(table.columns)}}}",
        "\\toprule",
        *([_line(spans)] if any(name for name, _ in table.groups) else []),
        _line([escaped(word) for word in (table.corner, *table.columns)]),
        "\\midrule",
        *(_line([escaped(label), *(escaped(table.text(cell)) for cell in cells)]) for label, cells in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    if caption:
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{escaped(caption)}}}", *lines, "\\end{table}"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text with the signs that LaTeX takes for commands written out."""
    return "".join(_SPECIAL.get(sign, sign) for sign in text)


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + " \\\\"
