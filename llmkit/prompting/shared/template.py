"""Text with the names of fields in braces, and letters that are written without spaces."""

import re
from collections.abc import Mapping

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Chinese characters, for use in a regular expression's brackets."""


def filled(template: str, fields: Mapping[str, str]) -> str:
    """A template with fields in the place of their names; braces in the fields are text."""
    return re.sub(r"\{(\w+)\}", lambda found: fields.get(found[1], found[0]), template)
