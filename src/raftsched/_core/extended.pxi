# Schedules of the extended dialect (docs/schedules.md): days that no mask tells, days that calendars exclude, jitter. Real times are
# milliseconds here. Their numbers begin where those of cron specs end, so that a cron spec pays nothing for them.

cdef int64_t EXTENDED_NONE = -<int64_t>0x7fffffffffffffff
cdef int64_t DAY_MS = 86400000
cdef enum:
    EXTENDED_SPECS_MAX = 16777216    # beyond: MemoryError
    EXCLUSIONS_MAX = 65536
    EXCLUDED_RANGES_MAX = 100000
    EVERY_DAYS_MAX = 4018            # days that are looked at for one of an @every that is not excluded: 11 years

cdef struct exclusion_t:             # days of which nothing fires
    int32_t* first                   # day numbers of ranges, both ends included, rising and apart
    int32_t* last
    int32_t count
    uint32_t weekdays                # bit 0 = Sunday
    uint32_t yearly[13]              # [month], bit = day
    uint32_t users
    uint8_t known                    # its calendars are there; else nothing fires at all
    uint8_t used

cdef struct extended_t:              # 128 bytes
    cron_masks_t masks
    uint64_t nth                     # bit (n - 1) * 7 + weekday: the n-th of a month; bit 35 + weekday: the last
    uint64_t seed                    # of the jitter
    int64_t interval_ms              # > 0: @every; the masks are not looked at
    int64_t jitter_ms                # each tick is moved by 0 … jitter_ms - 1; at most a day
    uint32_t from_end                # bit n: n days before the last of the month
    uint32_t nearest                 # bit n: the weekday (Monday to Friday) nearest to day n; bit 0: to the last day
    uint32_t business                # bit n: the n-th business day; bit 0: all of them
    uint32_t business_from_end       # bit n: n business days before the last one
    int32_t zone                     # -1 = UTC
    int32_t exclusion                # -1 = none
    uint32_t used
    uint32_t next_free               # number + 1

cdef struct extended_table_t:
    extended_t* specs
    uint32_t count, capacity, used, first_free
    exclusion_t* exclusions
    uint32_t exclusion_count, exclusion_capacity


cdef inline uint32_t days_of_weekdays(uint64_t weekdays, int weekday_of_first) noexcept nogil:
    """Bit d (1..31): day d is one of these weekdays; days beyond the month's length too."""
    weekdays |= weekdays << 7
    weekdays |= weekdays << 14
    weekdays |= weekdays << 28
    return <uint32_t>((weekdays >> weekday_of_first) << 1)


cdef uint32_t excluded_days(const exclusion_t* x, int month, int64_t first_day, int weekday, int length) noexcept nogil:
    cdef uint32_t found = days_of_weekdays(x.weekdays, weekday) | x.yearly[month]
    cdef int low = 0, high = x.count, middle
    cdef int64_t begin, end
    while low < high:                                          # the first range that ends in this month or later
        middle = (low + high) >> 1
        if x.last[middle] < first_day:
            low = middle + 1
        else:
            high = middle
    while low < x.count and x.first[low] < first_day + length:
        begin = max(<int64_t>x.first[low] - first_day + 1, 1)
        end = min(<int64_t>x.last[low] - first_day + 1, length)
        found |= <uint32_t>((<uint64_t>2 << end) - (<uint64_t>1 << begin))
        low += 1
    return found


cdef inline int nearest_weekday(int day, int weekday_of_first, int length) noexcept nogil:
    """Monday to Friday, in the same month."""
    cdef int weekday = (weekday_of_first + day - 1) % 7
    if weekday == 6:
        return day - 1 if day > 1 else 3
    if weekday == 0:
        return day + 1 if day < length else day - 2
    return day


cdef uint32_t days_by_business(const extended_t* e, uint32_t working) noexcept nogil:
    cdef uint32_t found = working if e.business & 1 else 0, left
    cdef int n = 1, day
    left = working
    while left and e.business >> n:
        found |= (left & (~left + 1)) if (e.business >> n) & 1 else 0
        left &= left - 1
        n += 1
    n = 0
    day = 31
    while day and e.business_from_end >> n:
        if (working >> day) & 1:
            found |= (<uint32_t>1 << day) if (e.business_from_end >> n) & 1 else 0
            n += 1
        day -= 1
    return found


