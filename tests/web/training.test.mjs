// @vitest-environment node
/** What the training panel knows and says, without a browser and without a host. */
import { expect, test } from 'vitest'
import { nodeAt } from '../../web/lib/nodes.mjs'
import { Curve } from '../../web/training/curve.mjs'
import { isThere, runOf } from '../../web/training/of_node.mjs'
import { MOST_LISTED, RunStore } from '../../web/training/runs.mjs'
import { buttonsOf, factsOf, stateOf } from '../../web/training/telling.mjs'

const point = (step, values = {}) => ({ step, loss: 1 / step, smoothed: 0.5, lr: { unet: 1e-4 }, validation: null, ...values })
const points = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => point(from + at))
const stepsOf = (curve) => curve.points.map(({ step }) => step)
const run = (values = {}) => ({
  id: 'a', name: 'moon', node_id: '3', prompt_id: 'p', workflow_id: 'w', state: 'training', stage: '', step: 10, steps: 100,
  epoch: 1, epochs: 10, loss: 0.1, smoothed_loss: 0.2, validation: null, lr: { unet: 1e-4 }, seconds_per_step: 0.5, eta: 45,
  time: 1, memory_mb: 2048, message: '', file: '', wishes: ['pause', 'stop', 'save'], ...values,
})

test('a curve stays small over a long run, evenly, with both ends and its held-out losses', () => {
  const curve = new Curve(1000)
  for (let step = 1; step <= 20_000; step++) curve.add([point(step, step % 2500 === 0 ? { validation: 0.25 } : {})])
  const steps = stepsOf(curve)
  expect(steps.length).toBeLessThanOrEqual(1000)
  expect(steps.length).toBeGreaterThan(400)
  expect([steps[0], steps[steps.length - 1]]).toEqual([1, 20_000])
  expect(curve.points.filter(({ validation }) => validation !== null).map(({ step }) => step)).toEqual([2500, 5000, 7500, 10_000, 12_500, 15_000, 17_500, 20_000])
  const gaps = steps.slice(1).map((step, at) => step - steps[at])
  expect(Math.max(...gaps)).toBeLessThanOrEqual(64)
})

test('a curve of nothing but held-out losses stays small too', () => {
  const curve = new Curve(100)
  curve.add(Array.from({ length: 5000 }, (_, at) => point(at + 1, { validation: 1 })))
  expect(curve.points.length).toBeLessThanOrEqual(100)
  expect(curve.last?.step).toBe(5000)
})

test('points come in any order, a later one of a step replaces the earlier, and a run may go back', () => {
  const curve = new Curve()
  curve.add(points(5, 8))
  curve.add(points(1, 6))
  curve.add([point(8, { validation: 0.3 })])
  expect(stepsOf(curve)).toEqual([1, 2, 3, 4, 5, 6, 7, 8])
  expect(curve.last?.validation).toBe(0.3)
  curve.add([point(9)])
  expect(curve.heldOut()).toBe(0.3)
  curve.rewind(3)
  curve.add([point(4, { loss: 9 })])
  expect(curve.columns(['unet', 'text'])).toEqual({
    steps: [1, 2, 3, 4], loss: [1, 1 / 2, 1 / 3, 9], smoothed: [0.5, 0.5, 0.5, 0.5], validation: [null, null, null, null],
    rates: [[1e-4, 1e-4, 1e-4, 1e-4], [null, null, null, null]],
  })
})

/** A server of one run with 50 points, which counts what it is asked. */
function fakeServer(state = run({ step: 50 })) {
  const asked = []
  const server = {
    state, asked, curve: points(1, 50), samples: [{ step: 20, filename: 'a.png' }],
    get: async (parts, query = {}) => {
      asked.push([...parts, query.since].join(' ').trim())
      if (parts.length === 1) return { runs: [server.state] }
      if (parts[1] !== server.state.id) throw new Error(`There is no run '${parts[1]}'.`)
      return { run: server.state, points: server.curve.filter(({ step }) => step > query.since), samples: server.samples.filter(({ step }) => step > query.since) }
    },
    post: async () => {
      throw new Error('The run has ended.')
    },
  }
  return server
}
const settled = () =>
  new Promise((done) => {
    setTimeout(done)
  })
const message = (step, from = step, values = {}) => ({ ...run({ step }), points: points(from, step), samples: [], ...values })

