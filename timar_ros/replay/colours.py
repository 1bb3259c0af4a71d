"""The colours of the two parties and of the floor, the same in videos, in RViz and in the browser: RGB, 0 to 255."""

from timar_ros.stream.frames import PARTNER, SELF

Colour = tuple[int, int, int]

PARTY_COLOURS: dict[str, Colour] = {SELF: (63, 184, 214), PARTNER: (242, 166, 90)}
FLOOR_COLOURS: dict[str, Colour] = {
    "self": PARTY_COLOURS[SELF],
    "partner": PARTY_COLOURS[PARTNER],
    "both": (176, 132, 222),
    "nobody": (62, 76, 90),
}
