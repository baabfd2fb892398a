"""Claims about what the explorer carries. How the page behaves: tests/pipeline/inspection/test_explorer_page.py."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest

from stages.parts.scoring.explorer import (
    as_text,
    pack_tokens,
    packed_cosines,
    packing_error,
    page,
    runs,
    shrunk,
    shrunk_mask,
)


def tokens(dim: int = 48, rank: int = 48) -> np.ndarray:
    random = np.random.default_rng(0)
    flat = random.normal(size=(5 * 6, rank)) @ random.normal(size=(rank, dim)) + 1
    return flat.reshape(5, 6, dim).astype(np.float32)


def test_axes_that_hold_all_energy_cost_only_the_rounding() -> None:
    for dense, dims in ((tokens(), 96), (tokens(rank=5), 6)):
        packed = pack_tokens(dense, dims)
        assert packed.codes.shape == (5, 6, min(dims, 30)) and packed.energy == pytest.approx(1, abs=1e-9)
        errors = packing_error(dense, packed, every=1)
        assert errors.shape == (900,) and 0 < errors.mean() < 0.003 and errors.max() < 0.015


def test_an_error_is_the_difference_to_the_cosines_of_the_tokens_themselves() -> None:
    dense = tokens()
    packed = pack_tokens(dense, dims=6)
    flat = dense.reshape(30, -1).astype(np.float64)
    true = [flat[7] @ t / np.linalg.norm(t) / np.linalg.norm(flat[7]) for t in flat]
    expected = np.abs(packed_cosines(packed, (1, 1)).reshape(-1) - true)
    np.testing.assert_allclose(packing_error(dense, packed, every=7)[30:60], expected, atol=1e-6)
    assert packed.energy < 0.9 and expected.max() > 0.05


def test_a_cell_is_like_itself_and_a_zero_cell_like_nothing() -> None:
    dense = tokens()
    dense[1, 2] = 0
    packed = pack_tokens(dense)
    assert packed_cosines(packed, (3, 4))[3, 4] == 1
    assert packed_cosines(packed, (3, 4))[1, 2] == 0
    assert (packed_cosines(packed, (1, 2)) == 0).all()


def test_packed_tokens_survive_base64() -> None:
    packed = pack_tokens(tokens())
    raw = base64.b64decode(as_text(packed))
    np.testing.assert_array_equal(np.frombuffer(raw[:120], "<f4").reshape(5, 6), packed.scales)
    np.testing.assert_array_equal(np.frombuffer(raw[120:], np.int8).reshape(packed.codes.shape), packed.codes)


def test_runs_rebuild_the_mask() -> None:
    mask = np.array([[7, 7, 0], [0, 0, 255]], np.uint8)
    assert runs(mask) == [7, 2, 0, 3, 255, 1]
    noise = np.random.default_rng(0).integers(0, 3, (9, 11), np.uint8)
    values = np.array(runs(noise)).reshape(-1, 2)
    np.testing.assert_array_equal(np.repeat(values[:, 0], values[:, 1]).reshape(9, 11), noise)


def test_pictures_and_masks_are_brought_to_one_size() -> None:
    image = np.zeros((100, 50, 3), np.uint8)
    assert shrunk(image, 40).shape == (40, 20, 3) and shrunk(image, 400).shape == (100, 50, 3)
    assert shrunk_mask(np.array([[1, 1, 2, 2]], np.uint8), (1, 2)).tolist() == [[1, 2]]


def test_no_name_can_end_the_data_or_ask_the_network() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    html = page({"classes": [evil]})
    assert evil not in html and html.count("</script>") == 2
    data = re.search(r'id="data">(.*?)</script>', html, re.DOTALL)
    assert data is not None and json.loads(data[1]) == {"classes": [evil]}
    assert "default-src 'none'" in html
    assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|document\.write", html)
