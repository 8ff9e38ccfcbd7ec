import csv

import pytest

from impala import schedule, test_log
from impala.environments import protocol


def _result(number, episode_return=1.5, level='level'):
  episode = schedule.Episode(level, number)
  return schedule.Result(episode, episode_return, 10)


@pytest.fixture
def open_log(tmp_path):
  logs = []

  def open_log(test='a', after_others=True):
    for log in logs if after_others else ():
      log.close()
    logs.append(test_log.TestLog(tmp_path, test, 'ckpt-1'))
    return logs[-1]

  yield open_log
  for log in logs:
    log.close()


def _rows(path):
  with (path / 'test_episodes.csv').open(newline='') as file:
    return list(csv.DictReader(file))


def test_a_row_is_there_at_once(tmp_path, open_log):
  log = open_log()
  log.add(_result(0))
  (row,) = _rows(tmp_path)
  assert tuple(row) == test_log.FIELDS
  assert tuple(row.values()) == ('a', 'ckpt-1', 'level', '0', '1.5', '10')
  assert log.results == {_result(0).episode: _result(0)}


def test_results_are_there_again(open_log):
  # Floats come back as they were, and any name of a level.
  results = [_result(0, 1 / 3), _result(1, -1e-9, 'gym:a,"b":C-v0')]
  log = open_log()
  for result in results:
    log.add(result)
  log.close()
  assert list(open_log().results.values()) == results


def test_other_tests_are_not_this_one(open_log):
  open_log('a').add(_result(0))
  log = open_log('b')
  assert log.results == {}
  log.add(_result(1))
  assert list(open_log('a').results) == [_result(0).episode]


@pytest.mark.parametrize('cut', range(1, 12))
def test_a_last_line_that_was_cut_short(tmp_path, open_log, cut):
  log = open_log()
  for number in range(3):
    log.add(_result(number))
  log.close()
  path = tmp_path / 'test_episodes.csv'
  path.write_bytes(path.read_bytes()[:-cut])
  log = open_log()
  assert list(log.results) == [_result(0).episode, _result(1).episode]
  log.add(_result(2))
  assert list(open_log().results.values()) == [_result(n) for n in range(3)]


@pytest.mark.parametrize('line', ['a,ckpt-1,level,x,1,1', 'a,b', '\0', ''])
def test_a_damaged_line(tmp_path, open_log, line):
  log = open_log()
  log.add(_result(0))
  log.close()
  path = tmp_path / 'test_episodes.csv'
  path.write_text(path.read_text() + line + '\r\n')
  log = open_log()
  log.add(_result(1))
  assert len(open_log().results) == 2


def test_a_file_without_its_header(tmp_path, open_log):
  log = open_log()
  log.add(_result(0))
  log.close()
  path = tmp_path / 'test_episodes.csv'
  path.write_text(path.read_text().split('\n', 1)[1])
  again = open_log()
  assert again.results == {}
  again.add(_result(1))
  again.close()
  assert len(open_log().results) == 1
  assert 'level,0' in (tmp_path / 'test_episodes.csv.damaged').read_text()


def test_one_test_at_a_time(tmp_path, open_log):
  log = open_log()
  with pytest.raises(protocol.UserError, match='Another test'):
    open_log(after_others=False)
  log.close()
  open_log()
