"""Go's durations, integers and quotes, and Kubernetes quantities; the expected texts were taken from Go 1.26."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftsched import units

H = 3600 * units.NS_PER_S


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [
        ("0", 0),
        ("-0", 0),
        ("1h", H),
        ("1.5h30m", 2 * H),
        ("-1m", -60 * units.NS_PER_S),
        (".5s", 500_000_000),
        ("1.s", units.NS_PER_S),
        ("1us2ns", 1_002),
        ("1\u00b5s", 1_000),
        ("1\u03bcs", 1_000),
        ("0.3333333333333333333h", 1_200 * units.NS_PER_S),
        ("9223372036854775807ns", 2**63 - 1),
        ("-9223372036854775808ns", -(2**63)),
    ],
)
def test_a_duration_is_read_as_go_reads_it(text: str, duration_ns: int) -> None:
    assert units.parse_duration(text) == duration_ns


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("", 'time: invalid duration ""'),
        ("+", 'time: invalid duration "+"'),
        (".s", 'time: invalid duration ".s"'),
        ("5", 'time: missing unit in duration "5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("9223372036854775808ns", 'time: invalid duration "9223372036854775808ns"'),
        ("3000000h", 'time: invalid duration "3000000h"'),
        ('a"\u00e9', 'time: invalid duration "a\\"\\xc3\\xa9"'),
    ],
)
def test_a_wrong_duration_is_refused_in_gos_words(text: str, refusal: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the text is compared below)
        units.parse_duration(text)
    assert str(caught.value) == refusal


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_100, "1.1\u00b5s"),
        (2_200_000, "2.2ms"),
        (3_300_000_000, "3.3s"),
        (245_000_000_000, "4m5s"),
        (5 * H + 1_001_000, "5h0m0.001001s"),
        (-(2**63), "-2562047h47m16.854775808s"),
        (10 * 60 * units.NS_PER_S, "10m0s"),
    ],
)
def test_a_duration_is_written_as_go_writes_it(duration_ns: int, text: str) -> None:
    assert units.format_duration(duration_ns) == text


@given(st.integers(-(2**52), 2**52))
def test_what_is_written_is_read_back(duration_ns: int) -> None:
    """Within the precision of the floating point that Go scales fractions with."""
    assert units.parse_duration(units.format_duration(duration_ns)) == duration_ns


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9.2E", 9_200_000_000_000_000_000),
        ("16Mi", 16 << 20),
        ("2Gi", 2 << 30),
        ("1.5Ki", 1_536),
        ("500M", 500_000_000),
        ("128", 128),
        ("1e3", 1_000),
        ("1E3", 1_000),
        ("1E", 10**18),
        ("1e-3", 1),
        ("100m", 1),
        ("-1.5", -2),
        ("+4k", 4_000),
        (".5k", 500),
        ("0", 0),
        ("10E", 2**63 - 1),
        ("1e400000000000", 2**63 - 1),
        ("0e999999999999", 0),
    ],
)
def test_a_quantity_is_whole_bytes_rounded_up_and_capped(text: str, value: int) -> None:
    assert units.parse_quantity(text) == value


FORMAT = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
SUFFIX = "unable to parse quantity's suffix"


@pytest.mark.parametrize(
    ("text", "refusal"), [("", FORMAT), ("5X", FORMAT), ("1 k", FORMAT), ("1kk", SUFFIX), ("1ki", SUFFIX), ("2-3", SUFFIX)]
)
def test_a_wrong_quantity_is_refused(text: str, refusal: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        units.parse_quantity(text)
    assert str(caught.value) == refusal


@pytest.mark.parametrize(
    ("text", "value"),
    [("0x1F", 31), ("-0b11", -3), ("017", 15), ("0o17", 15), ("1_000", 1_000), ("+5", 5), ("0_7", 7), ("-9223372036854775808", -(2**63))],
)
def test_an_integer_is_read_with_gos_prefixes(text: str, value: int) -> None:
    assert units.parse_int(text) == value


def test_integers_out_of_range_or_malformed_are_refused_in_gos_words() -> None:
    with pytest.raises(ValueError, match=r'^strconv\.ParseInt: parsing "9223372036854775808": value out of range$'):
        units.parse_int("9223372036854775808")
    with pytest.raises(ValueError, match=r'^strconv\.ParseUint: parsing "-1": invalid syntax$'):
        units.parse_uint("-1")
    with pytest.raises(ValueError, match=r'^strconv\.ParseUint: parsing "4294967296": value out of range$'):
        units.parse_uint("4294967296", 32)
    for text in ("", "_1", "1_", "1__0", "0x", "08", "1.0", "\u0663"):
        with pytest.raises(ValueError, match="invalid syntax"):
            units.parse_int(text)


def test_a_huge_integer_costs_no_time() -> None:
    with pytest.raises(ValueError, match="value out of range"):
        units.parse_int("9" * 100_000)
    assert units.parse_duration("0" * 5_000 + "7ns") == units.parse_int("0" * 5_000 + "7") == 7
    with pytest.raises(ValueError, match="quantities must match"):
        units.parse_quantity("1" * 5_000)
    with pytest.raises(ValueError, match=r"^time: invalid duration"):
        units.parse_duration("1" * 5_000 + "ns")


def test_booleans_are_gos() -> None:
    assert [units.parse_bool(text) for text in ("true", "t", "1", "TRUE", "F", "0")] == [True, True, True, True, False, False]
    with pytest.raises(ValueError, match=r'^strconv\.ParseBool: parsing "yes": invalid syntax$'):
        units.parse_bool("yes")


def test_quoting_escapes_what_does_not_print() -> None:
    assert units.quote('a"\\\n\x00\x7f\u00e9\u2028\udc80') == '"a\\"\\\\\\n\\x00\\x7f\u00e9\\u2028\\x80"'


@given(st.text(alphabet="0123456789.eEinumkKMGTP+-", max_size=12))
def test_any_text_is_a_quantity_or_a_refusal(text: str) -> None:
    try:
        assert -units.INT64_MAX <= units.parse_quantity(text) <= units.INT64_MAX
    except ValueError as error:
        assert str(error) in {FORMAT, SUFFIX}  # noqa: PT017  (either outcome is right)
