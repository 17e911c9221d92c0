"""Each room at the top of the repository becomes feallm.<room>."""

from setuptools import find_packages, setup

ROOMS = ("runtime", "model", "calibration", "export", "edge")
inside = find_packages(include=[p for room in ROOMS for p in (room, f"{room}.*")])
setup(
    packages=["feallm", *(f"feallm.{name}" for name in inside)],
    package_dir={"feallm": "feallm", **{f"feallm.{room}": room for room in ROOMS}},
)
