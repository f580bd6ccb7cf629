"""Draws packages on a conveyor: a pinhole camera, three kinds of solids, light, soft shadows and sensor noise.

Lengths are in units of which the camera sees about two across the picture; z points up from the belt. Solids are lists
of flat polygons in space, drawn from far to near.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from bitfront.data.belts import SCALE, TEXTURE

__all__ = ["CARTON", "MAILER", "TUBE", "Camera", "Scene", "Stage", "draw_scene"]

Points = NDArray[np.float64]
Color = tuple[float, float, float]

CARTON, MAILER, TUBE = 1, 2, 3
_DETAIL = 48
"""Height of the picture in which shadows and light are computed, pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A pinhole camera that looks at the middle of the belt."""

    size: tuple[int, int]
    pitch: float
    """Angle below the horizon, radians; pi / 2 looks straight down."""
    distance: float
    roll: float
    zoom: float

    def axes(self) -> tuple[Points, Points]:
        """Position ``(3,)`` and the rows right, up, forward ``(3, 3)``."""
        cos, sin = math.cos(self.pitch), math.sin(self.pitch)
        position = np.array([0, -cos, sin]) * self.distance
        right, up = np.array([1.0, 0, 0]), np.array([0, sin, cos])
        turn, tilt = math.cos(self.roll), math.sin(self.roll)
        return position, np.array([turn * right + tilt * up, turn * up - tilt * right, [0, cos, -sin]])

    def matrix(self) -> Points:
        """``(3, 4)``: space, homogeneous -> pixels, homogeneous."""
        position, axes = self.axes()
        height, width = self.size
        focal = self.distance * self.zoom * max(height, width) / 2
        inner = np.array([[focal, 0, width / 2], [0, -focal, height / 2], [0, 0, 1]])
        matrix: Points = inner @ np.column_stack([axes, -axes @ position])
        return matrix


@dataclass(eq=False)
class Solid:
    """Coloured polygons from far to near, the outline that casts the shadow, and the height."""

    kind: int
    polygons: list[Points] = field(default_factory=list)
    """Each ``(k, 3)``."""
    colors: list[Color] = field(default_factory=list)
    body: int = 0
    """So many of the first polygons make up the silhouette; the others lie on them."""
    foot: Points = field(default_factory=lambda: np.zeros((0, 2)))
    height: float = 0.0

    def add(self, points: Points, color: Color) -> None:
        """Add one polygon in front of the others."""
        self.polygons.append(points)
        self.colors.append(color)


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """What all pictures of a dataset share: belt textures and a sheet of sensor noise."""

    belts: Sequence[Image.Image]
    noise: NDArray[np.int8]
    """Grey levels, ``(n, h + 64, w + 64, 3)``: sheets of different strength."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """One picture with its labels."""

    image: NDArray[np.uint8]
    """``(h, w, 3)`` RGB."""
    owner: NDArray[np.uint8]
    """``(h, w)``: 0 = belt, ``i`` = the i-th solid."""
    kinds: tuple[int, ...]
    """Class of each solid."""


def draw_scene(size: tuple[int, int], stage: Stage, rng: np.random.Generator) -> Scene:
    """Draw one picture of ``size`` (height, width); the same generator state gives the same picture."""
    side = rng.random() < 0.5
    camera = Camera(
        size,
        pitch=math.radians(rng.uniform(24, 48) if side else rng.uniform(76, 90)),
        distance=rng.uniform(2.6, 4.5),
        roll=math.radians(rng.uniform(-5, 5)),
        zoom=rng.uniform(1.7, 2.3),
    )
    matrix = camera.matrix()
    light = np.array([rng.uniform(-0.7, 0.7), rng.uniform(-0.5, 0.7), 1.0])
    light /= np.linalg.norm(light)
    solids = _arrange(camera, matrix, light, side, rng)
    canvas = _background(camera, matrix, stage, side, rng)
    _cast_shadows(canvas, matrix, solids, light, rng)
    owner = Image.new("L", size[::-1], 0)
    paint, mark = ImageDraw.Draw(canvas), ImageDraw.Draw(owner)
    for number, solid in enumerate(solids, start=1):
        _draw_solid(solid, matrix, paint, mark, number)
    _soften(canvas, owner)
    image = _expose(canvas, stage, rng)
    return Scene(image, np.asarray(owner), tuple(s.kind for s in solids))


# --- projection ------------------------------------------------------------------------------------------------------
def _project(points: Points, matrix: Points) -> Points:
    """Points ``(..., 3)`` -> pixels ``(..., 2)``."""
    flat = points @ matrix[:, :3].T + matrix[:, 3]
    pixels: Points = flat[..., :2] / flat[..., 2:]
    return pixels


def _ground(pixels: Points, matrix: Points) -> Points:
    """Pixels ``(n, 2)`` -> the points ``(n, 2)`` of the belt that they show."""
    inverse = np.linalg.inv(matrix[:, [0, 1, 3]])
    flat = np.column_stack([pixels, np.ones(len(pixels))]) @ inverse.T
    points: Points = flat[:, :2] / flat[:, 2:]
    return points


def _outline(points: Points) -> list[float]:
    outline: list[float] = points.ravel().tolist()
    return outline


def _draw_solid(
    solid: Solid, matrix: Points, paint: ImageDraw.ImageDraw, mark: ImageDraw.ImageDraw, number: int
) -> None:
    lengths = [len(p) for p in solid.polygons]
    pixels = np.split(_project(np.concatenate(solid.polygons), matrix), np.cumsum(lengths)[:-1])
    for position, (points, color) in enumerate(zip(pixels, solid.colors, strict=True)):
        outline = _outline(points)
        paint.polygon(outline, fill=_clip(color))
        if position < solid.body:
            mark.polygon(outline, fill=number)


def _clip(color: Color) -> tuple[int, int, int]:
    red, green, blue = (min(255, max(0, int(c))) for c in color)
    return red, green, blue


def _shade(color: Color, factor: float) -> Color:
    return color[0] * factor, color[1] * factor, color[2] * factor


# --- background and light --------------------------------------------------------------------------------------------
def _background(camera: Camera, matrix: Points, stage: Stage, side: bool, rng: np.random.Generator) -> Image.Image:
    height, width = camera.size
    belt = stage.belts[int(rng.integers(len(stage.belts)))]
    scale, turned = SCALE * rng.uniform(0.7, 1.1), rng.random() < 0.25
    to_texture = np.array([[scale, 0, TEXTURE[1] / 2], [0, -scale, TEXTURE[0] / 2], [0, 0, 1]], np.float64)
    to_texture[:2, 2] += rng.uniform(-40, 40, 2)
    if turned:
        to_texture = to_texture @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    inverse = to_texture @ np.linalg.inv(matrix[:, [0, 1, 3]])
    inverse = (inverse / inverse[2, 2]).ravel()[:8]
    grey = belt.transform(
        (width, height), Image.Transform.PERSPECTIVE, inverse.tolist(), Image.Resampling.BILINEAR, 1, 60
    )
    tint = np.array([1, 1, 1.03]) + rng.uniform(-0.04, 0.04, 3)
    canvas = Image.merge("RGB", [grey.point((np.clip(np.arange(256) * t, 0, 255)).tolist()) for t in tint])
    if side or rng.random() < 0.4:
        _rails(ImageDraw.Draw(canvas), matrix, side, rng)
    return canvas


def _rails(paint: ImageDraw.ImageDraw, matrix: Points, side: bool, rng: np.random.Generator) -> None:
    """A steel rail along the far edge of the belt (from above: one or both edges), and the wall behind it."""
    level, edge = rng.uniform(110, 190), rng.uniform(0.95, 1.5)
    top = rng.uniform(0.05, 0.16)
    for y, sign in ((edge, 1.0), *(() if side or rng.random() < 0.5 else ((-edge, -1.0),))):
        bands = ((0.0, 0.0, 0.0), (top * 0.35, 0.0, 0.55), (top * 0.5, 0.0, 0.3), (top, 0.0, 0.8), (top, 0.16, 1.1))
        for (z0, d0, _), (z1, d1, shade) in zip(bands, (*bands[1:], (top, 6.0, 0.62)), strict=False):
            quad = [[-9, y + sign * d0, z0], [9, y + sign * d0, z0], [9, y + sign * d1, z1], [-9, y + sign * d1, z1]]
            paint.polygon(_outline(_project(np.array(quad), matrix)), fill=_clip((level * shade,) * 3))
        wall = [[-9, y + sign * 0.16, top], [9, y + sign * 0.16, top], [9, y + sign * 4, top], [-9, y + sign * 4, top]]
        paint.polygon(_outline(_project(np.array(wall), matrix)), fill=_clip((level * 0.85, level * 0.86, level * 0.9)))


def _cast_shadows(
    canvas: Image.Image, matrix: Points, solids: Sequence[Solid], light: Points, rng: np.random.Generator
) -> None:
    width, height = canvas.size
    factor = _DETAIL / height
    small = Image.new("L", (max(1, round(width * factor)), _DETAIL), 0)
    paint = ImageDraw.Draw(small)
    dark = int(255 * rng.uniform(0.35, 0.7))
    for solid in solids:
        slide = -light[:2] / light[2] * solid.height * rng.uniform(0.5, 0.9)
        foot = np.column_stack([solid.foot, np.zeros(len(solid.foot))])
        far = foot + np.array([slide[0], slide[1], 0])
        low, high = (_project(p, matrix) * factor for p in (foot, far))
        paint.polygon(_outline(high), fill=dark)
        for i in range(len(low)):
            j = (i + 1) % len(low)
            paint.polygon(_outline(np.array([low[i], low[j], high[j], high[i]])), fill=dark)
    soft = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.6, 1.6))).resize(canvas.size, Image.Resampling.BILINEAR)
    canvas.paste((12, 12, 16), mask=soft)


def _soften(canvas: Image.Image, owner: Image.Image) -> None:
    """Blur the edges of the polygons as a lens would; the belt is smooth already."""
    drawn = owner.getbbox()
    if drawn is not None:
        left, top = max(0, drawn[0] - 2), max(0, drawn[1] - 2)
        right, bottom = min(canvas.width, drawn[2] + 2), min(canvas.height, drawn[3] + 2)
        window = canvas.crop((left, top, right, bottom))
        canvas.paste(window.filter(ImageFilter.BoxBlur(0.45)), (left, top))


def _expose(canvas: Image.Image, stage: Stage, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Uneven light and sensor noise."""
    width, height = canvas.size
    x, y = np.linspace(-1, 1, 24), np.linspace(-1, 1, 24)[:, None]
    slope, spot = rng.uniform(-0.16, 0.16, 2), rng.uniform(-0.8, 0.8, 2)
    field_ = 1 + slope[0] * x + slope[1] * y
    field_ += rng.uniform(-0.1, 0.3) * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) * 1.5)
    field_ *= rng.uniform(0.72, 1.15) * (1 - 0.08 * (x**2 + y**2))
    # Fixed point in 16 bits: a light of 1 is 128, noise is in grey levels.
    light = Image.fromarray(np.clip(field_ * 128, 0, 255).astype(np.uint8))
    levels = np.empty((height, width, 3), np.uint16)
    levels[...] = np.asarray(light.resize((width, height), Image.Resampling.BILINEAR))[..., None]
    pixels = np.multiply(np.asarray(canvas), levels, out=levels)
    pixels >>= 7
    signed = pixels.view(np.int16)
    top, left = rng.integers(0, 64, 2)
    signed += stage.noise[rng.integers(len(stage.noise)), top : top + height, left : left + width]
    np.clip(signed, 0, 255, out=signed)
    image: NDArray[np.uint8] = pixels.astype(np.uint8)
    return image


