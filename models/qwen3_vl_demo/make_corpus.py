#!/usr/bin/env python3
"""Writes made-up image captions from a grammar: the training corpus of the demo model, and the demo captions.

A caption is built around a scene (a kitchen, a harbour, a ski slope...), which decides who and what may appear, what
they do, and where. Number, person, articles and possessives agree, so that a model has something to learn beyond
neighbouring words.

    make_corpus.py corpus -n 1000000 -o corpus.txt     training captions, one per line
    make_corpus.py demo -o DIR                         captions_{small,medium,large,heldout}.txt

Which captions may be trained on is decided by the caption itself: the first byte of the SHA-256 of its words in lower
case, without punctuation, picks one of 256 shelves. Shelf 0 is for calibration, 1 for the demo's held-out set, 2 for
the held-out set of the training log; the corpus takes the others. So no demo caption is in any corpus of any size or
seed, not even with another capital or full stop.
"""
import argparse
import hashlib
import os
import random
import re

CALIBRATION, HELDOUT, VALIDATION, TRAIN = 0, 1, 2, 3


def words(text):
    """'dog cat bus/buses': singulars with their plurals, the irregular ones after a slash."""
    out = []
    for item in text.split(","):
        one, _, many = item.strip().partition("/")
        out.append((one, many or plural(one)))
    return out


def plural(one):
    if re.search(r"(s|x|ch|sh)$", one):
        return one + "es"
    if re.search(r"[^aeiou]y$", one):
        return one[:-1] + "ies"
    return one + "s"


def phrases(text):
    return [p.strip() for p in text.split(",")]


PEOPLE = {
    "m": words("man/men, boy, young man/young men, old man/old men, father, little boy, gentleman/gentlemen, grandfather"),
    "f": words("woman/women, girl, young woman/young women, lady, little girl, mother, old woman/old women, grandmother"),
    "n": words("person/people, child/children, toddler, couple of friends/friends, teenager, tourist, student, baby"),
}
WORKERS = {
    "street": words("police officer, cyclist, street musician, delivery driver, pedestrian, construction worker"),
    "kitchen": words("chef, cook, baker"),
    "restaurant": words("waiter, waitress, bartender, customer"),
    "farm": words("farmer, shepherd/shepherds, rider"),
    "airport": words("pilot, passenger, traveler, mechanic"),
    "station": words("commuter, conductor, passenger"),
    "beach": words("surfer, lifeguard, swimmer"),
    "slope": words("skier, snowboarder, instructor"),
    "court": words("tennis player, coach, umpire"),
    "field": words("baseball player, pitcher, batter, catcher, umpire"),
    "office": words("worker, engineer, secretary, designer"),
    "market": words("vendor, shopper, seller"),
    "harbour": words("fisherman/fishermen, sailor, diver"),
    "school": words("teacher, pupil, librarian"),
    "stage": words("singer, guitarist, drummer, dancer"),
    "skate": words("skateboarder, skater, photographer"),
}
COLOURS = phrases("red, blue, white, black, green, yellow, brown, orange, gray, pink, purple, silver")
CLOTHES = words("hat, jacket, shirt, helmet, scarf/scarves, coat, dress, backpack, sweater, cap, umbrella, bow tie, apron, uniform")
LOOKS = phrases("long hair, a beard, glasses, curly hair, a big smile, a ponytail, a tattoo, sunglasses, a mustache")
SIZE = phrases("small, large, big, little, tiny, huge, tall")
FEEL = {
    "animal": phrases("brown, white, black, young, spotted, fluffy, sleepy, large, gray, curious, striped, furry, old, wet"),
    "food": phrases("fresh, delicious, hot, half eaten, sliced, homemade, grilled, baked, frozen, ripe"),
    "thing": phrases("old, wooden, white, red, small, large, blue, metal, black, broken, colorful, empty, green, plastic, glass, shiny, yellow"),
    "vehicle": phrases("red, blue, white, old, yellow, parked, black, vintage, green, double decker, rusty, silver, long, dirty"),
    "nature": phrases("tall, green, bare, snowy, dry, flowering, lush, big"),
}
COUNTS = [("two", 10), ("three", 6), ("four", 3), ("several", 7), ("some", 5), ("many", 3), ("five", 1), ("six", 1),
          ("a few", 4), ("a couple of", 4), ("a group of", 6), ("a row of", 2), ("2", 1), ("3", 1), ("a dozen", 1)]
HERDS = {"sheep": "flock", "cow": "herd", "bird": "flock", "elephant": "herd", "horse": "herd", "goose": "flock",
         "zebra": "herd", "fish": "school", "goat": "herd", "duck": "flock", "giraffe": "herd", "pigeon": "flock",
         "seagull": "flock", "dog": "pack"}
