"""Which mask belongs to which photo, where their names differ by an affix that all share."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

_SEPARATORS = "_. -"


def paired(ids: Sequence[str], masks: Mapping[str, str]) -> dict[str, str]:
    """Mask files by photo id, where the masks' stems repeat the ids or differ by one affix that all share.

    `p1` + `p1_mask`, `p1` + `mask_p1`, `p1_image` + `p1_mask`, `img_1` + `mask_1`. Two affixes that fit equally well
    are ambiguous: then only equal names pair. `masks`: file name by stem.
    """
    best, ambiguous = {i: masks[i] for i in ids if i in masks}, False
    if len(best) == len(ids):
        return best
    plain = best
    for bases in _bases(ids):
        sample = [bases[i] for i in list(bases)[:5]]
        affixes = Counter(affix for base in sample for name in masks for affix in _affixes(base, name))
        for (before, after), _ in affixes.most_common(20):
            named = {i: f"{before}{base}{after}" for i, base in bases.items()}
            fits = {i: masks[name] for i, name in named.items() if name in masks}
            if len(fits) > len(best):
                best, ambiguous = fits, False
            elif len(fits) == len(best) and fits != best:
                ambiguous = True
    return plain if ambiguous else best


def _bases(ids: Sequence[str]) -> Iterator[dict[str, str]]:
    """The ids, and the ids without the last or the first word where all share it: `p1_image` -> `p1`."""
    yield {i: i for i in ids}
    if len(ids) < 2:
        return
    ends = {re.split(f"(?=[{_SEPARATORS}])", i)[-1] for i in ids}
    if len(ends) == 1 and all(len(i) > len(end) for i in ids for end in ends):
        yield {i: i.removesuffix(*ends) for i in ids}
    starts = {re.split(f"(?<=[{_SEPARATORS}])", i)[0] for i in ids}
    if len(starts) == 1 and all(len(i) > len(start) for i in ids for start in starts):
        yield {i: i.removeprefix(*starts) for i in ids}


def _affixes(base: str, name: str) -> Iterator[tuple[str, str]]:
    """What stands before or after `base` in a mask's name, set off by a separator."""
    if name.startswith(base) and len(name) > len(base) and name[len(base)] in _SEPARATORS:
        yield "", name[len(base) :]
    if name.endswith(base) and len(name) > len(base) and name[-len(base) - 1] in _SEPARATORS:
        yield name[: -len(base)], ""
