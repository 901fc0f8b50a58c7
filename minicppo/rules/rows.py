"""Slices and joins of records with one row a response, written once: dataclasses of tensors, of lists, of records."""

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from itertools import chain
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
    return map_rows(lambda x: x[places] if isinstance(x, Tensor) else [x[i] for i in places.tolist()], record)


def join(records: Sequence[T]) -> T:
    """The rows of all records, one after the other."""
    if len(records) == 1:
        return records[0]
    return map_rows(lambda *of: torch.cat(of) if isinstance(of[0], Tensor) else list(chain(*of)), *records)
