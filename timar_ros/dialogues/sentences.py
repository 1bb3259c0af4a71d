"""What the parties say: a grammar of small talk with dialogue acts and a large vocabulary.

The sentences need not make a story; they need the lengths, clauses, acts and the variety of sounds
of talk. A template holds `{slot}`s, filled from `VOCABULARY` (again with templates), and commas
where a speaker may pause.
"""

import re
from dataclasses import dataclass

import numpy as np

STATEMENT = "statement"
YES_NO_QUESTION = "yes-no question"
OTHER_QUESTION = "other question"
YES_ANSWER = "yes answer"
NO_ANSWER = "no answer"
AGREEMENT = "agreement"
APPRECIATION = "appreciation"
BACKCHANNEL = "backchannel"
QUESTIONS = (YES_NO_QUESTION, OTHER_QUESTION)


@dataclass(frozen=True)
class Sentence:
    act: str
    text: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("/") if part.strip())


VOCABULARY = {
    "person": _words(
        "my sister / my brother / my uncle / my aunt / my neighbour / a friend of mine / my "
        "cousin / our teacher / my grandfather / my mother / the woman next door / my old boss / "
        "the guide / this young fellow / a nurse / my daughter / our son / the plumber / the "
        "baker / Michael / Susan / George / Patricia / Vincent / Abigail / Oscar / Beth / Philip "
        "/ Naomi / Thomas / Judy / Walter / Yvonne / Hugo / Zoe / Matthew / Charlotte / Ethan / "
        "Margaret / Bob / Pam"
    ),
    "place": _words(
        "the museum / the beach / the market / the harbour / the library / a small cafe / the zoo "
        "/ the old bridge / the train station / the castle / the swimming pool / the botanical "
        "garden / the cinema / the football ground / the bookshop / the mountains / the village "
        "church / the aquarium / the science fair / the airport / the bakery on the corner / the "
        "hospital / a little pub / the theatre / the lighthouse / the vineyard / the workshop / "
        "the park / the planetarium / a campsite by the lake / the flea market / the town hall / "
        "the forge"
    ),
    "city": _words(
        "Boston / Paris / Vienna / Oslo / Chicago / Lisbon / Prague / Montreal / Bombay / Tokyo / "
        "Edinburgh / Sydney / Havana / Athens / Berlin / Warsaw / Dublin / Phoenix / Geneva / "
        "Naples"
    ),
    "food": _words(
        "apple pie / mushroom soup / fresh bread / chocolate cake / roast beef / a bowl of pasta "
        "/ pumpkin soup / goat cheese / strawberry jam / grilled fish / a cheese sandwich / fried "
        "rice / lemon pudding / pancakes with maple syrup / a spicy curry / vegetable stew / "
        "boiled potatoes / honey and yoghurt / peanut butter / scrambled eggs / smoked salmon / a "
        "plum tart / oysters / popcorn / beans on toast / cherry ice cream / a big salad / garlic "
        "bread / blueberry muffins"
    ),
    "animal": _words(
        "dog / cat / parrot / pony / rabbit / fox / owl / goose / turtle / monkey / whale / "
        "penguin / squirrel / hedgehog / bumblebee / crow / elephant / wolf / beaver / butterfly "
        "/ lamb / shark"
    ),
    "thing": _words(
        "picture / bicycle / camera / telescope / piano / blanket / lamp / umbrella / puppet / "
        "clock / map / basket / violin / robot / statue / pair of boots / paper boat / vase / "
        "telephone / painting / sofa / wardrobe / typewriter / box of books / fishing rod / "
        "sewing machine / chessboard / pump / mirror / kettle / toolbox / radio / sweater / "
        "tablecloth / microscope / model ship / jigsaw puzzle / pottery wheel / rug / hammer / "
        "gold watch / pebble / pumpkin"
    ),
    "adj": _words(
        "beautiful / strange / huge / tiny / cheap / very old / broken / wonderful / boring / "
        "heavy / peaceful / colourful / noisy / useful / ugly / smooth / bright / dusty / "
        "marvellous / clever / awful / unusual / lovely / dangerous / expensive / simple / "
        "fragile / impressive / cosy / charming / complicated / shiny / bumpy / warm / perfect / "
        "special / funny / terrible / brown"
    ),
    "feeling": _words(
        "happy / tired / nervous / surprised / excited / a bit worried / grateful / annoyed / "
        "relaxed / proud / confused / hungry / pleased / curious / fed up / lonely / amazed / "
        "calm / jealous"
    ),
    "activity": _words(
        "painting / cooking / playing chess / fixing bikes / swimming / singing in the choir / "
        "collecting stamps / growing tomatoes / baking bread / reading about history / hiking / "
        "learning Spanish / building furniture / watching birds / playing the cello / juggling / "
        "taking photographs / keeping bees / repairing old radios / sailing / climbing / jogging "
        "/ knitting socks / teaching maths / programming / walking the dog / chopping wood / "
        "fishing"
    ),
    "did": _words(
        "went to {place} / bought a {adj} {thing} / saw a {adj} {animal} near {place} / made "
        "{food} for {person} / started {activity} / lost my {thing} at {place} / moved to {city} "
        "/ talked to {person} about {activity} / found a {thing} in the attic / watched a film "
        "about a {animal} / broke the {thing} / took the bus to {place} / tried {food} for the "
        "first time / drove all the way to {city} / painted the {room} / gave the {thing} to "
        "{person} / fell asleep on the sofa / met {person} at {place} / stopped {activity} / "
        "missed the last train to {city} / cleaned the whole {room} / planted {number} trees / "
        "ordered {food} / borrowed a {thing} from {person} / heard a {animal} in the garden / got "
        "up at {number} in the morning"
    ),
    "do": _words(
        "go to {place} / buy a {thing} / make {food} / try {activity} / move to {city} / talk to "
        "{person} / sell the {thing} / visit {person} / fix the {thing} / feed the {animal} / "
        "paint the {room} / eat {food} / take the bus / learn more about it / stay at home / "
        "watch the match / give it another chance / ask somebody who knows / put it in the {room}"
    ),
    "room": _words("kitchen / bathroom / bedroom / cellar / garage / garden shed / living room / hallway / office"),
    "number": _words(
        "two / three / four / five / six / seven / eight / nine / ten / eleven / twelve / fifteen "
        "/ twenty / thirty five / forty / fifty / a hundred"
    ),
    "time": _words(
        "yesterday / last week / this morning / on Sunday / two years ago / last summer / in "
        "March / on my birthday / after work / the other day / over the weekend / a month ago / "
        "at Christmas / in the spring / late at night / before breakfast / on Tuesday / last "
        "February"
    ),
    "future": _words(
        "tomorrow / next week / this evening / in the summer / on Friday / after lunch / some day "
        "/ next year / as soon as I can / before the winter / at the weekend"
    ),
    "weather": _words(
        "it was raining / the sun was shining / there was fog everywhere / it was freezing / the "
        "wind was blowing / it was far too hot / there was thunder / the roads were full of snow"
    ),
    "subject": _words(
        "the food / the music / the guide / the whole thing / the weather / the view / the "
        "traffic / the garden / the house / the old part of town / the show / the museum / the "
        "school / the job / the noise / the water / the price / the book / the last part / the "
        "beach / the choir"
    ),
    "filler": _words("well / so / you know / I mean / actually / anyway / um / oh / look / okay so"),
    "hedge": _words("I think / I guess / I suppose / I believe / if you ask me / to be honest / maybe"),
    "very": _words("really / very / quite / pretty / so / rather / a bit / surprisingly / always"),
    "because": _words("because / since / and / but / so / although / and then"),
    "who": _words("we / they / I / she / he / people / my parents / the children / you"),
}

