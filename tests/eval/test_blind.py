"""Blind baselines against a slow search that shares no line with them."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from recorded_run import (
    LETTERS,
    draw_benchmark,
    draw_lines,
    make_benchmark,
    make_question,
    write_run,
)

from vica_jax.eval import blind, report
from vica_jax.eval.blind import BlindError, blind_results
from vica_jax.eval.blind_report import compare_blind, describe_blind, verdict
from vica_jax.eval.scores import mra

COUNT, ROOM = "object_counting", "room_size_estimation"
ORDER, EASY = "obj_appearance_order", "object_rel_direction_easy"


def numbers(truths, question_type=COUNT, **more):
    return [
        make_question(n, question_type, str(t), video=f"scannet/{n}.mp4", **more)
        for n, t in enumerate(truths)
    ]


def choices(truths, question_type=ORDER, texts=None, **more):
    found = []
    for n, truth in enumerate(truths):
        question = make_question(
            n, question_type, truth, video=f"scannet/{n}.mp4", **more
        )
        if texts:
            options = tuple(f"{x}. {t}" for x, t in zip(LETTERS, texts[n], strict=True))
            question = type(question)(**{**vars(question), "options": options})
        found.append(question)
    return found


def mean_mra(value: float, truths) -> float:
    return sum(mra(value, float(t)) for t in truths) / len(truths)


# -------------------------------------------------------------------------- constants
positive = st.integers(1, 400).map(lambda n: n / 10)


@settings(max_examples=30, deadline=None)
@example([6, 7, 8, 8])  # 7.2 ends a tolerance of 6 and begins one of 8
@given(st.lists(positive | st.integers(1, 12), min_size=1, max_size=12))
def test_no_number_beats_the_constant(truths):
    guesses = blind.guess_constant(numbers(truths))
    values = {float(text) for text in guesses.texts.values()}
    assert len(values) == 1 and len(guesses.texts) == len(truths)
    found = mean_mra(values.pop(), truths)
    # A fine grid, every truth and every end of a tolerance; a step of the score is 0.1.
    grid = [*np.linspace(0.02, 61, 500), *truths, float(np.median(truths))]
    grid += [
        t * (1 + sign * k / 20) for t in truths for k in range(11) for sign in (1, -1)
    ]
    best = max(mean_mra(float(value), truths) for value in grid)
    assert found >= best - 1e-9


@given(st.lists(positive, min_size=1, max_size=8))
def test_ends_of_tolerances_are_the_last_numbers_taken(truths):
    tried = np.array(truths)
    for side in (-1, 1):
        ends = blind.tolerance_ends(tried, side).reshape(10, -1)
        for place, truth in enumerate(truths):
            for k, end in enumerate(ends[:, place].tolist()):
                beyond = float(np.nextafter(end, side * np.inf))
                assert round(10 * mra(end, truth)) == k + 1
                assert round(10 * mra(beyond, truth)) == k


def test_equally_good_numbers_give_way_to_the_median():
    guesses = blind.guess_constant(numbers([4, 4, 4]))
    assert set(guesses.texts.values()) == {"4.0"}
    assert guesses.rules[COUNT] == "always 4, the median"


def test_truths_of_zero_and_no_numbers_stop_nothing():
    guesses = blind.guess_constant(numbers([0, 0, 5]))
    assert set(guesses.texts.values()) == {"0.0"}
    guesses = blind.guess_constant(numbers(["none", "nan", 5]))
    assert float(guesses.texts["0"]) == 5.0
    benchmark = make_benchmark(numbers(["none"]))
    found = blind_results(benchmark, blind.guess_constant(benchmark.questions))
    assert found.overall.score == 0


def test_many_truths_are_thinned_out_and_stay_good():
    truths = np.random.default_rng(0).uniform(5, 50, 900).round(2)
    text = blind.guess_constant(numbers(truths, ROOM)).texts["0"]
    best = max(mean_mra(v, truths) for v in np.linspace(5, 50, 91).tolist())
    assert mean_mra(float(text), truths) >= best - 1e-3


@given(st.lists(st.sampled_from("ABCD"), min_size=1, max_size=30))
def test_the_most_frequent_letter(letters):
    guesses = blind.guess_constant(choices(letters))
    counts = Counter(letters)
    (letter,) = set(guesses.texts.values())
    assert counts[letter] == max(counts.values())
    assert not any(counts[x] == counts[letter] for x in "ABCD" if x < letter)


def test_each_question_type_has_its_own_answer_and_directions_are_merged():
    letters = {"easy": "AAB", "medium": "CCD", "hard": "DDB"}
    questions = [
        make_question(
            10 * n + k, f"object_rel_direction_{level}", truth, video=f"scannet/{k}.mp4"
        )
        for n, (level, truths) in enumerate(letters.items())
        for k, truth in enumerate(truths)
    ]
    questions += numbers([2, 2, 2, 40], COUNT)
    questions[-4:] = [type(q)(**{**vars(q), "id": f"n{q.id}"}) for q in questions[-4:]]
    found = blind_results(
        make_benchmark(questions), blind.guess_constant(questions), resamples=0
    )
    scores = {row.name: row.score for row in found.rows}
    assert scores["object_rel_direction"] == pytest.approx(200 / 3)
    assert scores[COUNT] == 75
    assert scores["overall"] == pytest.approx((200 / 3 + 75) / 2)


# ----------------------------------------------------------------------------- by name
def test_a_category_says_its_size():
    """Beds are 200 and lamps 40 in every scene: the name gives it away."""
    questions = [
        make_question(
            n,
            "object_size_estimation",
            str((200, 40)[n % 2] + n // 2),
            video=f"scannet/{n // 2}.mp4",
            text=f"How long is the {('bed', 'lamp')[n % 2]}?",
        )
        for n in range(20)
    ]
    benchmark = make_benchmark(questions)
    constant, by_name = (
        blind_results(benchmark, guess(questions), resamples=0).overall.score
        for guess in blind.GUESSERS.values()
    )
    assert constant < 60 and by_name > 85


def test_words_in_another_order_are_the_same_wording():
    texts = ["from the bed to the sofa?", "from the sofa to the bed?"]
    texts += ["from the tv to the lamp?"] * 6
    questions = [
        make_question(
            n,
            "object_abs_distance",
            "9" if n < 2 else "1",
            video=f"scannet/{n}.mp4",
            text=text,
        )
        for n, text in enumerate(texts)
    ]
    guesses = blind.guess_by_name(questions)
    assert [float(guesses.texts[q.id]) for q in questions] == [
        float(q.truth) for q in questions
    ]
    assert "same wording" in guesses.rules["object_abs_distance"]


def test_a_scene_does_not_tell_on_itself():
    """Each scene's own answer is unique; nothing but the constant is left."""
    questions = []
    for scene in range(6):
        for k in range(3):
            questions.append(
                make_question(
                    3 * scene + k,
                    ROOM,
                    str(4.0**scene),
                    video=f"scannet/{scene}.mp4",
                    text=f"scene {scene}",
                )
            )
    guesses = blind.guess_by_name(questions)
    assert guesses.texts == blind.guess_constant(questions).texts


