"""Time zones. Any IANA name is accepted, and Trigger.dev gets the name that it knows for the same clock.

Trigger.dev knows the 419 names of its ICU (recorded: timezones), some of them older than the current IANA name:
`Asia/Calcutta`, not `Asia/Kolkata`.
"""

import re
from datetime import datetime
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

NOT_AT_TRIGGER = "Etc/GMT+12"
# Abbreviations that are one offset, with a place that may be meant.
FIXED = {"EST": "America/New_York", "MST": "America/Denver", "HST": "Pacific/Honolulu"}


class ZoneError(ValueError):
    """An invalid time zone. The message says what is wrong with it."""


def check(name: str) -> None:
    """Raises ZoneError for a name that is not an IANA name, or that Trigger.dev has no equivalent for."""
    if name == NOT_AT_TRIGGER:
        raise ZoneError(f"{name} is a zone without an equivalent at Trigger.dev.")
    if name not in names():
        similar = [known for known in names() if known.lower() == name.lower()]
        hint = f"Did you mean {similar[0]}?" if similar else "For example: UTC, Europe/London, America/New_York."
        raise ZoneError(f"This is not an IANA time zone. {hint}")


def warnings(name: str) -> list[str]:
    """What somebody who chose this zone may not expect. The sign in `Etc/GMT+5` is reversed: it is UTC-05:00."""
    if name not in FIXED and not re.fullmatch("Etc/GMT[+-][1-9][0-9]?", name):
        return []
    offset = datetime.now(zone(name)).isoformat()[-6:]
    place = FIXED.get(name, "Europe/London")
    return [
        f"The time zone {name} is UTC{offset} all year, in summer too. For a clock that changes in summer, name a "
        f"place, for example {place}."
    ]


def trigger_name(name: str) -> str:
    """The name that Trigger.dev has for a zone that has passed `check`."""
    return ALIASES.get(name, name)


@cache
def names() -> frozenset[str]:
    return frozenset(available_timezones())


