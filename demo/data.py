"""The example data of the demo: people, artists and tasks of music labels. Every object has a fixed id."""

import hashlib
from dataclasses import dataclass
from uuid import UUID, uuid5

NAMESPACE = UUID("7ec0a9d2-0000-4000-8000-000000000000")
ORGANIZATIONS = {
    "Northlight Records": ("alice", "bob"),
    "Harbour Street Music": ("charlie",),
    "Recoup Staff": ("dora",),
}
ADMIN_ORGANIZATION = "Recoup Staff"
PEOPLE = {
    "alice": ("Alice Moreau", "alice@northlight.example"),
    "bob": ("Bob Tanaka", "bob@northlight.example"),
    "charlie": ("Charlie Osei", "charlie@harbourstreet.example"),
    "dora": ("Dora Lindqvist", "dora@recoup.example"),
}
ARTISTS = {
    "Mira Solène": "Northlight Records",
    "The Paper Lanterns": "Northlight Records",
    "DJ Okonkwo": "Northlight Records",
    "Luna Vargas": "Harbour Street Music",
    "Hollow Pines": "Harbour Street Music",
}


@dataclass(frozen=True)
class DemoTask:
    owner: str
    artist: str
    title: str
    prompt: str
    schedule: str
    timezone: str
    enabled: bool | None = True
    has_run: bool = True


TASKS = (
    DemoTask(
        "alice",
        "Mira Solène",
        "Morning streaming report",
        "Compare yesterday's streams of Mira Solène on every platform with the week before. Name the three tracks that "
        "moved most, and say why you think they did.",
        "0 8 * * 1-5",
        "Europe/London",
    ),
    DemoTask(
        "alice",
        "Mira Solène",
        "New release radar",
        "List this week's new releases that share listeners with Mira Solène, with one line on each.",
        "0 9 * * FRI",
        "Europe/London",
    ),
    DemoTask(
        "alice",
        "The Paper Lanterns",
        "Short video ideas",
        "Write three ideas for short videos for The Paper Lanterns from what their fans posted since the last run.",
        "30 10 * * *",
        "America/New_York",
    ),
    DemoTask(
        "alice",
        "The Paper Lanterns",
        "Royalty statement check",
        "Read the newest royalty statement of The Paper Lanterns and list every line that does not fit the contract.",
        "0 6 2 * *",
        "Europe/London",
    ),
    DemoTask(
        "alice",
        "DJ Okonkwo",
        "Playlist pitches",
        "Draft a pitch to the editors of the five playlists that fit DJ Okonkwo's newest track best.",
        "0 14 * * 2,4",
        "America/New_York",
        enabled=False,
    ),
    DemoTask(
        "alice",
        "DJ Okonkwo",
        "Festival season plan",
        "Collect the open calls of festivals that booked acts like DJ Okonkwo, with deadlines and contacts.",
        "0 9 1 3 *",
        "Europe/London",
        has_run=False,
    ),
    DemoTask(
        "bob",
        "Mira Solène",
        "Fan mail digest",
        "Summarize this week's messages from fans of Mira Solène, and say which deserve an answer by the artist.",
        "0 17 * * FRI",
        "America/New_York",
        enabled=None,
    ),
    DemoTask(
        "charlie",
        "Luna Vargas",
        "Tour city heat map",
        "Rank the cities in which Luna Vargas gained most listeners since yesterday.",
        "15 7 * * *",
        "America/New_York",
    ),
    DemoTask(
        "charlie",
        "Hollow Pines",
        "Press clippings",
        "Collect what was written about Hollow Pines since the last run, with links and a one-line verdict.",
        "0 */6 * * *",
        "Europe/London",
    ),
)


def id_of(name: str) -> UUID:
    return uuid5(NAMESPACE, name)


def upstream_id(prefix: str, name: str, length: int) -> str:
    return prefix + hashlib.sha256(name.encode()).hexdigest()[:length]


RUN_IDS = {
    name: upstream_id("run_c", name, 24)
    for name in ("finished video", "failed video", "video in the making", "sandbox", "batch", "batch child of charlie")
}
