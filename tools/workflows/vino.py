"""VINO's workflows. The texts are examples that a user replaces."""

from __future__ import annotations

from .kits import VINO_KIT
from .task import Task

VINO_TASKS = (
    Task(
        kit=VINO_KIT,
        name="vino_text_to_image",
        title="Text to image",
        about="Describe a picture; VINO draws it.",
        preset="t2i",
        prompt="A brass telescope on a wooden balcony at dusk, a violet mountain range behind it, soft film grain.",
    ),
    Task(
        kit=VINO_KIT,
        name="vino_text_to_video",
        title="Text to video",
        about="Describe a scene and what moves in it.",
        preset="t2v",
        prompt="A red kayak glides down a narrow river between tall pines. Mist drifts over the water, the paddle dips "
        "left and right, and the camera follows slowly from behind.",
    ),
    Task(
        kit=VINO_KIT,
        name="vino_image_to_video",
        title="Image to video",
        about="The picture becomes the first frame. Its shape decides the shape of the clip.",
        preset="i2v",
        prompt="Use Image 1 as the first frame. The camera moves forward slowly while the clouds drift to the right.",
        images=(("Image 1: the first frame", "landscape.png"),),
    ),
    Task(
        kit=VINO_KIT,
        name="vino_edit_image",
        title="Edit an image",
        about="Say what should change; the rest of the picture stays.",
        preset="ti2i",
        prompt="Add round sunglasses to the person in the image.",
        images=(("Image 1: the picture to edit", "person.png"),),
    ),
    Task(
        kit=VINO_KIT,
        name="vino_edit_image_with_reference",
        title="Edit an image with a reference image",
        about="The last picture is the base that is edited, the others are references: `base_image` says so to the "
        "encoder. A second guidance scale says how closely to follow the references. This workflow shows the sampler "
        "in its parts, so that each can be exchanged.",
        preset="ti2i_baseimg",
        prompt="Put the hat from Image 1 on the person in Image 2.",
        images=(("Image 1: reference", "hat.png"), ("Image 2: the picture to edit", "person.png")),
        base_image=True,
        separate_sampler=True,
    ),
    Task(
        kit=VINO_KIT,
        name="vino_references_to_video",
        title="Several references to video",
        about="Pictures of a person, of clothes, of a thing; the prompt calls them Image 1, Image 2, Image 3.",
        preset="ti2v",
        prompt="The person in Image 1 wears the shirt in Image 2 and the hat in Image 3, and talks to the camera.",
        images=(
            ("Image 1: person", "person.png"),
            ("Image 2: clothes", "shirt.png"),
            ("Image 3: hat", "hat.png"),
        ),
    ),
    Task(
        kit=VINO_KIT,
        name="vino_edit_video",
        title="Edit a video",
        about="Say what should change in the clip. Size and length follow the clip.",
        preset="tv2v",
        prompt="Turn the video into an oil painting with thick brush strokes.",
        videos=(("Video 1: the clip to edit", "clip.mp4"),),
    ),
    Task(
        kit=VINO_KIT,
        name="vino_edit_video_with_reference",
        title="Edit a video with a reference image",
        about="Bring something from a picture into a clip. Size and length follow the clip.",
        preset="tiv2v",
        prompt="Put the hat from Image 1 on the person in the video.",
        images=(("Image 1: reference", "hat.png"),),
        videos=(("Video 1: the clip to edit", "clip.mp4"),),
    ),
    Task(
        kit=VINO_KIT,
        name="vino_clone_motion",
        title="Clone motion or expression",
        about="The person in the picture does what the person in the clip does.",
        preset="tiv2v_clone",
        prompt="Apply the human motion of the reference video to the person in the image.",
        images=(("Image 1: who should move", "person.png"),),
        videos=(("Video 1: the motion", "clip.mp4"),),
    ),
    Task(
        kit=VINO_KIT,
        name="vino_clone_camera",
        title="Clone a camera move",
        about="The camera of the clip moves around the frozen scene of the picture. The negative prompt speaks against "
        "everything that moves by itself.",
        preset="tiv2v_camclone",
        prompt="Take the camera movement of the video and apply it to the scene in the image.",
        images=(("Image 1: the scene", "landscape.png"),),
        videos=(("Video 1: the camera move", "clip.mp4"),),
    ),
    Task(
        kit=VINO_KIT,
        name="vino_understand_then_generate",
        title="Understand, then generate",
        about="The text encoder first works out what the request means and writes a full description; that "
        "description becomes the prompt.",
        preset="t2v",
        prompt="Make a video of the harbour at 41.38 N, 2.18 E on a summer morning in 1890.",
        understand=True,
    ),
)