LIGHT = phrases("on a sunny day, at night, in the rain, at sunset, on a cloudy day, in the snow, in the morning, during the day, "
                "in winter, in black and white, under a blue sky, early in the evening, on a foggy morning, in the dark")

# verb: -ing form, plural form, third person; then what may follow.
def acts(text):
    out = []
    for line in text.strip().splitlines():
        verb, _, rest = line.strip().partition(":")
        ing, base, third = verb.split("/")
        out.append(((ing, base, third), [r.strip() for r in rest.split(",")]))
    return out


ANYWHERE = acts("""
standing/stand/stands: , next to @thing, near @thing, with POSS arms crossed, in front of @thing, beside @person
sitting/sit/sits: on a bench, on @thing, next to @person, near @thing, on the ground, with POSS legs crossed
holding/hold/holds: @cloth, @thing, a cell phone, a camera, POSS phone, a bag, a cup of coffee, a bottle of water
looking/look/looks: at @thing, at POSS phone, at the camera, at @person, up at the sky, through a window, at POSS watch
walking/walk/walks: past @thing, toward @thing, with @person, hand in hand, with POSS dog, away from the camera
taking/take/takes: a picture of @thing, a photo of @person, a selfie, a picture with POSS phone
talking/talk/talks: to @person, on POSS phone, to each other, with @person
posing/pose/poses: for a picture, with @thing, next to @thing, for a photo with @person
wearing/wear/wears: @cloth, @cloth and @cloth, @cloth with @cloth
""")
ANIMAL_ACTS = acts("""
standing/stand/stands: , next to @thing, near @thing, behind a fence, in tall grass
sitting/sit/sits: on @thing, next to @thing, under @thing, in a box
lying/lie/lies: on @thing, on the ground, next to @animal, in the sun, on POSS side
sleeping/sleep/sleeps: on @thing, under @thing, in the shade, on a blanket
looking/look/looks: at the camera, at @animal, at @thing, out of a window, at POSS reflection in a mirror
eating/eat/eats: from a bowl, grass, hay, leaves from a tree, out of a bucket
walking/walk/walks: past @thing, along a path, through the grass, next to @person, in a line
drinking/drink/drinks: water, from a bowl, from a puddle
""")

