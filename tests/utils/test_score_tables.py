"""Tables of scores: layout, marks, escapes."""

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.errors import UserError
from utils.metrics import LOWER_IS_BETTER, METRICS
from utils.score_tables import latex_table, markdown_table, method_names, shown

NASTY = r"[1]_a|b%c#d\e{f}g~h^i--j<k>`l`&amp;$m$*n*"


def row(checkpoint="a", set_name="X", trial="t", images=5, **scores):
    fixed = {"trial": trial, "checkpoint": checkpoint, "set": set_name, "images": images}
    return fixed | scores


def markdown_cells(text):
    """Return the cells of the lines of a Markdown table, the rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)(?:\\\\)*\|", line)[1:-1] for line in lines]
    return [[cell.strip() for cell in line] for line in [cells[0], *cells[2:]]]


def latex_cells(text):
    r"""Return the cells of the lines that end in ``\\``."""
    lines = [line[:-3] for line in text.splitlines() if line.endswith(r" \\")]
    return [re.split(r"(?<!\\) ?& ?", line) for line in lines]


def column(values, metric="S", table=markdown_table, decimals=3):
    """Return the cells of a table of one column."""
    rows = [row(f"m{index}", **{metric: value}) for index, value in enumerate(values)]
    if table is markdown_table:
        return [line[1] for line in markdown_cells(table(rows, [metric], "raw", decimals))[2:]]
    return [line[1] for line in latex_cells(table(rows, [metric], "raw", decimals))[2:]]


SMALL = [
    row("new_best", "CoCA", S=0.91251, MAE="0.046", images="1295"),
    row("new_best", "SED1", S="", MAE="0.1", images="100"),
    row("old", "CoCA", S=0.90, MAE=0.0512, images=1295),
    row("old", "SED1", S=1.0, MAE=0.05, images=100),
]


def test_markdown_as_a_whole():
    assert (
        markdown_table(SMALL, ("S", "MAE"), "eval-co-sod")
        == """\
Saliency scores, convention eval-co-sod. Images: CoCA 1295, SED1 100. **Best**, *second best*; \
↑ higher is better, ↓ lower is better.

| method   |     CoCA |          |  SED1 |          |
| -------- | -------: | -------: | ----: | -------: |
|          |      S ↑ |    MAE ↓ |   S ↑ |    MAE ↓ |
| new_best | **.913** | **.046** |     - |   *.100* |
| old      |   *.900* |   *.051* | 1.000 | **.050** |
"""
    )


def test_latex_as_a_whole():
    assert (
        latex_table(SMALL, ("S", "MAE"), "eval_x", decimals=4)
        == r"""% Needs \usepackage{booktabs} and \usepackage{graphicx}.
\begin{table*}
\centering
\setlength{\belowcaptionskip}{4pt}
\caption{Saliency scores, convention eval\_x. Images: CoCA 1295, SED1 100. """
        r"""Best values bold, second best underlined.}
\setlength{\tabcolsep}{3pt}%
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%
\begin{tabular}{lcccc}
\toprule
 & \multicolumn{2}{c}{CoCA} & \multicolumn{2}{c}{SED1} \\
\cmidrule(lr){2-3} \cmidrule(lr){4-5}
Method & \scriptsize S\,$\uparrow$ & \scriptsize MAE\,$\downarrow$ & """
        r"""\scriptsize S\,$\uparrow$ & \scriptsize MAE\,$\downarrow$ \\
