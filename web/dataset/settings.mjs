/** What the training settings on a dataset's wires say of its buckets. */
import { sourceOf, upstream, valueUpstream } from '../lib/nodes.mjs'

/**
 * @typedef {{ resolution: number, choices: Record<string, string | number>, note: string }} BucketChoice
 *   `choices`: inputs of Image Options, by name, that say something
 */

const CHOICES = ['buckets', 'bucket_upscale', 'bucket_step', 'bucket_min', 'bucket_max']
const KOHYA = 'MjesecLoadKohyaConfig'
const UNREAD = 'The kohya configuration is read only when the graph runs: until then these are the usual buckets, with what the nodes say.'
/** values that leave it to the nodes before, and at first to what is usual */
const UNSAID = ['as given', 0]
const USUAL_RESOLUTION = 1024

/**
 * What the dataset's own wire says, else that of a node that uses it, as far as wires tell.
 *
 * @param {any} node
 * @returns {BucketChoice}
 */
export function bucketsFor(node) {
  const users = (node.getOutputNodes?.(0) ?? []).filter(Boolean)
  const user = [node, ...users].find((each) => sourceOf(each, 'settings'))
  const said = (/** @type {string} */ name) => (user ? valueUpstream(user, 'settings', name, UNSAID) : undefined)
  const entries = CHOICES.map((name) => [name, said(name)]).filter(([, value]) => value !== undefined)
  const isUnread = user && upstream(user, 'settings').some(({ comfyClass }) => comfyClass === KOHYA)
  return { resolution: Number(said('resolution') ?? USUAL_RESOLUTION), choices: Object.fromEntries(entries), note: isUnread ? UNREAD : '' }
}