def test_an_option_that_is_mostly_right_is_found_under_any_letter():
    orders = ["ABCD", "BCDA", "CDAB", "DABC"] * 4
    names = dict(zip("ABCD", ("bed", "lamp", "sofa", "tv"), strict=True))
    texts = [[names[x] for x in order] for order in orders]
    truths = [LETTERS[row.index("sofa")] for row in texts]
    questions = choices(truths, "object_rel_distance", texts)
    guesses = blind.guess_by_name(questions)
    assert [guesses.texts[q.id] for q in questions] == truths
    assert guesses.rules["object_rel_distance"].startswith("the option most often")


def test_of_an_option_that_is_new_nothing_is_known():
    """It is as likely as any, so likelier than those that were always wrong."""
    texts = [["bed", "lamp", "sofa", "tv"]] * 4 + [["bed", "lamp", "sofa", "desk"]]
    questions = choices("AAAAC", "object_rel_distance", texts)
    _, guess = next(blind._choice_rules(questions))
    assert guess(questions[4]) == "A"
    questions = choices("DDDDC", "object_rel_distance", texts)
    _, guess = next(blind._choice_rules(questions))
    assert guess(questions[4]) == "D"


def slow_share_guess(questions, k, least):
    """The option rule by its definition, question by question."""
    own = questions[k]
    others = [q for q in questions if q.video != own.video]
    alike = [q for q in others if q.question == own.question]
    known = alike if len(alike) >= least else others

    def share(option):
        offered = [q for q in known if option[3:] in [o[3:] for o in q.options]]
        right = [
            q for q in offered if q.options[LETTERS.index(q.truth)][3:] == option[3:]
        ]
        return (len(right) + 1 / len(own.options)) / (len(offered) + 1)

    best = max(share(option) for option in own.options)
    return next(o[0] for o in own.options if math.isclose(share(o), best))


def slow_number_guess(questions, k, least):
    own = questions[k]
    others = [q for q in questions if q.video != own.video]
    words = sorted(own.question.rstrip("?").split())
    alike = [q for q in others if sorted(q.question.rstrip("?").split()) == words]
    known = [float(q.truth) for q in (alike if len(alike) >= least else others)]
    return lambda value: mean_mra(value, known) if known else 0.0


