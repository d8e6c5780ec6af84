"""Characters that could break or forge what a terminal shows, and so have no place in an artifact's texts."""

import unicodedata

# Controls, invisible and direction-changing characters, line and paragraph separators, halves of characters.
_CATEGORIES = {"Cc", "Cf", "Zl", "Zp", "Cs"}
_JOINERS = "\u200c\u200d"  # of the invisible ones, Persian and Indic words and emoji need these


def has_controls(text: str) -> bool:
    """Whether `text` could break or forge a listing."""
    return not text.isprintable() and any(map(_is_control, text))


def without_controls(text: str, substitute: str) -> str:
    """`text` with every such character replaced."""
    if text.isprintable():
        return text
    return "".join(substitute if _is_control(character) else character for character in text)


def any_controls(value: object) -> bool:
    """Whether a JSON value holds such a text anywhere, keys included."""
    if isinstance(value, dict):
        return any(any_controls(entry) for pair in value.items() for entry in pair)
    if isinstance(value, list | tuple):
        return any(map(any_controls, value))
    return isinstance(value, str) and has_controls(value)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in _CATEGORIES and character not in _JOINERS