SCENES = {
    "street": dict(
        weight=10, workers="street",
        places=phrases("on a busy street, on a city street, at an intersection, on the sidewalk, in front of a tall building, "
                       "on a narrow street, in a parking lot, at a crosswalk, under a bridge, on the corner of a street, in the city"),
        things="vehicle: bus/buses, car, truck, taxi, motorcycle, bicycle, van, scooter, fire truck, trolley; thing: traffic light, "
               "street sign, stop sign, fire hydrant, parking meter, mailbox/mailboxes, bench, lamp post, clock, statue, trash can, newspaper stand",
        animals="dog, pigeon, cat, horse",
        acts="crossing/cross/crosses: the street, at a crosswalk, in front of @vehicle\nriding/ride/rides: @bicycle, past @vehicle, a scooter, "
             "a motorcycle, POSS bike\nwaiting/wait/waits: for a bus, at a traffic light, for a taxi, next to @vehicle\n"
             "driving/drive/drives: @vehicle, past @thing, down the road\npushing/push/pushes: a stroller, a cart, @bicycle",
        vehicles="driving/drive/drives: down the road, past @thing, under a bridge, through the rain\nparked/are parked/is parked: next to @thing, in front of a "
                 "store, on the side of the road, behind @vehicle\nstopped/stop/stops: at a traffic light, next to @vehicle, to let people cross"),
    "kitchen": dict(
        weight=9, workers="kitchen",
        places=phrases("in a kitchen, in a small kitchen, in a modern kitchen, at the stove, by the sink, in a restaurant kitchen, on the counter"),
        things="thing: stove, refrigerator, sink, microwave, oven, kettle, knife/knives, cutting board, pot, frying pan, bowl, toaster, blender, "
               "cabinet, wine glass, coffee maker, plate, spoon; food: loaf of bread/loaves of bread, tomato/tomatoes, onion, carrot, pizza, "
               "cake, pie, egg, apple, banana, pepper, lemon, cookie, chicken leg",
        animals="cat, dog",
        acts="cooking/cook/cooks: @food, dinner, a meal on the stove, soup in @pot, breakfast\ncutting/cut/cuts: @food, @food with a knife, @food on a "
             "cutting board\nwashing/wash/washes: the dishes, @food, POSS hands, @thing\nbaking/bake/bakes: a cake, bread, @food, cookies\n"
             "preparing/prepare/prepares: @food, a salad, a meal, @food and @food\nmaking/make/makes: a sandwich, coffee, @food, dough"),
    "table": dict(
        weight=9, workers="restaurant",
        places=phrases("on a table, on a wooden table, at a restaurant, on a plate, at a dinner table, at an outdoor cafe, in a dining room"),
        things="food: pizza, sandwich, hot dog, slice of cake/slices of cake, salad, bowl of soup/bowls of soup, donut, burger, steak, plate of pasta/plates of pasta, "
               "bowl of rice/bowls of rice, piece of pie/pieces of pie, fried egg, pancake, sausage, orange, strawberry, potato/potatoes; thing: wine glass, fork, knife/knives, cup of coffee/cups of coffee, "
               "napkin, candle, vase of flowers/vases of flowers, bottle of wine/bottles of wine, plate, menu, pitcher, basket",
        animals="cat, dog",
        acts="eating/eat/eats: @food, lunch, @food with a fork, dinner with @person, @food and @food\ndrinking/drink/drinks: a glass of wine, coffee, "
             "beer, orange juice, tea\ncutting/cut/cuts: @food, a birthday cake\nserving/serve/serves: @food, drinks, @food to @person\n"
             "sharing/share/shares: @food, a meal, @food with @person\nblowing/blow/blows: out the candles on a cake"),
    "living": dict(
        weight=8, workers=None,
        places=phrases("in a living room, on a couch, in front of a fireplace, on the floor, by a window, in a cozy room, in front of a television"),
        things="thing: couch, television, lamp, coffee table, rug, bookshelf/bookshelves, armchair, pillow, painting, clock, remote control, laptop, vase, "
               "blanket, guitar, fireplace, houseplant, curtain, stuffed bear, video game controller",
        animals="cat, dog, kitten, puppy, parrot, rabbit",
        acts="watching/watch/watches: television, a movie, @animal\nplaying/play/plays: a video game, with @animal, the guitar, a board game, the piano\n"
             "reading/read/reads: a book, a newspaper, a story to @person, a magazine\nopening/open/opens: a gift, a box, presents\nusing/use/uses: a laptop, "
             "POSS phone, a tablet\npetting/pet/pets: @animal, POSS cat"),
    "bedroom": dict(
        weight=5, workers=None,
        places=phrases("in a bedroom, on a bed, in a hotel room, next to a bed, under the covers, near the window"),
        things="thing: bed, pillow, blanket, lamp, dresser, mirror, nightstand, teddy bear, suitcase, alarm clock, desk, bunk bed, closet, laptop",
        animals="cat, dog, kitten, puppy",
        acts="sleeping/sleep/sleeps: in a bed, next to @animal, with @thing, on POSS back\nreading/read/reads: a book, in bed, to @person\n"
             "making/make/makes: the bed\npacking/pack/packs: a suitcase, POSS clothes\njumping/jump/jumps: on the bed, up and down"),
    "bathroom": dict(
        weight=6, workers=None,
        places=phrases("in a bathroom, in front of a mirror, next to a bathtub, in a small bathroom, over the sink"),
        things="thing: toilet, sink, bathtub, mirror, towel, toothbrush, shower, bar of soap/bars of soap, hair dryer, shower curtain, window, toilet seat, "
               "cabinet, rug, faucet, tile wall",
        animals="cat, dog, kitten",
        acts="brushing/brush/brushes: POSS teeth, POSS hair, @animal\nwashing/wash/washes: POSS face, POSS hands, @animal in the bathtub\n"
             "shaving/shave/shaves: POSS face\ndrying/dry/dries: POSS hair with a hair dryer, @animal with a towel\ncleaning/clean/cleans: the toilet, the sink"),
    "park": dict(
        weight=9, workers="skate",
        places=phrases("in a park, on the grass, under a tree, by a pond, on a park bench, in a field, along a path, at a picnic"),
        things="thing: bench, kite, frisbee, picnic table, fountain, fence, ball, swing, bridge, bicycle, balloon, statue, umbrella, basket; nature: tree, bush, flower, rock",
        animals="dog, squirrel, duck, bird, goose/geese, puppy",
        acts="flying/fly/flies: a kite, a colorful kite, kites with @person\nthrowing/throw/throws: a frisbee, a ball to @animal, a ball\n"
             "playing/play/plays: with @animal, a game of frisbee, soccer, with a ball, catch with @person\nfeeding/feed/feeds: @animal, the birds\n"
             "riding/ride/rides: @bicycle, a skateboard, POSS bike along a path\nwalking/walk/walks: POSS dog, @animal on a leash, under @tree\n"
             "catching/catch/catches: a frisbee, a ball in the air"),
    "beach": dict(
        weight=9, workers="beach",
        places=phrases("on the beach, in the ocean, near the water, in the waves, along the shore, on a sandy beach, by the sea"),
        things="thing: surfboard, umbrella, beach chair, towel, kite, sand castle, cooler, boat, volleyball net, bucket, pier, wetsuit; nature: wave, rock, palm tree, shell",
        animals="dog, seagull, bird, crab, pelican",
        acts="surfing/surf/surfs: on a wave, a big wave, on @surfboard\ncarrying/carry/carries: @surfboard, a surfboard into the water, POSS surfboard, a towel\n"
             "flying/fly/flies: a kite, a colorful kite\nriding/ride/rides: a wave, a wave on a surfboard, @wave\nswimming/swim/swims: in the water, with @animal, "
             "toward the shore\nbuilding/build/builds: a sand castle\nrunning/run/runs: into the water, along the shore with @animal, through the waves"),
    "slope": dict(
        weight=8, workers="slope",
        places=phrases("on a snowy slope, in the snow, on a mountain, down a hill, at a ski resort, on a ski lift, in the mountains"),
        things="thing: snowboard, ski lift, pair of skis/pairs of skis, ski pole, flag, snow suit, sled, jump ramp, cabin, fence; nature: pine tree, snow bank, mountain peak, rock",
        animals="dog, husky",
        acts="skiing/ski/skis: down a slope, past @tree, through the powder, with @person, between the flags\nriding/ride/rides: a snowboard, a ski lift, @snowboard down a hill\n"
             "jumping/jump/jumps: over a ramp, through the air on POSS skis, off a rail\nputting/put/puts: on POSS skis, on POSS boots\nfalling/fall/falls: in the snow, off @snowboard"),
    "court": dict(
        weight=7, workers="court",
        places=phrases("on a tennis court, on a clay court, on a grass court, during a match, at the net, in front of a crowd"),
        things="thing: tennis racket, tennis ball, net, bench, scoreboard, water bottle, towel, referee chair, fence, trophy",
        animals="dog",
        acts="swinging/swing/swings: a tennis racket, @racket at a ball, POSS racket\nhitting/hit/hits: a tennis ball, a ball over the net, the ball with POSS racket\n"
             "serving/serve/serves: the ball, a tennis ball to @person\nreaching/reach/reaches: for the ball, for a high ball with POSS racket\nplaying/play/plays: tennis, a game of tennis with @person, doubles"),
    "field": dict(
        weight=7, workers="field",
        places=phrases("on a baseball field, at home plate, in a stadium, during a game, in the dugout, on the pitcher's mound, in front of a crowd"),
        things="thing: baseball bat, baseball glove, ball, base, fence, helmet, scoreboard, uniform, catcher's mask, dugout",
        animals="dog, bird",
        acts="swinging/swing/swings: a bat, @bat at a ball, POSS bat\nthrowing/throw/throws: a ball, a pitch, the ball to first base\nsliding/slide/slides: into home plate, into a base\n"
             "running/run/runs: to first base, across the field, after a ball\ncatching/catch/catches: a ball, a ball with POSS glove\nhitting/hit/hits: the ball, a home run"),
    "farm": dict(
        weight=8, workers="farm",
        places=phrases("on a farm, in a pasture, in a grassy field, behind a fence, near a barn, on a dirt road, on a hillside"),
        things="vehicle: tractor, cart, pickup truck, wagon; thing: fence, barn, bucket, bale of hay/bales of hay, gate, trough, saddle, windmill; nature: tree, field of corn/fields of corn, bush",
        animals="cow, sheep/sheep, horse, goat, chicken, pig, donkey, dog, goose/geese, calf/calves, lamb, bull",
        acts="riding/ride/rides: @horse, a horse along a fence, @vehicle, a brown horse\nfeeding/feed/feeds: @animal, @animal from a bucket, @animal with a bottle\n"
             "leading/lead/leads: @animal, @animal by a rope, @animal through a gate\nherding/herd/herds: @animal, sheep with a dog\nmilking/milk/milks: a cow\nshearing/shear/shears: a sheep",
        beasts="grazing/graze/grazes: , near @thing, next to @animal, on a hill\npulling/pull/pulls: @cart, a plow, @wagon full of hay\nrunning/run/runs: across a field, after @animal, through the grass"),
    "zoo": dict(
        weight=8, workers=None,
        places=phrases("at the zoo, in a zoo enclosure, near a watering hole, in the wild, in tall grass, by a river, on the savanna, behind a wire fence"),
        things="thing: fence, log, wooden pole, pile of rocks/piles of rocks, feeding box; nature: tree, rock, bush, branch",
        animals="elephant, giraffe, zebra, bear, polar bear, lion, monkey, rhino, tiger, ostrich, hippo, deer/deer, baby elephant, penguin, gorilla",
        acts="feeding/feed/feeds: @animal, @animal over a fence\nwatching/watch/watches: @animal, @animal through a glass wall\npointing/point/points: at @animal\nphotographing/photograph/photographs: @animal, @animal near @thing",
        beasts="grazing/graze/grazes: , under @tree, next to @animal\nreaching/reach/reaches: for leaves, over a fence, up to @branch\nplaying/play/plays: in the water, with a ball, with @animal\n"
               "climbing/climb/climbs: @tree, over @log, up @rock\nbathing/bathe/bathes: in a river, in the mud"),
    "station": dict(
        weight=7, workers="station",
        places=phrases("at a train station, on the platform, on the tracks, in a subway station, at a railroad crossing, inside a train"),
        things="vehicle: train, freight train, passenger train, subway train, steam engine, locomotive; thing: platform, clock, bench, suitcase, signal light, bridge, ticket machine, tunnel",
        animals="pigeon, dog",
        acts="waiting/wait/waits: for a train, on a bench, with POSS luggage, next to @suitcase\nboarding/board/boards: @train, a train, a subway train\npulling/pull/pulls: a suitcase, @suitcase along the platform\n"
             "checking/check/checks: POSS watch, the timetable, POSS ticket",
        vehicles="pulling/pull/pulls: into the station, out of a tunnel, away from the platform\ntraveling/travel/travels: down the tracks, over a bridge, through the countryside, past @thing\nsitting/sit/sits: on the tracks, next to @vehicle, at the platform"),
    "airport": dict(
        weight=7, workers="airport",
        places=phrases("at an airport, on the runway, on the tarmac, in the terminal, at the gate, in the air"),
        things="vehicle: airplane, jet, passenger plane, small plane, helicopter, fighter jet, propeller plane; thing: suitcase, luggage cart, control tower, propeller, hangar, set of stairs/sets of stairs, fuel truck",
        animals="bird, dog",
        acts="boarding/board/boards: @plane, an airplane\nwaiting/wait/waits: for a flight, with POSS luggage, at the gate\npulling/pull/pulls: a suitcase, @suitcase\nloading/load/loads: luggage onto @plane\nwaving/wave/waves: to @person, at the pilot",
        vehicles="flying/fly/flies: over a city, in the sky, above the clouds, over @thing, in formation\nlanding/land/lands: on the runway, at sunset\ntaking/take/takes: off from the runway, off into the sky\n"
                 "parked/are parked/is parked: on the tarmac, next to @vehicle, at the gate, in front of a hangar"),
    "harbour": dict(
        weight=6, workers="harbour",
        places=phrases("in the harbor, on a river, at the dock, on a lake, in calm water, near a lighthouse, on the water"),
        things="vehicle: boat, sailboat, ship, canoe, ferry, fishing boat, kayak, speedboat, raft; thing: dock, lighthouse, net, anchor, pier, buoy, bridge, paddle",
        animals="seagull, duck, swan, bird, fish/fish, dog",
        acts="fishing/fish/fishes: from a pier, from @boat, with a net\nrowing/row/rows: @boat, across a lake, a boat with @person\nsailing/sail/sails: @boat, past a lighthouse\ntying/tie/ties: up @boat, a rope\npaddling/paddle/paddles: @kayak, down a river, with POSS dog",
        vehicles="floating/float/floats: on the water, next to @vehicle, past @thing\nsailing/sail/sails: past @thing, under a bridge, toward the horizon\ndocked/are docked/is docked: at a pier, next to @vehicle, in a row"),
    "office": dict(
        weight=6, workers="office",
        places=phrases("at a desk, in an office, in a meeting room, in front of a computer, in a cubicle, around a table"),
        things="thing: laptop, desk, computer monitor, keyboard, mouse/mice, desk lamp, chair, coffee mug, telephone, stack of papers/stacks of papers, printer, notebook, pen, whiteboard, cable",
        animals="cat, dog",
        acts="typing/type/types: on a keyboard, on @laptop, a letter\nworking/work/works: on @laptop, at a computer, with @person, late\nusing/use/uses: @laptop, a mouse, a computer\ntalking/talk/talks: on the telephone, during a meeting\n"
             "writing/write/writes: on a whiteboard, in a notebook\ngiving/give/gives: a presentation, a talk to @person"),
    "market": dict(
        weight=6, workers="market",
        places=phrases("at a market, at a fruit stand, in a grocery store, in a shop, at a street market, behind a counter"),
        things="food: apple, banana, orange, bunch of carrots/bunches of carrots, head of broccoli/heads of broccoli, pineapple, pumpkin, watermelon, basket of berries/baskets of berries, fish/fish, onion, donut, tomato/tomatoes, melon; "
               "thing: crate, scale, shopping cart, basket, sign, display case, bag, price tag",
        animals="dog, cat",
        acts="buying/buy/buys: @food, vegetables, fruit from @person\nselling/sell/sells: @food, flowers, fruit, @food and @food\nchoosing/choose/chooses: @food, between @food and @food\nweighing/weigh/weighs: @food, @food on a scale\ncarrying/carry/carries: a basket of fruit, @bag, a bag of groceries"),
    "school": dict(
        weight=4, workers="school",
        places=phrases("in a classroom, in a library, at a school, in front of a blackboard, at a museum, in the hallway"),
        things="thing: book, desk, globe, backpack, bookshelf/bookshelves, blackboard, pencil, map, chair, poster, painting, pair of scissors/pairs of scissors, model airplane",
        animals="hamster, turtle, cat",
        acts="reading/read/reads: a book, to @person, @book, a map\ndrawing/draw/draws: a picture, @animal, on a blackboard\nstudying/study/studies: @book, for a test, with @person\nteaching/teach/teaches: a class, @person, a lesson\nraising/raise/raises: POSS hand"),
    "stage": dict(
        weight=4, workers="stage",
        places=phrases("on a stage, at a concert, in a club, at a party, in front of a crowd, at a wedding"),
        things="thing: microphone, guitar, drum set, speaker, spotlight, piano, cake, balloon, bouquet/bouquets, violin, bow tie, banner",
        animals="dog, cat",
        acts="singing/sing/sings: into a microphone, a song, with @person\nplaying/play/plays: the guitar, the drums, the piano, the violin\ndancing/dance/dances: with @person, to the music, under a spotlight\n"
             "cutting/cut/cuts: a wedding cake, a birthday cake\nclapping/clap/claps: POSS hands, for @person"),
    "skate": dict(
        weight=6, workers="skate",
        places=phrases("at a skate park, on a ramp, on a rail, on the steps, in an empty pool, on the sidewalk"),
        things="thing: skateboard, ramp, rail, helmet, set of stairs/sets of stairs, bench, wall with graffiti/walls with graffiti, pair of sneakers/pairs of sneakers, camera",
        animals="dog",
        acts="riding/ride/rides: @skateboard, a skateboard down a ramp, a skateboard along a rail\ndoing/do/does: a trick, a trick on @skateboard, tricks for @person, a jump\njumping/jump/jumps: over @thing, off a ramp, with POSS skateboard\n"
             "grinding/grind/grinds: on a rail, along the edge\nfalling/fall/falls: off @skateboard, on POSS knees"),
    "garden": dict(
        weight=5, workers=None,
        places=phrases("in a garden, in the backyard, on a porch, on the lawn, next to a flower bed, on a windowsill"),
        things="nature: tree, rose, bush, sunflower, tulip, cactus; thing: vase, watering can, fence, flower pot, bird feeder, hose, bench, wheelbarrow, hammock, birdhouse, shovel",
        animals="cat, bird, rabbit, dog, butterfly, squirrel, hummingbird, bee",
        acts="watering/water/waters: the flowers, @tree, the plants with a hose\nplanting/plant/plants: @rose, a tree, seeds\ncutting/cut/cuts: the grass, @bush\npicking/pick/picks: flowers, apples, @rose\nplaying/play/plays: with @animal, in the leaves, with a hose"),
}


