"""Self-contained HTML documents: figures inside, no other file, no script."""

import base64
from html import escape


def document(title: str, style: str, body: str) -> str:
    """A whole document; `title` is escaped, `style` and `body` are not."""
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{style}</style></head>"
        f"<body>{body}</body></html>\n"
    )


def embedded(caption: str, png: bytes) -> str:
    """A PNG inside the document, with its caption."""
    source, words = base64.b64encode(png).decode("ascii"), escape(caption)
    return f"<figure><img alt='{words}' src='data:image/png;base64,{source}'><figcaption>{words}</figcaption></figure>"
