"""Cron, `@every`, due times and times to live → integers. No clock, no jobs: a base instant is always an argument."""

from raftsched.scheduler.schedule.dialect import EXTENDED, Extended
from raftsched.scheduler.schedule.errors import InvalidJobError
from raftsched.scheduler.schedule.instants import parse_instant
from raftsched.scheduler.schedule.schedules import CRON, EVERY, Schedule, Schedules, ZoneSource, ZoneTable
from raftsched.scheduler.schedule.validate import ResolvedJob, validate_job

__all__ = [
    "CRON",
    "EVERY",
    "EXTENDED",
    "Extended",
    "InvalidJobError",
    "ResolvedJob",
    "Schedule",
    "Schedules",
    "ZoneSource",
    "ZoneTable",
    "parse_instant",
    "validate_job",
]
