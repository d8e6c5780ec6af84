"""One HTML file that needs no network and runs no program but its own."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from xseg.pictures.report.markup import Markup, element, embedded_json, joined


def page(title: str, facts: Sequence[str], sections: Mapping[str, Markup], gallery: Mapping[str, Any] | None) -> str:
    """The whole page.

    Its policy allows pictures that are in the page, its own style and its own program, by their digests: even markup
    that slipped through could load or run nothing.

    Args:
        title: of the page.
        facts: short sentences for its head.
        sections: heading -> contents, in order; `Images` stands above the gallery.
        gallery: see `xseg.pictures.report.gallery.gallery_json`; None for a page without images.

    Returns:
        HTML. The same arguments give the same text.
    """
    style, program = _own("page.css"), _own("theme.js") + (_own("gallery.js") if gallery else "")
    contents = dict(sections)
    if gallery:
        contents["Images"] = joined([contents["Images"], Markup(_own("gallery.html"))])
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'; script-src '{_digest(program)}';"
        " base-uri 'none'; form-action 'none'"
    )
    data = Markup(f'<script type="application/json" id="data">{embedded_json(gallery)}</script>') if gallery else ""
    return Template(_own("page.html")).substitute(
        policy=policy,
        title=joined([title]),
        style=style,
        facts=joined(element("p", fact) for fact in facts),
        links=joined(element("a", name, href=f"#{_anchor(name)}") for name in contents),
        sections=joined(_section(name, content) for name, content in contents.items()),
        data=data,
        program=program,
    )


def _section(name: str, content: Markup) -> Markup:
    anchor = _anchor(name)
    heading = element("h2", name, id=f"{anchor}-heading")
    return element("section", heading, content, id=anchor, aria_labelledby=f"{anchor}-heading")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """As a policy names a script or style: the sha256 of what stands between its tags."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