STATEMENTS = _words(
    "I {did} {time} / {person} and I {did} {time} / {time}, I {did} / {filler}, I {did} / we "
    "{did}, {because} {weather} / I {did}, and then we {did} / {person} {did} {time}, and "
    "{subject} was {very} {adj} / {hedge}, {subject} was {very} {adj} / {subject} was {very} "
    "{adj} / it was {very} {adj} / it looked like a {adj} {thing} / I was {very} {feeling} / I "
    "was {feeling}, {because} {weather} / {who} had {food}, and it was {adj} / {person} is {very} "
    "{feeling} about it / I have been {activity} for {number} years / I have always liked "
    "{activity} / {person} likes {activity}, but I prefer {activity} / there was a {adj} {animal} "
    "in {place} / there were {number} of them, all {adj} / I want to {do} {future} / {hedge}, we "
    "should {do} {future} / {person} told me to {do} / you can {do}, if you {do} first / I never "
    "{did} before / I would not {do} / if I {did}, {person} would be {feeling} / that {thing} "
    "belongs to {person} / {who} used to {do} every week / in {city}, {who} all {do} / {filler}, "
    "it was {adj} / I was {feeling} / it cost {number} dollars / we stayed for {number} days, in "
    "{city} / what I liked most, was the {adj} {thing} / {filler}, {subject} was {adj}, and "
    "{subject} was {adj} too / {person} has a {animal}, and a {animal}, and {number} chickens / "
    "they {did}, {because} they were {very} {feeling}, and nobody wanted to {do} / it took us "
    "{number} hours to get there, {because} {weather}, and the bus was {adj} / the {thing} in the "
    "{room} was {adj} / {person} {did} / not {very} {adj} / just a {adj} {thing} / so {who} had "
    "to {do} / I could not {do} / with {person} / {time} / in {city} / for {number} years"
)
YES_NO_QUESTIONS = _words(
    "did you {do} {time} / have you ever been to {city} / do you like {activity} / was it {adj} / "
    "do you want to {do} {future} / is {person} still {activity} / were you {feeling} / can you "
    "{do} / did {person} tell you / is that your {thing} / are you {feeling} / would you {do} "
    "again / do you know {person} / really / was {subject} {adj} / do you have a {animal} / have "
    "you tried {food} / is it far from {place} / you like {activity}"
)
OTHER_QUESTIONS = _words(
    "what did you do {time} / where did you buy the {thing} / how was {subject} / why did "
    "{person} {do} / when do you {do} / who told you about {place} / what do you think about "
    "{activity} / how long did it take / what is your favourite {thing} / how many days were you "
    "in {city} / what was the {thing} like / which {animal} was it / do you prefer {food}, or "
    "{food} / where is {person} now / and what about you / how come / what for"
)
YES_ANSWERS = _words(
    "yes / yeah / yes, I did / yes, of course / sure / yes, {very} {adj} / oh yes, I love "
    "{activity} / yeah, I think so / absolutely / yes, {time} / I do / of course I did / yep"
)
NO_ANSWERS = _words(
    "no / no, not really / no, I did not / never / not yet / no, {person} did / I do not think so "
    "/ no, but I want to {do} / not at all / nope"
)
AGREEMENTS = _words(
    "that's true / I agree / you are right / exactly / that's right / definitely / I think so too "
    "/ oh absolutely / yeah, that's what I think / me too / so do I / of course"
)
APPRECIATIONS = _words(
    "oh, that's {adj} / oh wow / that sounds {adj} / that's great / how {adj} / oh no / lovely / "
    "good for you / that's funny / I can imagine / you must have been {feeling} / really / oh my"
)
# Share of each form after the counts in Switchboard: "uh-huh" and "yeah" make up most.
BACKCHANNELS = (
    ("uh-huh", 0.30),
    ("yeah", 0.28),
    ("[m hh m]", 0.12),
    ("right", 0.11),
    ("okay", 0.06),
    ("oh", 0.04),
    ("I see", 0.03),
    ("really", 0.02),
    ("yes", 0.02),
    ("sure", 0.02),
)
_TEMPLATES = {
    STATEMENT: STATEMENTS,
    YES_NO_QUESTION: YES_NO_QUESTIONS,
    OTHER_QUESTION: OTHER_QUESTIONS,
    YES_ANSWER: YES_ANSWERS,
    NO_ANSWER: NO_ANSWERS,
    AGREEMENT: AGREEMENTS,
    APPRECIATION: APPRECIATIONS,
}
_SLOT = re.compile(r"\{(\w+)\}")


