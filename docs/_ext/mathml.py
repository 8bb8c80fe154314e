"""Equations as MathML, made when the pages are built: browsers show it without JavaScript, fonts or network."""

from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def mathml(node: nodes.Element, as_block: bool) -> str:
    """Return an equation as MathML; what cannot be converted is a warning, which fails the build."""
    try:
        made = tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logger.warning("the equation %r: %s", node.astext(), error, location=node)
        return ""
    for name in ("log", "exp", "ln"):  # browsers leave no room after the name of a function
        made = made.replace(f"<mi>{name}</mi>", f'<mi>{name}</mi><mspace width="0.17em"/>')
    return made


def inline(translator: Any, node: nodes.math) -> None:
    """Write an equation within a line."""
    translator.body.append(mathml(node, as_block=False))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """Write an equation of its own."""
    translator.body.append(f'<div class="math">{mathml(node, as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer under the name that `html_math_renderer` takes."""
    app.add_html_math_renderer("mathml", inline_renderers=(inline, None), block_renderers=(block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
