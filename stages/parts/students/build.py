"""Builds a student from its settings. The only door to segmentation_models_pytorch is this package."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cache.errors import InputError, first_line
from stages.parts.students.attention import fuse_attention
from stages.parts.students.config import DOWNLOAD, StudentConfig
from stages.parts.students.ham import SegNeXt
from stages.parts.students.mscan import MSCAN_ENCODERS
from stages.parts.students.setr import SETR, VIT
from stages.parts.students.weights import load_encoder_weights

LINEAR_HEAD = 768
"""Width of SegFormer's head in the authors' code, which has a plain linear layer per level there (C)."""

HEAD_STD = 0.01
"""Spread of the last layer's weights at the start, the same for every student (C: mmsegmentation, SegFormer,
SegNeXt): |F| then starts at 2 to 4 whatever the network; smp's own start gives SegFormer 13."""

_LIGHTHAM_CHANNELS = {"mscan_t": 256, "mscan_s": 256, "mscan_l": 1024}
"""The public configurations' LightHam width; 512 for mscan_b and every other encoder."""


class Student(nn.Module):
    """Any segmentation network behind one interface: images of any size in, features F out.

    `encoder` is the part pretrained weights go into; all the rest is the head. `divisor`: image sides that aren't
    a multiple of it are resized up to the next one first, so the cells of F always tile the image exactly and
    F resized to the image's size lines up with it.
    """

    def __init__(self, net: nn.Module, divisor: int) -> None:
        super().__init__()
        self.net = net
        self.divisor = divisor

    @property
    def encoder(self) -> nn.Module:
        """The pretrained part."""
        encoder: nn.Module = self.net.get_submodule("encoder")
        return encoder

    def forward(self, images: Tensor) -> Tensor:
        """Images float [B, 3, H, W], ImageNet-normalised -> F [B, D, h, w] at the network's own stride."""
        height, width = images.shape[2:]
        if height % self.divisor or width % self.divisor:
            size = [-(-side // self.divisor) * self.divisor for side in (height, width)]
            images = F.interpolate(images, size=size, mode="bilinear")
        out: Tensor = self.net(images)
        return out


def fastest_layout(network: nn.Module, device: torch.device) -> torch.memory_format:
    """How images and kernels should lie in memory: channels-last, but on a GPU row-major for depthwise strips.

    cuDNN's channels-last gradient of a 1x21 kernel takes seven times as long as torch's row-major one, and both passes
    of SegNeXt-B 253 ms against 187 (H200, bf16; docs/performance.md, On a GPU).
    """
    strips = any(
        isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 and m.kernel_size[0] != m.kernel_size[1]
        for m in network.modules()
    )
    return torch.contiguous_format if strips and device.type == "cuda" else torch.channels_last


def build_student(cfg: StudentConfig, dim: int) -> Student:
    """The student of `cfg` with features of `dim` channels, its encoder loaded as `cfg.weights` says (method.md 3).

    The head is always new, drawn from torch's generator. Raises InputError on an unknown architecture or encoder,
    a pair that doesn't go together, or weights that don't fit.
    """
    _check(cfg)
    download = cfg.weights == DOWNLOAD
    try:
        if cfg.arch == "setr":
            student = Student(SETR(cfg.encoder, download, cfg.head_channels or 256, dim), divisor=16)
        elif cfg.arch == "segnext":
            channels = cfg.head_channels or _LIGHTHAM_CHANNELS.get(cfg.encoder, 512)
            student = Student(SegNeXt(cfg.encoder, _smp_weights(cfg), channels, dim), divisor=32)
        else:
            student = _smp_student(cfg, dim)
    except OSError as error:
        raise InputError(
            f"student.weights = {cfg.weights!r}: the weights of {cfg.encoder} couldn't be downloaded "
            f"({_first_line(error)}); give the path of a local file instead"
        ) from error
    except (KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"student: arch {cfg.arch!r} can't be built on encoder {cfg.encoder!r} ({_first_line(error)}); "
            "change one of the two"
        ) from error
    if cfg.weights and not download:
        load_encoder_weights(student.encoder, Path(cfg.weights))
    return student


def _smp_student(cfg: StudentConfig, dim: int) -> Student:
    """An smp model without its final upsampling: F at the decoder's own stride.

    `segformer` gets the public code's head: dropout before the last layer, and per level a convolution with batch
    norm and ReLU as in mmsegmentation (256 wide, the paper's size), or at a width of 768 the authors' linear layer.
    """
    options: dict[str, int | bool] = {}
    if cfg.head_channels:
        options["decoder_segmentation_channels"] = cfg.head_channels
    if cfg.arch == "dpt":
        options["dynamic_img_size"] = True  # else timm's ViT takes one image size only
    net = smp.create_model(
        cfg.arch, encoder_name=cfg.encoder, encoder_weights=_smp_weights(cfg), classes=dim, **options
    )
    if cfg.arch == "dpt":
        net.segmentation_head.upsampling_factor = 1
    else:
        net.segmentation_head[1] = nn.Identity()
    if cfg.arch == "segformer":
        net.segmentation_head = nn.Sequential(nn.Dropout2d(0.1), net.segmentation_head[0])
        if cfg.head_channels != LINEAR_HEAD:
            _normalise_levels(net.decoder)
    _start_small(net.segmentation_head)
    fuse_attention(net.encoder)
    # DPT halves the grid once and doubles it again: an odd number of cells would not come back.
    return Student(net, divisor=net.encoder.output_stride * (2 if cfg.arch == "dpt" else 1))


def _normalise_levels(decoder: nn.Module) -> None:
    """Replaces the linear layer of each level of smp's SegFormer decoder for convolution, batch norm and ReLU."""
    levels: nn.ModuleList = decoder.get_submodule("mlp_stage")  # type: ignore[assignment]
    for i, level in enumerate(levels):
        linear = level.get_submodule("linear")
        assert isinstance(linear, nn.Linear)
        conv = nn.Conv2d(linear.in_features, linear.out_features, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        levels[i] = nn.Sequential(conv, nn.BatchNorm2d(linear.out_features), nn.ReLU())


def _start_small(head: nn.Module) -> None:
    """Initialises the last layer of a head again: normal(0, `HEAD_STD`)."""
    last = [m for m in head.modules() if isinstance(m, nn.Conv2d)][-1]
    nn.init.normal_(last.weight, std=HEAD_STD)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


def _smp_weights(cfg: StudentConfig) -> str | bool | None:
    """smp's encoder_weights: None = random; timm's encoders take True for "download"."""
    if cfg.weights != DOWNLOAD:
        return None
    return True if cfg.encoder.startswith("tu-") else DOWNLOAD


def _check(cfg: StudentConfig) -> None:
    """Raises InputError where names are unknown or settings contradict each other."""
    archs = {"segnext", "setr", *smp.MODEL_ARCHITECTURES_MAPPING}
    if cfg.arch not in archs:
        raise InputError(f"student.arch = {cfg.arch!r}: not known; {_suggest(cfg.arch, archs)}")
    encoders = set(VIT) if cfg.arch == "setr" else set(smp.encoders.get_encoder_names())
    timm_name = cfg.encoder.removeprefix("tu-")
    if cfg.arch != "setr" and cfg.encoder.startswith("tu-"):
        if not timm.is_model(timm_name):
            near = _suggest(timm_name, timm.list_models(), prefix="tu-")
            raise InputError(f"student.encoder = {cfg.encoder!r}: not a timm model; {near}")
    elif cfg.encoder not in encoders:
        raise InputError(
            f"student.encoder = {cfg.encoder!r}: not known to arch {cfg.arch!r}; {_suggest(cfg.encoder, encoders)}"
        )
    if cfg.head_channels and cfg.arch not in ("segformer", "segnext", "setr"):
        raise InputError(f"student.head_channels = {cfg.head_channels}: not used by arch {cfg.arch!r}; set it to 0")
    if cfg.weights == DOWNLOAD and cfg.encoder in MSCAN_ENCODERS:
        raise InputError(
            f"student.weights = {DOWNLOAD!r}: {cfg.encoder} has no download; give the path of a local checkpoint"
        )


def _suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Up to five names to use instead."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4) or known[:5]
    return "use one like " + ", ".join(prefix + n for n in near)


def _first_line(error: Exception) -> str:
    """An error's text on one line, without its traceback of causes."""
    # A KeyError puts quotes around what it says.
    return first_line(LookupError(*error.args) if isinstance(error, KeyError) else error)[:200]
