"""Pictures to arrays, exactly as the published processor does it (spec valley2, section 3).

Pillow's BICUBIC does every resize. Pixel values go through look-up tables of 256 entries, which hold the very
float32 numbers the reference computes (x/255 in float64, cast, then mean and std in float32).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from valley_cli.api import Flavour
from valley_cli.engine.families.valley import geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN = SIGLIP_STD = (0.5, 0.5, 0.5)
PAD_COLOUR = (122, 116, 104)  # int(255 * CLIP_MEAN): zero after normalisation
GITHUB_MAX_IMAGES = 8
GITHUB_MAX_PIXELS = 1280 * geometry.FACTOR**2


@dataclass(frozen=True)
class PreprocessOptions:
    """The processor's options; the defaults are the published constructor's.

    ``min_pixels``/``max_pixels`` bound the ViT's input; the ``several_*`` pair replaces them when a request holds
    more than one picture. ``image_aspect_ratio`` "pad" puts the picture on a square canvas first (LLaVA's term;
    valley-mini uses it, the published models do not). ``siglip`` is false for checkpoints without that tower.
    """

    anyres: bool = True
    grid_pinpoints: str = "(1x1),...,(3x3)"
    vit_crop_size: int = 384
    only_crop_single_image: bool = True
    use_special_start_end_token: bool = True
    min_pixels: int | None = None
    max_pixels: int | None = None
    several_min_pixels: int | None = None
    several_max_pixels: int | None = None
    image_aspect_ratio: str | None = None
    siglip: bool = True
    vit: bool = True
    as_published: bool = False  # keep what only a mistake of the published processor explains

    def for_flavour(self, flavour: Flavour) -> PreprocessOptions:
        """``github``: every picture is tiled and the ViT sees at most 1280 tokens a picture (spec 11)."""
        if flavour == "hf":
            return self
        return replace(self, only_crop_single_image=False, max_pixels=GITHUB_MAX_PIXELS, several_max_pixels=None)

    def pixel_limits(self, n_pictures: int) -> tuple[int | None, int | None]:
        """(min, max) pixels for the ViT in a request of ``n_pictures``."""
        if n_pictures > 1:
            return (
                self.min_pixels if self.several_min_pixels is None else self.several_min_pixels,
                self.max_pixels if self.several_max_pixels is None else self.several_max_pixels,
            )
        return self.min_pixels, self.max_pixels


@dataclass(frozen=True)
class PicturePlan:
    """Sizes of one picture's tensors, known before a pixel is read. ``grid_hw`` is in patches of 14."""

    size_wh: tuple[int, int]
    tiled: bool
    n_tiles: int
    tile_grid_wh: tuple[int, int]
    fetched_wh: tuple[int, int]
    patched_wh: tuple[int, int]

    @property
    def grid_hw(self) -> tuple[int, int]:
        return self.patched_wh[1] // geometry.PATCH, self.patched_wh[0] // geometry.PATCH

    @property
    def vit_tokens(self) -> int:
        return self.grid_hw[0] * self.grid_hw[1] // geometry.MERGE**2


@dataclass(frozen=True)
class Picture:
    """A picture ready for the towers. ``key`` names its tensors: equal keys, equal tensors.

    ``tiles``: [n_tiles, 3, 384, 384] float32 or None; ``patches``: [grid_h * grid_w, 1176] float32 or None, the
    patches of each 2x2 merge group next to each other, (channel, temporal, y, x) inside a row.
    """

    plan: PicturePlan
    tiles: NDArray[np.float32] | None
    patches: NDArray[np.float32] | None
    key: str

    @property
    def n_patches(self) -> int:
        """See ``base.Item``."""
        return self.plan.grid_hw[0] * self.plan.grid_hw[1]

    @property
    def n_bytes(self) -> int:
        """Of the tensors."""
        return sum(tensor.nbytes for tensor in (self.tiles, self.patches) if tensor is not None)


@cache
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """[3, 256] float32: the normalised value of every byte in every channel."""
    rescaled = (np.arange(256, dtype=np.uint8) * 0.00392156862745098).astype(np.float32)
    means, stds = np.array(mean, np.float32)[:, None], np.array(std, np.float32)[:, None]
    return (rescaled[None] - means) / stds


