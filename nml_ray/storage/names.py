"""Names of files that come from elsewhere (an object store's keys, dataset.json) and will be taken for local paths."""

from unicodedata import category

RELATIVE = "a relative path with '/' between its parts, none of them empty, '.' or '..'"


def flaw_of(name: str) -> str:
    """Why a name is none of a file below a directory, as "has a part '..'"; "" if it is one."""
    if not name:
        return "is empty"
    if name.startswith("/"):
        return "is absolute"
    if "\\" in name:
        return "has a backslash"
    if any(category(character) in ("Cc", "Cs") for character in name):
        return "has a control character, or one that is no Unicode"
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return f"has a part '{part}'" if part else "has an empty part"
    return ""
