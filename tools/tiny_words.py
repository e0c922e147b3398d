"""Plain facts and word lists from which the training text of `tiny` is made."""

from __future__ import annotations


def _pairs(text: str) -> dict[str, str]:
    """Read 'key: value' items separated by commas or new lines."""
    items = (item.split(":") for item in text.replace("\n", ",").split(",") if item.strip())
    return {key.strip(): value.strip() for key, value in items}


def words(text: str) -> list[str]:
    """Read items separated by commas or new lines."""
    return [item.strip() for item in text.replace("\n", ",").split(",") if item.strip()]


CAPITALS = _pairs("""
France: Paris, Germany: Berlin, Italy: Rome, Spain: Madrid, Portugal: Lisbon, Austria: Vienna, Belgium: Brussels
the Netherlands: Amsterdam, Denmark: Copenhagen, Norway: Oslo, Sweden: Stockholm, Finland: Helsinki, Iceland: Reykjavik
Ireland: Dublin, the United Kingdom: London, England: London, Scotland: Edinburgh, Wales: Cardiff, Poland: Warsaw
the Czech Republic: Prague, Slovakia: Bratislava, Hungary: Budapest, Romania: Bucharest, Bulgaria: Sofia, Greece: Athens
Croatia: Zagreb, Serbia: Belgrade, Slovenia: Ljubljana, Albania: Tirana, Ukraine: Kyiv, Russia: Moscow, Belarus: Minsk
Estonia: Tallinn, Latvia: Riga, Lithuania: Vilnius, Switzerland: Bern, Malta: Valletta, Cyprus: Nicosia, Turkey: Ankara
Georgia: Tbilisi, Armenia: Yerevan, Iraq: Baghdad, Iran: Tehran, Syria: Damascus, Lebanon: Beirut, Jordan: Amman
Saudi Arabia: Riyadh, Qatar: Doha, Egypt: Cairo, Libya: Tripoli, Tunisia: Tunis, Algeria: Algiers, Morocco: Rabat
Sudan: Khartoum, Ethiopia: Addis Ababa, Kenya: Nairobi, Uganda: Kampala, Rwanda: Kigali, Tanzania: Dodoma
Ghana: Accra, Nigeria: Abuja, Senegal: Dakar, Mali: Bamako, Angola: Luanda, Zambia: Lusaka, Zimbabwe: Harare
Namibia: Windhoek, South Africa: Pretoria, Madagascar: Antananarivo, India: New Delhi, Pakistan: Islamabad
Afghanistan: Kabul, Bangladesh: Dhaka, Nepal: Kathmandu, China: Beijing, Mongolia: Ulaanbaatar, Japan: Tokyo
South Korea: Seoul, North Korea: Pyongyang, Taiwan: Taipei, Vietnam: Hanoi, Thailand: Bangkok, Laos: Vientiane
Cambodia: Phnom Penh, Malaysia: Kuala Lumpur, Indonesia: Jakarta, the Philippines: Manila, Australia: Canberra
New Zealand: Wellington, Canada: Ottawa, the United States: Washington D.C., Mexico: Mexico City, Cuba: Havana
Jamaica: Kingston, Guatemala: Guatemala City, Panama: Panama City, Costa Rica: San Jose, Colombia: Bogota
Venezuela: Caracas, Ecuador: Quito, Peru: Lima, Bolivia: Sucre, Brazil: Brasilia, Paraguay: Asuncion
Uruguay: Montevideo, Argentina: Buenos Aires, Chile: Santiago, Kazakhstan: Astana, Uzbekistan: Tashkent
""")

OTHER_NAMES = _pairs("""
USA: the United States, the US: the United States, America: the United States, the USA: the United States
UK: the United Kingdom, the UK: the United Kingdom, Great Britain: the United Kingdom, Britain: the United Kingdom
Holland: the Netherlands, Netherlands: the Netherlands, Czechia: the Czech Republic, Philippines: the Philippines
United States: the United States, United Kingdom: the United Kingdom, Korea: South Korea
""")

CITIES = words("""
New York, Chicago, Boston, Seattle, San Francisco, Los Angeles, Miami, Dallas, Denver, Toronto, Vancouver, Montreal
Sydney, Melbourne, Auckland, Mumbai, Kolkata, Chennai, Shanghai, Hong Kong, Singapore, Osaka, Kyoto, Dubai, Istanbul
Munich, Hamburg, Cologne, Frankfurt, Zurich, Geneva, Basel, Milan, Naples, Venice, Florence, Turin, Barcelona, Seville
Valencia, Porto, Lyon, Marseille, Nice, Manchester, Liverpool, Glasgow, Leeds, Oxford, Cambridge, Rotterdam, Antwerp
Krakow, Gdansk, Salzburg, Graz, Bergen, Gothenburg, Lagos, Cape Town, Casablanca, Rio de Janeiro, Sao Paulo
""")