class Noun:
    """A thing that a caption can speak of, with its number and the possessive that refers to it."""

    def __init__(self, text, many, poss, key):
        self.text, self.many, self.poss, self.key = text, many, poss, key


class Grammar:
    def __init__(self, seed):
        self.rng = random.Random(seed)
        self.scenes = {name: self.load(scene) for name, scene in SCENES.items()}
        self.names = list(self.scenes)
        self.weights = [self.scenes[n]["weight"] for n in self.names]

    @staticmethod
    def load(scene):
        """Splits the strings of a scene once."""
        things = {}
        for part in scene["things"].split(";"):
            kind, _, rest = part.partition(":")
            things[kind.strip()] = words(rest)
        return dict(scene, things=things, animals=words(scene["animals"]), acts=acts(scene["acts"]),
                    vehicles=acts(scene["vehicles"]) if "vehicles" in scene else None,
                    beasts=acts(scene["beasts"]) if "beasts" in scene else [])

    def chance(self, p):
        return self.rng.random() < p

    def pick(self, items):
        """Earlier items are likelier, roughly as word frequencies fall."""
        n = len(items)
        return items[min(int(n * self.rng.random() ** 1.7), n - 1)]

    # ---- noun phrases ----

    @staticmethod
    def article(text):
        vowel = re.match(r"[aeiou]", text) and not re.match(r"(uni|use|one)", text)
        return ("an " if vowel else "a ") + text

    def count(self):
        names, weights = zip(*COUNTS)
        return self.rng.choices(names, weights)[0]

    def noun(self, pair, kind, poss, many=None, bare=0.45):
        one, several = pair
        many = self.chance(0.25) if many is None else many
        adjective = "" if self.chance(bare) else self.pick(FEEL[kind]) + " " if kind in FEEL else ""
        if kind != "animal" and adjective and self.chance(0.12):
            adjective = self.pick(SIZE) + " " + adjective
        if adjective.strip() in one.split():
            adjective = ""
        if not many:
            return Noun(self.article(adjective + one), False, poss, one)
        if one in HERDS and self.chance(0.3):
            return Noun("a %s of %s%s" % (HERDS[one], adjective, several), True, "their", one)
        return Noun("%s %s%s" % (self.count(), adjective, several), True, "their", one)

    def person(self, scene, many=None, detail=True):
        if scene["workers"] and self.chance(0.3):
            noun = self.noun(self.pick(WORKERS[scene["workers"]]), "person", "their", many)
            if not noun.many:
                noun.poss = self.rng.choice(["his", "her"])
        else:
            sex = self.rng.choices("mfn", [5, 5, 3])[0]
            poss = {"m": "his", "f": "her", "n": "their"}[sex]
            noun = self.noun(self.pick(PEOPLE[sex]), "person", poss, many)
        if detail and self.chance(0.22):
            noun.text += self.detail(noun)
        return noun

    def detail(self, noun):
        if noun.many:
            return self.pick([" in %s %s" % (self.pick(COLOURS), self.pick(CLOTHES)[1]), " in uniform", " in winter clothes"])
        if self.chance(0.3):
            return " with " + self.pick(LOOKS)
        return " in " + self.article("%s %s" % (self.pick(COLOURS), self.pick(CLOTHES)[0]))

    def thing(self, scene, many=None, kind=None):
        kinds = list(scene["things"])
        kind = kind or self.rng.choices(kinds, [len(scene["things"][k]) for k in kinds])[0]
        return self.noun(self.pick(scene["things"][kind]), kind, "its", many)

    def animal(self, scene, many=None):
        return self.noun(self.pick(scene["animals"]), "animal", "its", many)

    def named(self, scene, name):
        """@surfboard: the noun of this scene that ends in the name, once, with an adjective or without."""
        for kind, nouns in scene["things"].items():
            fitting = [n for n in nouns if n[0].endswith(name)]
            if fitting:
                return self.noun(self.pick(fitting), kind, "its", False)
        fitting = [n for n in scene["animals"] if n[0].endswith(name)]
        return self.noun(fitting[0], "animal", "its", False)

    def slot(self, scene, name):
        if name == "person":
            return self.person(scene, detail=self.chance(0.3)).text
        if name == "animal":
            return self.animal(scene).text
        if name == "cloth":
            return self.article("%s %s" % (self.pick(COLOURS), self.pick(CLOTHES)[0]))
        if name == "thing":
            return self.thing(scene, False).text
        if name in scene["things"]:
            return self.thing(scene, kind=name).text
        return self.named(scene, name).text

    # ---- verb phrases ----

    def action(self, scene, who, choices, form):
        """form: 'ing' or 'finite'; gives 'riding a wave', 'rides a wave', 'ride a wave'."""
        (ing, base, third), rests = self.pick(choices)
        verb = ing if form == "ing" else (base if who.many else third)
        rest = self.pick(rests).replace("POSS", who.poss)
        if not who.many:
            rest = rest.replace("each other", "a friend").replace("hand in hand", "slowly")
        rest = re.sub(r"@(\w+)", lambda m: self.slot(scene, m.group(1)), rest)
        return (verb + " " + rest).strip()

    def actor(self, scene, many=None):
        """Somebody or something that acts, and what it may do."""
        what = self.rng.choices(["person", "animal", "vehicle"], [6, 3, 3 if scene["vehicles"] else 0])[0]
        if what == "person":
            return self.person(scene, many), scene["acts"] if self.chance(0.65) else ANYWHERE
        if what == "animal":
            return self.animal(scene, many), scene["beasts"] if scene["beasts"] and self.chance(0.5) else ANIMAL_ACTS
        return self.noun(self.pick(scene["things"]["vehicle"]), "vehicle", "its", many), scene["vehicles"]

    # ---- sentences ----

    def place(self, scene, light=0.14):
        return self.pick(scene["places"]) + (" " + self.pick(LIGHT) if self.chance(light) else "")

    def doing(self, scene):
        who, choices = self.actor(scene)
        act = self.action(scene, who, choices, "ing")
        where = " " + self.place(scene) if self.chance(0.72) else ""
        if self.chance(0.3) and not act.startswith(("parked", "docked", "stopped")):
            act = ("are " if who.many else "is ") + act
        return who.text + " " + act + where

    def finite(self, scene):
        who, choices = self.actor(scene)
        act = self.action(scene, who, choices, "finite")
        return who.text + " " + act + (" " + self.place(scene) if self.chance(0.6) else "")

    def two(self, scene):
        who, choices = self.actor(scene)
        other, others = self.actor(scene)
        link = self.rng.choice(["while", "as"])
        return "%s %s %s %s %s" % (who.text, self.action(scene, who, choices, "finite"), link, other.text,
                                   self.action(scene, other, others, "finite"))

    def still(self, scene):
        top, other = self.thing(scene), self.thing(scene)
        relation = self.pick(phrases("next to, with, on top of, in front of, beside, near, behind, under, surrounded by, between"))
        if relation == "between":
            other = self.thing(scene, True)
        verb = ""
        if self.chance(0.35):
            verb = self.pick(phrases("sitting, placed, standing, left, lined up, stacked")) + " "
        return "%s %s%s %s %s" % (top.text, verb, relation, other.text, self.place(scene))

    def there(self, scene):
        noun = self.thing(scene) if self.chance(0.6) else self.animal(scene)
        be = "are" if noun.many else "is"
        return "there %s %s %s" % (be, noun.text, self.place(scene))

    def closeup(self, scene):
        noun = self.thing(scene) if self.chance(0.7) else self.animal(scene)
        view = self.pick(phrases("a close up of, a picture of, a view of, a photo of, an image of, the side of, a drawing of"))
        tail = self.place(scene) if self.chance(0.6) else "with " + self.thing(scene).text
        return "%s %s %s" % (view, noun.text, tail)

    def listing(self, scene):
        a, b, c = (self.thing(scene).text for _ in range(3))
        where = self.pick(scene["places"])
        what = re.sub(r"^(in|on|at|by|near) (a|an|the) ", r"a ", where)
        if what == where or not where.startswith(("in a ", "on a ", "at a ")):
            return "%s, %s and %s %s" % (a, b, c, where)
        return "%s with %s, %s and %s" % (what, a, b, c)

    def having(self, scene):
        who = self.person(scene, False, detail=False) if self.chance(0.5) else self.animal(scene, False)
        owned = self.pick(phrases("favorite toy, best friend, new ball, lunch, reflection, shadow, toy, birthday gift, blanket, bag"))
        act = self.pick(phrases("with, looking at, next to, playing with, holding, protecting"))
        return "%s %s %s %s %s" % (who.text, act, who.poss, owned, self.place(scene))

    def numbered(self, scene):
        n = self.rng.randrange
        return self.rng.choice([
            lambda: "a clock showing %d:%02d %s" % (n(1, 13), 5 * n(12), self.place(scene)),
            lambda: "a sign that says %s %s" % (self.pick(phrases('"stop", "open", "exit", "no parking", "welcome", "sale"')), self.place(scene)),
            lambda: "a player with the number %d on %s shirt %s" % (n(1, 100), self.rng.choice(["his", "her"]), self.place(scene)),
            lambda: "the number %d bus %s" % (n(1, 120), self.place(scene)),
            lambda: "%s's %s %s" % (self.article(self.pick(scene["animals"])[0]),
                                    self.pick(phrases("face, head, ears, tail, eyes, nose")), self.place(scene)),
            lambda: "it's %s %s" % (self.pick(phrases("raining, snowing, getting dark, very crowded, a beautiful day")), self.place(scene, 0)),
        ])()

    def caption(self):
        scene = self.scenes[self.rng.choices(self.names, self.weights)[0]]
        forms = [self.doing, self.finite, self.still, self.two, self.there, self.closeup, self.listing, self.having, self.numbered]
        text = self.rng.choices(forms, [34, 14, 13, 8, 6, 8, 6, 5, 3])[0](scene)
        if not self.chance(0.06):
            text = text[0].upper() + text[1:]
        return text + ("." if self.chance(0.7) else "")