# --- arrangement -----------------------------------------------------------------------------------------------------
def _arrange(camera: Camera, matrix: Points, light: Points, side: bool, rng: np.random.Generator) -> list[Solid]:
    """Place one to three solids that hardly overlap on the belt, far ones first."""
    height, width = camera.size
    wanted = int(rng.choice(3, p=(0.45, 0.35, 0.2))) + 1
    spots = rng.uniform((0.12, 0.36 if side else 0.12), (0.88, 0.9 if side else 0.88), (18, 2)) * (width, height)
    placed: list[tuple[float, float, float, int]] = []
    for x, y in _ground(spots, matrix):
        kind = int(rng.integers(1, 4))
        reach = {CARTON: 0.24, MAILER: 0.25, TUBE: 0.27}[kind]
        if len(placed) < wanted and all(math.hypot(x - u, y - v) > reach + r for u, v, r, _ in placed):
            placed.append((float(x), float(y), reach, kind))
    position, _ = camera.axes()
    placed.sort(key=lambda p: -math.dist(p[:2], position[:2]))
    return [_MAKERS[kind](np.array([x, y]), position, light, rng) for x, y, _, kind in placed]


_KRAFT: tuple[Color, ...] = ((178, 138, 96), (196, 158, 114), (160, 120, 82), (186, 150, 112))
_PRINTED: tuple[Color, ...] = ((226, 226, 222), (205, 210, 214), (232, 226, 210))
_INKS: tuple[Color, ...] = ((40, 190, 130), (200, 50, 45), (40, 90, 180), (230, 160, 30), (20, 150, 170))
_PLASTIC: tuple[Color, ...] = ((236, 236, 240), (168, 176, 190), (224, 190, 84), (214, 216, 226), (120, 130, 150))
_CORES: tuple[Color, ...] = ((60, 96, 150), (46, 110, 86), (150, 60, 60), (44, 60, 100), (98, 84, 120))
_WRAPS: tuple[Color, ...] = ((228, 226, 220), (236, 214, 120), (170, 200, 220), (34, 36, 44))


