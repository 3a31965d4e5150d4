"""The reference of the configuration, made from the schema: every key with its type, default, bounds and meaning.

python -m pipeline_config.reference > docs/configuration.md
python -m pipeline_config.reference --check     exit code 1 if the file differs from what the schema gives
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml

from pipeline_config.schema import PipelineConfig, Section

FILE = Path(__file__).parents[1] / "docs" / "configuration.md"
HEAD = """# Configuration

Made from `pipeline_config/schema.py` by `python -m pipeline_config.reference`; do not edit.

A run is one YAML file. Keys that are not below are refused, and so are values out of bounds. On the command line a key
has its sections before it (`--set grpo.freeze.vision=false`), and an entry of a list is named by its position from 0
(`--set ingest.sources.0.side=112`). A section that is left out has the defaults of its keys. `[]` is each entry of a
list.
"""
COLUMNS = ("key", "type", "default", "bounds", "meaning")
_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}
_DOCUMENT_END = "...\n"  # what YAML puts after a lone scalar
_BOUNDS = {
    "minimum": "at least {:g}",
    "exclusiveMinimum": "above {:g}",
    "maximum": "at most {:g}",
    "exclusiveMaximum": "below {:g}",
    "multipleOf": "a multiple of {:g}",
}


def reference() -> str:
    """All of ``docs/configuration.md``: a table per section, in the order of the schema."""
    return "\n".join([HEAD, *_tables(PipelineConfig, "", {})])


def _tables(section: type[Section], path: str, given: Mapping[str, Any]) -> Iterator[str]:
    """The section's description and table, then those of the sections in it.

    path: dotted, "" for the whole configuration. given: defaults that the section above sets for this one.
    """
    assert section.__doc__, f"{section.__name__} has no docstring: say what the section is for"
    yield f"{' '.join(section.__doc__.split()).replace('``', '`')}\n"
    yield f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}"
    properties = section.model_json_schema()["properties"]
    for key in section.model_fields:
        yield f"| {' | '.join(_row(section, key, properties[key], given))} |"
    yield ""
    for key, field in section.model_fields.items():
        inner = _sections(field.annotation)
        where = f"{path}.{key}".lstrip(".") + ("[]" if properties[key].get("type") == "array" else "")
        for kind in inner:
            named = f", kind `{_kind(kind)}`" if len(inner) > 1 else ""
            yield f"{'###' if path else '##'} `{where}`{named}\n"
            set_above = field.default.model_dump(exclude_unset=True) if type(field.default) is kind else {}
            yield from _tables(kind, where, set_above)


def _row(section: type[Section], key: str, schema: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[str, ...]:
    field, inner = section.model_fields[key], _sections(section.model_fields[key].annotation)
    default = "required" if field.is_required() else _default(given.get(key, field.default), num_kinds=len(inner))
    type_name = _section_type(inner, schema, field.default is None) if inner else _type(schema)
    meaning = field.description or ("names this kind of section" if key == "kind" else "see below" if inner else None)
    assert meaning, f"{section.__name__}.{key} has no description: say in the schema what it means"
    return f"`{key}`", type_name, default, ", ".join(_bounds(schema)), meaning.replace("|", "\\|")


def _sections(annotation: Any) -> list[type[Section]]:
    """The sections that a key's annotation names, however deep: more than one are kinds to choose from."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _sections(argument)]


def _kind(section: type[Section]) -> str:
    (kind,) = get_args(section.model_fields["kind"].annotation)
    return str(kind)


def _section_type(kinds: list[type[Section]], schema: Mapping[str, Any], may_be_null: bool) -> str:
    of_kind = " of kind " + " or ".join(f"`{_kind(kind)}`" for kind in kinds) if len(kinds) > 1 else ""
    is_list = schema.get("type") == "array"
    return f"{'list: ' if is_list else ''}section{of_kind}{', or null' if may_be_null else ''}"


def _type(schema: Mapping[str, Any]) -> str:
    """A JSON schema's type in words."""
    if "anyOf" in schema:
        return ", or ".join(_type(option) for option in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "prefixItems" in schema:
        return f"list of {len(schema['prefixItems'])}: {_type(schema['prefixItems'][0])}"
    if schema["type"] == "array":
        return f"list: {_type(schema['items'])}"
    if schema["type"] == "object":
        return f"mapping of text to {_type(schema['additionalProperties'])}"
    return "path" if schema.get("format") == "path" else _TYPES[schema["type"]]


def _bounds(schema: Mapping[str, Any]) -> list[str]:
    """Of the value, or of each of its values."""
    if "minItems" in schema and "prefixItems" not in schema:
        return [f"at least {schema['minItems']} of them"]
    inner = [*schema.get("anyOf", []), schema.get("items"), schema.get("additionalProperties")]
    own = [words.format(schema[name]) for name, words in _BOUNDS.items() if name in schema]
    return own + [bound for part in inner if isinstance(part, dict) for bound in _bounds(part)]


def _default(value: Any, num_kinds: int) -> str:
    """As it is written in a configuration, on one line; of a section without kinds nothing, its keys have defaults."""
    if isinstance(value, Section):
        return f"`kind: {_kind(type(value))}`" if num_kinds > 1 else ""
    plain = list(value) if isinstance(value, tuple) else value
    written = yaml.safe_dump(plain, default_flow_style=True, width=10**6)
    return f"`{written.removesuffix(_DOCUMENT_END).strip()}`"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with docs/configuration.md; print nothing")
    if not parser.parse_args().check:
        print(reference(), end="")
    elif reference() != FILE.read_text():
        sys.exit(f"{FILE} is out of date; run: python -m pipeline_config.reference > docs/configuration.md")


if __name__ == "__main__":
    main()