cdef uint32_t days_by_nth(uint64_t nth, int weekday_of_first, int length) noexcept nogil:
    cdef uint32_t found = 0
    cdef int n, weekday, day
    for weekday in range(7):
        for n in range(5):
            day = 1 + (weekday - weekday_of_first + 7) % 7 + 7 * n
            if day <= length and ((nth >> (n * 7 + weekday)) & 1 or ((nth >> (35 + weekday)) & 1 and day + 7 > length)):
                found |= <uint32_t>1 << day
    return found


cdef uint32_t days_of_month(const extended_t* e, const exclusion_t* x, int64_t year, int month, int64_t first_day) noexcept nogil:
    """Bit d (1..31) is set when day d of that month matches and is not excluded."""
    cdef int length = days_in_month(year, month), n, day
    cdef int weekday = <int>(((first_day + 4) % 7 + 7) % 7)
    cdef uint32_t whole = <uint32_t>((<uint64_t>2 << length) - 2)
    cdef uint32_t excluded = excluded_days(x, month, first_day, weekday, length) if x != NULL else 0
    cdef uint32_t by_date = e.masks.days, by_weekday = days_of_weekdays(e.masks.weekdays, weekday), left = e.from_end
    while left:
        n = TW_CTZ32(left)
        left &= left - 1
        if length - n >= 1:
            by_date |= <uint32_t>1 << (length - n)
    left = e.nearest
    while left:
        n = TW_CTZ32(left)
        left &= left - 1
        day = n if n else length
        if day <= length:
            by_date |= <uint32_t>1 << nearest_weekday(day, weekday, length)
    if e.business | e.business_from_end:
        by_date |= days_by_business(e, days_of_weekdays(0x3e, weekday) & whole & ~excluded)
    if e.nth:
        by_weekday |= days_by_nth(e.nth, weekday, length)
    by_date = by_date & by_weekday if (e.masks.day_star or e.masks.weekday_star) else by_date | by_weekday
    return by_date & whole & ~excluded


cdef int64_t extended_next_local(const extended_t* e, const exclusion_t* x, int64_t after) noexcept nogil:
    """As cron_next_local."""
    cdef const cron_masks_t* c = &e.masks
    cdef int64_t second = after + 1, day, first, year, last_year, found
    cdef int month, day_of_month
    cdef uint32_t days
    day = second // 86400 if second >= 0 else -((86399 - second) // 86400)
    civil_from_days(day, &year, &month, &day_of_month)
    last_year = year + CRON_LOOK_AHEAD_YEARS
    first = day - (day_of_month - 1)
    if (c.months >> month) & 1:
        days = days_of_month(e, x, year, month, first)
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
        days = days_of_month(e, x, year, month, first)
        if days:
            return (first + TW_CTZ32(days) - 1) * 86400 + first_of_day(c)


cdef int64_t extended_next_zoned(const extended_t* e, const exclusion_t* x, zone_t* zone, int64_t after) noexcept nogil:
    """As cron_next_zoned: a gap skips, a fold repeats."""
    cdef int i = zone_index(zone, after)
    cdef int64_t local = after + zone.offset[i], found
    while True:
        found = extended_next_local(e, x, local)
        if found == CRON_NONE:
            return CRON_NONE
        if i + 1 == zone.count or found - zone.offset[i] < zone.at[i + 1]:
            return found - zone.offset[i]
        i += 1
        local = zone.at[i] + zone.offset[i] - 1


