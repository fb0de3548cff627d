"""Made-up support tickets for the tutorial: 300 with their category, 40 new ones without, and 3,000 old texts.

    python tickets.py [FOLDER]

writes tickets.csv (ticket, text, category), new_tickets.csv (ticket, text) and old_tickets.txt (a text on each line)
into the folder, by default the current one. The same seed gives the same files. Some sentences fit two categories, as
those of people do, so that no model can be right about all of them.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

SHARES = {"billing": 80, "delivery": 75, "technical": 65, "account": 50, "fraud": 30}
"""How many of the 300 labelled tickets are of each category."""

OPENINGS = ["Hello,", "Hi,", "Good morning,", "Dear team,", "Hello again,", ""]
CLOSINGS = ["Thank you.", "Please help.", "Can you look into it?", "What should I do?", "Kind regards.", ""]
WHEN = ["yesterday", "this morning", "last week", "on Monday", "two days ago", "today", "on Friday", "last night"]
COLOURS = ["red", "black", "green", "white", "grey", "blue", "yellow", "brown"]
ITEMS = ["lamp", "chair", "phone case", "pair of shoes", "coffee grinder", "backpack", "headset", "bicycle bell"]
ITEMS += ["water bottle", "desk", "umbrella", "keyboard", "tent", "kettle", "raincoat", "toaster", "mirror", "clock"]

# What a ticket says, by category. A sentence that stands under two categories is one that only a person could settle.
SENTENCES = {
    "billing": [
        "I was charged {amount} euros twice for {item}.",
        "My invoice from {when} shows {amount} euros, but {item} cost less.",
        "The refund of {amount} euros for {item} has not arrived.",
        "The discount code was not taken off my bill {when}.",
        "I need an invoice with the address of my company for {item}.",
        "There is a charge of {amount} euros {when} that I cannot explain.",
        "I paid for {item} {when}, and the order is still marked as unpaid.",
    ],
    "delivery": [
        "I ordered {item} {when} and the parcel has not arrived.",
        "The parcel with {item} was left at the wrong door {when}.",
        "Tracking has not changed since the courier took {item}.",
        "The box was damaged, and {item} is broken.",
        "I received {item} {when}, but I had ordered something else.",
        "Can you send {item} to another address?",
        "I paid for {item} {when}, and the order is still marked as unpaid.",
    ],
    "technical": [
        "The app closes when I open the basket with {item}.",
        "The page shows an error since {when}.",
        "The search finds nothing when I type {item}.",
        "Pictures of {item} do not load on my phone.",
        "The payment page froze {when} before I could pay {amount} euros.",
        "I do not get the email with the code since {when}.",
        "The button to order {item} does nothing.",
    ],
    "account": [
        "I forgot my password and cannot sign in since {when}.",
        "Please change the email address of my account.",
        "I want to close my account and have my data deleted.",
        "My account was locked {when} after three attempts.",
        "I have two accounts and would like to join them.",
        "I do not get the email with the code since {when}.",
        "My address was changed in my account {when}.",
    ],
    "fraud": [
        "Somebody ordered {item} in my name {when}.",
        "I got a message {when} that asked for my card number in your name.",
        "There are orders of {amount} euros in my account that I did not make.",
        "My card was used in your shop without my knowledge {when}.",
        "There is a charge of {amount} euros {when} that I cannot explain.",
        "My address was changed in my account {when}.",
    ],
}


def ticket(category: str, random_: random.Random) -> str:
    """One made-up text of a category."""
    sentence = random_.choice(SENTENCES[category]).format(
        amount=f"{random_.randrange(500, 30000, 5) / 100:.2f}",
        when=random_.choice(WHEN),
        item=f"the {random_.choice(COLOURS)} {random_.choice(ITEMS)}",
    )
    return " ".join(part for part in (random_.choice(OPENINGS), sentence, random_.choice(CLOSINGS)) if part)


def categories(count: int, random_: random.Random) -> list[str]:
    """Categories in the shares of `SHARES`, in random order."""
    return random_.choices(list(SHARES), weights=list(SHARES.values()), k=count)


def write(folder: Path, seed: int = 0) -> None:
    """Write the three files."""
    random_ = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    labelled = [name for name, count in SHARES.items() for _ in range(count)]
    random_.shuffle(labelled)
    with (folder / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ticket", "text", "category"])
        writer.writerows([f"T{n:03}", ticket(name, random_), name] for n, name in enumerate(labelled, start=1))
    with (folder / "new_tickets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["ticket", "text"])
        writer.writerows([f"N{n:02}", ticket(name, random_)] for n, name in enumerate(categories(40, random_), start=1))
    old = [ticket(name, random_) for name in categories(3000, random_)]
    (folder / "old_tickets.txt").write_text("\n".join(old) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
