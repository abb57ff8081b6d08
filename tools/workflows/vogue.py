"""VOGUE's workflows. The texts are examples that a user replaces."""

from __future__ import annotations

from .kits import VOGUE_KIT
from .task import Task

VOGUE_TASKS = (
    Task(
        kit=VOGUE_KIT,
        name="vogue_text_to_image",
        title="VOGUE: text to image",
        about="Describe a picture; VOGUE draws it.",
        preset="t2i",
        prompt="A brass telescope on a wooden balcony at dusk, a violet mountain range behind it, soft film grain.",
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_text_to_video",
        title="VOGUE: text to video",
        about="Describe a scene and what moves in it.",
        preset="t2v",
        prompt="A red kayak glides down a narrow river between tall pines. Mist drifts over the water, the paddle dips "
        "left and right, and the camera follows slowly from behind.",
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_image_to_video",
        title="VOGUE: image to video",
        about="The picture becomes the first frame, and the clip goes on from there. Its shape decides the shape of "
        "the clip. Describe the whole scene, not the motion alone.",
        preset="i2v",
        prompt="A sandy beach under a clear sky. Waves roll gently onto the shore while the sun climbs slowly, and the "
        "camera moves forward.",
        images=(("The first frame", "landscape.png"),),
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_edit_image",
        title="VOGUE: edit an image",
        about="Say what should change; the rest of the picture stays. One instruction may ask for several things at "
        "once: add, remove, replace, restyle.",
        preset="i2i_edit",
        prompt="Add round sunglasses to the person and turn the background into a night sky full of stars.",
        images=(("The picture to edit", "person.png"),),
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_edit_image_with_reference",
        title="VOGUE: edit an image with a reference image",
        about="The last picture is edited, the others are references: `task` of VINO References says so. This workflow "
        "shows the sampler in its parts, so that each can be exchanged.",
        preset="i+i2i_edit",
        prompt="Put the hat from the reference image on the person.",
        images=(("Reference", "hat.png"), ("The picture to edit", "person.png")),
        separate_sampler=True,
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_references_to_video",
        title="VOGUE: several references to video",
        about="Pictures of a person, of clothes, of a thing, combined in one scene. Describe the scene; `tags` of VINO "
        "Interleaved Encoder lets the prompt call them Image 1, Image 2, Image 3, as in the paper.",
        preset="multiid",
        prompt="A young person with brown hair, wearing a striped red shirt and a straw hat with a violet band, smiles "
        "and talks to the camera on a sunny beach.",
        images=(("A person", "person.png"), ("Clothes", "shirt.png"), ("A hat", "hat.png")),
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_edit_video",
        title="VOGUE: edit a video",
        about="Say what should change in the clip. Size and length follow the clip: up to 129 frames of it are used.",
        preset="v2v_edit",
        prompt="Turn the video into an oil painting with thick brush strokes.",
        videos=(("The clip to edit", "clip.mp4"),),
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_edit_video_with_reference",
        title="VOGUE: edit a video with a reference image",
        about="Bring something from a picture into a clip, or swap it in. Size and length follow the clip. Here "
        "too, one instruction may ask for several things at once.",
        preset="i+v2v_edit",
        prompt="Put the hat from the reference image on the person in the video, and make it evening.",
        images=(("Reference", "hat.png"),),
        videos=(("The clip to edit", "clip.mp4"),),
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_understand",
        title="VOGUE: ask about a video",
        about="The text encoder answers a question about clips and pictures. It reads as many frames as `length` of "
        "VINO References says: fewer are faster.",
        preset="v2v_edit",
        prompt="Describe what happens in this video, step by step.",
        videos=(("The clip", "clip.mp4"),),
        answer=True,
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_think_annotated",
        title="VOGUE: film an annotated picture",
        about="Thinking mode. Draw on a picture what should happen: arrows, circles, numbers, words. The text encoder "
        "writes a plan of what the marks mean and a full prompt; the clip begins with the picture, and the marks "
        "vanish. Read the plan: it tells whether your drawing was understood.",
        preset="i2v",
        prompt="The camera does not move.",
        images=(("The picture with marks", "annotated.png"),),
        think="annotated",
    ),
    Task(
        kit=VOGUE_KIT,
        name="vogue_think_canvas",
        title="VOGUE: film a story from a canvas",
        about="Thinking mode. Put pictures, sketches, arrows and notes on one canvas. The text encoder writes a plan "
        "of the story and a full prompt; the clip shows the story, not the canvas. Read the plan: it tells whether "
        "your canvas was understood.",
        preset="multiid",
        prompt="The style of a picture book.",
        images=(("The canvas", "canvas.png"),),
        think="canvas",
    ),
)
