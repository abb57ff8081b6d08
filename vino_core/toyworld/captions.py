"""Words for scenes: names of sprites, short and long captions."""

from __future__ import annotations

from .sampling import Draw, label
from .world import FREE, STILL, Camera, Motion, Scene, Sprite, Style

GROUNDS = {
    "white": "a white background",
    "grey": "a grey background",
    "grass": "grass",
    "sand": "sand",
    "sea": "the sea",
    "night": "a night sky",
    "brick": "a brick wall",
    "tiles": "a tiled floor",
}
_BEFORE = {"night": "in front of", "brick": "in front of"}
_DETAILS = {
    "white": "The background is plain white and bright.",
    "grey": "The background is plain grey.",
    "grass": "The grass grows in a zigzag of light and dark green blades.",
    "sand": "The sand lies in soft, pale, wavy dunes.",
    "sea": "The sea is blue, with rows of lighter waves.",
    "night": "The night sky is dark, with rows of small white stars.",
    "brick": "The wall is built of red brown bricks with pale mortar between them.",
    "tiles": "The floor is laid with square tiles, light and dark by turns.",
}
_SURFACES = {
    "plain": ("has a plain surface", "is of one even colour"),
    "striped": ("is covered with slanting stripes", "has stripes all over"),
    "spotted": ("is covered with round spots", "has spots all over"),
}
_MOTIONS = {
    STILL: ("stays still", "does not move", "standing still"),
    "left": ("moves to the left", "glides to the left", "moving to the left"),
    "right": ("moves to the right", "glides to the right", "moving to the right"),
    "up": ("moves up", "rises", "moving up"),
    "down": ("moves down", "sinks", "moving down"),
    "circle": ("goes round in a circle", "moves in a circle", "moving in a circle"),
    "jump": ("jumps up and comes down again", "makes a jump", "jumping up and down"),
    "grow": ("grows", "becomes larger", "growing"),
    "shrink": ("shrinks", "becomes smaller", "shrinking"),
    "spin": ("turns upside down", "spins by half a turn", "spinning by half a turn"),
    FREE: ("moves along", "wanders", "wandering"),
}
_CAMERAS = {
    STILL: "the camera stays still",
    "left": "the camera pans to the left",
    "right": "the camera pans to the right",
    "up": "the camera pans up",
    "down": "the camera pans down",
    "in": "the camera zooms in",
    "out": "the camera zooms out",
    FREE: "the camera moves",
}
STYLES = {"greyscale": "in greyscale", "sepia": "in sepia", "negative": "as a negative", "mosaic": "as a mosaic"}
_NUMBERS = ("nothing", "one shape", "two shapes", "three shapes", "four shapes")


def article(words: str) -> str:
    """The words with "a" or "an" in front."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def the(sprite: Sprite) -> str:
    """How an instruction points at a sprite of a scene: "the red circle"."""
    return f"the {label(sprite)}"


def described(sprite: Sprite, with_size: bool = True) -> str:
    """All that words can say of a sprite's look: "small red striped circle"."""
    size = [sprite.size] if with_size else []
    if sprite.colour is None:
        return " ".join([*size, "patterned", sprite.shape])
    texture = [] if sprite.texture.kind == "plain" else [sprite.texture.kind]
    return " ".join([*size, *texture, sprite.colour, sprite.shape])


def at(sprite: Sprite) -> str:
    """Where a sprite stands: "at the top left"."""
    return f"{'in' if sprite.place_name == 'centre' else 'at'} the {sprite.place_name}"


def ground(scene: Scene) -> str:
    """The background as the end of a caption: "on grass"."""
    return f"{_BEFORE.get(scene.background, 'on')} {GROUNDS[scene.background]}"


def moves(motion: Motion, draw: Draw) -> str:
    """A motion as a verb: "moves to the left"."""
    return draw.pick(_MOTIONS[motion.kind][:2])


def moving(motion: Motion) -> str:
    """A motion as an attribute: "moving to the left"."""
    return _MOTIONS[motion.kind][2]


def filmed(camera: Camera) -> str:
    """What the camera does: "the camera zooms in"."""
    return _CAMERAS[camera.kind]


def sentence(text: str) -> str:
    """The text with a capital first letter and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def listed(parts: list[str]) -> str:
    """ "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def brief_caption(scene: Scene, draw: Draw) -> str:
    """A caption that leaves sizes and places open."""
    return _short(scene, [article(described(sprite, with_size=False)) for sprite in scene.sprites], draw)


def short_caption(scene: Scene, draw: Draw) -> str:
    """One sentence that says everything that words can say."""
    return _short(scene, [f"{article(described(sprite))} {at(sprite)}" for sprite in scene.sprites], draw)


def _short(scene: Scene, names: list[str], draw: Draw) -> str:
    parts = [
        name if sprite.motion.kind == STILL else f"{name} {moving(sprite.motion)}"
        for name, sprite in zip(names, scene.sprites, strict=True)
    ]
    text = f"{listed(parts)} {ground(scene)}"
    if scene.style.kind in STYLES:
        text += f", {STYLES[scene.style.kind]}"
    if scene.camera.kind != STILL:
        text += f", {filmed(scene.camera)}"
    return draw.pick((text, sentence(text)))


def long_caption(scene: Scene, draw: Draw, is_clip: bool) -> str:
    """A paragraph: everything of the short caption, surfaces and background in detail, and what stands still."""
    medium = "video" if is_clip else "picture"
    opening = draw.pick((f"The {medium} shows", f"This {medium} shows", f"This is a {medium} of"))
    shown = _NUMBERS[len(scene.sprites)]
    sentences = [f"{opening} {shown} {ground(scene)}.", _DETAILS[scene.background]]
    for sprite in scene.sprites:
        name, place = article(described(sprite)), at(sprite)
        sentences.append(sentence(draw.pick((f"{place} is {name}", f"{name} is {place}"))))
        facts = [draw.pick(_SURFACES[sprite.texture.kind])] if sprite.colour else ["has a pattern of its own"]
        if is_clip:
            facts.append(moves(sprite.motion, draw))
        sentences.append(f"It {listed(facts)}.")
    sentences += [style_sentence(scene.style, medium)] if scene.style.kind in STYLES else []
    sentences += [sentence(filmed(scene.camera))] if is_clip else []
    return " ".join(sentences)


def style_sentence(style: Style, medium: str) -> str:
    """The style as a sentence: "The whole picture is in sepia."."""
    return f"The whole {medium} is {STYLES[style.kind]}."
