"""calendar.yaml as a Calendar: the weekend, the public holidays, and what decrees changed about them."""

from datetime import date
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

import holidays
from pydantic import Field

from services.routing.domain import Calendar
from shared.config import ConfigError, ConfigFile, ConfigModel, read_config

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


class _Day(ConfigModel):
    date: Annotated[date, Field(ge=Calendar.FIRST_DAY, le=Calendar.LAST_DAY)]
    name: str


class _Holidays(ConfigModel):
    country: str | None = None
    subdivision: str | None = None
    extra: tuple[_Day, ...] = ()
    removed: tuple[_Day, ...] = ()


class _CalendarFile(ConfigModel):
    weekend: Annotated[tuple[Weekday, ...], Field(max_length=6)]
    holidays: _Holidays = _Holidays()


def load_calendar(path: Path, timezone: ZoneInfo) -> Calendar:
    """Read the working days of a jurisdiction; ConfigError with what is wrong.

    Holidays are those that PyPI `holidays` knows for `country` (ISO 3166) and `subdivision`, observed days included,
    without the `removed` ones and with the `extra` ones.
    """
    file = read_config(path, _CalendarFile)
    changes = file.content.holidays
    removed = {day.date for day in changes.removed}
    extra = {day.date for day in changes.extra}
    for index, day in enumerate(changes.extra):
        if day.date in removed:
            raise ConfigError([file.problem(("holidays", "extra", index, "date"), f"{day.date} is removed below, too")])
    return Calendar(
        timezone,
        weekend=[WEEKDAYS.index(day) for day in file.content.weekend],
        holidays=(_known_holidays(file) - removed) | extra,
    )


def _known_holidays(file: ConfigFile[_CalendarFile]) -> set[date]:
    country, subdivision = file.content.holidays.country, file.content.holidays.subdivision
    if country is None:
        return set()
    years = range(Calendar.FIRST_DAY.year, Calendar.LAST_DAY.year + 1)
    try:
        return set(holidays.country_holidays(country, subdiv=subdivision, years=years))
    except NotImplementedError as error:
        name = "country" if subdivision is None else "subdivision"
        raise ConfigError([file.problem(("holidays", name), f"no holidays are known: {error}")]) from error
