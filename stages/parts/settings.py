"""Settings of the stages and of the parts that need torch or faiss: every dial of the method on one page.

They stand here, and not beside the code they steer, so that planning and inspection load neither library.
Tags: P the paper says so, R recovered from its tables, C the closest public code, D our default (sweep it).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from cache.settings import Apart, PathSetting, Settings


class ExtractConfig(Settings):
    """[extract]: what the teacher's pass writes."""

    dtype: Literal["float16", "float32"] = "float16"
    """Stored precision of tokens (D)."""

    batch: int = Field(default=32, ge=1)
    """Views in one forward pass of the teacher, and local crops in one pass. It may change the last bit (D)."""

    shard: int = Field(default=128, ge=1)
    """Views in a shard: what is written, committed and, after a stop, repeated as a whole (D)."""

    store_dense: Annotated[bool, Apart("what is kept of the dense tokens changes none of them")] = True
    """Keep the dense tier (1 MiB a view at 32x32x512 in float16). Without it mining encodes the views again (D)."""


class AffinityConfig(Settings):
    """Features that say where, while CLIP's last layer says what: table [affinity].

    Of a second frozen network, or of an earlier layer of the teacher itself.
    """

    encoder: str = ""
    """An smp encoder (mobilenet_v2, resnet50, ...) or any timm model as `tu-NAME`, DINO's ViTs among them
    (tu-vit_small_patch16_224.dino); empty: no second network (P)."""

    layer: int = Field(default=0, ge=0)
    """In the place of a second network, what leaves this block of the teacher's own tower, from 1 (a native ViT; C:
    SC-CLIP pools by block 4 of 12); 0: none (P)."""

    weights: PathSetting = ""
    """Its weights: the path of a .safetensors or .pth checkpoint, or "imagenet", the library's own download; empty:
    random. Enters fingerprints by its digest."""

    stride: int = Field(default=16, ge=2)
    """Of a network with many feature maps, the deepest one with at most this stride; a ViT has its patch size (D)."""

    input_size: int = Field(default=0, ge=0)
    """Side of the square that a view is resized to for it, in pixels; 0: as the teacher sees it (D)."""

    dim: int = Field(default=64, ge=0)
    """Channels kept, the leading axes of each image's own; 0: all of them (D)."""

    kmeans_weight: Annotated[float, Apart("enters latent classes alone")] = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of its cosine in the clustering of cells, the teacher's tokens having the rest; 0: tokens alone (P)."""

    @property
    def stored(self) -> bool:
        """Whether there are features that `extract` stores."""
        return bool(self.encoder or self.layer)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.encoder and self.layer:
            raise ValueError(f"encoder = {self.encoder!r} and layer = {self.layer} exclude each other; set one of them")
        return self


class RefineConfig(Settings):
    """Refinement of the teacher's dense map, whatever recipe it came by: table [refine].

    It works on tokens that are stored: another setting needs no new extraction.
    """

    affinity: Literal["none", "tokens", "network"] = "none"
    """Each token becomes a mean of its image's, weighted by the cosines of the tokens themselves, or of the features
    that [affinity] names; none: as extracted (P)."""

    form: Literal["threshold", "softmax"] = "threshold"
    """Weights from cosines s: those above `threshold` (C: CLIP-DINOiser), or softmax(3 (s - 1.2 mean s)) of what is
    above 1.2 mean s (C: ProxyCLIP)."""

    threshold: float = Field(default=0.3, ge=0.0, lt=1.0)
    """Cosine below which tokens don't count for each other, for `form = "threshold"` (C: 0.2 to 0.4)."""

    outliers: bool = False
    """First replace the 5 % of the tokens with the highest local outlier factor by their neighbours' mean (C:
    SC-CLIP)."""

    def ingredients(self) -> dict[str, Any]:
        """What of these settings determines a refined map, as plain JSON; nothing where nothing is refined."""
        every = self.fingerprint_fields()
        if self.affinity == "none":
            every = {"outliers": self.outliers}
        elif self.form == "softmax":
            del every["threshold"]
        return every if self.outliers or self.affinity != "none" else {}


def reads_network(refine: RefineConfig, affinity: AffinityConfig) -> bool:
    """Whether mining reads the features that [affinity] names."""
    return refine.affinity == "network" or affinity.kmeans_weight > 0