\midrule
new\_best & \textbf{.9125} & \textbf{.0460} & - & \underline{.1000} \\
old & \underline{.9000} & \underline{.0512} & 1.0000 & \textbf{.0500} \\
\bottomrule
\end{tabular}}
\end{table*}
"""
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((0.9321, 0.9324, 0.9312, 0.9308, 0.9), "**.932** **.932** *.931* *.931* .900"),
        ((0.5, 0.5), "**.500** **.500**"),
        ((0.5, "", "nan", 0.7, None), "*.500* - - **.700** -"),
        ((0.5, ""), ".500 -"),
        (("0.999600", 0.0), "**1.000** *.000*"),
        ((float("inf"), 0.1, 0.2), "- *.100* **.200**"),
    ],
)
def test_marks_go_by_the_digits_shown(values, told):
    assert " ".join(column(values)) == told


@pytest.mark.parametrize("metric", METRICS)
def test_the_better_side_of_every_metric(metric):
    low, high = column((0.1, 0.2), metric)
    lower = metric in LOWER_IS_BETTER
    assert (low, high) == (("**.100**", "*.200*") if lower else ("*.100*", "**.200**"))
    head = latex_cells(latex_table([row(S=1)], [metric], "raw"))[1][1]
    assert (r"\downarrow" in head, r"\uparrow" in head) == (lower, not lower)


@given(st.lists(st.integers(0, 10000), min_size=2, max_size=8), st.sampled_from([2, 3, 4]))
def test_latex_marks_are_those_of_a_plain_search(ten_thousandths, decimals):
    values = [value / 10000 for value in ten_thousandths]
    cells = column(values, "MAE", latex_table, decimals)
    printed = [float(f"{value:.{decimals}f}") for value in values]
    best = min(printed)
    second = min((value for value in printed if value > best), default=None)
    for cell, value in zip(cells, printed, strict=True):
        text = f"{value:.{decimals}f}".replace("0.", ".", 1)
        marked = {best: rf"\textbf{{{text}}}", second: rf"\underline{{{text}}}"}
        assert cell == marked.get(value, text)


def test_methods_down_and_sets_across_in_order_of_appearance():
    rows = [row("b", "Y", S=0.1), row("a", "Y", S=0.2), row("a", "X", S=0.3), row("b", "X", S=0.4)]
    cells = markdown_cells(markdown_table(rows, ["S"], "raw"))
    assert cells[0] == ["method", "Y", "X"]
    assert cells[2:] == [["b", "*.100*", "**.400**"], ["a", "**.200**", "*.300*"]]


def test_a_method_of_fewer_images_is_shown_and_not_ranked():
    rows = [row("few", "X", S=0.9, images=3), row("b", "X", S=0.2), row("c", "X", S=0.3)]
    text = markdown_table(rows, ["S"], "raw")
    assert markdown_cells(text)[2:] == [["few", ".900†"], ["b", "*.200*"], ["c", "**.300**"]]
    table = latex_table(rows, ["S"], "raw")
    assert r".900$^{\dagger}$" in table
    assert r"$^{\dagger}$ Of fewer images" in table
    assert "dagger" not in latex_table(rows[1:], ["S"], "raw")


def test_a_method_without_a_set_and_sets_of_unequal_size():
    rows = [row("a", "X", S=0.1, images=3), row("b", "X", S=0.2, images=4), row("a", "Y", S=0.5)]
    text = markdown_table(rows, ["S", "wF"], "raw")
    assert "Images: X 3/4, Y 5." in text
    assert markdown_cells(text)[2:] == [
        ["a", ".100†", "-", ".500", "-"],
        ["b", ".200", "-", "-", "-"],
    ]
    assert "† of fewer images, not ranked" in text
    assert "Images: X 3/4." in markdown_table([*rows[:2], row("c", images="")], ["S"], "raw")
    assert "Images: X -." in latex_table([row(images="", S=1)], ["S"], "raw")


def test_trials_are_named_only_where_needed():
    rows = [row("best", trial="t1"), row("only", trial="t1"), row("best", "Y", trial="t2")]
    assert method_names([*rows, row("best", "Y", trial="t1")]) == {
        ("t1", "best"): "t1/best",
        ("t1", "only"): "only",
        ("t2", "best"): "t2/best",
    }
    assert [line[0] for line in latex_cells(latex_table(rows, ["S"], "raw"))[2:]] == [
        "t1/best",
        "only",
        "t2/best",
    ]


@pytest.mark.parametrize(
    ("value", "decimals", "told"),
    [(0.9324, 3, ".932"), ("0.05", 4, ".0500"), (1, 3, "1.000"), (10.5, 2, "10.50"), ("", 3, "-")],
)
def test_numbers_as_papers_print_them(value, decimals, told):
    assert shown(value, decimals) == told


@pytest.mark.parametrize("table", [markdown_table, latex_table])
def test_faults_are_told(table):
    with pytest.raises(UserError, match="needs rows and metrics"):
        table([], ["S"], "raw")
    with pytest.raises(UserError, match="needs rows and metrics"):
        table([row(S=1)], [], "raw")
    with pytest.raises(UserError, match="unknown metric 'maxf'; did you mean 'maxF'"):
        table([row(S=1)], ["maxf"], "raw")
    with pytest.raises(UserError, match="a: two rows of scores for X: leave out one"):
        table([row(S=1), row(S=0.5)], ["S"], "raw")
    with pytest.raises(UserError, match="'good' is no number"):
        table([row(S="good")], ["S"], "raw")


def test_nasty_names_in_markdown():
    text = markdown_table([row(NASTY, "A|_B_\nC&D", S=1), row("a_b__c", S=0)], ["S"], "r|w")
    assert r"convention r\|w. Images: A\|\_B\_ C&D 5" in text
    assert r"| \[1\]\_a\|b%c#d\\e{f}g\~h^i--j\<k\>\`l\`\&amp;\$m\$\*n\* |" in text.splitlines()[5]
    assert text.splitlines()[6].startswith(r"| a_b\_\_c ")


def test_nasty_names_in_latex():
    text = latex_table([row(NASTY, "A&B", S=1), row("*a", "A&B", S=0)], ["S"], "a_b")
    assert r"{}[1]\_a\textbar{}b\%c\#d\textbackslash{}e\{f\}g\textasciitilde{}h" in text
    assert r"\textasciicircum{}i-{}-j\textless{}k\textgreater{}\`{}l\`{}\&amp;\$m\$*n* &" in text
    assert "\n{}*a & " in text
    assert r"\multicolumn{1}{c}{A\&B} \\" in text
    assert r"Images: A\&B 5." in text


names = st.text("ab_&%#\\{}~^$|<>[]*`- \n", min_size=1, max_size=12)


@given(st.lists(names, min_size=1, max_size=4, unique=True), names)
def test_every_line_has_as_many_cells(methods, set_name):
    rows = [
        row(method, name, S=0.5, MAE=0.1) for method in methods for name in (set_name, set_name * 2)
    ]
    latex = latex_table(rows, ["S", "MAE"], "raw")
    plain = re.sub(r"\\[\\&%$#_{}`]", "", latex)
    assert plain.count("{") == plain.count("}")
    assert plain.count("%") == 3  # the comment, and two ends of line
    above, *below = latex_cells(latex)
    assert sum(int(re.match(r"\\multicolumn\{(\d)\}", cell)[1]) for cell in above[1:]) == 4
    assert [len(line) for line in below] == [5] * (1 + len(methods))
    markdown = markdown_cells(markdown_table(rows, ["S", "MAE"], "raw"))
    assert [len(line) for line in markdown] == [5] * (2 + len(methods))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path):
    sets, methods = ("A&B", "C_1", "D", "E", "F"), (NASTY.replace("$", ""), "*x", "[y]", "z")
    rows = [row(m, s, maxF=0.1, S=0.2, maxE=0.3, MAE=0.4) for m in methods for s in sets]
    table = latex_table(rows, ["maxF", "S", "maxE", "MAE"], "eval-co_sod")
    head = r"\documentclass{article}\usepackage{booktabs}\usepackage{graphicx}\begin{document}"
    (tmp_path / "t.tex").write_text(f"{head}\n{table}\\end{{document}}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
