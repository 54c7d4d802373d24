"""What the progress line says of the time."""

import pytest

from trainers.report import pace
from trainers.report.pace import Pass


class Clock:
  """Tells the seconds that a test has let pass."""

  def __init__(self):
    self.seconds = 0.0

  def __call__(self):
    return self.seconds


@pytest.fixture
def clock():
  return Clock()


def make_pace(clock, passes=(), start_step=0, total_steps=1000):
  return pace.Pace(
      start_step=start_step, total_steps=total_steps, batch_size=8,
      passes=passes, clock=clock)


def line_after(clock, made, seconds, step):
  clock.seconds += seconds
  return made.line(step, 1.5)


def test_the_first_step_tells_how_long_the_compiler_took(clock):
  made = make_pace(clock)
  assert line_after(clock, made, 38, 1) == (
      "step 1/1000  loss 1.5000  compiled in 38 s")


def test_the_time_left_is_that_of_the_steps_since_the_last_line(clock):
  made = make_pace(clock, total_steps=10)
  line_after(clock, made, 38, 1)
  assert line_after(clock, made, 4, 3) == (
      "step 3/10  loss 1.5000  4 img/s  14 s left")
  # What evaluators take is no training.
  clock.seconds += 500
  made.pause(3)
  assert line_after(clock, made, 1, 4).endswith("8 img/s  6 s left")


def test_no_time_is_told_that_is_not_known(clock):
  passes = [Pass("uvim", 250, 100), Pass("zero", None, 40)]
  made = make_pace(clock, passes)
  line_after(clock, made, 38, 1)
  assert line_after(clock, made, 4, 5).endswith(" 17 min left without "
                                                "evaluations")
  line = line_after(clock, made, 1, 6)
  assert ("  about 17 min left, without the evaluations uvim, zero, whose time "
          "is not known before their first pass; memory so far: ") in line
  assert line.endswith(" GB")
  line = line_after(clock, made, 1, 7)
  assert line.endswith("8 img/s  17 min left without evaluations")


def test_the_parts_are_told_again_when_more_are_known(clock):
  passes = [Pass("uvim", 250, 100), Pass("zero", None, 40)]
  made = make_pace(clock, passes)
  line_after(clock, made, 38, 1)
  line_after(clock, made, 5, 6)
  made.note_pass("uvim", 400.0)
  made.pause(250)
  # 740 steps of a second, and passes after the steps 500, 750 and 1000.
  line = line_after(clock, made, 10, 260)
  assert ("about 32 min left, of which evaluations take 20 min, without the "
          "evaluations zero, whose time") in line
  made.note_pass("zero", 30.0)
  made.pause(260)
  line = line_after(clock, made, 10, 270)
  assert "about 33 min left, of which evaluations take 20 min; mem" in line
  assert line_after(clock, made, 10, 280).endswith(" img/s  32 min left")


def test_a_pass_that_was_timed_counts_as_it_was(clock):
  made = make_pace(clock, [Pass("uvim", 300, 100)])
  line_after(clock, made, 38, 1)
  made.note_pass("uvim", 500.0)
  clock.seconds += 500
  made.pause(300)
  # Passes after the steps 600, 900 and 1000.
  line = line_after(clock, made, 0, 301)
  assert "about 25 min left, of which evaluations take 25 min;" in line
  # Those of a step are still to come when its line is shown.
  assert line_after(clock, made, 0, 900).endswith(" 17 min left")
  assert line_after(clock, made, 0, 1000).endswith(" 8 min left")


def test_when_a_line_is_due_without_a_report(clock):
  made = make_pace(clock, start_step=400)
  due = [step for step in range(401, 420) if made.is_due(step)]
  assert due == [401, 406]
  line_after(clock, made, 30, 410)
  clock.seconds += 59
  assert not made.is_due(411)
  clock.seconds += 2
  assert made.is_due(412)


@pytest.mark.parametrize("seconds,text", [
    (0, "0 s"), (99, "99 s"), (101, "2 min"), (5900, "98 min"),
    (32_700, "9 h 5 min")])
def test_durations(seconds, text):
  assert pace.duration(seconds) == text