def _pick(colors: Sequence[Color], rng: np.random.Generator) -> Color:
    return _shade(colors[int(rng.integers(len(colors)))], rng.uniform(0.88, 1.06))


def _place(local: Points, centre: Points, turn: float) -> Points:
    """Turn local points ``(..., 3)`` about z and move them to ``centre`` on the belt."""
    cos, sin = math.cos(turn), math.sin(turn)
    x = local[..., 0] * cos - local[..., 1] * sin + centre[0]
    y = local[..., 0] * sin + local[..., 1] * cos + centre[1]
    return np.stack([x, y, local[..., 2]], axis=-1)


def _carton(centre: Points, eye: Points, light: Points, rng: np.random.Generator) -> Solid:
    length, depth = rng.uniform(0.28, 0.56), rng.uniform(0.2, 0.4)
    height, turn = rng.uniform(0.08, 0.34), rng.uniform(-math.pi, math.pi)
    printed = rng.random() < 0.4
    base, ink = _pick(_PRINTED if printed else _KRAFT, rng), _pick(_INKS, rng)
    solid = Solid(CARTON, height=height)
    x, y = length / 2, depth / 2
    faces = (
        ((-x, -y, 0), (2 * x, 0, 0), (0, 0, height)),
        ((x, -y, 0), (0, 2 * y, 0), (0, 0, height)),
        ((x, y, 0), (-2 * x, 0, 0), (0, 0, height)),
        ((-x, y, 0), (0, -2 * y, 0), (0, 0, height)),
        ((-x, -y, height), (2 * x, 0, 0), (0, 2 * y, 0)),
    )
    decals: list[tuple[Points, Color]] = []
    for number, (origin, across, up) in enumerate(faces):
        corner, u, v = (_place(np.array(p), np.zeros(2), turn) for p in (origin, across, up))
        corner = corner + np.array([centre[0], centre[1], 0])
        normal = np.cross(u, v)
        normal /= np.linalg.norm(normal)
        if normal @ (eye - corner) <= 0:
            continue
        shade = 0.45 + 0.6 * max(0.0, float(normal @ light))
        solid.add(_on_face(corner, u, v, [0, 0, 1, 1]), _shade(base, shade))
        top = number == 4
        marks = _printed_face(ink, top, rng) if printed else _kraft_face(top, rng)
        decals += [(_on_face(corner, u, v, box), _shade(color, shade)) for box, color in marks]
        if top:
            edge = _shade(base, shade * 1.08)
            decals += [(_on_face(corner, u, v, box), edge) for box in ([0, 0, 1, 0.02], [0, 0, 0.015, 1])]
    solid.body = len(solid.polygons)
    for points, color in decals:
        solid.add(points, color)
    solid.foot = _place(np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]), centre, turn)[:, :2]
    return solid


