# Specs by number. Equal specs share one, counted by users, so that a million jobs with one expression cost one record.

cdef enum:
    CRON_SPECS_MAX = 16777216        # beyond: MemoryError
    CRON_ZONES_MAX = 1024            # IANA has about 600

cdef struct cron_spec_t:             # 48 bytes
    cron_masks_t masks
    int32_t zone                     # -1 = UTC; of a free spec: the next free one
    uint32_t users                   # 0 = free

cdef struct cron_table_t:
    cron_spec_t* specs
    uint32_t count                   # numbers ever given
    uint32_t capacity
    uint32_t used
    int32_t first_free               # -1 = none
    uint32_t* index                  # number + 1 by hash, linear probing with wrap
    uint32_t index_mask
    uint64_t version                 # rises when a number may have changed its meaning
    zone_t zones[CRON_ZONES_MAX]


cdef inline uint32_t spec_home(const cron_table_t* table, const cron_spec_t* spec) noexcept nogil:
    # masks and zone, not the users; the struct's padding is zero
    return <uint32_t>(tw_hash(<const unsigned char*>spec, sizeof(cron_masks_t) + 4, 1, 2) >> 20) & table.index_mask


cdef inline bint same_spec(const cron_spec_t* a, const cron_spec_t* b) noexcept nogil:
    return memcmp(a, b, sizeof(cron_masks_t) + 4) == 0


cdef void index_spec(cron_table_t* table, uint32_t number) noexcept nogil:
    cdef uint32_t i = spec_home(table, &table.specs[number])
    while table.index[i]:
        i = (i + 1) & table.index_mask
    table.index[i] = number + 1


cdef void unindex_spec(cron_table_t* table, uint32_t number) noexcept nogil:
    """Backward-shift delete: no tombstones."""
    cdef uint32_t hole = spec_home(table, &table.specs[number]), i, home
    while table.index[hole] != number + 1:
        hole = (hole + 1) & table.index_mask
    i = hole
    while True:
        i = (i + 1) & table.index_mask
        if table.index[i] == 0:
            break
        home = spec_home(table, &table.specs[table.index[i] - 1])
        if ((i - home) & table.index_mask) >= ((i - hole) & table.index_mask):
            table.index[hole] = table.index[i]
            hole = i
    table.index[hole] = 0


cdef bint grow_specs(cron_table_t* table) noexcept nogil:
    """Doubles specs and index; False = no memory, nothing changed."""
    cdef uint32_t capacity = table.capacity * 2 if table.capacity else 16, i
    cdef cron_spec_t* specs
    cdef uint32_t* index = <uint32_t*>calloc(<size_t>capacity * 2, 4)
    if index == NULL:
        return False
    specs = <cron_spec_t*>realloc(table.specs, <size_t>capacity * sizeof(cron_spec_t))
    if specs == NULL:
        free(index)
        return False
    free(table.index)
    table.specs = specs
    table.index = index
    table.capacity = capacity
    table.index_mask = capacity * 2 - 1
    for i in range(table.count):
        if specs[i].users:
            index_spec(table, i)
    return True


cdef int64_t add_spec(cron_table_t* table, cron_spec_t* wanted) noexcept nogil:
    """The number; -1 = full."""
    cdef uint32_t i, number
    if table.capacity:
        i = spec_home(table, wanted)
        while table.index[i]:
            number = table.index[i] - 1
            if same_spec(&table.specs[number], wanted):
                table.specs[number].users += 1
                return number
            i = (i + 1) & table.index_mask
    if table.first_free >= 0:
        number = <uint32_t>table.first_free
        table.first_free = table.specs[number].zone
    else:
        if table.count == CRON_SPECS_MAX or (table.count == table.capacity and not grow_specs(table)):
            return -1
        number = table.count
        table.count += 1
    table.specs[number] = wanted[0]
    table.specs[number].users = 1
    table.used += 1
    table.version += 1
    index_spec(table, number)
    return number


cdef inline int64_t spec_next(cron_table_t* table, const cron_spec_t* spec, int64_t after) noexcept nogil:
    """The first fire > after, or -1. The second -1 itself (1969) is passed over, for that reason."""
    cdef zone_t* zone = NULL if spec.zone < 0 else &table.zones[spec.zone]
    cdef int64_t found = cron_next(&spec.masks, zone, after)
    return cron_next(&spec.masks, zone, -1) if found == -1 and after < -1 else found


cdef inline int64_t table_next(cron_table_t* table, int64_t number, int64_t after) noexcept nogil:
    """As spec_next; -1 also when there is no such spec."""
    if number < 0 or number >= table.count or table.specs[number].users == 0:
        return -1
    return spec_next(table, &table.specs[number], after)