NAMES = words("""
Anna, Ben, Clara, David, Emma, Felix, Grace, Henry, Ida, Jack, Kate, Leo, Maria, Noah, Olivia, Paul, Quentin, Rosa, Sam
Tom, Uma, Victor, Wendy, Xavier, Yara, Zoe, Alice, Bob, Carol, Dan, Eve, Frank, Gina, Hugo, Iris, John, Kevin, Laura
Max, Nina, Oscar, Peter, Rita, Sarah, Tina, Ursula, Vera, Walter, Amir, Bilal, Chen, Deepa, Elif, Fatima, Goran, Hana
Ivan, Jamal, Kenji, Lin, Mei, Nadia, Omar, Priya, Ravi, Sven, Tariq, Wei, Yuki, Zara, Mike, Jane, Lucy, Mark, Steve
Linda, James, Robert, Julia, Simon, Peggy, Chris, Alex, Sophie, Mia, Liam, Ella, Luca, Lena, Tim, Nora, Otto, Karl
""")

COLOURS = _pairs("""
the sky: blue, the sea: blue, the ocean: blue, grass: green, a banana: yellow, the sun: yellow, snow: white, milk: white
a tomato: red, a strawberry: red, a cherry: red, blood: red, a fire engine: red, an orange: orange, a carrot: orange
a pumpkin: orange, coal: black, the night: black, a raven: black, a crow: black, a lemon: yellow, corn: yellow
an elephant: grey, a mouse: grey, a dolphin: grey, chocolate: brown, a bear: brown, wood: brown, coffee: brown
a frog: green, a cucumber: green, broccoli: green, spinach: green, a pea: green, a leaf: green, a pig: pink
a flamingo: pink, an aubergine: purple, an eggplant: purple, a plum: purple, lavender: purple, a swan: white
a polar bear: white, paper: white, salt: white, sugar: white, rice: white, a cloud: white, gold: yellow, silver: grey
a raspberry: red, a rose: red, a lobster: red, a blueberry: blue, a lime: green, a cactus: green, a tree: green
an apple: red, a canary: yellow, a sunflower: yellow, butter: yellow, honey: yellow, a fox: orange, a stop sign: red
a ladybird: red, a ladybug: red, the moon: grey, the earth: blue, a crocodile: green, a taxi in New York: yellow
""")

PLURALS = _pairs("""
bananas: yellow, tomatoes: red, strawberries: red, cherries: red, oranges: orange, carrots: orange, pumpkins: orange
ravens: black, lemons: yellow, elephants: grey, mice: grey, dolphins: grey, bears: brown, frogs: green
cucumbers: green, peas: green, leaves: green, pigs: pink, flamingos: pink, plums: purple, swans: white
polar bears: white, clouds: white, roses: red, blueberries: blue, limes: green, trees: green, apples: red
sunflowers: yellow, foxes: orange, lobsters: red, crows: black, crocodiles: green, raspberries: red
""")

MIXES = [
    ("red", "blue", "purple"), ("blue", "yellow", "green"), ("red", "yellow", "orange"), ("red", "white", "pink"),
    ("black", "white", "grey"), ("red", "green", "brown"), ("blue", "white", "light blue"),
    ("green", "white", "light green"), ("purple", "white", "light purple"), ("blue", "black", "dark blue"),
    ("green", "black", "dark green"), ("red", "black", "dark red"), ("orange", "blue", "brown"),
]  # fmt: skip

OPPOSITES = _pairs("""
hot: cold, big: small, tall: short, fast: slow, happy: sad, good: bad, up: down, left: right, day: night, black: white
open: closed, full: empty, hard: soft, loud: quiet, rich: poor, young: old, new: old, early: late, light: dark, wet: dry
clean: dirty, strong: weak, high: low, in: out, yes: no, true: false, first: last, begin: end, love: hate, war: peace
win: lose, near: far, heavy: light, thick: thin, wide: narrow, sweet: sour, right: wrong, easy: difficult, push: pull
""")

SOUNDS = _pairs("""
cow: moo, dog: woof, cat: meow, duck: quack, sheep: baa, pig: oink, horse: neigh, lion: roar, snake: hiss, bee: buzz
rooster: cock-a-doodle-doo, mouse: squeak, owl: hoot, frog: ribbit, wolf: howl, donkey: hee-haw, crow: caw
""")

LEGS = {
    "dog": 4, "cat": 4, "horse": 4, "cow": 4, "spider": 8, "ant": 6, "bee": 6, "bird": 2, "chicken": 2, "human": 2,
    "octopus": 8, "snake": 0, "fish": 0, "elephant": 4, "duck": 2, "fly": 6, "mouse": 4, "pig": 4,
}  # fmt: skip

