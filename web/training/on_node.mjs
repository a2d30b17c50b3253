/** The training panel on Train SDXL LoRA. It is neither saved with the workflow nor sent with the prompt. */
import { app } from '../host.mjs'
import { follow } from '../lib/nodes.mjs'
import { results } from '../results.mjs'
import { store, urlOf } from './live.mjs'
import { isThere, PROPERTY, runOf } from './of_node.mjs'
import { RunPanel } from './panel.mjs'
import { isLive } from './runs.mjs'

const KIND = 'MjesecTrainLora'
const HEIGHT = 400
const WIDTH = 420

/** @param {any} node */
export function addTrainingPanel(node) {
  if (node.comfyClass !== KIND) return
  const shown = new ShownRun(node)
  const { element } = shown.panel
  element.classList.add('mj-on-node')
  const options = { serialize: false, hideOnZoom: false, getMinHeight: () => HEIGHT }
  const widget = node.addDOMWidget('mjesec_training', 'mjesec_training', element, options)
  // the option keeps it out of the prompt, this out of the saved workflow
  widget.serialize = false
  // of a new node: one of a workflow gets its own size afterwards
  node.size[0] = Math.max(node.size[0], WIDTH)
  node.size[1] = Math.max(node.size[1], node.computeSize()[1])
  // in the canvas the panel lies over it: zooming goes on all the same
  element.addEventListener('wheel', (/** @type {WheelEvent} */ event) => {
    if (!(/** @type {any} */ (globalThis).LiteGraph?.vueNodesMode)) app.canvas.processMouseWheel(event)
  })
  follow(node, 'onAdded', () => shown.start())
  // only now it knows the run that the workflow remembers, and nodes in a subgraph which node stands for it
  follow(node, 'onAfterGraphConfigured', () => shown.update())
  follow(node, 'onRemoved', () => shown.stop())
  results.follow(node, (output) => shown.executed(output))
}

/** Which run a node shows, from when it is put into a graph until it is taken out. */
class ShownRun {
  /** @type {string | undefined} the run that the last execution gave: perhaps an early one, used again */
  #made
  #unlisten = () => {}

  /** @param {any} node */
  constructor(node) {
    this.node = node
    this.panel = new RunPanel(store, urlOf)
  }

  start() {
    this.#unlisten()
    this.#unlisten = store.listen(() => this.update())
    this.update()
  }

  stop() {
    this.#unlisten()
    this.#unlisten = () => {}
    this.panel.show(null)
  }

  /** @param {any} output */
  executed(output) {
    if (!output.mjesec_run) return
    this.#made = this.node.properties[PROPERTY] = String(output.mjesec_run[0])
    this.update()
  }

  /** Looks anew which run is the node's. */
  update() {
    if (!isThere(this.node)) return this.stop()
    const run = runOf(store.runs, this.node, this.#made)
    if (run && isLive(run)) {
      this.#made = undefined
      this.node.properties[PROPERTY] = run.id
    }
    this.panel.show(run?.id ?? null)
  }
}
