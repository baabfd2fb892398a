"""Each annotation format, written as its own tools write it, becomes the masks that its objects say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.data.importing import import_folder
from stages.data.init import init
from stages.parts.data.names import read_names
from tests.stages.parts.data.formats.worlds import NAMES, NO_LISTS, WRITERS, Scene, scenes


def photo_of(scene: Scene, folder: Path) -> Path:
    """The imported photo of a scene, whatever it is called: by its bytes, or its pixels where it isn't JPEG."""
    same = [path for path in folder.iterdir() if path.read_bytes() == scene.jpeg()]
    same += [path for path in folder.glob("*.png") if np.array_equal(np.asarray(Image.open(path)), scene.photo)]
    (found,) = same
    return found


@pytest.mark.parametrize("form", WRITERS)
def test_every_form_gives_the_same_masks(form: str, tmp_path: Path) -> None:
    made = scenes()
    WRITERS[form](tmp_path / "theirs", made)
    report = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert report.bad == () and report.photos == len(made), report
    names = read_names(tmp_path / "new/names.txt")
    assert sorted(n for n in names.values() if n != "void") == sorted(NAMES)
    for scene in made:
        photo = photo_of(scene, tmp_path / "new/images")
        values = np.asarray(Image.open(tmp_path / f"new/masks/{photo.stem}.png"))
        assert values.dtype == np.uint8
        values = np.where(values == 255, 0, values)  # void, in the forms that have it
        drawn = np.array(["", *(names[v] for v in sorted(names))])[np.searchsorted([0, *sorted(names)], values)]
        assert (drawn == scene.names).all(), scene.id
    lists = {name: (tmp_path / f"new/{name}.txt") for name in ("train", "val")}
    if form not in NO_LISTS:
        for name, path in lists.items():
            photos = {photo_of(scene, tmp_path / "new/images").stem for scene in made if scene.subset == name}
            assert set(path.read_text().split()) == photos
    else:
        assert not any(path.exists() for path in lists.values())
    assert init(str(tmp_path / "new")).unnamed == ()
