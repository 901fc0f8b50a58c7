"""Sphinx's settings; `build.py` puts them beside the pages."""

from __future__ import annotations

import re

project = "minicppo"
author = "The minicppo authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.viewcode"]
html_theme = "furo"
html_title = "minicppo"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_extra_path = ["_extra"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_sidebars = {
    "**": [f"sidebar/{name}.html" for name in ("brand", "search", "touch", "scroll-start", "navigation", "scroll-end")]
}
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
mathjax_path = "vendor/mathjax/tex-svg-full.js"
mathjax3_config = {"options": {"enableMenu": False}}  # its menu would ask a network for what reads formulas aloud
myst_enable_extensions = ["amsmath", "dollarmath", "html_image"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
nb_execution_mode = "off"  # executed by notebooks/run.py
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables, too
autodoc_typehints = "none"  # the signatures' own shapes are long; a docstring says them in a line
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
add_module_names = False
suppress_warnings = ["mystnb.unknown_mime_type", "myst.header"]  # headings start at ### below a table's title


def as_text(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Our docstrings are plain text: marks that Sphinx would read as markup are escaped, `code` becomes ``code``."""
    if lines and lines[0].startswith("Alias for field number"):  # a named tuple's; its class says what they are
        lines.clear()
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", "[", "(", "tensor")):
            parts = re.split(r"(`+[^`]+`+)", line.strip() if what != "module" else line)
            lines[i] = "".join(
                f"``{part.strip('`')}``" if part.startswith("`") else re.sub(r"([*|_\\])", r"\\\1", part)
                for part in parts
            )


def in_short(
    app: object, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str, str | None] | None:
    """A configuration has up to two hundred arguments, which a page of its own lists."""
    return ("(...)", returned) if signature and len(signature) > 600 else None


def breakable(app: object, page: str, template: str, context: dict[str, str], doctree: object) -> None:
    """A long name in a table or a title may be broken behind a dot or an underscore, so that both fit the page."""

    def in_cell(found: re.Match[str]) -> str:
        names = r"[\w./=-]{12,}(?=[^<>]*<)"  # in text, not in a tag
        return re.sub(names, lambda name: re.sub(r"(?<=[_./=])(?=\w)", "<wbr>", name[0]), found[0])

    context["body"] = re.sub(r"<(td|h1).*?</\1>", in_cell, context.get("body", ""), flags=re.S)


def setup(app: object) -> None:
    app.connect("html-page-context", breakable)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", as_text)  # type: ignore[attr-defined]
    app.connect("autodoc-process-signature", in_short)  # type: ignore[attr-defined]
