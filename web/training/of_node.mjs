/**
 * Which run a node shows.
 *
 * @typedef {import('./runs.mjs').Run} Run
 * @typedef {{ id?: string, getNodeById(id: string | number): GraphNode | null | undefined, subgraphs?: Map<any, Graph> }} Graph
 * @typedef {{ graph?: Graph & { rootGraph?: Graph } | null, subgraph?: Graph, properties?: Record<string, any> }} GraphNode
 */
import { isLive } from './runs.mjs'

/** What the editor calls a graph in API format until it is saved: no name at all. */
const NO_ID = '00000000-0000-0000-0000-000000000000'
/** A property is saved with the workflow, and the prompt does not hold it. */
export const PROPERTY = 'mjesec_run'

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
  const remembered = runs.find((run) => run.id === node.properties?.[PROPERTY])
  const ended = [...own, ...(remembered ? [remembered] : [])].sort((one, other) => other.time - one.time)
  return own.find(isLive) ?? runs.find((run) => run.id === made) ?? ended[0]
}
