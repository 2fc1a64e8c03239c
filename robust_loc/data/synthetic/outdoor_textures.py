"""Procedural pictures of the outdoors: house fronts, asphalt, grass, leaves, the sky."""

from __future__ import annotations

import cv2
import numpy as np

from robust_loc.data.synthetic.textures import (
    Generator,
    Picture,
    blend,
    bricks,
    finish,
    fractal_noise,
    plaster,
    random_colour,
)


def facade(generator: Generator, side: int) -> Picture:
    """Rows of windows in a wall."""
    image = (plaster if generator.random() < 0.5 else bricks)(generator, side).astype(np.float32) / 255.0
    rows, columns = int(generator.integers(2, 5)), int(generator.integers(2, 6))
    cell_w, cell_h = side / columns, side / rows
    w, h = generator.uniform(0.35, 0.7) * cell_w, generator.uniform(0.45, 0.75) * cell_h
    frame, panes = tuple(map(float, random_colour(generator, 0.3))), int(generator.integers(1, 4))
    for r in range(rows):
        for c in range(columns):
            x, y = int((c + 0.5) * cell_w - w / 2), int((r + 0.5) * cell_h - h / 2)
            glass = np.array([0.25, 0.3, 0.36]) * generator.uniform(0.3, 1.8)
            cv2.rectangle(image, (x, y), (int(x + w), int(y + h)), tuple(map(float, glass)), -1)
            if generator.random() < 0.6:  # curtain, blind or reflection
                depth = int(y + h * generator.uniform(0.1, 0.9))
                cv2.rectangle(image, (x, y), (int(x + w), depth), tuple(map(float, random_colour(generator, 0.3))), -1)
            thick = max(int(0.04 * w), 1)
            for pane in range(panes + 1):
                px = int(x + w * pane / panes)
                cv2.line(image, (px, y), (px, int(y + h)), frame, thick)
            for py in (y, int(y + h * 0.35), int(y + h)):
                cv2.line(image, (x, py), (int(x + w), py), frame, thick)
            cv2.rectangle(image, (x - 3, int(y + h)), (int(x + w) + 3, int(y + h) + 4), (0.75, 0.75, 0.72), -1)
    return finish(generator, image)


def foliage(generator: Generator, side: int) -> Picture:
    """Leaves in greens and browns."""
    base = random_colour(generator, 0.5) * [0.6, 1.0, 0.45] + [0.02, 0.08, 0.02]
    image = np.empty((side, side, 3), np.float32)
    image[:] = base * 0.3
    for size in np.linspace(side / 16, side / 64, 700):
        x, y = generator.uniform(0, side, 2).astype(int)
        colour = tuple(map(float, np.clip(base * generator.uniform(0.3, 1.5), 0, 1)))
        axes = (max(int(size), 1), max(int(size * 0.45), 1))
        cv2.ellipse(image, (int(x), int(y)), axes, generator.uniform(0, 180), 0, 360, colour, -1)
    return finish(generator, image)


def sky(generator: Generator, side: int) -> Picture:
    """Equirectangular: zenith at the top, clouds that thin out upwards, horizon in the middle row."""
    v = np.linspace(0, 1, side, dtype=np.float32)[:, None]
    zenith = np.array([0.25, 0.45, 0.85]) * generator.uniform(0.5, 1.1)
    horizon = np.array([0.8, 0.85, 0.92]) * generator.uniform(0.75, 1.05)
    image = blend(np.broadcast_to(np.clip(v * 2, 0, 1), (side, side)), zenith, horizon)
    cover = fractal_noise(generator, side, 1.6) + generator.uniform(-1.0, 1.0)
    body = 0.9 + 0.08 * np.clip(fractal_noise(generator, side, 1.4), -2, 2)
    cloud = body[..., None] * np.array([0.98, 0.97, 0.95]) * generator.uniform(0.75, 1.05)
    alpha = np.clip(cover * 0.8, 0, 1)[..., None]
    return np.clip(255 * (image * (1 - alpha) + cloud * alpha), 0, 255).astype(np.uint8)


def asphalt(generator: Generator, side: int) -> Picture:
    """Grainy grey with patches and cracks."""
    tone = generator.uniform(0.25, 0.5) * (1 + 0.02 * generator.standard_normal(3))
    patches = 0.06 * np.sign(fractal_noise(generator, side, 1.7)) * (generator.random() < 0.6)
    grain = 0.12 * fractal_noise(generator, side, 0.3) + 0.06 * fractal_noise(generator, side, 1.0) + patches
    cracks = np.abs(fractal_noise(generator, side, 1.5)) < 0.02
    image = tone * (1 + grain - 0.4 * cracks)[..., None]
    return np.clip(255 * image, 0, 255).astype(np.uint8)


def grass(generator: Generator, side: int) -> Picture:
    """Short strokes in shades of a plant or soil colour."""
    hue, spread = generator.choice([95, 60, 35]), generator.uniform(0.1, 0.3)
    base = cv2.cvtColor(np.array([[[hue, 0.5, 0.45]]], np.float32), cv2.COLOR_HSV2RGB)[0, 0]
    image = np.empty((side, side, 3), np.float32)
    image[:] = base * 0.6
    starts = generator.uniform(0, side, (side * 5, 2))
    ends = starts + generator.normal(0, side / 45, (side * 5, 2))
    shades = base * (1 + spread * generator.standard_normal((side * 5, 1))) + generator.normal(0, 0.03, (side * 5, 3))
    for a, b, c in zip(starts, ends, shades):
        cv2.line(image, (int(a[0]), int(a[1])), (int(b[0]), int(b[1])), tuple(map(float, c)), 1)
    return finish(generator, np.clip(image, 0, 1))