def draw_sentence(act: str, rng: np.random.Generator) -> Sentence:
    """A random sentence of a dialogue act."""
    if act == BACKCHANNEL:
        forms, shares = zip(*BACKCHANNELS, strict=True)
        return Sentence(act, str(rng.choice(forms, p=np.array(shares) / sum(shares))))
    templates = _TEMPLATES[act]
    text = templates[rng.integers(len(templates))]
    while match := _SLOT.search(text):
        options = VOCABULARY[match[1]]
        text = text[: match.start()] + options[rng.integers(len(options))] + text[match.end() :]
    text = re.sub(r"\ba (?=[aeiou])", "an ", text)
    return Sentence(act, text + ("?" if act in QUESTIONS else "."))


def draw_turn(after: str | None, rng: np.random.Generator) -> list[Sentence]:
    """The sentences of one turn that answers the partner's last act (None: opens the talk)."""
    acts: list[str] = []
    if after == YES_NO_QUESTION:
        acts.append(YES_ANSWER if rng.random() < 0.65 else NO_ANSWER)
    elif after is not None and after not in QUESTIONS:
        chance = rng.random()
        if chance < 0.16:
            acts.append(AGREEMENT)
        elif chance < 0.34:
            acts.append(APPRECIATION)
    # Turn lengths are very uneven: many of one sentence, some that are stories.
    more = int(rng.geometric(0.62)) if rng.random() < 0.6 else int(rng.geometric(0.28))
    acts += [STATEMENT] * (more - 1 if acts and rng.random() < 0.3 else more)
    if rng.random() < 0.3:
        acts.append(YES_NO_QUESTION if rng.random() < 0.45 else OTHER_QUESTION)
    return [draw_sentence(act, rng) for act in acts]