test('a watched run has the history from the server and the events that follow', async () => {
  const server = fakeServer()
  const store = new RunStore(server)
  let told = 0
  const unwatch = store.watch('a', () => told++)
  // an event overtakes the answer about the past
  store.hear(message(52, 51))
  await settled()
  expect(stepsOf(store.details('a').curve)).toEqual(points(1, 52).map(({ step }) => step))
  expect(store.run('a')?.step).toBe(52)
  expect(store.details('a').samples).toEqual(server.samples)
  store.hear(message(53, 53, { samples: [{ step: 20, filename: 'a.png' }, { step: 53, filename: 'b.png' }] }))
  expect(store.details('a').samples.map(({ filename }) => filename)).toEqual(['a.png', 'b.png'])
  expect(told).toBe(3)
  unwatch()
  expect(store.details('a')).toBeUndefined()
  expect(store.listening).toBe(0)
})

test('what a lost connection swallowed is asked for, and events that come first leave no gap', async () => {
  const server = fakeServer()
  const store = new RunStore(server)
  store.watch('a', () => {})
  await settled()
  store.lost()
  expect(store.connected).toBe(false)
  server.curve = points(1, 90)
  server.state = run({ step: 90 })
  store.hear(message(90, 90))
  await store.refresh()
  expect(store.connected).toBe(true)
  expect(server.asked).toEqual(['runs a 0', 'runs', 'runs a 49'])
  expect(stepsOf(store.details('a').curve)).toEqual(points(1, 90).map(({ step }) => step))
})

test('a host that died shows in the state, and a run that goes on from an earlier step loses the later ones', async () => {
  const server = fakeServer()
  const store = new RunStore(server)
  store.watch('a', () => {})
  await settled()
  store.lost()
  server.state = run({ state: 'stopped', step: 50, message: 'Its process ended.', wishes: [] })
  await store.refresh()
  expect(store.run('a')?.state).toBe('stopped')
  store.hear({ ...run({ state: 'preparing', step: 0 }), points: [], samples: [] })
  expect(store.details('a').curve.last?.step).toBe(50)
  store.hear(message(31))
  expect(stepsOf(store.details('a').curve)).toEqual(points(1, 31).map(({ step }) => step))
})

test('an answer that is older than an event does not undo it', async () => {
  const server = fakeServer()
  const store = new RunStore(server)
  const looking = store.refresh()
  store.hear({ ...run({ state: 'finished', step: 100 }), points: [], samples: [] })
  await looking
  expect(store.run('a')?.state).toBe('finished')
})

test('refusals keep their sentence, and a run that nobody knows says so', async () => {
  const store = new RunStore(fakeServer())
  await expect(store.ask('a', 'stop')).rejects.toThrow('The run has ended.')
  store.watch('b', () => {})
  await settled()
  expect(store.details('b').problem).toBe("There is no run 'b'.")
})

test('live runs stand first, and a run that begins anew replaces its forerunner', () => {
  const store = new RunStore(fakeServer())
  store.hear({ ...run({ id: 'old', state: 'finished', time: 9, prompt_id: 'o' }), points: [], samples: [] })
  store.hear({ ...run({ id: 'first', state: 'preparing', time: 1 }), points: [], samples: [] })
  store.hear({ ...run({ id: 'second', state: 'preparing', time: 2 }), points: [], samples: [] })
  expect(store.runs.map(({ id }) => id)).toEqual(['second', 'old'])
})

/** A graph with node 3, and a subgraph behind nodes 5 and 9 with a node 3 of its own. */
function graphs() {
  const root = { id: 'w' }
  const inner = { id: 'other', rootGraph: root }
  const nodes = { 3: { graph: root }, 5: { graph: root, subgraph: inner }, 9: { graph: root, subgraph: inner } }
  const within = { 3: { graph: inner } }
  Object.assign(root, { rootGraph: root, getNodeById: (id) => nodes[id] })
  Object.assign(inner, { getNodeById: (id) => within[id] })
  return { root, outer: nodes[3], inner: within[3] }
}

test('a node shows its own run, in whatever subgraph and workflow it is', () => {
  const { root, outer, inner } = graphs()
  expect(nodeAt(root, '5:3')).toBe(inner)
  expect(nodeAt(root, '9:3')).toBe(inner)
  expect(nodeAt(root, '3:3')).toBeNull()
  const own = run({ id: 'own' })
  const deep = run({ id: 'deep', node_id: '5:3' })
  const elsewhere = run({ id: 'elsewhere', workflow_id: 'another', time: 5 })
  const api = run({ id: 'api', workflow_id: null })
  const all = [own, deep, elsewhere, api]
  expect(runOf(all, outer)?.id).toBe('own')
  expect(runOf(all, inner)?.id).toBe('deep')
  expect(runOf([elsewhere, api], outer)).toBeUndefined()
})

