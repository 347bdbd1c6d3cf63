"""Tables of text as Markdown, LaTeX and HTML."""

import pandas as pd

LATEX = str.maketrans(
    {
        "▲": r"$\blacktriangle$",
        "▼": r"$\blacktriangledown$",
        "≈": r"$\approx$",
        "±": r"$\pm$",
        "Δ": r"$\Delta$",
        "µ": r"$\mu$",
        "→": r"$\rightarrow$",
        "<": r"$<$",
        ">": r"$>$",
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        **{sign: f"\\{sign}" for sign in "%_&#${}"},
    }
)


def to_markdown(table: pd.DataFrame) -> str:
    """Return a pipe table; a pipe in a cell is escaped."""
    escaped = table.map(lambda text: text.replace("|", r"\|"))
    return str(escaped.to_markdown(index=False, disable_numparse=True))


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """Return a booktabs table that needs the packages booktabs and amssymb (for the arrows)."""
    escaped = table.map(latex_text).rename(columns=latex_text)
    columns = "l" + "r" * (table.shape[1] - 1)
    return str(
        escaped.style.hide(axis="index").to_latex(
            hrules=True, column_format=columns, caption=latex_text(caption), convert_css=False
        )
    )


def latex_text(text: str) -> str:
    """Return text with everything that LaTeX would read otherwise replaced by commands."""
    return text.translate(LATEX)


def to_html(table: pd.DataFrame) -> str:
    """Return a plain <table>; what is in the cells is escaped."""
    return table.to_html(index=False, border=0)
