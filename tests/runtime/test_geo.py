"""Places on Earth agree with an independent computation by pyproj, to a part of a millimetre."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from babelrs.boxes import to_corners
from runtime.control_points import MOST_RESIDUAL_PX, NoReference, RpcReference, fit_control_points
from runtime.geo import GeoReference, locate, measure, to_lonlat
from runtime.sinks.geojson import ground_record

pytest.importorskip("rasterio", reason="the geo extra is not installed")
pyproj = pytest.importorskip("pyproj", reason="the oracle is pyproj")

Floats = npt.NDArray[np.float64]
GEOD = pyproj.Geod(ellps="WGS84")
PLACES = {  # system, easting and northing of the first corner, metres (or degrees) per pixel
    "utm 18 north": (32618, 101_985.0, 2_826_915.0, 0.5),
    "utm 56 south": (32756, 334_000.0, 6_252_000.0, 0.3),
    "web mercator": (3857, 14_321_853.0, 4_532_410.0, 0.6),
    "north polar": (3995, -1_500_000.0, 900_000.0, 10.0),
    "swiss": (2056, 2_600_000.0, 1_200_000.0, 0.1),
    "degrees": (4326, 12.5, 41.9, 1e-6),
}
TRANSFORMS = {
    "north up": (1, 0, 0, -1),
    "south up": (1, 0, 0, 1),
    "rotated": (0.8, -0.6, -0.6, -0.8),
    "mirrored": (-1, 0, 0, -1),
    "sheared": (1, 0.2, 0, -0.7),
}


def reference(place: str, transform: str = "north up") -> GeoReference:
    code, east, north, gsd = PLACES[place]
    a, b, d, e = (gsd * value for value in TRANSFORMS[transform])
    return GeoReference(pyproj.CRS.from_epsg(code).to_wkt(), (a, b, east, d, e, north))


def expected_lonlat(geo: GeoReference, pixels: Floats) -> Floats:
    a, b, c, d, e, f = geo.transform
    convert = pyproj.Transformer.from_crs(pyproj.CRS.from_wkt(geo.crs), "EPSG:4326", always_xy=True)
    x, y = pixels[..., 0], pixels[..., 1]
    return np.stack(convert.transform(a * x + b * y + c, d * x + e * y + f), axis=-1)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_corners_agree_with_pyproj(place: str, transform: str) -> None:
    geo = reference(place, transform)
    boxes = np.random.default_rng(7).uniform([0, 0, 20, 5, -1.5], [9000, 9000, 80, 20, 1.5], (50, 5)).astype(np.float32)
    places = locate(boxes, geo)
    assert np.abs(places.lonlat - expected_lonlat(geo, to_corners(boxes))).max() < 1e-9
    assert places.known.all()


def test_pixel_zero_is_the_outer_corner_of_the_first_pixel() -> None:
    """A box over the first pixel has the corners that rasterio gives for that pixel; its middle is (0.5, 0.5)."""
    import rasterio.transform

    geo = reference("utm 18 north", "rotated")
    (corners,) = locate(np.array([[0.5, 0.5, 1, 1, 0]], np.float32), geo).lonlat
    transform = rasterio.transform.Affine(*geo.transform)
    names = ("ul", "ur", "lr", "ll")
    at = np.array([rasterio.transform.xy(transform, 0, 0, offset=name) for name in names])
    convert = pyproj.Transformer.from_crs(pyproj.CRS.from_wkt(geo.crs), "EPSG:4326", always_xy=True)
    assert np.abs(corners - np.stack(convert.transform(*at.T), axis=-1)).max() < 1e-9
    middle = to_lonlat(np.array([[0.5, 0.5]]), geo)[0]
    assert np.abs(middle - convert.transform(*rasterio.transform.xy(transform, 0, 0, offset="center"))).max() < 1e-9


@given(st.floats(-180, 180), st.floats(-89.9, 89.9), st.floats(2, 5000), st.floats(0.1, 0.95), st.floats(0, 360))
def test_size_and_heading_agree_with_geodesics(
    lon: float, lat: float, length: float, aspect: float, azimuth: float
) -> None:
    """A rectangle is laid out on the ellipsoid by pyproj; what comes back is what was laid out."""
    corners = []
    ends = [GEOD.fwd(lon, lat, azimuth + turn, length / 2) for turn in (0, 180)]
    for end, side in ((0, 90), (0, -90), (1, -90), (1, 90)):
        there, back = ends[end][:2], GEOD.inv(*ends[end][:2], lon, lat)[0]
        facing = back + 180 if end == 0 else back
        corners.append(GEOD.fwd(*there, facing + side, length * aspect / 2)[:2])
    long_side, short_side, heading = measure(np.array([corners]))
    assert long_side[0] == pytest.approx(length, rel=1e-6, abs=1e-4)
    assert short_side[0] == pytest.approx(length * aspect, rel=1e-6, abs=1e-4)
    assert abs((heading[0] - azimuth + 90) % 180 - 90) < 0.01 and 0 <= heading[0] < 180


def test_long_edges_are_geodesics_too() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        lon, lat, azimuth = rng.uniform(-180, 180), rng.uniform(-80, 80), rng.uniform(0, 360)
        there = GEOD.fwd(lon, lat, azimuth, 100_000)[:2]
        square = np.array([[[lon, lat], there, there, [lon, lat]]])
        assert measure(square)[0][0] == pytest.approx(100_000, abs=0.02)


@pytest.mark.parametrize(
    ("transform", "theta", "heading"),
    [
        ("north up", 0.0, 90.0),  # along x: east
        ("north up", -np.pi / 2, 0.0),
        ("north up", np.pi / 6, 120.0),  # theta is clockwise on screen, and so on a map
        ("south up", np.pi / 6, 60.0),
        ("mirrored", np.pi / 6, 60.0),
    ],
)
def test_heading_is_clockwise_from_north(transform: str, theta: float, heading: float) -> None:
    """On the central meridian, where grid north is true north."""
    code = PLACES["utm 18 north"][0]
    a, b, d, e = TRANSFORMS[transform]
    geo = GeoReference(pyproj.CRS.from_epsg(code).to_wkt(), (a, b, 500_000.0, d, e, 4_000_000.0))
    places = locate(np.array([[0, 0, 60, 10, theta]], np.float32), geo)
    assert abs((places.heading_deg[0] - heading + 90) % 180 - 90) < 0.01
    assert (places.length_m[0], places.width_m[0]) == pytest.approx((60 / 0.9996, 10 / 0.9996), rel=1e-4)


def test_the_longer_side_is_the_one_that_is_longer_on_the_ground() -> None:
    """Pixels four times as high as wide: a box that is wider in pixels lies north to south."""
    wkt = pyproj.CRS.from_epsg(32618).to_wkt()
    geo = GeoReference(wkt, (0.5, 0.0, 500_000.0, 0.0, -2.0, 4_000_000.0))
    places = locate(np.array([[0, 0, 40, 20, 0]], np.float32), geo)
    assert (places.length_m[0], places.width_m[0]) == pytest.approx((40, 20), rel=1e-3)
    assert min(places.heading_deg[0], 180 - places.heading_deg[0]) < 0.01


def test_a_box_outside_the_projection_or_at_a_pole_has_no_place_and_the_others_keep_theirs() -> None:
    utm = reference("utm 18 north")
    boxes = np.array([[100, 100, 20, 10, 0.1], [1e30, 0, 20, 10, 0]], np.float32)
    assert locate(boxes, utm).known.tolist() == [True, False]
    polar = GeoReference(pyproj.CRS.from_epsg(3995).to_wkt(), (10.0, 0.0, 0.0, 0.0, -10.0, 0.0))
    boxes = np.array([[0, 0, 20, 10, 0], [0, 0, 9000, 8000, 0.1], [5000, 0, 20, 10, 0]], np.float32)
    places = locate(boxes, polar)
    assert places.known.tolist() == [False, False, True]
    assert np.isnan(places.length_m[:2]).all() and np.isnan(places.heading_deg[:2]).all()


def test_writing_n_detections_takes_n_looks_at_their_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """It once took n times n: fourteen seconds at the end of a scene with 22,830 detections."""
    places = locate(np.tile(np.array([100, 100, 20, 10, 0.3], np.float32), (50, 1)), reference("utm 18 north"))
    looked = 0

    def isfinite(values: Floats) -> npt.NDArray[np.bool_]:
        nonlocal looked
        looked += len(values)
        return np.asarray(values == values, np.bool_)

    monkeypatch.setattr("runtime.geo.np.isfinite", isfinite)
    records = [ground_record(places, index) for index in range(len(places))]
    assert all(record["length_m"] for record in records) and looked == len(places)


def test_no_boxes_have_no_places() -> None:
    places = locate(np.zeros((0, 5), np.float32), reference("swiss"))
    assert len(places) == 0 and places.lonlat.shape == (0, 4, 2)


def curved(pixels: Floats, bend: float) -> Floats:
    """An image that is not flat: the error of a straight map grows with the square of the distance."""
    x, y = pixels[:, 0], pixels[:, 1]
    return np.stack([500_000 + 10 * x + y + bend * x * y / 1e4, 5e6 - 10 * y + 2 * x + bend * x**2 / 1e4], axis=1)


def grid(count: int, width: int = 8000, height: int = 6000) -> Floats:
    return np.stack(np.meshgrid(np.linspace(0, width, count), np.linspace(0, height, count)), -1).reshape(-1, 2)


@pytest.mark.parametrize(("bend", "order"), [(0.0, 1), (0.2, 2)])
def test_control_points_give_the_simplest_polynomial_that_fits(bend: float, order: int) -> None:
    fitted = fit_control_points("", grid(5), curved(grid(5), bend), 8000, 6000)
    assert fitted.order == order and fitted.residual_px < 1e-6
    between = np.random.default_rng(2).uniform(0, 1, (100, 2)) * [8000, 6000]
    assert np.abs(fitted.ground(between) - curved(between, bend)).max() < 1e-4


def test_the_residual_is_the_worst_points_distance_in_pixels() -> None:
    """Points moved by known pixels: the oracle is a least-squares solution of the affine map written out."""
    pixels = grid(6)
    ground = curved(pixels, 0.0)
    ground[7] += [15.0, 0.0]  # 1.5 px along x
    fitted = fit_control_points("", pixels, ground, 8000, 6000)
    matrix = np.column_stack([np.ones(len(pixels)), pixels])
    errors = matrix @ np.linalg.lstsq(matrix, ground, rcond=None)[0] - ground
    jacobian = np.array([[10, 1], [2, -10]])
    assert fitted.residual_px == pytest.approx(
        np.linalg.norm(np.linalg.solve(jacobian, errors.T), axis=0).max(), rel=0.01
    )
    assert 1.2 < fitted.residual_px < MOST_RESIDUAL_PX


@pytest.mark.parametrize(
    ("pixels", "ground", "why"),
    [
        (grid(5)[:2], curved(grid(5)[:2], 0), "3 or more"),
        (np.stack([np.arange(9.0), np.arange(9.0)], 1), curved(np.stack([np.arange(9.0)] * 2, 1), 0), "on a line"),
        (grid(5), curved(grid(5), 0) + np.random.default_rng(0).normal(0, 400, (25, 2)), r"within 2\.0 px"),
        (grid(5) / 3, curved(grid(5), 3.0), "no polynomial"),  # bent, but seen in a corner of the image only
    ],
)
def test_control_points_that_fit_nothing_are_refused(pixels: Floats, ground: Floats, why: str) -> None:
    with pytest.raises(NoReference, match=why):
        fit_control_points("", pixels, ground, 8000, 6000)


def rational(numbers: list[float], p: float, l: float, h: float) -> float:  # noqa: E741
    """The twenty terms of RPC00B."""
    terms = [1, l, p, h, l * p, l * h, p * h, l**2, p**2, h**2, p * l * h]
    terms += [l**3, l * p**2, l * h**2, l**2 * p, p**3, p * h**2, l**2 * h, p**2 * h, h**3]
    return float(np.dot(numbers, terms))


def test_rational_polynomials_are_inverted_at_their_mean_height() -> None:
    """The oracle goes the other way: what the formula of RPC00B makes of the place is the pixel, half a pixel apart."""
    from rasterio.rpc import RPC

    line = [0.001, 0.02, -1.05, 0.03, 0.001, 0, 0, 0.002, *[0.0] * 12]
    samp = [0.002, 1.02, 0.03, -0.01, 0.0005, 0, 0, 0.001, *[0.0] * 12]
    den = [1.0, 0.0005, -0.0003, 0.0002, *[0.0] * 16]
    rpc = RPC(
        height_off=120.0, height_scale=500.0, lat_off=48.1, lat_scale=0.05, long_off=11.5, long_scale=0.08,
        line_off=3000.0, line_scale=3000.0, samp_off=4000.0, samp_scale=4000.0,
        line_num_coeff=line, line_den_coeff=den, samp_num_coeff=samp, samp_den_coeff=den,
    )  # fmt: skip
    pixels = np.array([[10.0, 20.0], [4000.0, 3000.0], [7900.5, 5800.25]])
    lonlat = RpcReference("", rpc, 120.0).ground(pixels)
    for (x, y), (lon, lat) in zip(pixels, lonlat, strict=True):
        p, l, h = (lat - 48.1) / 0.05, (lon - 11.5) / 0.08, 0.0  # noqa: E741
        row = 3000 + 3000 * rational(line, p, l, h) / rational(den, p, l, h)
        column = 4000 + 4000 * rational(samp, p, l, h) / rational(den, p, l, h)
        assert (column + 0.5, row + 0.5) == pytest.approx((x, y), abs=0.01)


@settings(max_examples=20)
@given(st.integers(0, 2**31))
def test_places_do_not_depend_on_the_other_boxes(seed: int) -> None:
    """One by one, all at once, and beside one that fails: the same numbers."""
    rng = np.random.default_rng(seed)
    geo = reference("utm 56 south", "rotated")
    boxes = rng.uniform([0, 0, 5, 1, -1.5], [5000, 5000, 50, 5, 1.5], (4, 5)).astype(np.float32)
    together = locate(np.concatenate([boxes, np.array([[1e30, 0, 1, 1, 0]], np.float32)]), geo).lonlat[:4]
    alone = np.concatenate([locate(box[None], geo).lonlat for box in boxes])
    assert np.array_equal(together, alone) and np.isfinite(alone).all()