def _on_face(corner: Points, u: Points, v: Points, box: Sequence[float]) -> Points:
    """The rectangle ``box`` (left, bottom, right, top in shares) of a face, ``(4, 3)``."""
    left, bottom, right, top = box
    points: Points = np.array([[left, bottom], [right, bottom], [right, top], [left, top]]) @ np.array([u, v]) + corner
    return points


Marks = list[tuple[list[float], Color]]


def _kraft_face(top: bool, rng: np.random.Generator) -> Marks:
    """Tape over the seam and perhaps a label on top; tape ends and handling marks on the sides."""
    tape: Color = (206, 184, 140) if rng.random() < 0.7 else (120, 96, 66)
    if not top:
        marks: Marks = [([0.44, 0.72, 0.56, 1.0], tape)] if rng.random() < 0.5 else []
        return marks + ([([0.1, 0.15, 0.22, 0.5], (70, 56, 44))] if rng.random() < 0.4 else [])
    marks = [([0.0, 0.43, 1.0, 0.57], tape), ([0.0, 0.495, 1.0, 0.505], (110, 88, 62))]
    return marks + (_label(rng) if rng.random() < 0.75 else [])


def _printed_face(ink: Color, top: bool, rng: np.random.Generator) -> Marks:
    """A band of colour, a name and some lines of print."""
    band = rng.uniform(0.25, 0.4)
    marks: Marks = [([1 - band, 0, 1, 1] if top else [0, 0.62, 1, 1.0], ink)]
    if top:
        marks.append(([0.08, 0.58, 0.5, 0.72], (60, 62, 70)))
    lines = int(rng.integers(2, 5))
    return marks + [
        ([0.08, 0.1 + 0.12 * i, rng.uniform(0.3, 0.6), 0.15 + 0.12 * i], (120, 122, 130)) for i in range(lines)
    ]


