/**
 * What a node of the graph is told by its widgets and wires, where it is, and when something happens to it.
 *
 * @typedef {{ id?: string, getNodeById(id: string | number): GraphNode | null | undefined, subgraphs?: Map<any, Graph> }} Graph
 * @typedef {object} GraphNode
 * @property {string | number} [id]
 * @property {string} [comfyClass]
 * @property {Graph & { rootGraph?: Graph } | null} [graph]
 * @property {Graph} [subgraph]
 * @property {Record<string, any>} [properties]
 */

/** What the editor calls a graph in API format until it is saved: no name at all. */
export const NO_ID = '00000000-0000-0000-0000-000000000000'
/** LiteGraph's mode of a node that is bypassed */
const BYPASSED = 4

/**
 * @param {any} node
 * @param {string} name
 * @returns {any} undefined where the node has no such widget
 */
export function widgetValue(node, name) {
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === name)?.value
}

/**
 * Whether an input has a wire; in a subgraph there may be no node at its other end.
 *
 * @param {any} node
 * @param {string} name
 */
export function isWired(node, name) {
  return node.inputs?.find((/** @type {any} */ input) => input.name === name)?.link != null
}

/**
 * The node at the other end of an input's wire.
 *
 * @param {any} node
 * @param {string} name
 * @returns {any} undefined where nothing is connected
 */
export function sourceOf(node, name) {
  const slot = node.inputs?.findIndex((/** @type {any} */ input) => input.name === name) ?? -1
  return slot < 0 ? undefined : (node.getInputNode(slot) ?? undefined)
}

/**
 * The nodes up a chain that hand the same thing on, the nearest first; those that are bypassed hand on what they got.
 *
 * @param {any} node
 * @param {string} wire the name of the input by which they are chained
 * @returns {any[]}
 */
export function upstream(node, wire) {
  const seen = new Set()
  for (let at = sourceOf(node, wire); at && !seen.has(at); at = sourceOf(at, wire)) seen.add(at)
  return [...seen].filter(({ mode }) => mode !== BYPASSED)
}

/**
 * The first value of a widget up such a chain.
 *
 * @param {any} node
 * @param {string} wire
 * @param {string} widget
 * @param {unknown[]} [unsaid] values that leave it to the nodes before
 * @returns {any}
 */
export function valueUpstream(node, wire, widget, unsaid = []) {
  const values = upstream(node, wire).map((each) => widgetValue(each, widget))
  return values.find((value) => value !== undefined && !unsaid.includes(value))
}

/**
 * @param {Graph} root
 * @param {string} path a node's id in a prompt: '3', or '5:3' for node 3 in the subgraph that node 5 stands for
 * @returns {GraphNode | null}
 */
export function nodeAt(root, path) {
  /** @type {Graph | undefined} */
  let graph = root
  /** @type {GraphNode | null} */
  let node = null
  for (const id of path.split(':')) {
    node = graph?.getNodeById(id) ?? graph?.getNodeById(Number(id)) ?? null
    graph = node?.subgraph
  }
  return node
}

/**
 * Calls `after` whenever the node's callback of that name has been called.
 *
 * @param {any} node
 * @param {string} name
 * @param {(...given: any[]) => void} after
 */
export function follow(node, name, after) {
  const before = node[name]
  node[name] = function (/** @type {any[]} */ ...given) {
    const answer = before?.apply(this, given)
    after(...given)
    return answer
  }
}
