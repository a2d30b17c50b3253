// @vitest-environment node
/** Which node a result goes to, and when. */
import { beforeEach, expect, test } from 'vitest'
import { NO_ID } from '../../web/lib/nodes.mjs'
import { Results } from '../../web/lib/results.mjs'

/** @type {Record<string, string | undefined>} the workflow of each prompt; those that are missing nobody knows */
let workflows
/** @type {string[]} node and text */
let shown
/** @type {number} */
let asked
/** @type {any} */
let api
/** @type {any} */
let app
/** @type {Results} */
let results

const settled = () => new Promise((done) => { setTimeout(done) })

/** A graph with nodes of ours and, as the fourth, one of the host's, open in the editor. */
function open(id = 'a') {
  const root = { id, getNodeById: (/** @type {any} */ wanted) => nodes[wanted] ?? null }
  const nodes = Object.fromEntries(['1', '2', '3'].map((name) => [name, node(name, root)]))
  nodes[4] = { ...node('4', root), comfyClass: 'KSampler' }
  app.rootGraph = app.canvas.graph = root
  results.graphShown()
  return nodes
}

/** @returns {any} */
function node(/** @type {string} */ id, /** @type {any} */ graph) {
  const made = { id, graph, comfyClass: 'MjesecSweep', got: /** @type {any[]} */ ([]) }
  results.follow(made, (output) => made.got.push(output.mjesec_sweep))
  return made
}

function executed(/** @type {string} */ prompt, /** @type {string} */ name, /** @type {object} */ output, more = {}) {
  api.dispatchCustomEvent('executed', { prompt_id: prompt, node: name, output, ...more })
  return settled()
}

const told = (/** @type {string} */ prompt, /** @type {string} */ name, /** @type {string} */ text) => {
  api.dispatchCustomEvent('mjesec.text', { prompt_id: prompt, node: name, text })
  return settled()
}

beforeEach(() => {
  workflows = { 'of a': 'a', 'of b': 'b', nameless: NO_ID, bare: undefined }
  shown = []
  asked = 0
  api = Object.assign(new EventTarget(), {
    fetchApi: async (/** @type {string} */ route) => {
      asked += 1
      const prompt = decodeURIComponent(route.replace('/jobs/', ''))
      if (!(prompt in workflows)) throw new Error('no connection')
      return { json: async () => ({ workflow_id: workflows[prompt] }) }
    },
    dispatchCustomEvent: (/** @type {string} */ type, /** @type {any} */ detail) => api.dispatchEvent(new CustomEvent(type, { detail })),
  })
  api.addEventListener('progress_text', (/** @type {any} */ { detail }) => shown.push(`${detail.nodeId} ${detail.text}`))
  app = { canvas: { canvas: new EventTarget() } }
  results = new Results(api, app)
  results.start()
})

test('a result goes to its node at once where its workflow is open, and the host is asked once for each prompt', async () => {
  const nodes = open()
  await told('of a', '1', 'half')
  await executed('of a', '1', { mjesec_sweep: ['x'], mjesec_report: ['whole'] })
  await executed('of a', '5', { mjesec_sweep: ['y'] }, { display_node: '2' })
  expect([nodes[1].got, nodes[2].got, nodes[3].got]).toEqual([[['x']], [['y']], []])
  expect(shown).toEqual(['1 half', '1 whole'])
  expect(asked).toBe(1)
})

test('a result of another workflow waits until that is shown, is then taken once, and its text comes again', async () => {
  const nodes = open('b')
  await told('of a', '1', 'half')
  await executed('of a', '1', { mjesec_sweep: ['x'], mjesec_report: ['whole'] })
  expect([nodes[1].got, shown]).toEqual([[], []])
  expect(open()[1].got).toEqual([['x']])
  expect(shown).toEqual(['1 whole'])
  open('b')
  expect(open()[1].got).toEqual([])
  expect(shown).toEqual(['1 whole', '1 whole'])
})

test('a graph without an id, and one that nobody knows, are the open one as far as can be told, and keep nothing', async () => {
  open('b')
  await executed('nameless', '1', { mjesec_sweep: ['x'] })
  await executed('bare', '1', { mjesec_sweep: ['y'] })
  await executed('lost', '1', { mjesec_sweep: ['z'] })
  const { 1: node } = open(NO_ID)
  expect(node.got).toEqual([])
  for (const prompt of ['nameless', 'bare', 'lost', 'of a']) await executed(prompt, '1', { mjesec_sweep: [prompt] })
  expect(node.got).toEqual([['nameless'], ['bare'], ['lost']])
})

test("results of other extensions' nodes and on them are left alone", async () => {
  const nodes = open()
  await executed('of a', '1', { text: ['hello'] })
  await executed('of a', '2', /** @type {any} */ (null))
  expect(asked).toBe(0)
  await executed('of a', '4', { mjesec_sweep: ['x'], mjesec_report: ['text'] })
  expect([nodes[1].got, nodes[4].got, shown]).toEqual([[], [], []])
})

test('a text goes on a node of a subgraph once that is opened', async () => {
  open()
  const root = app.rootGraph
  const inner = { ...root, id: 'inner' }
  const within = node('3', inner)
  root.getNodeById = () => ({ subgraph: { getNodeById: () => within } })
  await executed('of a', '5:3', { mjesec_sweep: ['x'], mjesec_report: ['text'] })
  expect([within.got, shown]).toEqual([[['x']], []])
  app.canvas.graph = inner
  app.canvas.canvas.dispatchEvent(new Event('litegraph:set-graph'))
  expect([within.got, shown]).toEqual([[['x']], ['3 text']])
})