HELLOS = _pairs("""
French: Bonjour, German: Hallo, Spanish: Hola, Italian: Ciao, Portuguese: Ola, Dutch: Hallo, Swedish: Hej, Polish: Czesc
Japanese: Konnichiwa, Turkish: Merhaba, Hindi: Namaste, Latin: Salve, Russian: Privet, Greek: Yassas
""")
THANKS = _pairs("""
French: Merci, German: Danke, Spanish: Gracias, Italian: Grazie, Portuguese: Obrigado, Dutch: Bedankt, Swedish: Tack
Polish: Dziekuje, Japanese: Arigato, Turkish: Tesekkurler, Hindi: Dhanyavaad, Latin: Gratias, Russian: Spasibo
""")

DAYS = words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = words(
    "January, February, March, April, May, June, July, August, September, October, November, December",
)

NUMBER_WORDS = words("""
zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, sixteen
seventeen, eighteen, nineteen, twenty
""")

THINGS = words("""
apples, books, cats, pens, balls, cookies, eggs, cars, coins, stones, birds, cups, flowers, oranges, toys, shells, stars
sweets, fish, pencils, bananas, cards, keys, hats, chairs, marbles, candies, dogs
""")

TOPICS = words("""
quantum mechanics, photosynthesis, the French Revolution, the stock market, black holes, the Roman Empire, chess, jazz
machine learning, climate change, bitcoin, football, basketball, tennis, volcanoes, dinosaurs, vaccines, democracy
inflation, evolution, gravity, relativity, the Cold War, the Renaissance, opera, ballet, cricket, golf, yoga, karate
sushi, pizza dough, sourdough bread, lasagne, pancakes, ramen, tax law, mortgages, insurance, real estate, marketing
calculus, linear algebra, prime numbers, statistics, trigonometry, genetics, neurons, the immune system, diabetes
electric cars, solar panels, nuclear power, wind turbines, satellites, rockets, Mars, Jupiter, the Big Bang, comets
JavaScript, Rust, Java, SQL, Kubernetes, Docker, Git, Linux, Windows, regular expressions, compilers, databases
blockchain, cryptography, TCP, HTTP, CSS, React, neural networks, transformers, reinforcement learning, robotics
philosophy, Buddhism, Stoicism, ethics, psychology, dreams, memory, sleep, meditation, economics, sociology
the pyramids, the Great Wall, the Titanic, the Moon landing, World War II, the Vikings, samurai, knights, castles
guitars, pianos, violins, drums, painting, sculpture, photography, poetry slams, cinema, anime, video games
gardening, fishing, hiking, camping, sailing, cycling, swimming, knitting, carpentry, plumbing, car repair
whales, sharks, penguins, bees, ants, mushrooms, orchids, oak trees, coral reefs, rainforests, deserts, glaciers
""")

PEOPLE = words("""
Albert Einstein, Isaac Newton, Marie Curie, Napoleon, Julius Caesar, Cleopatra, Shakespeare, Mozart, Beethoven, Bach
Leonardo da Vinci, Picasso, Van Gogh, Michael Jordan, Lionel Messi, Roger Federer, Usain Bolt, Taylor Swift, Madonna
the Beatles, Elvis Presley, Charlie Chaplin, Marilyn Monroe, Tom Hanks, Steven Spielberg, Stephen King, Jane Austen
Mark Twain, Charles Dickens, Goethe, Kafka, Plato, Aristotle, Socrates, Kant, Nietzsche, Confucius, Buddha, Gandhi
Nelson Mandela, Abraham Lincoln, George Washington, Winston Churchill, Queen Victoria, Alan Turing, Ada Lovelace
Charles Darwin, Galileo, Copernicus, Neil Armstrong, Christopher Columbus, Marco Polo, Robin Hood, Sherlock Holmes
Harry Potter, Batman, Superman, Darth Vader, Frodo, James Bond, the king of Spain, the president, the pope, my boss
""")

PLACES = words("""
Wakanda, Atlantis, Narnia, Gondor, Texas, California, Bavaria, Florida, Ohio, Alaska, Hawaii, Sicily, Catalonia, Tuvalu
Nauru, Palau, Kiribati, Vanuatu, Bhutan, Brunei, Djibouti, Eritrea, Lesotho, Malawi, Togo, Benin, Gabon, Chad, Niger
Moldova, Kosovo, Andorra, Monaco, Liechtenstein, San Marino, Oman, Kuwait, Bahrain, Yemen, Fiji, Samoa, Tonga, Mordor
Quebec, Ontario, Nevada, Utah, Oregon, Kansas, Saxony, Tuscany, Provence, the Moon, Mars, Elbonia, Freedonia, Zubrowka
""")

ODD_THINGS = words("""
a car, a house, my shirt, a mirror, water, glass, a dress, your hair, a phone, a book, a table, a door, a bicycle
my dog, the wind, a bag, a chameleon, a dragon, electricity, a unicorn, time, music, a shoe, the universe, a hat
my eyes, a bus, a train, a curtain, your favourite shirt, a parrot, a butterfly, a diamond, Tuesday, love, a pencil
""")