@pytest.mark.parametrize("seed", range(3))
def test_the_rules_are_what_they_say(seed):
    draw = np.random.default_rng(seed)
    names = ["bed", "lamp", "sofa", "tv", "desk"]
    options, figures = [], []
    for n in range(24):
        four = draw.permutation(names)[:4]
        video = f"scannet/{n // 2}.mp4"
        question = make_question(
            n,
            ORDER,
            str(draw.choice(list(LETTERS))),
            video=video,
            text=f"{draw.integers(2)}",
        )
        texts = tuple(f"{x}. {t}" for x, t in zip(LETTERS, four, strict=True))
        options.append(type(question)(**{**vars(question), "options": texts}))
        text = f"How many {draw.choice(names[:2])}?"
        truth = f"{draw.integers(1, 40) / 2:.1f}"
        figures.append(make_question(n, COUNT, truth, video=video, text=text))
    rules = list(blind._choice_rules(options))
    for (_, guess), least in zip(rules, (math.inf, *blind.LEAST), strict=True):
        for k, question in enumerate(options):
            assert guess(question) == slow_share_guess(options, k, least)
    rules = list(blind._number_rules(figures))
    for (_, guess), least in zip(rules, (math.inf, *blind.LEAST), strict=True):
        for k in range(0, 24, 5):
            score = slow_number_guess(figures, k, least)
            best = max(score(v) for v in np.linspace(0.2, 30, 200).tolist())
            assert score(float(guess(figures[k]))) >= best - 1e-9


@pytest.mark.parametrize("name", ["vsibench", "vstibench"])
def test_by_name_is_never_below_the_constant(name):
    benchmark = draw_benchmark(3, count=80, name=name)
    constant, by_name = (
        blind_results(benchmark, guess(benchmark.questions), resamples=0)
        for guess in blind.GUESSERS.values()
    )
    for low, high in zip(constant.types, by_name.types, strict=True):
        assert high.score >= low.score - 1e-9
    assert all(item.answered for item in by_name.items)


def test_texts_have_no_baseline():
    benchmark = draw_benchmark(1, count=6, name="scanqa")
    with pytest.raises(BlindError, match="only choices and numbers"):
        blind.guess_constant(benchmark.questions)


# -------------------------------------------------------------------------- the report
@pytest.fixture
def workdir(tmp_path):
    """A run that answers every number right and every choice A."""
    benchmark = draw_benchmark(5, count=120, videos=12)
    lines = draw_lines(benchmark, 5, unanswered=0)
    for question, line in zip(benchmark.questions, lines, strict=True):
        line["prediction"] = "A" if question.options else question.truth
    return write_run(tmp_path / "run", benchmark, lines)


def test_a_report_with_baselines(workdir):
    found = report.write_report(workdir, resamples=300, blind=True)
    facts = json.loads((workdir / "results.json").read_text())
    assert list(facts["blind"]) == ["constant", "by_name"]
    for baseline in found.blind:
        rows = facts["blind"][baseline.name]["rows"]
        assert list(rows) == [row.name for row in found.rows]
        for row in found.rows:
            gap = rows[row.name]["difference"]
            assert gap == pytest.approx(row.score - rows[row.name]["score"])
        counting = rows[COUNT]
        assert counting["verdict"] == "above" and counting["this_run"] == 100
        low, high = counting["difference_interval"]
        assert 0 < low < counting["difference"] < high
    assert len(facts["blind"]["constant"]["rules"]) == len(found.types)
    text = (workdir / "report.md").read_text()
    assert text.index("## Scores") < text.index("## Blind") < text.index("## Problems")
    section = describe_blind(found)
    assert section in text
    told = next(line for line in section.splitlines() if line.startswith("- `by_name`"))
    tasks = found.blind[1].comparison.tasks
    lacking = [row.name for row in tasks if verdict(row) != "above"]
    assert lacking and all(name in told for name in lacking)
    assert not any(row.name in told for row in tasks if verdict(row) == "above")
    lines = report.blind_lines(found)
    assert len(lines) == 1 + len(found.rows) and "by_name" in lines[0]


def test_the_same_bytes_again_and_none_of_it_without_the_flag(workdir):
    plain = report.write_report(workdir, resamples=100)
    assert plain.blind == () and "blind" not in (workdir / "results.json").read_text()
    without = (workdir / "report.md").read_bytes()
    files = []
    for _ in range(2):
        report.write_report(workdir, resamples=100, blind=True)
        files.append([(workdir / name).read_bytes() for name in report.FILES])
    assert files[0] == files[1] and files[0][0] != without


def test_one_video_has_no_intervals_and_no_verdict(tmp_path):
    questions = [make_question(n, COUNT, str(n + 1)) for n in range(4)]
    benchmark = make_benchmark(questions)
    workdir = write_run(tmp_path / "run", benchmark, draw_lines(benchmark))
    found = report.read_run(workdir, resamples=50)
    for baseline in compare_blind(found, resamples=50):
        assert verdict(baseline.comparison.overall) == "not known"


def test_scanqa_is_refused_in_one_line(tmp_path):
    benchmark = draw_benchmark(1, count=6, name="scanqa")
    workdir = write_run(tmp_path / "run", benchmark, draw_lines(benchmark))
    with pytest.raises(BlindError, match="leave out --blind"):
        report.write_report(workdir, resamples=0, blind=True)
    assert not (workdir / "report.md").exists()