class MiningConfig(Settings):
    """How latent classes are mined: table [mine-latent]."""

    windows: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(8, 16), min_length=1)
    """Window sizes O of Eq. 1 in cells; for a 32x32 grid; cut to the grid where larger (D)."""

    iterations: int = Field(default=10, gt=0)
    """Rounds of k-means (D)."""

    merge_threshold: float = Field(default=0.9, ge=0.0, le=1.0)
    """lambda: seeds whose cosine is above it are merged. Calibrate it: 3-6 latent classes an image on VOC (D)."""

    min_cells: int = Field(default=4, gt=0)
    """Clusters of fewer cells are small (D)."""

    max_annotated: float = Field(default=0.5, ge=0.0, lt=1.0)
    """A cell is unannotated when at most this share of its area carries a seen label; 0.5: it is mostly 255 (D)."""

    small: Literal["merge", "drop"] = "merge"
    """What becomes of a small cluster: merged into its nearest neighbour, or dropped to 255 (D)."""


class ConceptsConfig(Settings):
    """What the latent regions of the whole data set have in common: table [mine-concepts]."""

    count: int = Field(default=0, ge=0, le=4096)
    """Number of concepts; 0: of 4, 6, 8, 11, 16, ... the largest that two halves of the regions agree on (D)."""

    agreement: float = Field(default=0.5, gt=0, le=1)
    """Least mean prediction strength of a number that is chosen: of two regions that one half's concepts hold together,
    the share that the other half's do (D)."""

    most: int = Field(default=512, ge=1, le=4096)
    """Most concepts that are tried where `count` is 0 (D)."""

    sample: int = Field(default=200_000, ge=1)
    """Most regions that are clustered, evenly drawn; all are assigned (D)."""

    iterations: int = Field(default=20, gt=0)
    """Rounds of k-means (D)."""

    centre: bool = True
    """Subtract the mean of the unit tokens before they are compared (D)."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the sample and of the first centroids (D)."""

    reuse: PathSetting = ""
    """The address of an older `concepts` artifact of the same teacher: its concepts keep their numbers, and the regions
    of this data set are assigned to them. For photos that came later; enters fingerprints by its digest."""

    min_confidence: Annotated[float, Apart("enters training where it reads concepts")] = Field(default=0.0, ge=0, le=1)
    """To training, a region whose confidence is below it is of no concept (D)."""


class PseudoLabelConfig(Settings):
    """Labels that the teacher gives itself, for photos whose masks are not read: table [pseudo-label]."""

    confidence: float = Field(default=0.7, gt=0, le=1)
    """A cell gets the nearest seen name where softmax over all of them gives it at least this; else none (D)."""

    temperature: float = Field(default=0.01, gt=0)
    """Temperature of that softmax over cosines: CLIP's own is 0.01, one over its logit scale of 100 (D)."""


class DistillConfig(Settings):
    """The distillation losses: table [distill]."""

    loss: Literal["infonce", "cosine", "l2", "froster", "none"] = "infonce"
    """How a student token is compared with the teacher's (Table 4): infonce is the paper's (P)."""

    use_global: bool = True
    """L_g, Eq. 2 (P)."""

    use_local: bool = True
    """L_l, Eq. 3 and 4 (P)."""

    tau: float = Field(default=0.07, gt=0)
    """Temperature of InfoNCE (C)."""

    bank_size: int = Field(default=24, gt=0)
    """M: global teacher tokens that InfoNCE compares with, this step's among them (P)."""

    negatives: Literal["image", "batch"] = "batch"
    """Regions a local token is compared with: those of the batch, of all processes (D), or of its image (P)."""

    same_class: Literal["masked", "positive", "negative"] = "masked"
    """With negatives of the batch: regions of the same seen class in other images are left out, are positives too, or
    are negatives (D: masked; as negatives they would push a class away from itself)."""

    same_concept: Literal["negative", "masked", "positive"] = "negative"
    """With negatives of the batch: latent regions of two images that are of one concept (`mine-concepts`) are negatives
    of each other, are left out, or are positives too (D)."""

    alike: float = Field(default=1.0, gt=0, le=1)
    """With negatives of the batch: latent regions of two images whose teacher tokens have a cosine above it are no
    negatives of each other; 1: all are (D)."""

    bank_alike: float = Field(default=1.0, gt=0, le=1)
    """Tokens of the bank whose cosine with the image's own is above it are no negatives of L_g; 1: all are (D)."""

    pool_temperature: float = Field(default=1.0, gt=0)
    """Factor on sqrt(D) in W of Eq. 2: below 1 fewer positions make up the student's global token (P: 1)."""


