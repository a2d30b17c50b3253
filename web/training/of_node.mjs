/**
 * Which run a node shows.
 *
 * @typedef {import('./runs.mjs').Run} Run
 * @typedef {import('../lib/nodes.mjs').GraphNode} GraphNode
 */
import { NO_ID, nodeAt } from '../lib/nodes.mjs'
import { isLive, MOST_LISTED } from './runs.mjs'

/** A property is saved with the workflow, and the prompt does not hold it. */
export const PROPERTY = 'mjesec_run'

/**
 * Whether a node is part of the graph that is open: when all of it is cleared, nodes in subgraphs are not told.
 *
 * @param {GraphNode} node
 */
export function isThere({ graph }) {
  const root = graph?.rootGraph ?? graph
  return Boolean(graph) && (graph === root || root?.subgraphs?.get(graph?.id) === graph)
}

/**
 * Whether a node asked for a run: ids of nodes are the same in many workflows, so the workflow counts too.
 *
 * @param {Run} run
 * @param {GraphNode} node
 */
function isOf(run, node) {
  const root = node.graph?.rootGraph ?? node.graph
  if (!root || !run.node_id || run.workflow_id !== root.id || nodeAt(root, run.node_id) !== node) return false
  return root.id !== NO_ID || isLive(run)
}

/**
 * The run that goes on at the node; else the one that its last execution gave; else the later of its last run and of
 * the one that the workflow remembers.
 *
 * @param {readonly Run[]} runs
 * @param {GraphNode} node
 * @param {string} [made] the id of the run that the node's last execution gave
 * @returns {Run | undefined}
 */
export function runOf(runs, node, made) {
  const own = runs.filter((run) => isOf(run, node))
  const id = node.properties?.[PROPERTY]
  const remembered = runs.find((run) => run.id === id) ?? (id && runs.length >= MOST_LISTED ? leftOut(id) : undefined)
  const ended = [...own, ...(remembered ? [remembered] : [])].sort((one, other) => other.time - one.time)
  return own.find(isLive) ?? runs.find((run) => run.id === made) ?? ended[0]
}

/**
 * A run that is too old for the list: whoever watches it gets the rest from the server.
 *
 * @param {string} id
 */
function leftOut(id) {
  return /** @type {Run} */ ({ id, state: 'finished', time: 0 })
}
