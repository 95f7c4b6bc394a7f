"""YAML in which no mapping gives a key twice; PyYAML itself keeps the last one and says nothing."""

from typing import Any

import yaml


class DuplicateKeyError(yaml.YAMLError):
    """A mapping gives a key twice; the message names it and both lines."""


class UniqueKeyLoader(yaml.SafeLoader):
    """`yaml.SafeLoader`, but DuplicateKeyError for a key that its mapping has already.

    Keys that differ by `-` and `_` only are the same. A key that overrides one merged by `<<` is
    none that is given twice.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        mapping = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in mapping.value:
            if isinstance(key, yaml.ScalarNode):
                name, line = key.value.replace("-", "_"), key.start_mark.line + 1
                if name in lines:
                    raise DuplicateKeyError(
                        f"`{key.value}` in line {line} is given already in line {lines[name]}"
                    )
                lines[name] = line
        return mapping