def _normalise(image: Image.Image, mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """RGB picture -> [3, height, width] float32."""
    pixels_HWC = np.asarray(image)
    table = _table(mean, std)
    return np.stack([table[channel][pixels_HWC[..., channel]] for channel in range(3)])


def square_pad(image: Image.Image) -> Image.Image:
    """The picture centred on a square canvas of its longer side, in the colour that normalises to zero."""
    w, h = image.size
    if w == h:
        return image
    side = max(w, h)
    canvas = Image.new("RGB", (side, side), PAD_COLOUR)
    canvas.paste(image, ((side - w) // 2, (side - h) // 2))
    return canvas


def plan_picture(size_wh: tuple[int, int], n_pictures: int, options: PreprocessOptions) -> PicturePlan:
    """Sizes for a picture of ``size_wh`` pixels among ``n_pictures``. Raises PromptError for impossible shapes."""
    tiled = options.siglip and options.anyres and (n_pictures == 1 or not options.only_crop_single_image)
    grid_wh, n_tiles = (0, 0), int(options.siglip)
    if tiled:
        grid_wh = geometry.tile_layout(size_wh, options.grid_pinpoints, options.vit_crop_size).grid_wh
        n_tiles = 1 + grid_wh[0] * grid_wh[1]
    source_wh = (max(size_wh), max(size_wh)) if options.image_aspect_ratio == "pad" else size_wh
    fetched = geometry.fetch_size(source_wh)
    patched = geometry.patch_size(fetched, *options.pixel_limits(n_pictures))
    return PicturePlan(size_wh, tiled, n_tiles, grid_wh, fetched, patched)


def siglip_tiles(image: Image.Image, plan: PicturePlan, options: PreprocessOptions) -> NDArray[np.float32]:
    """[n_tiles, 3, side, side]: the whole picture squashed first, then the tiles row by row (spec 3.1)."""
    side = options.vit_crop_size
    squashed = image
    if options.as_published and not plan.tiled and image.height == 3:  # taken for channels first (spec 12)
        squashed = Image.fromarray(np.ascontiguousarray(np.asarray(image).transpose(1, 2, 0)))
    views = [squashed.resize((side, side), Image.Resampling.BICUBIC)]
    if plan.tiled:
        layout = geometry.tile_layout(plan.size_wh, options.grid_pinpoints, side)
        canvas = Image.new("RGB", layout.canvas_wh, (0, 0, 0))
        canvas.paste(image.resize(layout.resized_wh, Image.Resampling.BICUBIC), layout.paste_xy)
        for y in range(0, layout.canvas_wh[1], side):
            views += [canvas.crop((x, y, x + side, y + side)) for x in range(0, layout.canvas_wh[0], side)]
    return np.stack([_normalise(view, SIGLIP_MEAN, SIGLIP_STD) for view in views])


def vit_view(image: Image.Image, plan: PicturePlan) -> Image.Image:
    """The picture as the ViT's patches are cut from it: two BICUBIC resizes (spec 3.2)."""
    for target_wh in (plan.fetched_wh, plan.patched_wh):
        if image.size != target_wh:
            image = image.resize(target_wh, Image.Resampling.BICUBIC)
    return image


def vit_patches(image: Image.Image, plan: PicturePlan) -> NDArray[np.float32]:
    """[grid_h * grid_w, 1176]: ``vit_view``, CLIP normalisation, patches in merge order (spec 3.2)."""
    return patchify(_normalise(vit_view(image, plan), CLIP_MEAN, CLIP_STD))


def patchify(pixels_CHW: NDArray[np.float32]) -> NDArray[np.float32]:
    """[3, height, width] -> [patches, 1176], the one frame standing for both of a temporal patch."""
    p, m = geometry.PATCH, geometry.MERGE
    _, height, width = pixels_CHW.shape
    grid_h, grid_w = height // p, width // p
    x = pixels_CHW.reshape(3, grid_h // m, m, p, grid_w // m, m, p)
    x = x.transpose(1, 4, 2, 5, 0, 3, 6)  # group row, group column, row, column, channel, y, x
    out = np.empty((grid_h // m, grid_w // m, m, m, 3, 2, p, p), np.float32)
    out[..., 0, :, :] = x
    out[..., 1, :, :] = x
    return out.reshape(grid_h * grid_w, 3 * 2 * p * p)


def preprocess(image: Image.Image, n_pictures: int, options: PreprocessOptions, key: str | None = None) -> Picture:
    """An RGB picture, one of ``n_pictures`` in the request, ready for the towers. ``key``: its ``picture_key``."""
    plan = plan_picture(image.size, n_pictures, options)
    tiles = siglip_tiles(image, plan, options) if options.siglip else None
    whole = square_pad(image) if options.image_aspect_ratio == "pad" else image
    patches = vit_patches(whole, plan) if options.vit else None
    return Picture(plan, tiles, patches, key or picture_key(image, plan, options))


def picture_key(image: Image.Image, plan: PicturePlan, options: PreprocessOptions) -> str:
    """Hash of all that decides the tensors: a file alone and the same among several have two keys."""
    digest = hashlib.blake2b(image.tobytes(), digest_size=16)
    digest.update(repr((plan, options)).encode())
    return digest.hexdigest()


def black_picture() -> Image.Image:
    """The 3x3 black picture that the published processor sends with every text-only request."""
    return Image.new("RGB", (3, 3), (0, 0, 0))


def options_from_files(config: dict[str, Any], preprocessor_config: dict[str, Any]) -> PreprocessOptions:
    """Options of a checkpoint. Only ``only_navit`` and which towers exist come from config.json (spec 1.1).

    ``preprocessor_config.json`` of the published models holds none of our keys; valley-mini's does.
    """
    found = {
        name: preprocessor_config[name]
        for name in ("min_pixels", "max_pixels", "image_aspect_ratio")
        if preprocessor_config.get(name) is not None
    }
    for name in ("min_pixels", "max_pixels"):
        if preprocessor_config.get(f"multi_image_{name}") is not None:
            found[f"several_{name}"] = preprocessor_config[f"multi_image_{name}"]
    only_navit = bool(config.get("only_navit", False))
    return PreprocessOptions(siglip=not only_navit, **found)
