"""A photo of 24 megapixels costs a bounded amount of memory: measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[4]
PIXELS = (4000, 6000)

CODE = """
import resource, sys
from pathlib import Path
import torch
from torch.nn import functional as F
from stages.parts.data.images import read_image, read_mask
from stages.parts.data.regions import annotated_share, present_regions, region_crops
from stages.parts.data.views import whole
from stages.parts.scoring.segmenter import ClassEmbeddings, Segmentation, Segmenter, SegmentOptions

class Student(torch.nn.Module):
    def forward(self, images):
        return F.avg_pool2d(images, 4).repeat(1, 3, 1, 1)[:, :8]

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def predict():
    words = ClassEmbeddings(tuple("abcdefgh"), torch.eye(8), (True,) * 8)
    image = read_image(photo, 10**8)
    labels = Segmenter(Student(), 96, 1.0, torch.device("cpu")).labels(image, words, SegmentOptions())
    assert Segmentation(image, labels, words.names).overlay().shape == image.shape

def extract():
    image, labels = read_image(photo, 10**8), read_mask(mask, 10**8)
    whole(image, 512), annotated_share(labels, (32, 32))
    assert len(region_crops(image, labels, present_regions(labels), 224)) == 2

photo, mask = map(Path, sys.argv[2:])
start = peak()
globals()[sys.argv[1]]()
print(peak() - start)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("large")
    coarse = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(coarse).resize(PIXELS[::-1]).save(folder / "photo.jpg", quality=90)
    labels = np.zeros(PIXELS, np.uint8)
    labels[:, PIXELS[1] // 2 :: 2] = 1
    Image.fromarray(labels).save(folder / "mask.png", compress_level=1)
    return folder / "photo.jpg", folder / "mask.png"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["predict", "extract"])
def test_a_large_photo_takes_no_more_than_twenty_bytes_a_pixel(what: str, files: tuple[Path, Path]) -> None:
    run = subprocess.run([sys.executable, "-c", CODE, what, *map(str, files)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    print(f"{what}: {run.stdout.strip()} MiB")
    assert int(run.stdout) < 20 * PIXELS[0] * PIXELS[1] / 2**20