def _label(rng: np.random.Generator) -> Marks:
    """A white address label with lines and a bar code."""
    left, bottom = rng.uniform(0.05, 0.5), rng.uniform(0.05, 0.4)
    width, height = rng.uniform(0.3, 0.42), rng.uniform(0.34, 0.5)
    marks: Marks = [([left, bottom, left + width, bottom + height], (240, 240, 238))]
    for i in range(3):
        y = bottom + height * (0.6 + 0.12 * i)
        marks.append(([left + width * 0.08, y, left + width * rng.uniform(0.4, 0.9), y + height * 0.05], (70, 70, 76)))
    bars = np.cumsum(rng.uniform(0.4, 1.6, 17))
    bars = left + width * (0.08 + 0.84 * bars / bars[-1])
    marks += [
        ([float(bars[i]), bottom + height * 0.1, float(bars[i + 1]), bottom + height * 0.48], (30, 30, 34))
        for i in range(0, 16, 2)
    ]
    return marks


def _mailer(centre: Points, eye: Points, light: Points, rng: np.random.Generator) -> Solid:
    """A padded bag: a rounded outline that swells towards the middle."""
    length, depth = rng.uniform(0.36, 0.6), rng.uniform(0.26, 0.4)
    height, turn = rng.uniform(0.03, 0.08), rng.uniform(-math.pi, math.pi)
    color = _pick(_PLASTIC, rng)
    angle = np.linspace(0, 2 * math.pi, 36, endpoint=False)
    power = rng.uniform(0.22, 0.38)
    wobble = 1 + 0.02 * np.sin(angle * rng.integers(5, 9) + rng.uniform(0, 6))
    ring = np.column_stack([np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power * length / 2 * wobble,
                            np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power * depth / 2 * wobble])  # fmt: skip
    solid = Solid(MAILER, height=height)
    for step, (share, lift) in enumerate(((1.0, 0.0), (0.97, 0.35), (0.88, 0.7), (0.76, 0.9), (0.6, 1.0), (0.4, 1.06))):
        shift = light[:2] * 0.02 * step
        level = np.column_stack([ring * share + shift * (share < 0.9), np.full(len(ring), height * lift)])
        solid.add(_place(level, centre, turn), _shade(color, 0.62 + 0.075 * step))
    solid.body = 3
    lit = 0.62 + 0.4 * float(light[2])
    for start in rng.uniform(0, 2 * math.pi, 5):  # creases
        inner, outer = rng.uniform(0.3, 0.6), rng.uniform(0.8, 0.95)
        spread = rng.uniform(0.03, 0.08)
        crease = np.array([[math.cos(start + s) * r * length / 2, math.sin(start + s) * r * depth / 2, height * 0.9]
                           for r, s in ((inner, 0), (outer, -spread), (outer, spread))])  # fmt: skip
        solid.add(_place(crease, centre, turn), _shade(color, rng.choice((0.72, 1.08))))
    corner = _place(np.array([-length * 0.42, -depth * 0.4, height]), centre, turn)
    u = _place(np.array([length * 0.84, 0, 0]), np.zeros(2), turn)
    v = _place(np.array([0, depth * 0.8, 0]), np.zeros(2), turn)
    solid.add(_on_face(corner, u, v, [0.9, 0, 0.915, 1]), _shade(color, 0.6))  # the flap
    for box, ink in _label(rng) if rng.random() < 0.85 else []:
        solid.add(_on_face(corner, u, v, box), _shade(ink, lit))
    solid.foot = _place(np.column_stack([ring[::3], np.zeros(12)]), centre, turn)[:, :2]
    return solid


