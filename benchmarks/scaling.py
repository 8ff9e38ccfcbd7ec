"""Frames a second of whole clusters, predicted; nothing here is measured.

From what single things cost here (`benchmarks/unit_costs.py`) and what is
assumed of the hardware: the least of what actors make, what learners can learn,
what their transport takes in CPU time, and what the network carries. Next to
Table 1 and Figure 6 of the paper. From the repository's root:

  python -m impala.benchmarks.unit_costs && python -m impala.benchmarks.scaling

`--assume=network_gigabits=100,transport_cores=4` replaces assumptions.
"""

import csv
import dataclasses
import json
import pathlib
import re

from absl import app, flags

from impala.benchmarks import cluster_model, machine

FLAGS = flags.FLAGS
flags.DEFINE_string(
  'costs', 'benchmarks/results/unit_costs.json', 'What unit_costs.py wrote.'
)
flags.DEFINE_string('table1', 'paper/table1_throughput.csv', "The paper's.")
flags.DEFINE_list('assume', [], 'name=value, in place of what is assumed.')
flags.DEFINE_list('learners', '1,2,4,8', 'How many.')
flags.DEFINE_list('actors', '48,150,200,375,500', 'How many, of one core each.')
flags.DEFINE_string(
  'output', 'benchmarks/results/scaling.json', 'For the results.'
)

SIMPLIFICATIONS = (
  'Nothing waits: frames/s are the least of the limits, with no variance.',
  'A core is as fast as one of those that the costs were measured on.',
  '500 connections cost as much as the 16 that were measured, without TLS.',
  'Copies from the learner to its GPU, records and checkpoints cost nothing.',
  'Messages of a process with several environments have an unroll of each.',
  'The all-reduce is a ring. Its CPU time, that of two learners here, grows '
  'with the bytes, which are reckoned: what was counted on the loopback '
  "has others' traffic in it. It does not overlap with the update.",
  'Learners have a batch of their own each, not a share of one.',
)
# Each alone, then all of them.
REMEDIES = (
  {},
  {'environments_per_process': 16},
  {'transport_cores': 4},
  {'network_gigabits': 100},
  {
    'environments_per_process': 16,
    'transport_cores': 4,
    'network_gigabits': 100,
  },
)


def assumptions(costs: dict[str, dict]) -> dict[str, tuple[float, str]]:
  """Returns what is assumed: name to value and source."""
  shallow, deep = costs['shallow'], costs['deep']
  step, rate = 7.5, 250_000
  inference = (
    deep['inference_step_cpu_milliseconds']
    - shallow['inference_step_cpu_milliseconds']
  )
  slowdown = (
    deep['update_step_cpu_milliseconds']
    / shallow['update_step_cpu_milliseconds']
  )
  return {
    'actor_step_milliseconds_shallow': (
      step,
      'Table 1: 150 actors with 80,000 frames/s and 375 with 200,000 make 533 '
      'each, so an environment and inference on a core of theirs take this. '
      'The actors of Table 1 follow from it and confirm nothing.',
    ),
    'actor_step_milliseconds_deep': (
      round(step + inference, 2),
      'The same, and what inference of one frame costs more here.',
    ),
    'learner_frames_per_second_shallow': (
      rate,
      'A P100: the most in Table 1, with batch 128. A bound from below, if '
      'actors limited it; with batch 32 the paper shows 200,000.',
    ),
    'learner_frames_per_second_deep': (
      round(rate / slowdown),
      f'The same, divided by {slowdown:.1f}, the ratio of the CPU times of an '
      'update here. That of a GPU may be another.',
    ),
    'action_repeats': (4, 'The paper, DeepMind Lab.'),
    'batch_size': (32, 'The paper, of each learner.'),
    'environments_per_process': (1, "The paper's actors have a core each."),
    'network_gigabits': (10, 'A second, each way, of a learner. A guess.'),
    'round_trip_milliseconds': (0.1, 'In one data centre. A guess.'),
    'transport_cores': (
      1,
      "That a learner's transport makes use of, which is in Python with its "
      'one lock. Not measured; parts of it run without the lock.',
    ),
  }


def table1(path) -> list[dict]:
  """Returns the rows with a learner and remote actors; all are shallow."""
  with pathlib.Path(path).open(newline='', encoding='utf-8') as file:
    return [
      row
      for row in csv.DictReader(file)
      if row['setting'] == 'distributed'
      and row['architecture'].startswith('IMPALA')
    ]