cdef int64_t table_last(cron_table_t* table, int64_t number, int64_t after, int64_t until) noexcept nogil:
    """The last fire in (after, until], or -1: `next` rises with its argument, so bisect for the last one that is not too late."""
    cdef int64_t low = after, high = until, middle, found = table_next(table, number, after), candidate
    if found < 0 or found > until:
        return -1
    while high - low > 1:                              # next(low) <= until, next(high) > until
        middle = low + (high - low) // 2
        candidate = table_next(table, number, middle)
        if 0 <= candidate <= until:
            found = candidate
            low = middle
        else:
            high = middle
    return found


cdef inline bint outside(uint64_t mask, int low, int high) noexcept nogil:
    """A mask of a field low…high that is empty or has other bits."""
    return mask == 0 or mask & ~(((<uint64_t>2 << high) - 1) & ~((<uint64_t>1 << low) - 1)) != 0


@cython.final
cdef class CronTable:
    def __cinit__(self):
        self.table = <cron_table_t*>calloc(1, sizeof(cron_table_t))
        if self.table == NULL:
            raise MemoryError("cron table")
        self.table.first_free = -1

    def __dealloc__(self):
        cdef int i
        if self.table == NULL:
            return
        for i in range(CRON_ZONES_MAX):
            free(self.table.zones[i].at)
            free(self.table.zones[i].offset)
        free(self.table.specs)
        free(self.table.index)
        free(self.table)

    cdef int64_t c_next(self, int spec, int64_t after_s) noexcept nogil:
        return table_next(self.table, spec, after_s)

    cdef int64_t c_last(self, int spec, int64_t after_s, int64_t until_s) noexcept nogil:
        return table_last(self.table, spec, after_s, until_s)

    def __len__(self):
        return self.table.used

    cdef int read_spec(self, masks, int zone, cron_spec_t* spec) except -1:
        seconds, minutes, hours, days, months, weekdays, day_star, weekday_star = masks
        memset(spec, 0, sizeof(cron_spec_t))
        spec.masks.seconds = seconds
        spec.masks.minutes = minutes
        spec.masks.hours = hours
        spec.masks.days = days
        spec.masks.months = months
        spec.masks.weekdays = weekdays
        spec.masks.day_star = bool(day_star)
        spec.masks.weekday_star = bool(weekday_star)
        spec.zone = zone
        if (outside(spec.masks.seconds, 0, 59) or outside(spec.masks.minutes, 0, 59) or outside(spec.masks.hours, 0, 23)
                or outside(spec.masks.days, 1, 31) or outside(spec.masks.months, 1, 12) or outside(spec.masks.weekdays, 0, 6)):
            raise ValueError("a cron mask is empty or has bits outside its field")
        if zone < -1 or zone >= CRON_ZONES_MAX or (zone >= 0 and self.table.zones[zone].count == 0):
            raise ValueError("zone is not set")
        return 0

    def add(self, masks not None, int zone=-1):
        cdef cron_spec_t spec
        cdef int64_t number
        self.read_spec(masks, zone, &spec)
        number = add_spec(self.table, &spec)
        if number < 0:
            raise MemoryError("too many cron specs")
        return number

    def release(self, int spec):
        cdef cron_table_t* table = self.table
        if spec < 0 or <uint32_t>spec >= table.count or table.specs[spec].users == 0:
            raise ValueError("no such spec")
        table.specs[spec].users -= 1
        if table.specs[spec].users == 0:
            unindex_spec(table, <uint32_t>spec)
            table.specs[spec].zone = table.first_free
            table.first_free = spec
            table.used -= 1

    def set_zone(self, int zone, const int64_t[::1] at not None, const int32_t[::1] offset not None):
        cdef zone_t* target
        cdef int64_t* new_at
        cdef int32_t* new_offset
        cdef Py_ssize_t i, count = at.shape[0]
        if zone < 0 or zone >= CRON_ZONES_MAX:
            raise ValueError("zone out of range")
        if count < 1 or count > 1000000 or offset.shape[0] != count:
            raise ValueError("a zone needs as many offsets as transitions, at least one")
        for i in range(count):
            if offset[i] < -172800 or offset[i] > 172800 or (i and at[i] <= at[i - 1]):
                raise ValueError("transitions must rise and offsets stay within two days")
        new_at = <int64_t*>malloc(count * 8)
        new_offset = <int32_t*>malloc(count * 4)
        if new_at == NULL or new_offset == NULL:
            free(new_at)
            free(new_offset)
            raise MemoryError("zone")
        memcpy(new_at, &at[0], count * 8)
        memcpy(new_offset, &offset[0], count * 4)
        target = &self.table.zones[zone]
        free(target.at)
        free(target.offset)
        target.at = new_at
        target.offset = new_offset
        target.count = <int>count
        target.cached = 0
        self.table.version += 1

    def next(self, int spec, int64_t after_s):
        return table_next(self.table, spec, after_s)

    def next_of(self, masks not None, int zone, int64_t after_s):
        cdef cron_spec_t spec
        self.read_spec(masks, zone, &spec)
        return spec_next(self.table, &spec, after_s)

    def last(self, int spec, int64_t after_s, int64_t until_s):
        return table_last(self.table, spec, after_s, until_s)
