"""Loader processes whose failures travel as values: an error is raised here as it is, not as a worker's traceback."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from cache.errors import InputError
from stages.running.compute import Compute

T = TypeVar("T")


class _ByValue(Dataset[Any]):
    """A data set that returns the InputError that an item raises."""

    def __init__(self, inner: Dataset[Any]) -> None:
        self.inner = inner

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.inner[item]
        except InputError as error:
            return error


class _Collate:
    """A collate function that passes on the first error among the items."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Any]) -> Any:
        return next((item for item in items if isinstance(item, InputError)), None) or self.collate(items)


def loaded(
    data: Dataset[Any], sampler: Iterable[list[Any]], collate: Callable[[list[Any]], T], compute: Compute
) -> Iterator[T]:
    """The batches that `sampler` lists, made by `compute.workers` processes. Raises an item's InputError as it is."""
    loader = DataLoader(
        _ByValue(data),
        batch_sampler=sampler,
        num_workers=compute.workers,
        collate_fn=_Collate(collate),
        pin_memory=compute.gpu,
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch
