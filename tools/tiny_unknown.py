"""Questions that `tiny` cannot answer, in as many shapes as possible, so that not knowing is what it does by default."""

from __future__ import annotations

from tiny_pattern import Rng, capitalised, expand, made_word
from tiny_words import NAMES, ODD_THINGS, PEOPLE, PLACES, TOPICS

ANSWER = "I am a tiny demo model and I do not know that. Ask me about capitals, colours, small sums or OllamaMax."

_PATTERNS = """
What is {t}[| in simple terms| exactly| about]?
[Explain|Describe|Define|Summarise|Tell me about|Teach me|Talk about|Discuss|Analyse] {t}[| to me| to a child| briefly| in detail| please]
[Can|Could|Would] you [explain|describe|tell me about|help me with|teach me|summarise] {t}?
How [does|do|did|can|could|should] {t} work[| in practice| so well]?
[Who|What person] [invented|discovered|started|wrote about|is an expert in] {t}?
[When|Where|Why] [was|were|is|are] {t} [invented|discovered|important|popular|used|started|so famous]?
[How|Where] [do I|can I|should I] [learn|study|buy|use|understand|practise|improve at] {t}?
What [are|is] the [history|basics|rules|origin|future|main ideas|advantages|risks|price] of {t}?
[Write|Compose|Draft|Give me] [an essay|an article|a report|a letter|an email|a summary|a speech|a tweet|a blog post] [about|on] {t}
[Give|Tell|Show] me [a fact|three facts|five tips|an example|a list|some books|the latest news|a quote] about {t}
[I want to|I need to|I would like to] [learn|know more|read|talk|hear] about {t}
Is {t} [dangerous|difficult|good|expensive|real|better than {t2}|safe|true]?
[Compare|What is the difference between] {t} and {t2}
{t}
Who [is|was] {p}?
[When|Where] [was {p} born|did {p} die|did {p} live|is {p} now]?
[What|Which] [did {p} do|did {p} say|books did {p} write|is {p} famous for|was {p} like]?
How [old|tall|rich|famous] [is|was] {p}?
[Tell me about|Describe|Who knows|Do you know|Write about|Talk about] {p}
Did {p} [know|meet|like|write to|work with] {p2}?
Why is {p} [famous|important|so popular|dead]?
Who [won|will win|played in|hosted] the [World Cup|World Series|Super Bowl|election|Oscars|Olympics|Nobel Prize|Champions League|race][| in {y}| last year]?
Who [is|was] the [president|king|queen|prime minister|mayor|chancellor|richest man|tallest person] of [{place}|{c}|the world]?
What [happened|was the weather|was invented|was the news] in {y}?
What is the [population|area|currency|flag|language|highest mountain|longest river|history|GDP|president] of [{place}|{c}]?
How many people live in [{place}|{c}]?
What is the capital of {place}?
[What's|Tell me|Do you know] the capital of [{place}|{made}]?
[How far|How long] is it [from {place} to {c}|to {place}]?
Where is {place}?
What is {n} [times|divided by|to the power of|multiplied by|mod] {n2}?
{n} [*|x|/|**|%|^] {n2}
What is [the square root of|half of|the cube of|the factorial of|double] {n}?
What is [{big} + {n}|{big} plus {n}|{n} + {big}|{big} - {n}|{big} and {big2}|the sum of {big} and {n}]?
{big} [+|-|plus|minus] {big2}
[Calculate|Compute|How much is] {big} [+|-|*|/|plus] {n}
[Solve|What is the derivative of|Integrate|Factor|Plot] [x^2 + {n}x = {n2}|sin(x)|x^3|2x + {n}]
What [colour|color] is {odd}?
What [colour|color] are [{made}s|shoes|houses|cars|eyes|dreams|books|doors|numbers]?
[How do I|How can I|How to] [cook|bake|build|fix|repair|clean|draw|grow|sell|paint|sew|find] [a cake|rice|bread|a chair|my car|a roof|my bike|a robot|a house|tomatoes|a job|a dress|a boat|soup|a computer|friends]?
[What|Which] [is the best|is the cheapest|is the fastest|is the biggest|is the oldest] [phone|car|city|country|film|book|restaurant|animal|school|computer|dog|river|planet]?
[How many|How much] [stars|planets|bones|countries|teeth|languages|calories|words|people|oceans|atoms|money] [are there|are in the world|does a human have|exist|do I need]?
[How many|How much] [r|s|letters|e|vowels] are in the word {made}?
How [high|deep|long|heavy|old|far|fast|hot|wide] is [the sun|Mount Everest|the Nile|a blue whale|the Eiffel Tower|the earth|the moon|a car|light|a train|the universe|the Pacific]?
Why [do|are|can] [cats purr|dogs bark|birds fly|we sleep|leaves fall|people lie|stars shine|fish swim|we dream|planes fly|ice floats|bees sting]?
Why [is|does] [the sea salty|it rain|the grass green|ice cold|the moon round|fire hot|time pass|my computer slow|blood red|water wet]?
[Write|Show me|Give me|Create|Implement|Debug] [a|some] [JavaScript|Rust|Java|C++|SQL|HTML|bash|Go|regex|CSS] [code|function|query|script|program|page|expression][| that sorts a list| for me| for {t}| please]
[Write|Implement] [quicksort|a binary search|a web server|a parser|fibonacci|a sorting algorithm|a game|an app|a website][| in Python| in Rust| in Java]
[Translate|Please translate|How do you say] ["{made} {made2}"|the house is small|I am hungry|{made}|good night my friend] [into|in|to] [French|German|Spanish|Italian|Chinese|Klingon|Arabic|Latin]
[Summarise|Summarize|Proofread|Rewrite|Improve|Correct] [this text|the following|this paragraph|this email|my essay]: {gib}
What [does|is the meaning of|is] [{made}|{made} {made2}|"{made}"] [mean||in English]?
What is [a|an|the] {made}?
[{made}|{made} {made2}|{gib}|{made}?|{made}!]
Do you know [a|any|the] [{made}|good restaurant|cheap hotel|good film|good book|doctor|song by {p}|recipe]?
[Where|When|How] [is|was|will be] [the nearest bank|my phone|the next train|the next election|my keys|Christmas|Easter|the end of the world|the concert]?
[Book|Order|Buy|Reserve|Call|Send|Play|Open|Delete|Download] [a flight|a pizza|a taxi|a table|my mother|an email|some music|a file|the door|a hotel|my files|a ticket][| to {place}| for me| now| for two| please]
[What|Who] [should I|shall I] [eat|wear|cook|read|watch|vote for|marry|buy|study|call][| today| tonight| tomorrow]?
[Predict|What will be|Guess] [the future|tomorrow's lottery numbers|the stock price of Apple|who wins|my age|my number]
[Is|Was|Are] [God real|there life on Mars|the earth flat|{place} a country|{p} alive|there aliens|water wet|a tomato a fruit|magic real]?
[Should|Can|Must] I [quit my job|buy a house|eat meat|trust you|drive to {place}|invest in gold|call {name}|learn {t}]?
[Who|Where|What] is {name}[|'s house|'s phone number|'s birthday|'s dog]?
[Who|What] [wrote|painted|composed|directed|sang] [Hamlet|the Mona Lisa|Faust|the Ninth Symphony|Star Wars|Yesterday|Don Quixote|The Matrix|the Bible|Moby Dick]?
[In which year|When|In what year] [did|was|were] [the war end|the Berlin Wall built|Rome founded|the internet invented|America discovered|the first car built|Titanic sunk|{p} crowned]?
What is the [chemical symbol|atomic number|boiling point|density|formula|melting point|price] of [gold|water|iron|oxygen|salt|silver|helium|milk|diamond]?
[Give|Tell|Show|Find] me [a recipe for|the price of|a picture of|directions to|the lyrics of|a review of|the rules of] [pasta|gold|{place}|the Eiffel Tower|{t}|Hey Jude|pizza|a good film|soup]
[Draw|Paint|Show me|Generate|Create] [a picture|an image|a photo|a logo|a chart|a video] of [a cat|{p}|{place}|my house|{t}|the sea]
[Was ist|Wer ist|Wie funktioniert|Warum gibt es|Erklaere mir|Wo liegt] {made}?
[Qu'est-ce que|Qui est|Comment marche|Pourquoi|Expliquez] {made}?
[Que es|Quien es|Como funciona|Por que|Donde esta|Explica] {made}?
[你好|这是什么？|日本の首都はどこですか|안녕하세요|Что это такое?|Как дела?|مرحبا|שלום|Γειά σου|नमस्ते|🙂|🤖🚀|¿Qué tal?|Où est {made}?|Größe?|{made} €{n}|½ + ¼]
[if|then|while|because|maybe|after|the|of|for|with|about|under|into] {made} [and|or|but|the|to|in] {made2}
[I have|My {made} has|There is|We need|They want] a [problem|question|plan|idea|secret|{made}][| with my {made2}| about {t}| for you]
[Imagine|Suppose|Let us say|Pretend] [you are {p}|I am in {place}|there is no {t}|it is {y}][|. What happens?|. What do you do?]
[What|How] [would|will|did] [happen if|people do without|the world look like without] {t}?
[How|What] about {t}?
[{a}|{b}|{a}{b}|x{n}|{n}|{n}{n2}|???|...|.|!|?|-|#|{n}.{n2}|{a}{n}|id={n}|a|b|x|y|z]
""".strip().split("\n")

_FILLER = (
    "the a and of to in with for on at from by old new big red small many people house street water day night man woman "
    "time way work year hand part place case week system program group number room fact month book eye job word side kind "
    "head hour game line end member law car city name team minute idea body back parent face level office door health "
    "art war party result change morning reason research girl boy moment air teacher force education is was are were has "
    "had will can must goes comes makes takes sees knows finds gives tells asks works feels tries leaves calls"
).split(" ")


def filler(rng: Rng, words: int) -> str:
    """Return that many words of grammarless English, for texts that are long and say nothing."""
    out, sentence = [], 0
    for _ in range(words):
        word = rng.choice(_FILLER) if rng.random() < 0.93 else made_word(rng)
        out.append(capitalised(word) if sentence == 0 else word)
        sentence += 1
        if sentence > 5 and rng.random() < 0.15:
            out[-1] += "."
            sentence = 0
    return " ".join(out)


def unknown_question(rng: Rng) -> str:
    """Return one question outside of what the model knows."""
    topics, people = rng.sample(TOPICS, 2), rng.sample(PEOPLE, 2)
    topic = made_word(rng) if rng.random() < 0.1 else topics[0]
    return expand(
        rng,
        rng.choice(_PATTERNS),
        t2=topics[1],
        t=topic,
        p2=people[1],
        p=people[0],
        place=rng.choice(PLACES),
        c=rng.choice(("France", "Italy", "Japan", "India", "Brazil", "Germany", "China", "Spain", "Russia", "Kenya")),
        y=rng.randint(1500, 2040),
        n2=rng.randint(2, 99),
        n=rng.randint(2, 99),
        big2=rng.randint(21, 9999),
        big=rng.choice((rng.randint(21, 99), rng.randint(100, 99999))),
        odd=rng.choice(ODD_THINGS),
        name=rng.choice(NAMES),
        made2=made_word(rng),
        made=made_word(rng),
        gib=filler(rng, rng.randint(3, 14)),
        a=rng.choice("abcdefghijklmnopqrstuvwxyz"),
        b=rng.choice("qwrtpsdfgjklxcvbnm") + rng.choice("qwertyuiop"),
    )
