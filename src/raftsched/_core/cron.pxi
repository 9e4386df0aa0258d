# Cron `next` on bit masks: strictly after a second, by shifts and trailing-zero counts; no loop over minutes or days.
# Times are seconds since the epoch, local wall time inside `cron_next_local`, real time outside.

cdef int64_t CRON_FIRST_S = -<int64_t>62135596800        # 0001-01-01: earlier instants are taken as this one
cdef int64_t CRON_LAST_S = <int64_t>253402300799         # 9999-12-31T23:59:59
cdef enum:
    # The longest wait of a spec that fires at all is 8 years (29 February across 2100), more only where a zone skips that day.
    CRON_LOOK_AHEAD_YEARS = 41

cdef struct zone_t:                  # offset[i] holds from at[i]; offset[0] also before at[0]
    int64_t* at
    int32_t* offset
    int count
    int cached                       # the index of the last look-up


cdef inline int days_in_month(int64_t year, int month) noexcept nogil:
    if month == 2:
        return 29 if (year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)) else 28
    return 30 + ((month + (month >> 3)) & 1)


cdef inline void civil_from_days(int64_t days, int64_t* year, int* month, int* day) noexcept nogil:
    """The date of a day number (0 = 1970-01-01), from the year 1 on; eras of 400 years that begin in March."""
    cdef int64_t shifted = days + 719468, era = shifted // 146097
    cdef uint32_t of_era = <uint32_t>(shifted - era * 146097)
    cdef uint32_t year_of_era = (of_era - of_era // 1460 + of_era // 36524 - of_era // 146096) // 365
    cdef uint32_t of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef uint32_t march_month = (5 * of_year + 2) // 153
    day[0] = <int>(of_year - (153 * march_month + 2) // 5 + 1)
    month[0] = <int>(march_month + 3 if march_month < 10 else march_month - 9)
    year[0] = <int64_t>year_of_era + era * 400 + (1 if month[0] <= 2 else 0)


cdef inline uint32_t matching_days(const cron_masks_t* c, int64_t year, int month, int64_t first_day) noexcept nogil:
    """Bit d (1..31) is set when day d of that month matches; first_day = day number of the 1st."""
    cdef int length = days_in_month(year, month)
    cdef int weekday = <int>(((first_day + 4) % 7 + 7) % 7)             # of the 1st; 1970-01-01 was a Thursday
    cdef uint64_t weeks = c.weekdays
    cdef uint32_t by_weekday, both
    weeks |= weeks << 7
    weeks |= weeks << 14
    weeks |= weeks << 28
    by_weekday = <uint32_t>((weeks >> weekday) << 1)
    both = c.days & by_weekday if (c.day_star or c.weekday_star) else c.days | by_weekday
    return both & (<uint32_t>((<uint64_t>1 << (length + 1)) - 1)) & <uint32_t>0xfffffffe


cdef inline int64_t first_of_day(const cron_masks_t* c) noexcept nogil:
    return TW_CTZ32(c.hours) * 3600 + TW_CTZ64(c.minutes) * 60 + TW_CTZ64(c.seconds)


cdef inline int64_t later_that_day(const cron_masks_t* c, int of_day) noexcept nogil:
    """The first matching second of a day that is >= of_day; -1 = none."""
    cdef int hour = of_day // 3600, minute = of_day // 60 % 60, second = of_day % 60
    cdef uint64_t left
    if (c.hours >> hour) & 1:
        if (c.minutes >> minute) & 1:
            left = c.seconds >> second
            if left:
                return of_day + TW_CTZ64(left)
        left = c.minutes >> (minute + 1)
        if left:
            return hour * 3600 + (minute + 1 + TW_CTZ64(left)) * 60 + TW_CTZ64(c.seconds)
    left = <uint64_t>c.hours >> (hour + 1)
    if left:
        return (hour + 1 + TW_CTZ64(left)) * 3600 + TW_CTZ64(c.minutes) * 60 + TW_CTZ64(c.seconds)
    return -1


cdef int64_t CRON_NONE = -<int64_t>0x7fffffffffffffff        # inside only: -1 is a real second of 1969


cdef int64_t cron_next_local(const cron_masks_t* c, int64_t after) noexcept nogil:
    """The smallest matching local second > after; CRON_NONE when there is none within the look-ahead."""
    cdef int64_t second = after + 1, day, first, year, last_year, found
    cdef int month, day_of_month
    cdef uint32_t days
    day = second // 86400 if second >= 0 else -((86399 - second) // 86400)
    civil_from_days(day, &year, &month, &day_of_month)
    last_year = year + CRON_LOOK_AHEAD_YEARS
    first = day - (day_of_month - 1)
    if (c.months >> month) & 1:
        days = matching_days(c, year, month, first)
        if (days >> day_of_month) & 1:
            found = later_that_day(c, <int>(second - day * 86400))
            if found >= 0:
                return day * 86400 + found
        days = <uint32_t>(<uint64_t>days >> (day_of_month + 1))
        if days:
            return (day + 1 + TW_CTZ32(days)) * 86400 + first_of_day(c)
    while True:
        first += days_in_month(year, month)
        month += 1
        if month == 13:
            month = 1
            year += 1
            if year > last_year:
                return CRON_NONE
        if not (c.months >> month) & 1:
            continue
        days = matching_days(c, year, month, first)
        if days:
            return (first + TW_CTZ32(days) - 1) * 86400 + first_of_day(c)


cdef inline int zone_index(zone_t* zone, int64_t second) noexcept nogil:
    """The transition in force at a real second; the one before the first counts as the first."""
    cdef int low = zone.cached, high, middle
    if zone.at[low] <= second and (low + 1 == zone.count or second < zone.at[low + 1]):
        return low
    low = 0
    high = zone.count
    while high - low > 1:
        middle = (low + high) >> 1
        if zone.at[middle] <= second:
            low = middle
        else:
            high = middle
    zone.cached = low
    return low


cdef int64_t cron_next_zoned(const cron_masks_t* c, zone_t* zone, int64_t after) noexcept nogil:
    """The literal rule: the first real second > after whose local reading matches. A gap skips, a fold repeats."""
    cdef int i = zone_index(zone, after)
    cdef int64_t local = after + zone.offset[i], found
    while True:
        found = cron_next_local(c, local)
        if found == CRON_NONE:
            return CRON_NONE
        if i + 1 == zone.count or found - zone.offset[i] < zone.at[i + 1]:
            return found - zone.offset[i]
        i += 1                                    # beyond the next transition: go there and read the wall clock anew
        local = zone.at[i] + zone.offset[i] - 1


cdef inline int64_t cron_next(const cron_masks_t* c, zone_t* zone, int64_t after) noexcept nogil:
    """The first fire > after, or -1. Clamped to the years 1 … 9999."""
    cdef int64_t found
    if after >= CRON_LAST_S:
        return -1
    if after < CRON_FIRST_S:
        after = CRON_FIRST_S
    found = cron_next_local(c, after) if zone == NULL else cron_next_zoned(c, zone, after)
    return -1 if found == CRON_NONE or found > CRON_LAST_S else found
