/**
 * What runs give to our nodes: results to remember, and the text that stands on a node.
 *
 * The editor hands a result to the node of its id in whichever workflow is open. Here it goes to a node of the workflow
 * that was queued, at once or when that is shown again.
 *
 * @typedef {import('./nodes.mjs').GraphNode} GraphNode
 * @typedef {Record<string, any>} Output a node's `ui`, as the host sends it
 * @typedef {{ text?: string, missed?: Output }} Kept of one node: its last text, and what came while it was not there
 */
import { NO_ID, nodeAt } from './nodes.mjs'

const OURS = 'Mjesec'
const KEYS = 'mjesec_'
const REPORT = 'mjesec_report'

export class Results {
  /** @type {WeakMap<GraphNode, ((output: Output) => void)[]>} */
  #followers = new WeakMap()
  /** @type {Map<string, Promise<string | undefined>>} by prompt, the id of the workflow that it was made from */
  #workflows = new Map()
  /** @type {Map<string, Map<string, Kept>>} by workflow and by the node's id in a prompt */
  #kept = new Map()

  /**
   * @param {EventTarget & { fetchApi(route: string): Promise<Response>, [more: string]: any }} api
   * @param {Record<string, any>} app
   */
  constructor(api, app) {
    this.api = api
    this.app = app
  }

  /** Listens from now on, for as long as the page is open. */
  start() {
    this.api.addEventListener('executed', (event) => {
      const { prompt_id: prompt, node, display_node: display, output } = /** @type {CustomEvent} */ (event).detail
      if (Object.keys(output ?? {}).some((key) => key.startsWith(KEYS))) this.#take(prompt, display || node, { text: output[REPORT]?.[0], missed: output })
    })
    this.api.addEventListener('mjesec.text', (event) => {
      const { prompt_id: prompt, node, text } = /** @type {CustomEvent} */ (event).detail
      this.#take(prompt, node, { text })
    })
    // texts go to nodes that are shown: those in a subgraph once it is opened
    this.app.canvas.canvas.addEventListener('litegraph:set-graph', () => this.graphShown())
  }

  /**
   * Calls back with each output of the node's own workflow that holds something of ours.
   *
   * @param {GraphNode} node
   * @param {(output: Output) => void} callback
   */
  follow(node, callback) {
    this.#followers.set(node, [...(this.#followers.get(node) ?? []), callback])
  }

  /** Gives the nodes that are there now what is theirs. */
  graphShown() {
    const root = this.app.rootGraph
    for (const [path, kept] of this.#kept.get(root?.id) ?? []) this.#give(nodeAt(root, path), kept)
  }

  /**
   * @param {string} prompt
   * @param {string} path
   * @param {Kept} came
   */
  async #take(prompt, path, came) {
    const workflow = await this.#workflowOf(prompt)
    const root = this.app.rootGraph
    const isOpen = workflow === undefined || workflow === root.id
    if (workflow === undefined || workflow === NO_ID) return isOpen && this.#give(nodeAt(root, path), came)
    const nodes = this.#kept.get(workflow) ?? new Map()
    const kept = { ...nodes.get(path), ...came }
    this.#kept.set(workflow, nodes.set(path, kept))
    if (isOpen) this.#give(nodeAt(root, path), kept)
  }

  /**
   * @param {GraphNode | null} node
   * @param {Kept} kept
   */
  #give(node, kept) {
    if (!node?.comfyClass?.startsWith(OURS)) return
    const { text, missed } = kept
    delete kept.missed
    // the editor's own place for a text on a node, which looks for the node in the graph that is shown alone
    if (text && node.graph === this.app.canvas.graph) this.api.dispatchCustomEvent('progress_text', { nodeId: String(node.id), text })
    if (missed) for (const callback of this.#followers.get(node) ?? []) callback(missed)
  }

  /**
   * The output itself cannot tell: the host may have it from another workflow's run, with the same inputs.
   *
   * @param {string} prompt
   */
  #workflowOf(prompt) {
    const known = this.#workflows.get(prompt)
    if (known) return known
    const asked = this.#ask(prompt)
    this.#workflows.set(prompt, asked)
    return asked
  }

  /**
   * @param {string} prompt
   * @returns {Promise<string | undefined>} undefined for a graph that came without a workflow, and where nobody knows
   */
  async #ask(prompt) {
    try {
      const answer = await this.api.fetchApi(`/jobs/${encodeURIComponent(prompt)}`)
      return (await answer.json()).workflow_id
    } catch {
      return undefined
    }
  }
}