test('a node of a graph that was cleared is no longer there', () => {
  const { root, outer, inner } = graphs()
  root.subgraphs = new Map([['other', inner.graph]])
  expect([isThere(outer), isThere(inner)]).toEqual([true, true])
  // what was loaded again is another graph of the same name
  root.subgraphs = new Map([['other', { ...inner.graph }]])
  expect([isThere(outer), isThere(inner), isThere({ graph: null })]).toEqual([true, false, false])
})

test('a graph without an id shows what goes on, and of the past only what it remembers', () => {
  const { root, outer } = graphs()
  root.id = '00000000-0000-0000-0000-000000000000'
  const live = run({ id: 'live', workflow_id: root.id })
  const ended = run({ id: 'ended', workflow_id: root.id, state: 'finished' })
  expect(runOf([live, ended], outer)?.id).toBe('live')
  expect(runOf([ended], outer)).toBeUndefined()
  outer.properties = { mjesec_run: 'ended' }
  expect(runOf([ended], outer)?.id).toBe('ended')
})

test('what goes on comes first, then what the node gave last, then the newest that is known of it', () => {
  const { outer } = graphs()
  const old = run({ id: 'old', state: 'finished', time: 1, workflow_id: 'saved elsewhere' })
  const late = run({ id: 'late', state: 'stopped', time: 2 })
  expect(runOf([old, late], { ...outer, properties: {} })).toBeUndefined()
  outer.properties = { mjesec_run: 'old' }
  expect(runOf([old], outer)?.id).toBe('old')
  expect(runOf([old, late], outer)?.id).toBe('late')
  expect(runOf([old, late], outer, 'old')?.id).toBe('old')
  expect(runOf([old, late, run({ id: 'live', time: 0 })], outer, 'old')?.id).toBe('live')
})

test('an old run that a full list lacks is asked for by its id, and stays while it is watched', async () => {
  const listed = Array.from({ length: MOST_LISTED }, (_, at) => run({ id: `new ${at}`, state: 'finished', node_id: '7' }))
  const { outer } = graphs()
  outer.properties = { mjesec_run: 'a' }
  expect(runOf(listed.slice(1), outer)).toBeUndefined()
  expect(runOf(listed, outer)?.id).toBe('a')
  expect(runOf([run({ id: 'later', state: 'finished' }), ...listed], outer)?.id).toBe('later')

  const server = fakeServer(run({ state: 'finished' }))
  const get = server.get
  server.get = async (parts, query) => (parts.length === 1 ? { runs: listed, older: 5 } : get(parts, query))
  const store = new RunStore(server)
  await store.refresh()
  const unwatch = store.watch('a', () => {})
  await settled()
  await store.refresh()
  expect([store.older, store.runs.length, store.run('a')?.name]).toEqual([5, MOST_LISTED + 1, 'moon'])
  unwatch()
  await store.refresh()
  expect(store.run('a')).toBeUndefined()
})

test('what a run is about to do is told before it does it', () => {
  const shown = (/** @type {any} */ values) => [stateOf(run(values)), buttonsOf(run(values)).map(([wish]) => wish).join(' ')]
  expect(shown({})).toEqual(['training', 'pause stop save sample'])
  expect(shown({ wishes: ['resume', 'stop'] })).toEqual(['pausing after this step', 'resume stop save sample'])
  expect(shown({ state: 'paused', wishes: ['resume', 'stop'] })).toEqual(['paused', 'resume stop save sample'])
  expect(shown({ wishes: [] })).toEqual(['stopping after this step', 'pause stop save sample'])
  expect(shown({ state: 'failed', wishes: [] })).toEqual(['failed', 'pause stop save sample'])
})

test('numbers have their units, and what is unknown is a dash', () => {
  const facts = Object.fromEntries(factsOf(run({ lr: { unet: 1e-4, text: 5e-5, more: 1e-4 } })))
  expect(facts).toMatchObject({ step: '10 of 100', epoch: '1 of 10', speed: '2 steps/s', left: '0:45', memory: '2.0 GB', 'learning rate': '1.0e-4 / 5.0e-5' })
  expect(facts).not.toHaveProperty('held-out loss')
  const ended = Object.fromEntries(factsOf(run({ state: 'finished', seconds_per_step: 3, smoothed_loss: null })))
  expect(ended).toMatchObject({ speed: '3 s/step', 'loss, smoothed': '–' })
  expect(ended).not.toHaveProperty('left')
})
