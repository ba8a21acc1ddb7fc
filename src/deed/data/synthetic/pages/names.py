"""Word lists that values are drawn from, and syllables that make up words no list has."""

from __future__ import annotations

import random

FIRST = """
Adam Agnes Aisha Albert Alice Amara Amir Amy Ana Andre Anita Anna Anton Arjun Astrid Ben Bianca Boris Bruno Carla
Carmen Cecil Chen Clara Cora Daniel Dario David Dina Doris Edith Elena Eli Elsa Emil Emma Erik Esther Eva Farid Felix
Fiona Flora Frank Freya George Gina Grace Greta Hana Hans Harry Hassan Helen Hugo Ida Igor Ines Ingrid Irene Isaac
Ivan Jack Jana Jasper Joan Joel Jonas Judith Julia Kai Karim Kate Keiko Klara Lara Laura Leo Lena Liam Lily Linda Luca
Lucy Luis Maja Marco Maria Mark Marta Max Mei Mia Mila Mona Nadia Nils Nina Noah Nora Olga Oscar Otto Paul Pavel Petra
Ralph Ravi Rita Robin Rosa Ruth Sami Sara Silas Simon Sofia Sven Tara Theo Tina Tom Uma Vera Viktor Wanda Wei Yara Yusuf
Zoe
""".split()
LAST = """
Abbott Adler Ahmed Almeida Andersen Archer Bailey Barker Barros Becker Bell Berg Bishop Blake Bloom Boyd Brandt Brooks
Burke Byrne Carr Castro Chan Clarke Cohen Cole Conti Cox Cruz Dalton Das Diaz Dixon Doyle Duarte Dunn Eaton Ellis
Engel Evans Farrell Fischer Fleming Flynn Ford Foster Fox Frank Frost Fuchs Garcia Gibbs Gomez Graf Grant Gray Green
Gupta Haas Hahn Hale Hansen Harris Hayes Hoffman Holt Hughes Hunt Ibrahim Ivanov Jansen Jensen Joshi Kaur Keller Kelly
Khan Klein Koch Kumar Lang Larsen Lee Lopez Lund Marsh Martin Mason Meyer Mills Moore Moreno Morris Nash Nguyen Novak
Olsen Ortiz Park Patel Payne Perez Peters Pope Price Quinn Rao Reed Rivera Rossi Roth Ryan Santos Sato Schmidt Shah
Shaw Silva Singh Sharp Stone Suzuki Tan Torres Vargas Vogel Wagner Walsh Ward Weber Wolf Wood Young Zhang Zimmer
""".split()
FIRMS = """
Acorn Alpine Amber Anchor Apex Arrow Atlas Aurora Aspen Beacon Birch Bluebird Bolt Boreal Bright Bronze Canyon Cedar
Cobalt Comet Compass Copper Coral Crest Crown Crystal Delta Dune Eagle Echo Ember Emerald Evergreen Falcon Fern Fjord
Flint Forge Frontier Galaxy Garnet Glacier Golden Granite Grove Harbor Harvest Hawthorn Helix Heron Horizon Indigo Iris
Iron Ivory Jade Juniper Kestrel Keystone Lantern Laurel Lighthouse Lotus Lunar Lynx Magnet Maple Marble Meadow Mercury
Meridian Mesa Mosaic Nimbus Nordic Nova Oakwood Ocean Olive Onyx Opal Orbit Orchid Osprey Otter Pacific Pearl Pebble
Pine Pioneer Polar Prairie Prime Quartz Raven Redwood Ridge River Rocket Ruby Saffron Sapphire Sequoia Sierra Silver
Solar Spruce Sterling Summit Sunrise Swift Terra Thistle Timber Topaz Trident Tulip Umber Union Valley Velvet Vertex
Vista Walnut Willow Zephyr
""".split()
FIRM_ENDS = "Ltd Inc LLC GmbH Co. Group Works Foods Tools Labs Trading Supply Partners Design Systems Market".split()
STREETS = """
Abbey Acacia Alder Apple Arch Ash Bank Barn Bay Beech Bell Birch Bishop Bond Bower Bridge Brook Canal Castle Cedar
Chapel Cherry Chestnut Church Cliff Clover College Cooper Court Crane Cross Crown Dale Dean Dock Dove Duke Elder Elm
Farm Fern Ferry Field Finch Forest Fountain Fox Garden Gate George Glen Grange Green Grove Hall Harbor Hawk Hazel Heath
High Hill Holly Hope Ivy James Jubilee Kiln King Lake Lark Laurel Lime Linden Lodge Long Main Manor Maple Market Mason
Meadow Mill Mint Moor Moss New North Oak Olive Orchard Park Pear Pine Plum Pond Poplar Prince Priory Quarry Queen
Railway River Robin Rose Rowan Saint School Shore Silver South Spring Spruce Station Stone Swan Temple Thorn Tower
Union Vale Valley Victoria Vine Walnut Water Well West Willow Wood York
""".split()
STREET_ENDS = "Street St Road Rd Lane Ave Avenue Way Drive Court Place Row Hill Close".split()
CITIES = """
Aarhus Aberdeen Akron Albany Antwerp Arles Austin Avila Basel Bath Belfast Bergen Berlin Bern Bilbao Bologna Bonn Boston
Bremen Brest Bristol Bruges Brno Burgos Cadiz Calais Cardiff Chester Cologne Como Cork Cuenca Dallas Delft Denver Derby
Dijon Dover Dresden Dublin Dundee Durham Essen Exeter Fargo Fresno Galway Gdansk Geneva Genoa Ghent Girona Glasgow
Graz Halifax Hanover Helena Houston Hull Ipswich Jena Kassel Kiel Krakow Lagos Leeds Leiden Leipzig Liege Lille Limerick
Lincoln Linz Lisbon London Lucca Lugano Lund Lyon Madison Malaga Malmo Mainz Memphis Metz Milan Mobile Modena Munich
Nantes Naples Nice Odense Oslo Ottawa Oxford Padua Palermo Paris Parma Perth Pisa Plano Porto Prague Reno Riga Rouen
Salem Seattle Siena Stavanger Tampa Toledo Toronto Trento Trier Tulsa Turin Turku Utrecht Valencia Venice Verona Vienna
Vigo Warsaw Winnipeg York Zagreb Zurich
""".split()
CITY_ENDS = "ton ville burg ford field mouth stad dorf by wick haven bury".split()
ADJECTIVES = """
black blue brown cream green grey red white yellow large small wide narrow round square steel glass cotton paper
plastic leather wooden copper folding desk wall floor kitchen garden office travel winter summer light heavy soft
""".split()
THINGS = """
apron bag basket bell belt blanket board book bottle bowl box brush bucket bulb cabinet cable candle cap card chair
clamp clip clock cloth coat cup curtain cushion drawer fan file filter flag folder fork frame funnel glove hammer
handle hat hook hose jar jug kettle key knife ladder lamp lid lock map marker mat mirror mop mug nail napkin needle pan
pen pencil pillow pin plate plug poster pot purse rack rope ruler sack scarf screw shelf shirt shovel soap sock sofa
spoon stand stapler stool tape tile timer tin torch towel tray vase wallet wheel wire
""".split()
DISHES = [
    dish.strip()
    for dish in """
apple tea, bean soup, beef pie, carrot cake, cheese roll, chicken rice, cold milk, corn bread, egg salad, fish cakes,
fruit salad, garlic bread, ginger beer, grape juice, green tea, ham sandwich, hot chocolate, iced tea, lamb curry,
lemon tart, lentil soup, mint tea, mushroom pasta, oat biscuit, onion rings, orange juice, peach tart, pea soup,
pepper steak, plum cake, potato soup, roast duck, salmon bagel, tomato soup, tuna wrap, veggie burger, walnut bread
""".split(",")
]
RANKS = "Senior Junior Chief Head Deputy Lead Assistant Regional".split()
FIELDS = "Sales Finance Legal Design Data Product Quality Field Office Service Claims Budget Export Safety".split()
JOBS = "Manager Officer Clerk Analyst Engineer Agent Adviser Buyer Planner Editor Trainer Auditor".split()
DEPARTMENTS = """
Accounting Archive Billing Catering Claims Design Dispatch Exports Finance Imports Internal Legal Logistics Marketing
Nursing Payroll Personnel Planning Procurement Production Quality Radiology Research Sales Security Service Shipping
Stores Support Surgery Training Transport Treasury Warehouse
""".split()
METHODS = [
    "Visa",
    "Mastercard",
    "Cash",
    "Debit card",
    "Bank transfer",
    "PayPal",
    "Cheque",
    "Gift card",
    "Amex",
    "Maestro",
]
MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()

_ONSETS = "b br c ch cl d dr f fl g gr h j k kl l m n p pl qu r s sh st t th tr v w y z".split()
_VOWELS = "a e i o u a e i o ai ea ee oa ou".split()
_CODAS = "n l r s t m ck nd rk lt sk x th ll mp".split()


def made_up(rng: random.Random, syllables: int) -> str:
    """A pronounceable word that is in no list, such as "Dravol", with a capital."""
    choice, chance = rng.choice, rng.random
    parts = [choice(_ONSETS) + choice(_VOWELS) + (choice(_CODAS) if chance() < 0.3 else "") for _ in range(syllables)]
    if syllables == 1 or chance() < 0.6:
        parts.append(choice(_CODAS) if parts[-1][-1] in "aeiou" else choice("aeio"))
    return "".join(parts).capitalize()
