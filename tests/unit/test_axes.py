"""The grammar of axis values, and what an axis prints."""

from __future__ import annotations

import pytest
from pack.figures.axes import Axis, format_value
from pack.figures.parameters import PARAMETERS, Parameter, parameter_named
from pack.figures.values import parse_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1, 2, 3", (1, 2, 3)),
        ("3, 1, 3,", (3, 1, 3)),
        ("1\n2\n3", (1, 2, 3)),
        ("5, 8\n10", (5, 8, 10)),
        ("1-5", (1, 2, 3, 4, 5)),
        ("1 - 5", (1, 2, 3, 4, 5)),
        ("1..5", (1, 2, 3, 4, 5)),
        ("5-1", (5, 4, 3, 2, 1)),
        ("5-5", (5,)),
        ("1-10(+2)", (1, 3, 5, 7, 9)),
        ("1-10 (2)", (1, 3, 5, 7, 9)),
        ("20-5(-5)", (20, 15, 10, 5)),
        ("20-5(5)", (20, 15, 10, 5)),
        ("1-10[5]", (1, 3, 5, 7, 10)),
        ("10-30[3], 50", (10, 20, 30, 50)),
        ("1, 3, .., 9", (1, 3, 5, 7, 9)),
        ("1, .., 4", (1, 2, 3, 4)),
        ("10, 8, ..., 4, 30", (10, 8, 6, 4, 30)),
        ("2.0", (2,)),
        ("1,2, 3", (1, 2, 3)),
    ],
)
def test_whole_numbers_are_read_from_lists_and_ranges(text: str, values: tuple[int, ...]) -> None:
    parsed = parse_values("steps", text)
    assert parsed == values
    assert all(type(value) is int for value in parsed)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1-2(+0.3)", (1.0, 1.3, 1.6, 1.9)),
        ("0-1[5]", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("0-1(+0.1)", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)),
        ("1.0-0.6(-0.2)", (1.0, 0.8, 0.6)),
        ("1, 0.8, .6", (1.0, 0.8, 0.6)),
        ("-1", (-1.0,)),
        ("-1 - 1 (+0.5)", (-1.0, -0.5, 0.0, 0.5, 1.0)),
        ("1 - -1", (1.0, 0.0, -1.0)),
        ("1--1(-0.5)", (1.0, 0.5, 0.0, -0.5, -1.0)),
        ("-0.5-0.5[3]", (-0.5, 0.0, 0.5)),
        ("0, 0.1, .., 0.4", (0.0, 0.1, 0.2, 0.3, 0.4)),
        ("5e-1, 1E0", (0.5, 1.0)),
        ("0.5..1.5", (0.5, 1.5)),
        ("−0.5, –1", (-0.5, -1.0)),
        ("−0.5–0.5[3]", (-0.5, 0.0, 0.5)),
        ("0,6", (0.0, 6.0)),
        ("1,4,7", (1.0, 4.0, 7.0)),
        ("1,3-5, 8", (1.0, 3.0, 4.0, 5.0, 8.0)),
        ("1,4,7\n8", (1.0, 4.0, 7.0, 8.0)),
        ("1, 4,7, 10", (1.0, 4.0, 7.0, 10.0)),
        ("1,2\n3,4", (1.0, 2.0, 3.0, 4.0)),
        ("1,3, .., 9", (1.0, 3.0, 5.0, 7.0, 9.0)),
        ("0,1, 0.5", (0.0, 1.0, 0.5)),
    ],
)
def test_decimals_are_exact_and_may_be_negative(text: str, values: tuple[float, ...]) -> None:
    parsed = parse_values("lora_weight", text)
    assert parsed == values
    assert all(type(value) is float for value in parsed)


def test_seeds_keep_all_their_digits() -> None:
    assert parse_values("seed", "18446744073709551613-18446744073709551615") == (
        18446744073709551613,
        18446744073709551614,
        18446744073709551615,
    )


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("moon", ("moon",)),
        ("moon, sun, moon", ("moon", "sun", "moon")),
        ('"moon, sun", sea', ("moon, sun", "sea")),
        ('"", ugly', ("", "ugly")),
        ('"the ""big"" moon"', ('the "big" moon',)),
        ("a moon, night\nthe sun, day", ("a moon, night", "the sun, day")),
        ('"a moon", sea\nthe sun, day', ("a moon", "sea", "the sun, day")),
        ("moon's orbit, (rock:1.2)", ("moon's orbit", "(rock:1.2)")),
        ("žuti mjesec, šuma i đurđevci", ("žuti mjesec", "šuma i đurđevci")),
    ],
)
def test_text_is_parted_by_commas_or_lines_and_kept_together_by_quotes(text: str, values: tuple[str, ...]) -> None:
    assert parse_values("prompt", text) == values