ALIASES = {
    "Africa/Asmara": "Africa/Nairobi",
    "Africa/Timbuktu": "Africa/Abidjan",
    "America/Argentina/Buenos_Aires": "America/Buenos_Aires",
    "America/Argentina/Catamarca": "America/Catamarca",
    "America/Argentina/ComodRivadavia": "America/Catamarca",
    "America/Argentina/Cordoba": "America/Cordoba",
    "America/Argentina/Jujuy": "America/Jujuy",
    "America/Argentina/Mendoza": "America/Mendoza",
    "America/Atikokan": "America/Panama",
    "America/Atka": "America/Adak",
    "America/Ensenada": "America/Tijuana",
    "America/Fort_Wayne": "America/Indianapolis",
    "America/Indiana/Indianapolis": "America/Indianapolis",
    "America/Kentucky/Louisville": "America/Louisville",
    "America/Knox_IN": "America/Indiana/Knox",
    "America/Montreal": "America/Toronto",
    "America/Nipigon": "America/Toronto",
    "America/Nuuk": "America/Godthab",
    "America/Pangnirtung": "America/Iqaluit",
    "America/Porto_Acre": "America/Rio_Branco",
    "America/Rainy_River": "America/Winnipeg",
    "America/Rosario": "America/Cordoba",
    "America/Santa_Isabel": "America/Tijuana",
    "America/Shiprock": "America/Denver",
    "America/Thunder_Bay": "America/Toronto",
    "America/Virgin": "America/Puerto_Rico",
    "America/Yellowknife": "America/Edmonton",
    "Antarctica/South_Pole": "Pacific/Auckland",
    "Asia/Ashkhabad": "Asia/Ashgabat",
    "Asia/Choibalsan": "Asia/Ulaanbaatar",
    "Asia/Chongqing": "Asia/Shanghai",
    "Asia/Chungking": "Asia/Shanghai",
    "Asia/Dacca": "Asia/Dhaka",
    "Asia/Harbin": "Asia/Shanghai",
    "Asia/Ho_Chi_Minh": "Asia/Saigon",
    "Asia/Istanbul": "Europe/Istanbul",
    "Asia/Kashgar": "Asia/Urumqi",
    "Asia/Kathmandu": "Asia/Katmandu",
    "Asia/Kolkata": "Asia/Calcutta",
    "Asia/Macao": "Asia/Macau",
    "Asia/Tel_Aviv": "Asia/Jerusalem",
    "Asia/Thimbu": "Asia/Thimphu",
    "Asia/Ujung_Pandang": "Asia/Makassar",
    "Asia/Ulan_Bator": "Asia/Ulaanbaatar",
    "Asia/Yangon": "Indian/Cocos",
    "Atlantic/Faroe": "Atlantic/Faeroe",
    "Atlantic/Jan_Mayen": "Europe/Berlin",
    "Australia/ACT": "Australia/Sydney",
    "Australia/Canberra": "Australia/Sydney",
    "Australia/Currie": "Australia/Hobart",
    "Australia/LHI": "Australia/Lord_Howe",
    "Australia/NSW": "Australia/Sydney",
    "Australia/North": "Australia/Darwin",
    "Australia/Queensland": "Australia/Brisbane",
    "Australia/South": "Australia/Adelaide",
    "Australia/Tasmania": "Australia/Hobart",
    "Australia/Victoria": "Australia/Melbourne",
    "Australia/West": "Australia/Perth",
    "Australia/Yancowinna": "Australia/Broken_Hill",
    "Brazil/Acre": "America/Rio_Branco",
    "Brazil/DeNoronha": "America/Noronha",
    "Brazil/East": "America/Sao_Paulo",
    "Brazil/West": "America/Manaus",
    "CET": "Europe/Brussels",
    "CST6CDT": "America/Chicago",
    "Canada/Atlantic": "America/Halifax",
    "Canada/Central": "America/Winnipeg",
    "Canada/Eastern": "America/Toronto",
    "Canada/Mountain": "America/Edmonton",
    "Canada/Newfoundland": "America/St_Johns",
    "Canada/Pacific": "America/Vancouver",
    "Canada/Saskatchewan": "America/Regina",
    "Canada/Yukon": "America/Whitehorse",
    "Chile/Continental": "America/Santiago",
    "Chile/EasterIsland": "Pacific/Easter",
    "Cuba": "America/Havana",
    "EET": "Europe/Athens",
    "EST": "America/Panama",
    "EST5EDT": "America/New_York",
    "Egypt": "Africa/Cairo",
    "Eire": "Europe/Dublin",
    "Etc/GMT": "UTC",
    "Etc/GMT+0": "UTC",
    "Etc/GMT+1": "Atlantic/Cape_Verde",
    "Etc/GMT+10": "Pacific/Honolulu",
    "Etc/GMT+11": "Pacific/Pago_Pago",
    "Etc/GMT+2": "America/Noronha",
    "Etc/GMT+3": "America/Cayenne",
    "Etc/GMT+4": "America/Puerto_Rico",
    "Etc/GMT+5": "America/Panama",
    "Etc/GMT+6": "America/Costa_Rica",
    "Etc/GMT+7": "America/Phoenix",
    "Etc/GMT+8": "Pacific/Pitcairn",
    "Etc/GMT+9": "Pacific/Gambier",
    "Etc/GMT-0": "UTC",
    "Etc/GMT-1": "Africa/Lagos",
    "Etc/GMT-10": "Pacific/Port_Moresby",
    "Etc/GMT-11": "Pacific/Guadalcanal",
    "Etc/GMT-12": "Pacific/Tarawa",
    "Etc/GMT-13": "Pacific/Tongatapu",
    "Etc/GMT-14": "Pacific/Kiritimati",
    "Etc/GMT-2": "Africa/Maputo",
    "Etc/GMT-3": "Africa/Nairobi",
    "Etc/GMT-4": "Asia/Dubai",
    "Etc/GMT-5": "Asia/Tashkent",
    "Etc/GMT-6": "Asia/Dhaka",
    "Etc/GMT-7": "Asia/Bangkok",
    "Etc/GMT-8": "Asia/Singapore",
    "Etc/GMT-9": "Asia/Tokyo",
    "Etc/GMT0": "UTC",
    "Etc/Greenwich": "UTC",
    "Etc/UCT": "UTC",
    "Etc/UTC": "UTC",
    "Etc/Universal": "UTC",
    "Etc/Zulu": "UTC",
    "Europe/Belfast": "Europe/London",
    "Europe/Kyiv": "Europe/Kiev",
    "Europe/Nicosia": "Asia/Nicosia",
    "Europe/Tiraspol": "Europe/Chisinau",
    "Europe/Uzhgorod": "Europe/Kiev",
    "Europe/Zaporozhye": "Europe/Kiev",
    "Factory": "UTC",
    "GB": "Europe/London",
    "GB-Eire": "Europe/London",
    "GMT": "UTC",
    "GMT+0": "UTC",
    "GMT-0": "UTC",
    "GMT0": "UTC",
    "Greenwich": "UTC",
    "HST": "Pacific/Honolulu",
    "Hongkong": "Asia/Hong_Kong",
    "Iceland": "Africa/Abidjan",
    "Iran": "Asia/Tehran",
    "Israel": "Asia/Jerusalem",
    "Jamaica": "America/Jamaica",
    "Japan": "Asia/Tokyo",
    "Kwajalein": "Pacific/Kwajalein",
    "Libya": "Africa/Tripoli",
    "MET": "Europe/Brussels",
    "MST": "America/Phoenix",
    "MST7MDT": "America/Denver",
    "Mexico/BajaNorte": "America/Tijuana",
    "Mexico/BajaSur": "America/Mazatlan",
    "Mexico/General": "America/Mexico_City",
    "NZ": "Pacific/Auckland",
    "NZ-CHAT": "Pacific/Chatham",
    "Navajo": "America/Denver",
    "PRC": "Asia/Shanghai",
    "PST8PDT": "America/Los_Angeles",
    "Pacific/Chuuk": "Pacific/Port_Moresby",
    "Pacific/Johnston": "Pacific/Honolulu",
    "Pacific/Kanton": "Pacific/Enderbury",
    "Pacific/Pohnpei": "Pacific/Guadalcanal",
    "Pacific/Samoa": "Pacific/Pago_Pago",
    "Pacific/Yap": "Pacific/Port_Moresby",
    "Poland": "Europe/Warsaw",
    "Portugal": "Europe/Lisbon",
    "ROC": "Asia/Taipei",
    "ROK": "Asia/Seoul",
    "Singapore": "Asia/Singapore",
    "Turkey": "Europe/Istanbul",
    "UCT": "UTC",
    "US/Alaska": "America/Anchorage",
    "US/Aleutian": "America/Adak",
    "US/Arizona": "America/Phoenix",
    "US/Central": "America/Chicago",
    "US/East-Indiana": "America/Indianapolis",
    "US/Eastern": "America/New_York",
    "US/Hawaii": "Pacific/Honolulu",
    "US/Indiana-Starke": "America/Indiana/Knox",
    "US/Michigan": "America/Detroit",
    "US/Mountain": "America/Denver",
    "US/Pacific": "America/Los_Angeles",
    "US/Samoa": "Pacific/Pago_Pago",
    "Universal": "UTC",
    "W-SU": "Europe/Moscow",
    "WET": "Europe/Lisbon",
    "Zulu": "UTC",
}


@cache
def zone(name: str) -> ZoneInfo:
    """Raises KeyError for a name that is not a zone, such as `America`, which is a folder of zones."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError) as error:
        raise KeyError(name) from error
