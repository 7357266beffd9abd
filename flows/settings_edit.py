"""Put values into a section of a settings file, and leave the rest of it, comments too, alone."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contracts.atomic import write_text
from contracts.errors import BadInputError, NotFoundError


def write_section(
    path: Path, name: Sequence[str], values: Mapping[str, Any], beside: Sequence[str] = ()
) -> None:
    """Set `values` in the section `name` of the settings file at `path`, added where it is missing.

    `beside` are sections, siblings of it, that are added empty when the file has none of them. The
    file is replaced whole, with its permissions, once the new text is found to hold exactly the old
    values and the new.

    Raises:
        NotFoundError: there is no such file.
        BadInputError: it is not TOML, or is written so that its text cannot be edited safely.
    """
    path = path.resolve()
    try:
        text = path.read_text()
    except OSError as error:
        raise NotFoundError(f"settings file {path} cannot be read: {error.strerror}") from None
    changed = with_section(text, name, values, beside, where=str(path))
    mode = path.stat().st_mode
    write_text(path, changed)
    path.chmod(mode)


def with_section(
    text: str,
    name: Sequence[str],
    values: Mapping[str, Any],
    beside: Sequence[str] = (),
    *,
    where: str = "settings",
) -> str:
    """Return the text of a settings file with `values` in the section `name`.

    >>> print(with_section("[a]\\nx = 1  # why\\n\\n[b]\\ny = 2\\n", ["a"], {"x": 3, "z": 0.5}))
    [a]
    z = 0.5
    x = 3  # why
    <BLANKLINE>
    [b]
    y = 2
    <BLANKLINE>
    """
    expected = _parsed(text, where)
    if name[0] not in expected:
        for other in beside:
            if other != name[-1]:
                text = _appended(text, section_text([*name[:-1], other], {}))
                expected.setdefault(name[0], {})[other] = {}
    _merge(expected, name, values)
    lines = text.splitlines()
    start = next((at for at, line in enumerate(lines) if _is_header(line, name)), None)
    if start is None:
        changed = _appended(text, section_text(name, values))
    else:
        stop = next(
            (at for at in range(start + 1, len(lines)) if lines[at].startswith("[")), len(lines)
        )
        body = _edited(lines[start + 1 : stop], values)
        changed = "\n".join([*lines[: start + 1], *body, *lines[stop:]]) + "\n"
    if _parsed_or_none(changed) != expected:
        raise BadInputError(
            f"{where}: section [{'.'.join(name)}] is not written as lines of `option = value`; put "
            f"these in by hand:\n{section_text(name, values)}"
        )
    return changed


def section_text(name: Sequence[str], values: Mapping[str, Any]) -> str:
    """Return a section as TOML: its header, and a line an option."""
    lines = [f"[{'.'.join(name)}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON and TOML write text, numbers and truth values alike.
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _is_header(line: str, name: Sequence[str]) -> bool:
    dotted = r"\s*\.\s*".join(map(re.escape, name))
    return re.fullmatch(rf"\s*\[\s*{dotted}\s*\]\s*(#.*)?", line) is not None


def _edited(body: list[str], values: Mapping[str, Any]) -> list[str]:
    """Replace the values of options that have a line; the others come first."""
    missing = dict(values)
    edited = []
    for line in body:
        found = re.fullmatch(r"(\s*([A-Za-z0-9_-]+)\s*=\s*)(.*?)(\s+#[^\"']*)?", line)
        if found and found[2] in missing:
            edited.append(f"{found[1]}{_toml(missing.pop(found[2]))}{found[4] or ''}")
        else:
            edited.append(line)
    return [*(f"{key} = {_toml(value)}" for key, value in missing.items()), *edited]


def _merge(settings: dict[str, Any], name: Sequence[str], values: Mapping[str, Any]) -> None:
    for part in name:
        settings = settings.setdefault(part, {})
    settings.update(values)


def _appended(text: str, section: str) -> str:
    return f"{text.rstrip()}\n\n{section}" if text.strip() else section


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInputError(f"{where} is not TOML: {error}") from None


def _parsed_or_none(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
