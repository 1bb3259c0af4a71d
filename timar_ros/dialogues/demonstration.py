"""The demonstration: a visitor tells a social robot about a day at the museum.

Fixed text and seed, spoken and timed by the same functions as every generated dialogue. Party 0 is
the robot ("self"), party 1 the visitor ("partner").
"""

from dataclasses import dataclass

import numpy as np

from timar_ros.dialogues.dialogue import (
    Dialogue,
    Party,
    Phrase,
    add_responses,
    finish,
    speak_backchannel,
    speak_sentence,
)
from timar_ros.dialogues.sentences import (
    AGREEMENT,
    APPRECIATION,
    BACKCHANNEL,
    OTHER_QUESTION,
    STATEMENT,
    YES_ANSWER,
    YES_NO_QUESTION,
)
from timar_ros.dialogues.traits import draw_traits
from timar_ros.dialogues.voices import Voice

ROBOT, VISITOR = 0, 1
ROBOT_VOICE = Voice("rms", 104.0, 20.0, 0.95, 1.03, -23.0, 2.5)
VISITOR_VOICE = Voice("slt", 190.0, 34.0, 0.92, 1.04, -23.0, 3.0)
_SEED = 1912


@dataclass(frozen=True)
class Line:
    """`gap_s` counts from the end of the turn spoken last, backchannels left out: a negative one
    overlaps. The effort is against the voice's ordinary one."""

    party: int
    act: str
    text: str
    gap_s: float
    effort_db: float = 0.0


SCRIPT = (
    Line(VISITOR, STATEMENT, "Hi there.", 0.6, 1.0),
    Line(VISITOR, OTHER_QUESTION, "Guess where I went yesterday?", 0.3),
    Line(ROBOT, STATEMENT, "Hello. You sound happy, so I guess it was somewhere fun.", 0.15),
    Line(VISITOR, YES_ANSWER, "Yes, I went to the museum with my brother.", 0.1, 1.0),
    Line(ROBOT, BACKCHANNEL, "uh-huh", 0.05),
    Line(VISITOR, STATEMENT, "They have a new room about the sea, and there is a blue whale.", 0.55),
    Line(ROBOT, BACKCHANNEL, "oh", -0.05),
    Line(VISITOR, STATEMENT, "It hangs from the ceiling, and it is really, really huge.", 0.5, 3.0),
    Line(ROBOT, OTHER_QUESTION, "A whale? How big is it?", -0.45, 2.0),
    Line(VISITOR, STATEMENT, "Well, almost as long as two buses.", 0.2),
    Line(ROBOT, BACKCHANNEL, "[m hh m]", 0.2),
    Line(VISITOR, STATEMENT, "You can walk underneath it, and hear it sing.", 1.8, -2.0),
    Line(ROBOT, APPRECIATION, "That sounds wonderful.", 0.1, 1.0),
    Line(ROBOT, YES_NO_QUESTION, "Did your brother like it too?", 0.25),
    Line(VISITOR, STATEMENT, "Oh, he sat down on a bench, and fell asleep.", 0.2, 1.0),
    Line(ROBOT, STATEMENT, "Maybe the whale sang him to sleep.", 0.25),
    Line(VISITOR, AGREEMENT, "Yeah, exactly.", -0.3, 3.0),
    Line(VISITOR, YES_NO_QUESTION, "Would you like to come with me next time?", 0.45),
    Line(ROBOT, YES_ANSWER, "Yes, I would like that very much.", 0.25, 1.0),
    Line(VISITOR, BACKCHANNEL, "okay", -0.1),
    Line(ROBOT, STATEMENT, "I have heard that they also have a room full of old robots.", 0.5),
    Line(VISITOR, STATEMENT, "Then let us go on Tuesday.", 0.1, 1.0),
)


def demonstration() -> Dialogue:
    """The demonstration's dialogue, the same on every call (with the same flite)."""
    rng = np.random.default_rng(_SEED)
    dialogue = Dialogue((Party(ROBOT_VOICE, draw_traits(rng, 0.6)), Party(VISITOR_VOICE, draw_traits(rng, 0.6))))
    end, turn = 0.0, 0
    speaking: int | None = None
    for line in SCRIPT:
        voice = dialogue.parties[line.party].voice
        if line.act == BACKCHANNEL:
            phrase = speak_backchannel(voice, line.party, end + line.gap_s, turn, rng, text=line.text)
            dialogue.phrases.append(phrase)
            continue
        if speaking not in (None, line.party):
            turn += 1
        speaking = line.party
        speech = speak_sentence(voice, line.text, line.effort_db, rng)
        phrase = Phrase(line.party, line.act, line.text, end + line.gap_s, speech, turn)
        dialogue.phrases.append(phrase)
        end = phrase.end
    finish(dialogue, 0.9)
    for listener in (ROBOT, VISITOR):
        # Nods and smiles only: the script alone says what is spoken.
        add_responses(dialogue, listener, rng, aloud=False)
    return dialogue