def test_names_are_parted_by_commas_and_lines_alike() -> None:
    assert parse_values("sampler", "euler, ddim\ndpmpp_2m") == ("euler", "ddim", "dpmpp_2m")


@pytest.mark.parametrize(
    "text", ["moon v1,2.st\nsun, late.st", '"moon v1,2.st"\n"sun, late.st"', '"moon v1,2.st", "sun, late.st"']
)
def test_a_line_that_is_a_name_with_commas_is_that_name(text: str) -> None:
    names = ("moon v1,2.st", "sun, late.st")
    assert parse_values("lora_file", text, choices=(*names, "moon v1")) == names
    assert parse_values("lora_file", names[0], choices=names) == names[:1]


@pytest.mark.parametrize(
    ("parameter", "text", "says"),
    [
        ("cfg", "", "empty"),
        ("cfg", " \n ", "empty"),
        ("cfg", ",", "empty"),
        ("cfg", "1,,2", "nothing between two commas"),
        ("cfg", "1-10(0)", "never ends"),
        ("cfg", "1-10(-1)", r"never ends.*\(\+1\)"),
        ("cfg", "10-1(+3)", r"never ends.*\(-3\)"),
        ("cfg", "0.6-1", "does not reach 1 in steps of 1"),
        ("cfg", "1-10[0]", "at least 2"),
        ("cfg", "1-10[1]", "at least 2"),
        ("cfg", "1-10[2.5]", "neither a number nor a range"),
        ("cfg", "seven", "neither a number nor a range"),
        ("cfg", "1 2 3", "neither a number nor a range"),
        ("cfg", "nan", "neither a number nor a range"),
        ("cfg", "1-inf", "neither a number nor a range"),
        ("cfg", ".., 3", "before and after"),
        ("cfg", "1, ..", "before and after"),
        ("cfg", "5, 5, .., 9", "never ends"),
        ("cfg", "-1", "numbers from 0 to 100"),
        ("cfg", "1e99", "numbers from 0 to 100"),
        ("cfg", "0-100(+0.001)", "more than 10000 values"),
        ("cfg", "0-1[20000]", "more than 10000 values"),
        ("cfg", "1e-300-100(+1e-300)", "more than 10000 values"),
        ("steps", "0", "whole numbers from 1"),
        ("steps", "2.5", "2.5 is not whole"),
        ("steps", "1-3(+0.5)", "1.5 is not whole"),
        ("steps", "1-3[9]", "holds only 3"),
        ("seed", "-1", "whole numbers from 0"),
        ("seed", "0-99999999999", "more than 10000 values"),
        ("width", "100", "divisible by 8"),
        ("denoise", "1.2", "from 0 to 1"),
        ("prompt", '"moon', "quote is not closed"),
        ("prompt", '"moon" sun', "goes on after a quote is closed; put all of it in quotes"),
        ("prompt", '"moon" at night, sun', "goes on after a quote is closed"),
        ("prompt", 'sea, "moon', 'cannot read ""moon": a quote is not closed'),
        ("prompt", 'sea, "moon" at night', "goes on after a quote is closed"),
        ("lora_weight", "0,6, 0,8, 1,0", r"write decimals with a point, as in 0\.6, 0\.8, and"),
        ("lora_weight", "0,6, 0,8, 1", "decimals with a point"),
        ("lora_weight", "0,6\n0,8,", "decimals with a point"),
        ("lora_weight", "0,6; 0,8", "decimals with a point"),
        ("lora_weight", "-0,5, 0, 0,5", r"as in -0\.5, 0, and"),
        ("cfg", "0,5, 1, .., 2,5", "decimals with a point"),
        ("cfg", "0,5-1,0[6]", r"as in 0\.5-1\.0\[6\], and"),
        ("prompt", "moon,,sun", "value is missing"),
        ("sampler", '""', "empty"),
    ],
)
def test_bad_text_gets_one_sentence_that_quotes_it(parameter: str, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse_values(parameter, text)
    message = str(caught.value)
    assert text.strip(" \n,") in message and "\n" not in message.replace(text, "")


def test_a_long_bad_text_is_quoted_in_short() -> None:
    with pytest.raises(ValueError, match="neither a number") as caught:
        parse_values("cfg", "x" * 100_000)
    assert len(str(caught.value)) < 600


def test_an_unknown_name_gets_its_nearest_neighbours() -> None:
    with pytest.raises(ValueError, match='"euler_a" is not known here; did you mean euler'):
        parse_values("sampler", "euler_a", choices=["ddim", "euler", "uni_pc"])
    with pytest.raises(ValueError, match="choose from ddim, euler"):
        parse_values("sampler", "zzz", choices=["ddim", "euler"])
    with pytest.raises(
        ValueError, match=r'LoRA "a.st" is not known here; there is none at all yet, so add one first\.$'
    ):
        parse_values("lora_file", "a.st", choices=[])


def test_an_unknown_parameter_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match='"cgf" is not a sweep parameter; known are cfg'):
        parameter_named("cgf")


