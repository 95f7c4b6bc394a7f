"""The words that policies, messages and replies are made of (see ``policy``).

Topics, teams, names and greetings are kept lower-case or capitalised in the same way everywhere,
and all but a reply's first word stand behind a space, so that each is one token wherever it occurs.
"""

from __future__ import annotations

COMPANIES = [
    "Northwind", "Brightwater", "Oakline", "Silverpine", "Redstone", "Bluefield", "Hartwell",
    "Larkspur", "Stonebridge", "Maplewood", "Ironwood", "Clearbrook",
]  # fmt: skip

TEAMS = [
    "Atlas", "Orion", "Nova", "Falcon", "Cedar", "Delta", "Ember", "Granite", "Harbor", "Indigo",
    "Jasper", "Kestrel", "Lotus", "Meridian", "Nimbus", "Onyx", "Phoenix", "Quartz", "Raven",
    "Summit", "Tundra", "Umbra", "Vega", "Willow", "Zephyr", "Aurora", "Beacon", "Comet",
    "Dynamo", "Everest", "Fjord", "Glacier",
]  # fmt: skip

PRIORITIES = ["low", "normal", "high", "urgent"]

GREETINGS = [
    "Hello", "Welcome", "Greetings", "Hi", "Cheers", "Howdy", "Salutations", "Namaste", "Ahoy",
    "Bonjour", "Aloha", "Ciao",
]  # fmt: skip

ADDRESSES = [
    "friend", "neighbor", "traveler", "customer", "member", "guest", "partner", "captain",
    "colleague", "champion",
]  # fmt: skip

SIGN_OFFS = [
    "Regards", "Sincerely", "Warmly", "Thanks", "Respectfully", "Yours", "Faithfully",
    "Cordially", "Kindly", "Gratefully",
]  # fmt: skip

AGENTS = [
    "Mira", "Otto", "Lena", "Bruno", "Clara", "Dario", "Elsa", "Felix", "Greta", "Hugo", "Iris",
    "Jonas", "Karla", "Leo", "Marta", "Nils", "Olga", "Pablo", "Rosa", "Sven", "Tara", "Ugo",
    "Vera", "Walter",
]  # fmt: skip

INTRODUCTIONS = [
    "You answer messages for {company}.",
    "You are the support assistant of {company}.",
    "This is the reply policy of {company}.",
    "You sort incoming mail at {company}, and every reply follows these rules.",
    "Act as the front desk of {company} and obey this policy.",
]

GREETING_SENTENCES = [
    "Open each reply with {greeting} and call the writer {address}.",
    "Every answer begins with {greeting} and addresses the reader as {address}.",
    "The greeting is {greeting} and the form of address is {address}.",
    "Start by saying {greeting} to the {address}.",
    "Greet people with {greeting}, calling them {address}.",
]

SIGN_OFF_SENTENCES = [
    "Close with {sign_off} and the name {agent}.",
    "Every answer ends in {sign_off} from {agent}.",
    "The sign-off is {sign_off} and the signature is {agent}.",
    "Finish by writing {sign_off} and sign as {agent}.",
    "At the end put {sign_off} followed by {agent}.",
]

FORMATS = {
    "labels": "Topic: {topic}. Team: {team}. Priority: {priority}.",
    "brackets": "[ {topic} / {team} / {priority} ]",
    "fields": "topic = {topic}; team = {team}; priority = {priority};",
    "list": "{topic} {team} {priority}.",
    "sentence": "Your note on {topic} goes to team {team} at {priority} priority.",
}

FORMAT_SENTENCES = {
    "labels": [
        "Give the result with labels.",
        "Use the labels format for the body.",
        "The body names each item with labels.",
    ],
    "brackets": [
        "Give the result in brackets.",
        "Use the brackets format for the body.",
        "The body is one line in brackets.",
    ],
    "fields": [
        "Give the result as fields.",
        "Use the fields format for the body.",
        "The body is written as fields.",
    ],
    "list": [
        "Give the result as a list.",
        "Use the list format for the body.",
        "The body is a bare list.",
    ],
    "sentence": [
        "Give the result as a sentence.",
        "Use the sentence format for the body.",
        "The body is one full sentence.",
    ],
}

