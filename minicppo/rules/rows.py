"""Slices and joins of records with one row a response, written once: dataclasses of tensors, of lists, of records."""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def map_rows(function: Callable[..., Any], *records: Any) -> Any:
    """The record whose tensors and lists are `function` of those of the records; whatever else is the first's."""
    first = records[0]
    if isinstance(first, (Tensor, list)):
        return function(*records)
    if isinstance(first, dict):
        return {key: map_rows(function, *(record[key] for record in records)) for key in first}
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return type(first)(**{name: map_rows(function, *(getattr(each, name) for each in records)) for name in names})
    return first


def take(record: T, index: Tensor) -> T:
    """Some rows of it. index: (M,) row numbers, or (N,) which rows as bool."""
    places = index.nonzero()[:, 0] if index.dtype == torch.bool else index
    found: T = map_rows(lambda x: x[places] if isinstance(x, Tensor) else [x[i] for i in places.tolist()], record)
    return found


def join(records: Sequence[T]) -> T:
    """The rows of all records, one after the other."""

    def of_all(*parts: Any) -> Any:
        return torch.cat(parts) if isinstance(parts[0], Tensor) else [x for part in parts for x in part]

    found: T = records[0] if len(records) == 1 else map_rows(of_all, *records)
    return found
