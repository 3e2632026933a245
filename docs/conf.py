"""The documentation site: Sphinx, MyST and furo; nothing on its pages comes from the network.

What could go stale is made from the code at build time (`generate.py`): the verification table, the
settings, the recipes, the commands and the top namespace. Formulas become MathML (`mathml.py`), and listings
wrap on a phone (`listing.py`).
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402  (lies beside this file)

import loopscope  # noqa: E402

project = "loopscope"
author = "the loopscope authors"
copyright = author
release = version = loopscope.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
extensions += ["mathml", "listing"]  # ours, beside this file
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence", "attrs_inline"]
myst_heading_anchors = 3

# Docstrings: Google style, single backticks for code, jaxtyping shapes left as they are written
suppress_warnings = ["ref.python"]  # fields of the same name in several classes
default_role = "code"
highlight_language = "text"
smartquotes = False  # two dashes are an option, not a dash
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Source", "returns_style")]
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # they stand in the signature; the star of a shape would be markup
autosummary_generate = False
maximum_signature_line_length = 88

html_theme = "furo"
html_title = "loopscope"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0072b2", "color-brand-content": "#0072b2"},
    "dark_css_variables": {"color-brand-primary": "#56b4e9", "color-brand-content": "#56b4e9"},
}


def setup(app: Sphinx) -> None:
    generate.write_all(HERE / "_generated")
    app.connect("autodoc-process-docstring", generate.as_markup, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", generate.leave_out)
