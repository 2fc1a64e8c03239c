"""Procedural textures: detail at every scale and many corners, so that patches can be tracked.

Every function returns a (side, side, 3) uint8 picture that repeats seamlessly unless it is a picture to be shown once.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.errors import DatasetError

Picture = NDArray[np.uint8]
Field = NDArray[np.float32]
Generator = np.random.Generator


def fractal_noise(generator: Generator, side: int, slope: float = 1.2) -> Field:
    """Periodic noise with power falling as ``frequency ** -2 slope``, zero mean and unit deviation, (side, side)."""
    fx = np.fft.rfftfreq(side)[None, :]
    fy = np.fft.fftfreq(side)[:, None]
    radius = np.hypot(fx, fy)
    radius[0, 0] = 1.0
    spectrum = np.fft.rfft2(generator.standard_normal((side, side)).astype(np.float32)) * radius**-slope
    spectrum[0, 0] = 0.0
    noise = np.fft.irfft2(spectrum, s=(side, side))
    return (noise / max(float(noise.std()), 1e-9)).astype(np.float32)


def random_colour(generator: Generator, saturation: float = 0.6) -> NDArray[np.float32]:
    """A colour as (3,) float32 in 0..1, from near-grey to ``saturation``."""
    hue, sat = generator.uniform(0, 360), saturation * generator.random() ** 1.5
    value = generator.uniform(0.15, 1.0)
    hsv = np.array([[[hue, sat, value]]], np.float32)
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def finish(generator: Generator, image: Field, grain: float | None = None) -> Picture:
    """Add dirt (coarse) and grain (fine) so that no area is perfectly plain; to uint8."""
    side = image.shape[0]
    dirt = fractal_noise(generator, side, generator.uniform(1.0, 1.6))
    fine = fractal_noise(generator, side, 0.4)
    amount = generator.uniform(0.02, 0.08)
    grain = generator.uniform(0.01, 0.05) if grain is None else grain
    shaded = image * (1 + amount * dirt + grain * fine)[..., None]
    return np.clip(255 * shaded, 0, 255).astype(np.uint8)


def blend(field: Field, *colours: NDArray) -> Field:
    """Map ``field`` in 0..1 through evenly spaced colours."""
    stops = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(field, stops, [c[k] for c in colours]) for k in range(3)], -1).astype(np.float32)


def plaster(generator: Generator, side: int) -> Picture:
    """Low-contrast wall paint: hard for odometry, as real walls are."""
    base = 0.5 + 0.5 * random_colour(generator, 0.4)
    noise = fractal_noise(generator, side, 1.4) * 0.03 + fractal_noise(generator, side, 0.5) * 0.02
    return finish(generator, np.clip(base * (1 + noise[..., None]), 0, 1).astype(np.float32), 0.015)


def marble(generator: Generator, side: int) -> Picture:
    """Veins of a fractal field."""
    field = fractal_noise(generator, side, 1.5)
    veins = np.abs(np.sin(field * generator.uniform(2, 6))) ** generator.uniform(0.3, 1.5)
    return finish(generator, blend(veins, random_colour(generator), random_colour(generator), random_colour(generator)))


def camouflage(generator: Generator, side: int) -> Picture:
    """Fractal patches of a few flat colours."""
    field = fractal_noise(generator, side, generator.uniform(1.1, 1.7))
    levels = np.digitize(field, np.sort(generator.uniform(-1.4, 1.4, generator.integers(2, 7))))
    colours = np.stack([random_colour(generator) for _ in range(8)])
    return finish(generator, colours[levels])


def dead_leaves(generator: Generator, side: int) -> Picture:
    """Occluding discs and rectangles of all sizes: the statistics of natural images (Lee et al., 2001)."""
    palette = np.stack([random_colour(generator, 0.8) for _ in range(12)])
    image = np.empty((side, side, 3), np.float32)
    image[:] = palette[0]
    count = 500
    sizes = side * 0.25 / np.sqrt(np.linspace(1, 400, count)) * generator.uniform(0.6, 1.4, count)
    turned = generator.random() < 0.5
    for size in sizes:
        x, y = generator.uniform(0, side, 2)
        colour = tuple(float(c) for c in palette[generator.integers(12)] * generator.uniform(0.6, 1.1))
        aspect, angle = generator.uniform(0.4, 1.0), generator.uniform(0, 180) if turned else 0.0
        disc = generator.random() < 0.5
        corners = cv2.boxPoints(((0.0, 0.0), (2 * size, 2 * size * aspect), angle))
        for sx in (-side, 0, side):  # draw the copies that make it repeat
            if not -1.5 * size < x + sx < side + 1.5 * size:
                continue
            for sy in (-side, 0, side):
                if not -1.5 * size < y + sy < side + 1.5 * size:
                    continue
                if disc:
                    cv2.circle(image, (int(x + sx), int(y + sy)), max(int(size), 1), colour, -1, cv2.LINE_AA)
                else:
                    cv2.fillConvexPoly(image, (corners + [x + sx, y + sy]).astype(np.int32), colour, cv2.LINE_AA)
    return finish(generator, image)


def bricks(generator: Generator, side: int) -> Picture:
    """Bricks, tiles or planks in rows, each of its own shade, with joints."""
    rows = int(2 ** generator.integers(1, 5))
    columns = max(1, int(rows * generator.choice([0.25, 0.5, 1.0])))
    joint = generator.uniform(0.01, 0.04) * side / max(rows, 4) * 4
    shift = generator.choice([0.0, 0.5, 0.33])
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    row = (y * rows / side).astype(int)
    x = (x + (row * shift % 1.0) * side / columns) % side
    column = (x * columns / side).astype(int)
    px, py = (x * columns / side) % 1 * side / columns, (y * rows / side) % 1 * side / rows
    edge = np.minimum(np.minimum(px, side / columns - px), np.minimum(py, side / rows - py))
    base, other = random_colour(generator), random_colour(generator)
    mix = generator.random((rows, columns))[row % rows, column % columns] * generator.uniform(0.1, 1.0)
    value = 1 + 0.25 * (generator.random((rows, columns))[row % rows, column % columns] - 0.5)
    image = ((base * (1 - mix[..., None]) + other * mix[..., None]) * value[..., None]).astype(np.float32)
    stone = fractal_noise(generator, side, generator.uniform(0.7, 1.3))
    image *= 1 + generator.uniform(0.03, 0.2) * stone[..., None]
    grout = np.clip((joint - edge) / 1.5 + 0.5, 0, 1)[..., None]
    return finish(generator, image * (1 - grout) + grout * (random_colour(generator, 0.2) * 0.8))


def wood(generator: Generator, side: int) -> Picture:
    """Boards with grain along u."""
    boards = int(2 ** generator.integers(0, 4))
    noise = fractal_noise(generator, side, 1.3)
    y = np.mgrid[0:side, 0:side][0].astype(np.float32) / side
    board = (y * boards).astype(int) % boards
    tone = generator.random(boards)[board]
    stretched = cv2.resize(noise[:, : side // 8], (side, side), interpolation=cv2.INTER_CUBIC)
    stretched = np.minimum(stretched, stretched[:, ::-1])
    rings = 0.5 + 0.5 * np.sin(40 * y + 3 * stretched + 20 * tone)
    light = np.array([0.8, 0.6, 0.38]) * generator.uniform(0.6, 1.2)
    dark = light * generator.uniform(0.35, 0.75) * [1.0, 0.9, 0.8]
    image = blend(np.clip(0.5 * rings + 0.3 * tone + 0.12 * stretched, 0, 1).astype(np.float32), dark, light)
    image[(y * boards) % 1 < 0.012 * boards] *= 0.45
    return finish(generator, image)


def speckle(generator: Generator, side: int) -> Picture:
    """Gravel, terrazzo, carpet: thresholded noise of middle frequency."""
    slope = generator.uniform(0.3, 1.0)
    layers = [random_colour(generator, 0.5) for _ in range(int(generator.integers(2, 5)))]
    image = np.broadcast_to(layers[0], (side, side, 3)).astype(np.float32)
    for colour in layers[1:]:
        mask = np.clip((fractal_noise(generator, side, slope) - generator.uniform(0.2, 1.3)) * 4, 0, 1)[..., None]
        image = image * (1 - mask) + mask * colour
    return finish(generator, image)


def weave(generator: Generator, side: int) -> Picture:
    """Fabric, checks and stripes of incommensurate widths."""

    def bands() -> tuple[NDArray[np.int64], Field]:
        edges = np.sort(generator.integers(0, side, generator.integers(3, 16)))
        return np.searchsorted(edges, np.arange(side)), np.stack([random_colour(generator, 0.8) for _ in range(17)])

    (i, across), (j, along) = bands(), bands()
    mix = generator.uniform(0.2, 0.8)
    image = mix * across[i][None] + (1 - mix) * along[j][:, None]
    return finish(generator, image.astype(np.float32))


def mosaic(generator: Generator, side: int) -> Picture:
    """A grid of random cells at two scales (many corners)."""
    coarse, fine = (int(2 ** generator.integers(2, 4)), int(2 ** generator.integers(4, 6)))
    palette = np.stack([random_colour(generator, 0.9) for _ in range(6)])

    def layer(cells: int) -> Field:
        return np.kron(palette[generator.integers(0, 6, (cells, cells))], np.ones((side // cells, side // cells, 1)))

    mask = np.kron(generator.random((coarse, coarse)) < 0.4, np.ones((side // coarse, side // coarse)))[..., None]
    return finish(generator, np.where(mask > 0, layer(fine), layer(coarse)).astype(np.float32))


def cells(generator: Generator, side: int) -> Picture:
    """Voronoi cells: stones, leather, cracked ground."""
    count = int(generator.integers(20, 160))
    points = generator.uniform(0, side, (count, 2))
    tiled = np.concatenate([points + [dx, dy] for dx in (-side, 0, side) for dy in (-side, 0, side)])
    mask = np.full((3 * side // 2, 3 * side // 2), 255, np.uint8)
    shifted = tiled + side / 4
    keep = ((shifted >= 0) & (shifted < 1.5 * side - 1)).all(axis=1)
    mask[shifted[keep, 1].astype(int), shifted[keep, 0].astype(int)] = 0
    distance, labels = cv2.distanceTransformWithLabels(mask, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    # label of a seed pixel -> its point, so that copies of one point share a colour
    owner = np.zeros(int(labels.max()) + 1, int)
    owner[labels[shifted[keep, 1].astype(int), shifted[keep, 0].astype(int)]] = np.flatnonzero(keep) % count
    q = side // 4
    distance, index = distance[q : q + side, q : q + side], owner[labels[q : q + side, q : q + side]]
    base, other = random_colour(generator), random_colour(generator)
    tone = generator.random(count)[index][..., None]
    shade = 1.1 - 0.5 * generator.random() * distance / max(float(distance.max()), 1e-6)
    return finish(generator, ((base * tone + other * (1 - tone)) * shade[..., None]).astype(np.float32))


def poster(generator: Generator, side: int) -> Picture:
    """A print to hang on a wall: blocks, figures and lettering."""
    image = np.empty((side, side, 3), np.float32)
    image[:] = random_colour(generator)
    for _ in range(int(generator.integers(4, 14))):
        colour = tuple(map(float, random_colour(generator, 0.9)))
        a, b = (generator.uniform(0, side, 2).astype(int).tolist() for _ in range(2))
        kind = generator.integers(4)
        if kind == 0:
            cv2.rectangle(image, a, b, colour, -1)
        elif kind == 1:
            cv2.circle(image, a, int(generator.uniform(0.03, 0.25) * side), colour, -1, cv2.LINE_AA)
        elif kind == 2:
            cv2.line(image, a, b, colour, int(generator.integers(1, 12)), cv2.LINE_AA)
        else:
            points = generator.uniform(0, side, (int(generator.integers(3, 7)), 2)).astype(np.int32)
            cv2.fillPoly(image, [points], colour, cv2.LINE_AA)
    letters = list(string.ascii_letters + string.digits)
    page = np.clip(255 * image, 0, 255).astype(np.uint8)
    y = 0.05 * side
    while y < 0.95 * side:
        size = generator.uniform(0.4, 2.0) * side / 512
        y += 40 * size
        text = "".join(generator.choice(letters, int(generator.integers(3, 24))))
        x = int(generator.uniform(0, 0.4) * side)
        ink = tuple(map(int, 255 * random_colour(generator)))
        if generator.random() < 0.7:
            cv2.putText(page, text, (x, int(y)), cv2.FONT_HERSHEY_DUPLEX, size, ink, 1 + int(2 * size), cv2.LINE_AA)
    image = page.astype(np.float32) / 255.0
    border = int(generator.uniform(0, 0.05) * side)
    if border:
        cv2.rectangle(image, (0, 0), (side, side), tuple(map(float, random_colour(generator))), 2 * border)
    return finish(generator, image, 0.01)


def books(generator: Generator, side: int) -> Picture:
    """Shelves full of books."""
    image = np.full((side, side, 3), 0.12, np.float32)
    shelves = int(generator.integers(2, 6))
    pitch = side / shelves
    wood_colour = random_colour(generator, 0.4) * 0.8
    for shelf in range(shelves):
        floor = int((shelf + 1) * pitch - 0.06 * pitch)
        x = 0.0
        while x < side:
            width = generator.uniform(0.03, 0.14) * pitch * 1.5
            height = generator.uniform(0.55, 0.9) * pitch
            colour = random_colour(generator, 0.9)
            if generator.random() < 0.93:
                left, right, top = int(x), int(x + width) - 1, int(floor - height)
                cv2.rectangle(image, (left, top), (right, floor), tuple(map(float, colour)), -1)
                band = int(floor - height * generator.uniform(0.2, 0.9))
                ink = tuple(map(float, random_colour(generator)))
                cv2.rectangle(image, (left, band), (right, band + max(int(0.06 * height), 1)), ink, -1)
                for mark in range(int(generator.integers(0, 6))):
                    y = int(floor - height * (0.3 + 0.08 * mark))
                    cv2.line(image, (left + 2, y), (max(right - 2, left + 2), y), ink, 1)
            x += width
        cv2.rectangle(image, (0, floor), (side, int((shelf + 1) * pitch)), tuple(map(float, wood_colour)), -1)
    return finish(generator, image, 0.01)


SURFACES: dict[str, Callable[[Generator, int], Picture]] = {
    f.__name__: f
    for f in (marble, camouflage, dead_leaves, bricks, wood, speckle, weave, mosaic, cells, poster, books, plaster)
}


def random_surface(generator: Generator, side: int, names: tuple[str, ...] = ()) -> Picture:
    """A random texture among ``names`` (default: all of ``SURFACES``)."""
    return SURFACES[str(generator.choice(list(names or SURFACES)))](generator, side)


def load_pictures(folder: str | Path) -> list[Picture]:
    """The JPEG and PNG pictures of a folder, sorted by name, as RGB; DatasetError when there is none."""
    paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise DatasetError(f"{folder}: holds no .jpg or .png texture")
    pictures = []
    for path in paths:
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is None:
            raise DatasetError(f"{path}: is not a readable picture")
        pictures.append(np.ascontiguousarray(picture[..., ::-1], np.uint8))
    return pictures