def test_a_parameter_of_the_callers_own_is_parsed_by_its_own_rules() -> None:
    eta = Parameter("eta", "Eta", "float", 0, 2)
    assert parse_values(eta, "0-1[3]") == (0.0, 0.5, 1.0)
    with pytest.raises(ValueError, match="from 0 to 2"):
        parse_values(eta, "3")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8000000001, "0.8"),
        (0.1 + 0.2, "0.3"),
        (7.0, "7"),
        (-0.5, "-0.5"),
        (100.0, "100"),
        (0.0, "0"),
        (0.00001, "0.00001"),
        (7, "7"),
        (2**64 - 1, "18446744073709551615"),
        ("euler", "euler"),
    ],
)
def test_values_print_as_a_reader_writes_them(value: float | str, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("axis", "texts"),
    [
        (Axis("lora_weight", (1.0, 0.8, 0.25)), ("1.00", "0.80", "0.25")),
        (Axis("cfg", (1.0, 7.0)), ("1", "7")),
        (Axis("lora_weight", (-0.5, 0.0)), ("-0.5", "0.0")),
        (Axis("negative", ("", "ugly")), ("(empty)", "ugly")),
        (Axis("lora_file", ("moon\\a-1.safetensors", "a-2.safetensors")), ("a-1", "a-2")),
        (Axis("lora_file", ("x/a.safetensors", "y/a.safetensors")), ("x/a.safetensors", "y/a.safetensors")),
        (Axis("lora_weight", (0.0, 1.0), names=("without", "with")), ("without", "with")),
    ],
)
def test_an_axis_prints_its_values_alike(axis: Axis, texts: tuple[str, ...]) -> None:
    assert axis.texts == texts


def test_an_axis_takes_the_label_of_its_parameter_unless_it_has_its_own() -> None:
    assert Axis("cfg", (1.0,)).label == PARAMETERS["cfg"].label == "CFG scale"
    assert Axis("width", (64,)).label == "Width (px)"
    assert Axis("cfg", (1.0,), "CFG ljestvica").label == "CFG ljestvica"
    assert Axis("s_churn", (1.0,)).label == "s_churn"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("cfg", ()), "no values"),
        (("", (1,)), "name of its parameter"),
        (("cfg", (float("nan"),)), "cannot be nan"),
        (("cfg", (True,)), "cannot be True"),
        (("cfg", ("7",)), "cannot be '7'"),
        (("steps", (2.0,)), "whole numbers"),
        (("s_churn", (float("inf"),)), "finite"),
        (("cfg", (1.0, 2.0), "", ("one",)), "2 values but 1 names"),
    ],
)
def test_an_axis_refuses_what_it_cannot_hold(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Axis(*arguments)  # type: ignore[arg-type]


def test_values_that_differ_are_printed_differently() -> None:
    assert Axis("cfg", (7.1234567, 7.1234568, 7.0)).texts == ("7.1234567", "7.1234568", "7.0000000")
    assert Axis("cfg", (0.1 + 0.2, 1.0)).texts == ("0.3", "1.0")
    assert Axis("cfg", (7.1234567, 7.1234567)).texts == ("7.12", "7.12")
    assert Axis("seed", (2**64 - 1, 2**64 - 2, 7)).texts == (str(2**64 - 1), str(2**64 - 2), "7")


@pytest.mark.parametrize(
    ("parameter", "text", "texts"),
    [
        ("cfg", "1-30[7]", ("1.00", "5.83", "10.67", "15.50", "20.33", "25.17", "30.00")),
        ("denoise", "0.5-1[4]", ("0.500", "0.667", "0.833", "1.000")),
        ("cfg", "10-20[4], 10.0005", ("10.0000", "13.3333", "16.6667", "20.0000", "10.0005")),
        ("cfg", "1-2[128]", ("1.000", "1.008", "1.016")),
        ("lora_weight", "-1-1[4]", ("-1.000", "-0.333", "0.333", "1.000")),
        ("lora_weight", "0.6, 0.85, 1", ("0.60", "0.85", "1.00")),
        ("lora_weight", "0-1(+0.1)", ("0.0", "0.1", "0.2", "0.3")),
        ("lora_weight", "0.03125, 1", ("0.03125", "1.00000")),
        ("lora_weight", "0.0001-0.0002[4]", ("0.000100", "0.000133", "0.000167", "0.000200")),
        ("cfg", "1e-7, 1", ("1e-07", "1")),
    ],
)
def test_numbers_are_rounded_from_themselves_to_as_many_decimals_as_tell_them_apart(
    parameter: str, text: str, texts: tuple[str, ...]
) -> None:
    assert Axis.parse(parameter, text).texts[: len(texts)] == texts
