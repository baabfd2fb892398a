from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import load_file

from cache.digests import file_digest
from cache.errors import InputError
from stages.demo.teach import (
    CARD,
    CONFIG,
    WEIGHTS,
    TeachConfig,
    _batches,
    _lr_factor,
    draw_pictures,
    examine,
    run,
    train,
)
from stages.parts.demo.scenes import CLASSES

TINY = TeachConfig(
    scenes=4, steps=3, batch=8, warmup=1, dim=16, image_size=16, width=32, layers=1, text_width=16
)  # fmt: skip
SHIPPED = Path(__file__).parents[3] / "pipeline/presets/demo_teacher"


def _quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher")
    run(TINY, out, say=_quiet)
    return out


def test_what_is_written_is_an_ordinary_open_clip_folder(written: Path) -> None:
    name = f"local-dir:{written}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    assert isinstance(model, open_clip.CLIP) and isinstance(model.visual, open_clip.transformer.VisionTransformer)
    tokens = open_clip.get_tokenizer(name)(["a photo of a ball"])
    assert tokens.shape == (1, model.context_length)
    assert model.encode_text(tokens).shape == model.encode_image(torch.zeros(1, 3, 16, 16)).shape == (1, 16)
    stated = json.loads((written / CONFIG).read_text())["preprocess_cfg"]
    assert tuple(preprocess.transforms[-1].mean) == tuple(stated["mean"]) != (0.5, 0.5, 0.5)


def test_weights_are_half_precision_and_words_of_no_caption_are_zero(written: Path) -> None:
    weights = load_file(written / WEIGHTS)
    assert {w.dtype for w in weights.values()} == {torch.float16}
    encode = open_clip.SimpleTokenizer().encode
    rows = weights["token_embedding.weight"]
    assert (rows[encode("photo")] != 0).any() and (rows[encode("zebra")] == 0).all()


def test_the_card_names_the_file_that_lies_beside_it(written: Path) -> None:
    assert f"`{file_digest(written / WEIGHTS)}`" in (written / CARD).read_text()


def test_the_same_settings_give_the_same_weights(written: Path, tmp_path: Path) -> None:
    run(TINY, tmp_path, say=_quiet)
    assert file_digest(tmp_path / WEIGHTS) == file_digest(written / WEIGHTS)
    run(TINY.model_copy(update={"seed": 7001}), tmp_path, say=_quiet)
    assert file_digest(tmp_path / WEIGHTS) != file_digest(written / WEIGHTS)


def test_more_workers_draw_the_same_pictures() -> None:
    alone, together = draw_pictures(TINY, 1), draw_pictures(TINY, 2)
    assert (alone[0] == together[0]).all() and alone[1] == together[1]


def test_training_tells_pictures_from_one_another() -> None:
    """Eight pictures learned by heart: the loss falls far below that of guessing, log 8."""
    cfg = TINY.model_copy(update={"steps": 120, "lr": 3e-3, "patch_dropout": 0.0})
    images, _ = draw_pictures(cfg, 1)
    captions = [f"a {name}" for name in CLASSES[:8]]
    _, loss = train(cfg, images[:8], captions, "cpu", _quiet)
    assert loss < 0.5 * math.log(8)


def test_a_picture_comes_again_only_when_all_have_been_seen() -> None:
    cfg = TINY.model_copy(update={"steps": 5, "batch": 4})
    rows = [batch.tolist() for batch in _batches(cfg, 12)]
    assert [len(r) for r in rows] == [4] * 5
    assert {row for batch in rows[:3] for row in batch} == set(range(12))
    assert len({row for batch in rows[3:] for row in batch}) == 8


def test_the_learning_rate_warms_up_and_then_falls_to_zero() -> None:
    cfg = TeachConfig(steps=12, warmup=2)
    factors = [_lr_factor(cfg, step) for step in (0, 1, 2, 7, 12)]
    assert np.allclose(factors, [0.5, 1.0, 1.0, 0.5, 0.0])


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file: is a file"):
        run(TINY, tmp_path / "file", say=_quiet)


def test_the_shipped_card_states_the_shipped_files_digest_and_accuracy() -> None:
    card = (SHIPPED / CARD).read_text()
    assert file_digest(SHIPPED / WEIGHTS) in card
    stated = re.search(r"Zero-shot top-1\*\*: \*\*([\d.]+) %", card)
    assert stated
    accuracy, _ = examine(SHIPPED, images=12)
    assert abs(100 * accuracy - float(stated[1])) < 5 and accuracy > 0.85
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 8.5e6
