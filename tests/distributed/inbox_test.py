import threading
import time

import pytest

from impala.distributed import inbox

pytestmark = pytest.mark.usefixtures('time_limit')


def test_batches_are_whole_and_in_order():
  box = inbox.Inbox(2)
  thread = threading.Thread(target=lambda: [box.put(n) for n in range(6)])
  thread.start()
  assert [box.take() for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
  thread.join()
  assert len(box) == 0


def test_who_puts_waits_for_room():
  box = inbox.Inbox(2)
  threads = [threading.Thread(target=box.put, args=(n,)) for n in range(4)]
  for thread in threads:
    thread.start()
  time.sleep(0.2)
  assert len(box) == 2 and sum(thread.is_alive() for thread in threads) == 2
  assert sorted(box.take() + box.take()) == [0, 1, 2, 3]
  for thread in threads:
    thread.join()


@pytest.mark.parametrize('method', ['put', 'take'])
def test_close_ends_waits(method):
  box = inbox.Inbox(2)
  for number in range(2 if method == 'put' else 1):
    box.put(number)
  ended = []

  def wait():
    try:
      box.put(0) if method == 'put' else box.take()
    except inbox.Closed:
      ended.append(True)

  thread = threading.Thread(target=wait)
  thread.start()
  time.sleep(0.1)
  assert thread.is_alive()
  box.close()
  thread.join()
  wait()  # What comes later, too.
  assert ended == [True, True]


def test_nothing_is_lost_or_doubled_among_many():
  box, taken = inbox.Inbox(4), []
  threads = [
    threading.Thread(
      target=lambda first=first: [box.put((first, n)) for n in range(100)]
    )
    for first in range(8)
  ]
  for thread in threads:
    thread.start()
  for _ in range(200):
    taken += box.take()
  for thread in threads:
    thread.join()
  for first in range(8):  # In order for each of them.
    assert [n for f, n in taken if f == first] == list(range(100))
