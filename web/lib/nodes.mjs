/** What a node of the graph is told by its widgets and wires, and when something happens to it. */

/**
 * @param {any} node
 * @param {string} name
 * @returns {any} undefined where the node has no such widget
 */
export function widgetValue(node, name) {
  return node.widgets?.find((/** @type {any} */ widget) => widget.name === name)?.value
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
 * The first value of a widget up a chain of nodes that hand the same thing on.
 *
 * @param {any} node
 * @param {string} wire the name of the input by which they are chained
 * @param {string} widget
 * @returns {any}
 */
export function valueUpstream(node, wire, widget) {
  const seen = new Set()
  for (let at = sourceOf(node, wire); at && !seen.has(at); at = sourceOf(at, wire)) {
    seen.add(at)
    const value = widgetValue(at, widget)
    if (value !== undefined) return value
  }
  return undefined
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