def beside_table1(
  costs: cluster_model.Costs, cluster: cluster_model.Cluster, row: dict
) -> dict:
  """Returns what is predicted beside a row of Table 1."""
  if size := re.search(r'batch (\d+)', row['architecture']):
    cluster = dataclasses.replace(cluster, batch_size=int(size[1]))
  actors, paper = int(row['cpus']), int(row['fps_seekavoid_arena_01'])
  predicted = cluster_model.predict(costs, cluster, 1, actors)
  needs = cluster_model.needs(costs, cluster, actors, paper)
  return {
    'architecture': row['architecture'],
    'paper': paper,
    **predicted,
    'needs_for_the_papers': needs,
    'in_words': (
      f'{row["architecture"]}, {actors} actors: {paper:,} frames/s in the '
      f'paper; {predicted["frames_per_second"]:,} predicted, limited by '
      f"{predicted['limit']}. For the paper's, the learner would need "
      f'{needs["transport_cores"]} cores for its transport, '
      f'{needs["gigabits_in"]} Gb/s for trajectories and '
      f'{needs["gigabits_out"]} Gb/s for parameters.'
    ),
  }


def main(_):
  rows = json.loads(pathlib.Path(FLAGS.costs).read_text(encoding='utf-8'))
  costs = {row['network']: row for row in rows['results']}
  assumed = assumptions(costs)
  for text in FLAGS.assume:
    name, _, value = text.partition('=')
    if name not in assumed:
      raise app.UsageError(f'{name}: what is assumed is {", ".join(assumed)}.')
    assumed[name] = (float(value), 'The command line.')
  values = {name: value for name, (value, _) in assumed.items()}
  results = {
    'kind': 'A prediction. Only the costs are measured.',
    'costs_measured_on': rows['machine'],
    'assumptions': {
      name: {'value': value, 'source': source}
      for name, (value, source) in assumed.items()
    },
    'simplifications': SIMPLIFICATIONS,
    'table1': [],
    'figure6': [],
    'predictions': [],
    'remedies': [],
  }
  numbers = [(int(n), int(a)) for n in FLAGS.learners for a in FLAGS.actors]
  most = max(numbers)
  for network, row in costs.items():
    cost = cluster_model.Costs.from_row(row)
    cluster = cluster_model.Cluster.from_values(values, network)
    if network == 'shallow':
      results['table1'] = [
        beside_table1(cost, cluster, row) for row in table1(FLAGS.table1)
      ]
    results['figure6'].append(
      {'network': network, **cluster_model.speedup(cost, cluster, *most)}
    )
    results['predictions'] += [
      {'network': network, **cluster_model.predict(cost, cluster, *n)}
      for n in numbers
    ]
    for learners in (1, most[0]):
      for remedy in REMEDIES:
        better = cluster_model.Cluster.from_values(
          {**values, **remedy}, network
        )
        predicted = cluster_model.predict(cost, better, learners, most[1])
        results['remedies'].append(
          {'network': network, 'with': remedy, **predicted}
        )
  show(results)
  machine.write(FLAGS.output, results)


def show(results) -> None:
  """Prints what is predicted and what is assumed."""
  print(results['kind'], '\n\nAssumed:')
  for name, assumed in results['assumptions'].items():
    print(f'  {name} = {assumed["value"]:g}. {assumed["source"]}')
  for simplification in results['simplifications']:
    print(f'  {simplification}')
  print('\nTable 1, one learner, shallow:')
  for row in results['table1']:
    print(f'  {row["in_words"]}')
  print('\nFigure 6: in the paper 8 learners do 7 times what one does; here')
  for row in results['figure6']:
    print(
      f'  {row["network"]}: {row["learners"]} do {row["with_these_actors"]} '
      f'times with {row["actors"]} actors, {row["with_enough_actors"]} times '
      'with enough of them.'
    )
  print('\nnetwork learners actors frames/s limit')
  for row in results['predictions'] + results['remedies']:
    print(
      f'  {row["network"]:7} {row["learners"]:2} {row["actors"]:4} '
      f'{row["frames_per_second"]:9,} {row["limit"]} {row.get("with", "")}'
    )


if __name__ == '__main__':
  app.run(main)
