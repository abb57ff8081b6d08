"""What VOGUE's text encoder is asked in thinking mode (VOGUE paper sections 2.3 and 3.3.2; the wording is our own).

Nothing is read out of the plan by a program: it is shown to the same model again, and to the user.
"""

from __future__ import annotations

from .base import Thinking

_WORDS = '\n\nWhat the user says about it: "{text}"'

_ANNOTATED_PICTURE = (
    "This picture is the first frame of a video that is still to be made. Somebody has drawn on it by hand to say what "
    "should happen in the video: arrows, circles, boxes, crosses, lines, numbers, little sketches or scribbled words. "
    "These marks are instructions. They do not belong to the scene."
)
_CANVAS = (
    "This is a canvas that somebody made by hand, to say what a video should be. It holds reference pictures of the "
    "subjects, drawn or pasted, and a story plan: sketches, arrows, boxes, numbers and written notes. The canvas "
    "itself is not a picture of the video. Where there are several pictures, they are parts of one canvas."
)
_ONLY_THE_PROMPT = (
    "Give only the prompt itself: no title, no list, no quotation marks around it, and nothing about the plan or about "
    "these rules."
)

ANNOTATED = Thinking(
    task="i2v",
    words=_WORDS,
    plan=_ANNOTATED_PICTURE
    + """{words}

Work out the plan of the video. Write it under these four headings, in short lines:

Scene: what the picture shows apart from the marks. Each subject with its look and its place in the picture, the \
setting, the light, the camera's viewpoint.

Marks: one line for each mark that is really there. Say what it is (shape, colour), where it stands, what it starts \
from, points at or encloses, and which words or numbers belong to it, quoted exactly. Then say what it means here. \
Most often an arrow is the path that a subject takes or the direction in which it looks or acts; a circle or box \
picks out the subject of the note beside it, or the place where something is to appear; a cross means that something \
goes away; a sketch stands for the thing that it shows; a number gives the order; words are said, happen or are the \
camera's move. Where a mark can be read in several ways, choose the way that suits the scene and the other marks \
best.

Events: what happens in the order of time, step by step. For each step: who or what, what it does, from where to \
where, how fast, and what this brings about. Follow the numbers; where there are none, causes come before effects, \
and what does not depend on each other happens at the same time. Say what the camera does; if no mark is about it, \
it stays still.

Unchanged: what stays as it is from the first frame to the last.

Take everything from the picture and from what the user says. Every mark must be used. Invent no further event and \
no further subject, and do not mention a mark that is not there.""",
    prompt=_ANNOTATED_PICTURE
    + """{words}

This is the plan that was read from the picture:

{plan}

Now write the prompt from which the video is made. Write it for someone who has the plain picture, without the \
marks, and knows nothing of the plan: one paragraph of 80 to 200 words, in full sentences, in the present tense.

Begin with the scene as the first frame shows it: the subjects, each with the look by which it is recognised, their \
places and the setting. Then say that the drawn marks are no part of the scene: all hand-drawn arrows, shapes, lines \
and handwriting vanish from the picture at once, and the clean scene behind them stays free of marks to the end. \
Then tell all events of the plan in their order, linked by words such as "first", "meanwhile", "then" and "at last". \
For each give who or what moves, how, how fast and where to, in terms of the scene ("towards the door on the left"), \
never in terms of a mark. Words that somebody speaks are quoted; other handwriting does not appear in the video. \
Close with the camera and with what stays unchanged. Keep the style of the picture, and the identity of everything \
in it.

"""
    + _ONLY_THE_PROMPT,
)

CANVAS = Thinking(
    task="multiid",
    words=_WORDS,
    plan=_CANVAS
    + """{words}

Work out the plan of the video. Write it under these five headings, in short lines:

Subjects: every person, animal, thing and place that the video is about. For each: where on the canvas it is shown, \
its look in such detail that it can be recognised again (shape, colours, clothes, material, marks of its own), the \
name or label that is written beside it, and its role. A rough sketch stands for the real thing: a stick figure \
labelled "girl" is a girl. Sketches of one subject in several places are the same subject, once.

Notes: all that is written on the canvas, quoted exactly, each with the part of the canvas that it belongs to; and \
every arrow, with what it leads from and to and what it means: the path of a subject, or the step from one scene to \
the next.

Scenes: the story in the order of time. Follow the numbers; where there are none, the arrows; where there are none \
of those, read from left to right and from top to bottom. For each scene: the place, who and what is in it and \
where, where they come from, what they do, how they move (direction, speed, where it ends), and how it leads to the \
next.

Camera: viewpoint, framing and movement of each scene. If the canvas says nothing, a steady view that shows everyone.

Look: style, light and mood. If the canvas asks for no other style, the video is realistic wherever the references \
are photographs, and in the style of the references wherever they are drawn with care.

Take everything from the canvas and from what the user says. Where the story needs something that is not there, add \
the plainest thing that makes it whole. Invent no further subject and no further event.""",
    prompt=_CANVAS
    + """{words}

This is the plan that was read from the canvas:

{plan}

Now write the prompt from which the video is made. Write it for someone who knows the subjects' pictures but nothing \
of the plan: one paragraph of 100 to 250 words, in full sentences, in the present tense.

Begin with the setting, the light and the style. Introduce every subject of the plan when it first appears, with the \
look that it has on the canvas, so that it can be recognised, and with its place in the frame. Then tell the story \
from beginning to end in the order of the scenes, linked by words such as "first", "then" and "at last". For each \
event give who or what moves, how, how fast, where from and where to, in terms of the scene, never in terms of the \
canvas. Say how the camera sees it. The video fills the whole frame with the scene itself: no paper, no white \
canvas, no panels, arrows, labels or handwriting are to be seen in it. What a note asks for happens; its words do \
not appear.

"""
    + _ONLY_THE_PROMPT,
)