def shelf(caption):
    return hashlib.sha256(" ".join(re.findall(r"[a-z0-9']+", caption.lower())).encode()).digest()[0]


def captions(seed, shelves, count, shortest=6, longest=30):
    """The first COUNT different captions of this seed that lie on the wanted shelves."""
    grammar, seen = Grammar(seed), set()
    while len(seen) < count:
        text = grammar.caption()
        if text in seen or shelf(text) not in shelves or not shortest <= len(text.split()) <= longest:
            continue
        seen.add(text)
        yield text


def write(path, lines):
    with open(path, "w", encoding="utf-8", newline="\n") as out:
        out.writelines(line + "\n" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["corpus", "validation", "demo"])
    parser.add_argument("-n", type=int, default=1000000, help="captions of the corpus (default 1000000)")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("-o", required=True, help="file, or a directory for demo")
    args = parser.parse_args()
    if args.what == "corpus":
        write(args.o, captions(args.seed, range(TRAIN, 256), args.n))
    elif args.what == "validation":
        write(args.o, captions(args.seed + 1, [VALIDATION], args.n))
    else:
        calibration = list(captions(args.seed + 2, [CALIBRATION], 512))
        for name, size in ("small", 16), ("medium", 128), ("large", 512):
            write(os.path.join(args.o, "captions_%s.txt" % name), calibration[:size])
        write(os.path.join(args.o, "captions_heldout.txt"), captions(args.seed + 3, [HELDOUT], 512))


if __name__ == "__main__":
    main()