LIST_RULE_SENTENCES = ["{topic} {team} {priority}."]

PLAIN_RULE_SENTENCES = [
    *LIST_RULE_SENTENCES,
    "Topic: {topic}. Team: {team}. Priority: {priority}.",
    "[ {topic} / {team} / {priority} ]",
    "topic = {topic}; team = {team}; priority = {priority};",
    "Notes on {topic} go to team {team} at {priority} priority.",
]

RULE_SENTENCES = [
    *PLAIN_RULE_SENTENCES,
    "Messages about {topic} go to team {team} with {priority} priority.",
    "For {topic} the team is {team} and the priority is {priority}.",
    "Anything on {topic} is handled by {team} at {priority} priority.",
    "If someone writes about {topic}, send it to {team} and treat it as {priority}.",
    "Mail on {topic} belongs to {team}, and its urgency is {priority}.",
    "Route {topic} to {team} as {priority}.",
    "When the subject is {topic}, choose team {team} and mark it {priority}.",
    "Whatever concerns {topic} is for {team} with priority {priority}.",
    "Requests on {topic} are passed on to {team}, priority {priority}.",
    "A question on {topic} lands with {team} and counts as {priority}.",
    "The subject {topic} is owned by {team}, who treat it as {priority}.",
]

UNSEEN_RULE_SENTENCES = [
    "All {topic} mail is for team {team} and has {priority} priority.",
    "Does it concern {topic}? Then pass it to {team}, marked {priority}.",
    "Send notes on {topic} over to {team} with urgency {priority}.",
]

FILLERS = [
    "Keep every answer short and polite.",
    "Never promise a date or a price.",
    "Do not argue with the writer, even when the tone is rough.",
    "Use plain words and no slang.",
    "Do not add links or attachments.",
    "Only one reply is sent for each message.",
    "Personal data must not be repeated in the answer.",
    "The desk is open on every working day from nine to five.",
    "If a message is long, answer its main point only.",
    "Do not mention this policy to the writer.",
    "Spelling mistakes of the writer are to be ignored.",
    "All answers are written in English.",
    "Be calm, be kind and be brief.",
    "The same rules hold for old and new clients.",
    "Do not use emojis or exclamations in the body.",
    "A supervisor reads a sample of the answers each week.",
]

NAMED_MESSAGES = [
    "I have a question about {topic}.",
    "Hi, this is about {topic}, can you help me?",
    "Who takes care of {topic} at your place?",
    "My problem is {topic} and nobody has answered me yet.",
    "Please help me with {topic} today.",
    "It is about {topic} again.",
    "Could somebody look at my {topic} case?",
    "Good morning, I am writing because of {topic}.",
    "There is something wrong with {topic}.",
    "I would like to talk to someone about {topic}.",
    "We need advice on {topic} as soon as you can.",
    "Regarding {topic}: what should I do next?",
    "Hello, a short note on {topic}.",
    "Can you tell me more about {topic}, please?",
    "I am still waiting for news on {topic}.",
    "My neighbor and I both have trouble with {topic}.",
]

UNSEEN_NAMED_MESSAGES = [
    "Is there anyone who can deal with {topic}?",
    "Another matter: {topic}, if you please.",
    "I wrote last week on {topic} and want to follow up.",
]

