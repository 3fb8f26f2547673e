"""Answers of several processes added up to one: counters add, the latest time stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

# What tells entries of a repeated field apart, and is not added.
_KEYS = ("name", "version", "batch_size", "type", "id")
# The latest of all, not their sum.
_LATEST = ("last_inference",)


def add_up(messages: Sequence[Message]) -> Message:
    """The sum of messages of one type: numbers add, entries of the same key become one."""
    total = type(messages[0])()
    total.CopyFrom(messages[0])
    for message in messages[1:]:
        _add(total, message)
    return total


def _add(total: Message, message: Message) -> None:
    for field, value in message.ListFields():
        if field.name in _KEYS:
            setattr(total, field.name, value)
        elif _is_map(field):
            for key, entry in value.items():
                _add(getattr(total, field.name)[key], entry)
        elif field.is_repeated:
            _add_entries(getattr(total, field.name), value)
        elif field.message_type is not None:
            _add(getattr(total, field.name), value)
        elif field.name in _LATEST:
            setattr(total, field.name, max(getattr(total, field.name), value))
        else:
            setattr(total, field.name, getattr(total, field.name) + value)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _add_entries(totals: Any, entries: Any) -> None:
    found = {_key(entry): entry for entry in totals}
    for entry in entries:
        if _key(entry) not in found:
            found[_key(entry)] = totals.add()
        _add(found[_key(entry)], entry)


def _key(entry: Message) -> tuple[object, ...]:
    fields = entry.DESCRIPTOR.fields_by_name
    return tuple(getattr(entry, name) for name in _KEYS if name in fields)