class GeneratorConfig(Settings):
    """The latent embeddings: table [latent-embedding].

    The rows of Table 6 as (inputs, calibrator): (prototypes, none), (prototypes, mlp), (cls, none), (cls, mlp),
    (both, transformer), the last with Table 5's `memory`. Its row "none" is `enabled = false`.
    """

    enabled: bool = True
    """Whether latent regions are classes of the pixel loss; false: their pixels count as 255 there (Table 3)."""

    calibrator: Literal["transformer", "mlp", "none"] = "transformer"
    """What turns inputs into embeddings: one transformer decoder layer (P), a two-layer MLP, or nothing."""

    inputs: Literal["prototypes", "cls", "both"] = "both"
    """Student's region means, teacher's local CLS tokens, or the former attending to the latter (P: both)."""

    memory: Literal["both", "local", "global"] = "both"
    """Teacher tokens of the image that the transformer attends to: [C_g; C_l] (P), C_l or C_g (Table 5)."""

    classes: Annotated[Literal["region", "concept"], Apart("enters where they are concepts")] = "region"
    """A latent class of the pixel loss is one region (P), or all regions of its image that are of one concept
    (`mine-concepts`): they share a column, and the concept's mean token stands for the teacher's tokens of them (D)."""

    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of the transformer layer; 0.1 is PyTorch's own default for it (D)."""

    delay: int = Field(default=0, ge=0)
    """Iterations before latent regions become classes of the pixel loss; until then their pixels count as 255 (D)."""

    lr_multiplier: float = Field(default=1.0, gt=0)
    """Factor on the head's learning rate for the calibrator (D)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.calibrator == "transformer") != (self.inputs == "both"):
            raise ValueError('calibrator = "transformer" and inputs = "both" go together; set both or neither')
        return self


class PixelLossConfig(Settings):
    """The pixel loss: table [pixel-loss]."""

    alpha: float = Field(default=1.0, gt=0)
    """Factor on the scores of seen classes, F^T A_s (D)."""

    beta: float = Field(default=10.0, gt=0)
    """Factor on the scores of latent classes, cos(F, A'_u) (D: sweep 5, 10, 20)."""

    focal_weight: float = Field(default=100.0, ge=0)
    """Weight of the focal term of NEL (C: ZegCLIP)."""

    dice_weight: float = Field(default=1.0, ge=0)
    """Weight of the dice term of NEL (C: ZegCLIP)."""

    ignored_are_negatives: bool = True
    """In NEL, a pixel of 255 is a negative of every class (C: the public code); false: it is left out."""

    unlabelled: Annotated[Literal["none", "latent"], Apart("enters where photos are unlabelled")] = "none"
    """Photos whose mask is not read: no pixel loss, or that of their latent classes alone (D)."""

    pseudo_weight: Annotated[float, Apart("enters where photos are unlabelled")] = Field(default=0.0, ge=0)
    """Weight of the pixel loss of such photos against their pseudo labels, by seen names alone; 0: none are read (D).
    A pixel without a pseudo label is no negative of any class there."""


class TrainConfig(Settings):
    """[train]: optimisation (method.md section 5)."""

    iterations: int = Field(default=20_000, ge=1)
    """Optimiser steps: 20k / 40k / 80k for VOC / Context / COCO-Stuff (P)."""

    batch: int = Field(default=16, ge=1)
    """Crops in one optimiser step, over all processes (P)."""

    labelled_per_batch: int = Field(default=0, ge=0)
    """Crops of each batch that are of photos whose masks are read, where `data` leaves out those of others; 0: as they
    come. Few labelled photos are then seen more often than the rest (D)."""

    grad_accumulation_steps: int = Field(default=1, ge=1)
    """Parts a batch is cut into to save memory; the gradients of the parts are averaged (D)."""

    lr: float = Field(default=6e-5, gt=0)
    """AdamW learning rate of the encoder (C)."""

    head_lr_multiplier: float = Field(default=10.0, gt=0)
    """Factor on `lr` for everything but the encoder (C)."""

    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW weight decay; none on norms and positional terms. Biases are decayed, as in the public code (C)."""

    warmup: int = Field(default=1500, ge=0)
    """Iterations of linear warm-up; the poly decay begins after it, as in mmsegmentation 1.x (C)."""

    poly_power: float = Field(default=1.0, gt=0)
    """Power of the polynomial decay (C)."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of initial weights, order of images, crops, photometric distortion and dropout (D)."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast of the student: auto is bf16 on GPUs that have it, fp32 elsewhere (D)."""

    photometric: bool = True
    """Photometric distortion of the student's input (C)."""

    max_grad_norm: float = Field(default=0.0, ge=0)
    """Largest gradient norm; 0 does not clip (C)."""

    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the student's weights, which is then what is kept: 0.99 averages over
    about 100 iterations. 0: the last weights (D)."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.batch % self.grad_accumulation_steps:
            raise ValueError(
                f"grad_accumulation_steps = {self.grad_accumulation_steps} must divide batch = {self.batch}"
            )
        if self.labelled_per_batch > self.batch:
            raise ValueError(f"labelled_per_batch = {self.labelled_per_batch} must be at most batch = {self.batch}")
        if self.warmup >= self.iterations:
            raise ValueError(f"warmup = {self.warmup} must be below iterations = {self.iterations}")
        return self


class EvaluateConfig(Settings):
    """[eval]: inference and scores (method.md section 7)."""

    mode: Literal["whole", "slide"] = "whole"
    """One pass over the whole image, or windows whose scores are averaged (C)."""

    short_side: int = Field(default=512, ge=16)
    """The image is resized to this short side [pixels], ratio kept (C)."""

    crop: int = Field(default=512, ge=16)
    """Side of a window in `slide` [pixels] (C)."""

    stride: int = Field(default=426, ge=1)
    """Step between windows in `slide` [pixels] (C)."""

    seen_bias: float = 0.0
    """Subtracted from the scores of seen classes; reported when it is not 0. C2S mentions none (P), ZegCLIP and
    OTSeg subtract 0.1 from sigmoids."""

    synonyms: Literal["mean", "max"] = "mean"
    """Of a class that several texts stand for (`say` of a vocabulary) the mean embedding, or at each position the best
    one (D)."""

    pamr: int = Field(default=0, ge=0, le=100)
    """Rounds of PAMR: scores become means over the neighbours of a pixel's own colour, at the resized image's size; 0:
    none (P). NACLIP reports its own scores with 10 (C)."""

    background: bool = False
    """Whether the background is scored as a class of its own too, as in VOC-21 and Context-60: mIoU over all classes
    and it, beside the scores without (C)."""

    background_threshold: float = Field(default=0.0, ge=0, lt=1)
    """Pixels whose best class has a sigmoid score below this are background; 0: what keeps `background_keep` (D)."""

    background_keep: float = Field(default=95.0, gt=0, le=100)
    """The threshold of 0: the highest that keeps so many per cent of the pixels of seen classes in training photos (D).
    The teacher always has this one, on its best class's probability by softmax."""

    min_pixels: int = Field(default=20_000, ge=0)
    """Means over well supported classes count those with at least this many evaluation pixels (D)."""

    pictures: Annotated[int, Apart("drawn beside the scores")] = Field(default=8, ge=0)
    """Rows of the picture grid (D)."""

    @model_validator(mode="after")
    def _covers(self) -> Self:
        if self.stride > self.crop:
            raise ValueError(f"stride = {self.stride} must be at most crop = {self.crop}, or pixels have no score")
        if self.background_threshold and not self.background:
            raise ValueError(f"background_threshold = {self.background_threshold:g} needs background = true")
        return self

    def fingerprint_fields(self) -> dict[str, Any]:
        """What isn't used moves no address: nothing of the background where it is not scored, and no share to keep
        where the threshold is set. The mean of synonyms is not named."""
        found = super().fingerprint_fields()
        if self.synonyms == "mean":
            del found["synonyms"]
        if not self.background:
            return {k: v for k, v in found.items() if not k.startswith("background")}
        return {k: v for k, v in found.items() if k != "background_keep" or not self.background_threshold}

    def as_predict(self, crop: int = 0) -> str:
        """`predict` with the options that make it score as this evaluation; `crop`: side of the student's [pixels]."""
        given: list[tuple[str, object, object]] = [
            ("--short-side", self.short_side, crop),
            ("--seen-bias", self.seen_bias, 0),
            ("--synonyms", self.synonyms, "mean"),
            ("--pamr", self.pamr, 0),
            ("--mode", self.mode, "whole"),
        ]
        return " ".join(["predict", *(f"{name} {value}" for name, value, own in given if value != own)])

    def of_words(self, several: bool) -> Self:
        """The settings for a vocabulary: where it has no class of `several` texts, their mean is all there is."""
        return self if several else self.model_copy(update={"synonyms": "mean"})

    def of_teacher(self) -> Self:
        """The settings that the teacher is scored by: a threshold that is set is the student's, whose scores are other
        ones."""
        return self.model_copy(update={"background_threshold": 0.0})


class WorldConfig(Settings):
    """[demo-world]: the generated data set of the `demo` preset. Evaluation scenes come from other seeds."""

    seed: int = Field(default=1, ge=0, lt=2**63)
    """Seed of the scenes; the demo's teacher was trained on others (D)."""

    train: int = Field(default=600, ge=1)
    """Training scenes (D)."""

    val: int = Field(default=150, ge=1)
    """Evaluation scenes (D)."""