cdef int64_t every_next(const extended_t* e, const exclusion_t* x, zone_t* zone, int64_t begin_ms, int64_t after_ms) noexcept nogil:
    """The first of begin + n * interval (n > 0) that is later, on a day that is not excluded."""
    cdef int64_t n = (after_ms - begin_ms) // e.interval_ms, at, offset = 0, day, year, first, next_day, other
    cdef int month, day_of_month, turns
    if (after_ms - begin_ms) % e.interval_ms < 0:
        n -= 1
    at = begin_ms + max(n + 1, 1) * e.interval_ms
    if x == NULL:
        return at if at <= CRON_LAST_S * 1000 else EXTENDED_NONE
    for turns in range(EVERY_DAYS_MAX):
        if at > CRON_LAST_S * 1000:
            break
        offset = 0 if zone == NULL else zone.offset[zone_index(zone, at // 1000)]
        day = (at + offset * 1000) // DAY_MS
        if (at + offset * 1000) % DAY_MS < 0:
            day -= 1
        civil_from_days(day, &year, &month, &day_of_month)
        first = day - (day_of_month - 1)
        if not (excluded_days(x, month, first, <int>(((first + 4) % 7 + 7) % 7), days_in_month(year, month)) >> day_of_month) & 1:
            return at
        next_day = (day + 1) * DAY_MS - offset * 1000
        if zone != NULL:                                       # clocks may change before that: the earlier of both, but later than now
            other = (day + 1) * DAY_MS - <int64_t>zone.offset[zone_index(zone, next_day // 1000)] * 1000
            if at < other < next_day:
                next_day = other
        at += max((next_day - at + e.interval_ms - 1) // e.interval_ms, 1) * e.interval_ms
    return EXTENDED_NONE


cdef int64_t planned_next(extended_table_t* t, cron_table_t* table, const extended_t* e, int64_t begin_ms, int64_t after_ms) noexcept nogil:
    """The first tick after an instant, before it is moved by jitter; EXTENDED_NONE: there is none, or a calendar is missing."""
    cdef zone_t* zone = NULL if e.zone < 0 else &table.zones[e.zone]
    cdef exclusion_t* x = NULL if e.exclusion < 0 else &t.exclusions[e.exclusion]
    cdef int64_t after = after_ms // 1000, found
    if x != NULL and not x.known:
        return EXTENDED_NONE
    if after_ms >= CRON_LAST_S * 1000:
        return EXTENDED_NONE
    if e.interval_ms:
        return every_next(e, x, zone, begin_ms, after_ms)
    if after_ms % 1000 < 0:
        after -= 1
    if after < CRON_FIRST_S:
        after = CRON_FIRST_S
    found = extended_next_local(e, x, after) if zone == NULL else extended_next_zoned(e, x, zone, after)
    return EXTENDED_NONE if found == CRON_NONE or found > CRON_LAST_S else found * 1000


cdef int64_t moved(extended_table_t* t, cron_table_t* table, const extended_t* e, int64_t planned_ms) noexcept nogil:
    """A tick with its jitter: a function of seed, tick and times of day alone, so that no change of a calendar moves one again. It stays
    before the next tick that there might be on any day: their order is kept, and none comes twice."""
    cdef extended_t daily
    cdef int64_t room = e.interval_ms
    cdef uint64_t hashed
    if e.jitter_ms <= 0:
        return planned_ms
    if e.interval_ms == 0:
        daily = e[0]
        daily.exclusion = -1
        daily.masks.day_star = daily.masks.weekday_star = 1
        daily.masks.days = 0xfffffffe
        daily.masks.months = 0x1ffe
        daily.masks.weekdays = 0x7f
        room = planned_next(t, table, &daily, 0, planned_ms) - planned_ms
    if room <= 0 or room > e.jitter_ms:
        room = e.jitter_ms
    hashed = (e.seed ^ <uint64_t>planned_ms) + <uint64_t>0x9e3779b97f4a7c15          # SplitMix64
    hashed = (hashed ^ (hashed >> 30)) * <uint64_t>0xbf58476d1ce4e5b9
    hashed = (hashed ^ (hashed >> 27)) * <uint64_t>0x94d049bb133111eb
    return planned_ms + <int64_t>((hashed ^ (hashed >> 31)) % <uint64_t>room)


cdef int64_t extended_next(
    extended_table_t* t, cron_table_t* table, const extended_t* e, int64_t begin_ms, int64_t after_ms
) noexcept nogil:
    """The first fire after an instant."""
    cdef int64_t low, high, middle, found, planned = EXTENDED_NONE
    if after_ms < CRON_FIRST_S * 1000:
        after_ms = CRON_FIRST_S * 1000
    if e.jitter_ms > 0:
        low = after_ms - e.jitter_ms                           # the last tick that is planned in (low, after] may still come
        high = after_ms
        found = planned_next(t, table, e, begin_ms, low)
        if found == EXTENDED_NONE:
            return EXTENDED_NONE
        if found > after_ms:
            return moved(t, table, e, found)
        planned = low = found
        while high - low > 1:                                  # planned_next(low - …) <= after < planned_next(high)
            middle = low + (high - low) // 2
            found = planned_next(t, table, e, begin_ms, middle)
            if found != EXTENDED_NONE and found <= after_ms:
                planned = low = found
            else:
                high = middle
        found = moved(t, table, e, planned)
        if found > after_ms:
            return found
    planned = planned_next(t, table, e, begin_ms, after_ms)
    return EXTENDED_NONE if planned == EXTENDED_NONE else moved(t, table, e, planned)


cdef int64_t extended_last(extended_table_t* t, cron_table_t* table, const extended_t* e, int64_t begin_ms, int64_t after_ms,
                           int64_t until_ms) noexcept nogil:
    """The last fire in (after, until], or EXTENDED_NONE."""
    cdef int64_t low = after_ms, high = until_ms, middle, last = EXTENDED_NONE, found
    found = extended_next(t, table, e, begin_ms, after_ms)
    if found == EXTENDED_NONE or found > until_ms:
        return EXTENDED_NONE
    last = low = found
    while high - low > 1:                                      # a fire at low; none in (high, until] that is not known
        middle = low + (high - low) // 2
        found = extended_next(t, table, e, begin_ms, middle)
        if found != EXTENDED_NONE and found <= until_ms:
            last = low = found
        else:
            high = middle
    found = extended_next(t, table, e, begin_ms, low)
    return found if found != EXTENDED_NONE and found <= until_ms else last


@cython.final
cdef class ExtendedTable:
    def __cinit__(self, CronTable cron not None):
        self.cron = cron
        self.table = <extended_table_t*>calloc(1, sizeof(extended_table_t))
        if self.table == NULL:
            raise MemoryError("extended schedules")

    def __dealloc__(self):
        cdef uint32_t i
        if self.table == NULL:
            return
        for i in range(self.table.exclusion_count):
            free(self.table.exclusions[i].first)
            free(self.table.exclusions[i].last)
        free(self.table.exclusions)
        free(self.table.specs)
        free(self.table)

    def __len__(self):
        return self.table.used

    cdef int64_t c_next(self, int64_t number, int64_t begin_ms, int64_t after_ms) noexcept nogil:
        return extended_next(self.table, self.cron.table, &self.table.specs[number], begin_ms, after_ms)

    cdef int64_t c_last(self, int64_t number, int64_t begin_ms, int64_t after_ms, int64_t until_ms) noexcept nogil:
        return extended_last(self.table, self.cron.table, &self.table.specs[number], begin_ms, after_ms, until_ms)

    cdef void c_release(self, int64_t number) noexcept nogil:
        cdef extended_t* e = &self.table.specs[number]
        if e.exclusion >= 0:
            self.table.exclusions[e.exclusion].users -= 1
        e.used = 0
        e.next_free = self.table.first_free
        self.table.first_free = <uint32_t>number + 1
        self.table.used -= 1

    cdef int read(self, tuple spec, extended_t* e) except -1:
        cdef cron_spec_t masks
        (given, zone, e.nth, e.from_end, e.nearest, e.business, e.business_from_end, e.interval_ms, e.jitter_ms, e.seed, exclusion) = spec
        memset(&masks, 0, sizeof(masks))
        seconds, minutes, hours, days, months, weekdays, day_star, weekday_star = given
        # A field of days may have rules alone, which are no mask.
        self.cron.read_spec((seconds, minutes, hours, days or 2, months, weekdays or 1, day_star, weekday_star), zone, &masks)
        e.masks = masks.masks
        e.masks.days = days
        e.masks.weekdays = weekdays
        e.zone = zone
        e.exclusion = exclusion
        e.used = 1
        e.next_free = 0
        if (e.nth >> 42 or e.from_end >> 31 or e.business >> 24 or e.business_from_end >> 23 or e.interval_ms < 0
                or e.interval_ms > CRON_LAST_S * 1000 or not 0 <= e.jitter_ms <= DAY_MS):
            raise ValueError("a rule of the extended dialect is out of range")
        if e.exclusion < -1 or (e.exclusion >= 0 and (<uint32_t>e.exclusion >= self.table.exclusion_count
                                                      or not self.table.exclusions[e.exclusion].used)):
            raise ValueError("no such exclusion")
        return 0

    def add(self, tuple spec not None):
        cdef extended_table_t* t = self.table
        cdef extended_t read
        cdef extended_t* grown
        cdef uint32_t capacity, number
        self.read(spec, &read)
        if t.first_free:
            number = t.first_free - 1
            t.first_free = t.specs[number].next_free
        else:
            if t.count == t.capacity:
                capacity = t.capacity * 2 if t.capacity else 16
                grown = <extended_t*>realloc(t.specs, <size_t>capacity * sizeof(extended_t)) if capacity <= EXTENDED_SPECS_MAX else NULL
                if grown == NULL:
                    raise MemoryError("too many schedules of the extended dialect")
                t.specs = grown
                t.capacity = capacity
            number = t.count
            t.count += 1
        t.specs[number] = read
        t.used += 1
        if read.exclusion >= 0:
            t.exclusions[read.exclusion].users += 1
        return number

    def release(self, uint32_t number):
        if number >= self.table.count or not self.table.specs[number].used:
            raise ValueError("no such schedule")
        self.c_release(number)

    def next_of(self, tuple spec not None, int64_t begin_ms, int64_t after_ms):
        cdef extended_t e
        cdef int64_t found
        self.read(spec, &e)
        if not -CRON_LAST_S * 1000 <= begin_ms <= CRON_LAST_S * 1000:
            raise ValueError("begin is no instant of the years 1 to 9999")
        found = extended_next(self.table, self.cron.table, &e, begin_ms, min(after_ms, CRON_LAST_S * 1000))
        return None if found == EXTENDED_NONE else found

    def last_of(self, tuple spec not None, int64_t begin_ms, int64_t after_ms, int64_t until_ms):
        cdef extended_t e
        cdef int64_t found
        self.read(spec, &e)
        if not -CRON_LAST_S * 1000 <= begin_ms <= CRON_LAST_S * 1000:
            raise ValueError("begin is no instant of the years 1 to 9999")
        found = extended_last(self.table, self.cron.table, &e, begin_ms, after_ms, min(until_ms, CRON_LAST_S * 1000))
        return None if found == EXTENDED_NONE else found

    def new_exclusion(self):
        cdef extended_table_t* t = self.table
        cdef exclusion_t* grown
        cdef uint32_t number, capacity
        for number in range(t.exclusion_count):
            if not t.exclusions[number].used:
                break
        else:
            number = t.exclusion_count
            if number == t.exclusion_capacity:
                capacity = number * 2 if number else 16
                grown = NULL
                if capacity <= EXCLUSIONS_MAX:
                    grown = <exclusion_t*>realloc(t.exclusions, <size_t>capacity * sizeof(exclusion_t))
                if grown == NULL:
                    raise MemoryError("too many combinations of calendars")
                t.exclusions = grown
                t.exclusion_capacity = capacity
            t.exclusion_count += 1
        memset(&t.exclusions[number], 0, sizeof(exclusion_t))
        t.exclusions[number].used = 1
        return number

    def users(self, uint32_t exclusion):
        if exclusion >= self.table.exclusion_count:
            raise ValueError("no such exclusion")
        return self.table.exclusions[exclusion].users

    def drop_exclusion(self, uint32_t exclusion):
        if self.users(exclusion):
            raise ValueError("the exclusion is used")
        free(self.table.exclusions[exclusion].first)
        free(self.table.exclusions[exclusion].last)
        memset(&self.table.exclusions[exclusion], 0, sizeof(exclusion_t))

    def set_exclusion(self, uint32_t exclusion, bint known, uint32_t weekdays, yearly not None, const int32_t[::1] first not None,
                      const int32_t[::1] last not None):
        cdef exclusion_t* x
        cdef Py_ssize_t i, count = first.shape[0]
        cdef int32_t* new_first
        cdef int32_t* new_last
        self.users(exclusion)
        if last.shape[0] != count or count > EXCLUDED_RANGES_MAX or len(yearly) != 13 or weekdays > 0x7f:
            raise ValueError("as many ends as beginnings, 13 masks of days, 7 weekdays")
        for i in range(count):
            if last[i] < first[i] or (i and first[i] <= last[i - 1]):
                raise ValueError("ranges must rise and lie apart")
        new_first = <int32_t*>malloc(count * 4 + 1)
        new_last = <int32_t*>malloc(count * 4 + 1)
        if new_first == NULL or new_last == NULL:
            free(new_first)
            free(new_last)
            raise MemoryError("exclusion")
        for i in range(count):
            new_first[i] = first[i]
            new_last[i] = last[i]
        x = &self.table.exclusions[exclusion]
        free(x.first)
        free(x.last)
        x.first = new_first
        x.last = new_last
        x.count = <int32_t>count
        x.weekdays = weekdays
        x.known = known
        for i in range(13):
            x.yearly[i] = yearly[i]