def _tube(centre: Points, eye: Points, light: Points, rng: np.random.Generator) -> Solid:
    """A cylinder that lies on the belt, with caps and a wrapped label."""
    length, radius = rng.uniform(0.45, 0.72), rng.uniform(0.07, 0.12)
    turn = rng.uniform(-math.pi, math.pi)
    color, cap, ink = _pick(_CORES, rng), _pick(_PLASTIC, rng), _pick(_WRAPS, rng)
    solid = Solid(TUBE, height=2 * radius)
    angle = np.linspace(0, 2 * math.pi, 25)
    circle = np.column_stack([np.cos(angle) * radius, radius + np.sin(angle) * radius])
    label = np.sort(rng.uniform(-0.35, 0.35, 2)) * length
    rings = [(-0.5 * length, -0.45 * length, cap), (-0.45 * length, label[0], color), (label[0], label[1], ink),
             (label[1], 0.45 * length, color), (0.45 * length, 0.5 * length, cap)]  # fmt: skip
    middle = np.array([centre[0], centre[1], radius])
    quads = np.empty((24, len(rings), 4, 3))
    quads[..., 0] = np.array([[low, high, high, low] for low, high, _ in rings])
    quads[:, :, :2, 1:] = circle[:-1, None, None]
    quads[:, :, 2:, 1:] = circle[1:, None, None]
    quads = _place(quads, centre, turn)
    mid = (angle[:-1] + angle[1:]) / 2
    normals = _place(np.column_stack([np.zeros(24), np.cos(mid), np.sin(mid)]), np.zeros(2), turn)
    seen = ((eye - middle - normals * radius) * normals).sum(1) > 0
    lit = np.maximum(normals @ light, 0)
    for i in np.flatnonzero(seen):
        shade = float(0.4 + 0.65 * lit[i] + 0.25 * lit[i] ** 12)
        for quad, (_, _, paint) in zip(quads[i], rings, strict=True):
            solid.add(quad, _shade(paint, shade))
    for end in (-1, 1):
        normal = _place(np.array([end, 0.0, 0.0]), np.zeros(2), turn)
        if normal @ (eye - middle - normal * length / 2) > 0:
            shade = 0.45 + 0.5 * max(0.0, float(normal @ light))
            for share, factor in ((1.0, 1.0), (0.8, 0.82)):
                ring = np.column_stack([np.full(24, end * length / 2), circle[:24, 0] * share,
                                        radius + (circle[:24, 1] - radius) * share])  # fmt: skip
                solid.add(_place(ring, centre, turn), _shade(cap, shade * factor))
    solid.body = len(solid.polygons)
    x, y = length / 2, radius * 0.8
    solid.foot = _place(np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]), centre, turn)[:, :2]
    return solid


_MAKERS = {CARTON: _carton, MAILER: _mailer, TUBE: _tube}
