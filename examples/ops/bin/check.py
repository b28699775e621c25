"""One check of the catalogue: prints what is wrong with it, exit code 1 if anything is."""

import argparse
import datetime
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from shop import connect

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("check", choices=["prices", "numbers", "sales"])
parser.add_argument("--at-most", type=int, default=0)
given = parser.parse_args()

books = connect().execute("SELECT * FROM books").fetchall()
if given.check == "prices":
    dear = [book for book in books if not 0 < book["cents"] <= 100 * given.at_most]
    found = [f"{book['title']} costs {book['cents'] / 100:.2f} EUR" for book in dear]
elif given.check == "numbers":
    short = [book for book in books if len(book["isbn"].replace("-", "")) != 13]
    found = [f"{book['title']} has the number {book['isbn']}" for book in short]
else:
    (newest,) = connect().execute("SELECT max(day) FROM sales").fetchone()
    age = datetime.datetime.now(datetime.UTC).date() - datetime.date.fromisoformat(newest)
    found = [f"the newest sale is {age.days} days old"] if age.days > given.at_most else []

print("\n".join(found) or f"{given.check}: nothing found")
sys.exit(1 if found else 0)
