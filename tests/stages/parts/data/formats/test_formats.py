"""Each annotation format, written as its own tools write it, becomes the masks that its objects say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.data.importing import import_folder
from stages.data.init import init
from stages.parts.data.names import read_names
from tests.stages.parts.data.formats.worlds import NAMES, WITH_LISTS, WRITERS, scenes


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_same_masks(form: str, tmp_path: Path) -> None:
    made = scenes()
    WRITERS[form](tmp_path / "theirs", made)
    report = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert report.bad == () and report.photos == len(made), report
    names = read_names(tmp_path / "new/names.txt")
    assert sorted(names.values()) == sorted(NAMES)
    for scene in made:
        (mask,) = (tmp_path / "new/masks").glob(f"*{scene.id}.png")
        values = np.asarray(Image.open(mask))
        assert values.dtype == np.uint8
        drawn = np.array(["", *(names[v] for v in sorted(names))])[np.searchsorted([0, *sorted(names)], values)]
        assert (drawn == scene.names).all(), scene.id
        (photo,) = (tmp_path / "new/images").glob(f"{mask.stem}.*")
        assert photo.read_bytes() == scene.jpeg()
    lists = {name: (tmp_path / f"new/{name}.txt") for name in ("train", "val")}
    if form in WITH_LISTS:
        for name, path in lists.items():
            assert {i[-3:] for i in path.read_text().split()} == {s.id for s in made if s.subset == name}
    else:
        assert not any(path.exists() for path in lists.values())
    assert init(str(tmp_path / "new")).unnamed == ()
