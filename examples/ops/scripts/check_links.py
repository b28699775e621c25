"""Finds links between the pages that lead nowhere: exit code 2 if there are any."""

import argparse
import sys
from html.parser import HTMLParser
from pathlib import Path


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name == "href" and value]


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("folder", type=Path)
given = parser.parse_args()

dead = 0
pages = sorted(given.folder.glob("*.html"))
for page in pages:
    links = Links()
    links.feed(page.read_text("utf-8"))
    for link in links.found:
        if "://" not in link and not (given.folder / link.partition("#")[0]).is_file():
            print(f"{page.name}: {link} leads nowhere")
            dead += 1
print(f"{len(pages)} pages, {dead} dead links")
sys.exit(2 if dead else 0)