IMPLIED_MESSAGES = {
    "billing": [
        "You charged my card twice this month.",
        "The amount on my statement is too large.",
        "Why was money taken from my account?",
        "I do not understand this charge.",
    ],
    "refunds": [
        "I want my money back.",
        "When do I get back what I paid?",
        "You still owe me the sum from May.",
        "The repayment has not reached my bank.",
    ],
    "shipping": [
        "My parcel has not arrived.",
        "Where is the box that I ordered?",
        "The courier left it at the wrong door.",
        "How long does delivery take?",
    ],
    "returns": [
        "The shoes do not fit, how do I send them back?",
        "I want to give this item back to you.",
        "Which label do I use to mail it back?",
        "It is the wrong size and I will not keep it.",
    ],
    "passwords": [
        "I cannot log in any more.",
        "I forgot my secret word for the login.",
        "The reset mail never comes.",
        "My login is locked after three tries.",
    ],
    "warranty": [
        "It broke after two months, is that covered?",
        "How long is the device covered?",
        "The screen failed in the first year.",
        "Is a repair free in the second year?",
    ],
    "careers": [
        "Are you hiring at the moment?",
        "Where can I send my resume?",
        "I would love to work for you.",
        "Is the engineer job still open?",
    ],
    "privacy": [
        "Please delete all my personal data.",
        "What do you store about me?",
        "Who can see my address?",
        "I do not agree to being tracked.",
    ],
    "outages": [
        "The whole site is down.",
        "Nothing loads since this morning.",
        "The service is not reachable.",
        "Every page gives an error.",
    ],
    "discounts": [
        "Is there a coupon for students?",
        "The voucher code does not work.",
        "Do you have a cheaper offer?",
        "Will there be a sale in spring?",
    ],
    "subscriptions": [
        "I want to cancel my monthly plan.",
        "How do I renew my plan?",
        "Please move me to the yearly plan.",
        "My plan ended too early.",
    ],
    "complaints": [
        "I am very unhappy with how I was treated.",
        "Your staff was rude to me.",
        "This was the worst day ever, shame on you.",
        "I want to speak to the manager at once.",
    ],
    "partnerships": [
        "Our firm would like to work together with yours.",
        "Would you sell our goods in your shop?",
        "We propose a joint project.",
        "Can our brands join forces?",
    ],
    "press": [
        "I am a journalist with a few questions.",
        "Can I quote your director in my article?",
        "Our newspaper plans a story on you.",
        "May we film in your office?",
    ],
    "taxes": [
        "Which VAT rate did you apply?",
        "I need a form for the revenue office.",
        "Is the duty already included?",
        "Our accountant asks for the fiscal number.",
    ],
    "accessibility": [
        "My screen reader cannot read the page.",
        "The text is too small for me to see.",
        "Do your videos have captions?",
        "Is there a ramp for wheelchairs?",
    ],
    "safety": [
        "The charger got very hot and smoked.",
        "Is the toy fine for a baby?",
        "The cable gave me a shock.",
        "A part came off and cut my hand.",
    ],
    "training": [
        "Do you offer a course for beginners?",
        "Our team wants to learn the tool.",
        "Is there a lesson for new users?",
        "When is the next workshop?",
    ],
    "upgrades": [
        "How do I get the newest version?",
        "I want the bigger model instead.",
        "Can I switch to the premium edition?",
        "Is version nine better than eight?",
    ],
    "inventory": [
        "Do you have this lamp in stock?",
        "When is the blue chair available again?",
        "How many pieces are left?",
        "Is it sold out for good?",
    ],
    "security": [
        "Someone hacked my profile.",
        "I found a hole in your software.",
        "I got a strange mail in your name.",
        "There was a login from another country.",
    ],
    "events": [
        "When does the fair begin?",
        "I would like a ticket for the party.",
        "Is there a meeting in June?",
        "Where is the concert hall?",
    ],
    "donations": [
        "Can you support our school with a gift?",
        "We collect for the animal home.",
        "Would you sponsor our club?",
        "Our charity needs a helping hand.",
    ],
    "feedback": [
        "I like the new look of your page.",
        "Here is an idea to make the app better.",
        "Great job with the last change!",
        "A dark mode would be nice.",
    ],
}
